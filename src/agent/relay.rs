//! The only traffic that the agent ever touches: connections that wait in a lane which nobody serves (a straggler whose
//! handshake ended late, the queue of a worker that crashed, clients that came before the first worker was ready). The
//! agent accepts them and passes every byte on to a ready worker of the same listener.
//!
//! A relayed stream belongs to its two ends: an idle one has no deadline.

use std::io;
use std::net::TcpStream as StdStream;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{debug, warn};

use super::route::Route;

/// How many connections are relayed at once. Each costs two fds and 16 KiB of buffers; beyond this they wait in the
/// kernel's queue, where they wait anyway while nobody is ready.
const MAX_RELAYS: usize = 1024;
/// For one connection to a ready worker of this host: it is made by the kernel alone, unless the queue is full.
const CONNECT: Duration = Duration::from_secs(2);
/// How long an accepted client waits for a ready worker. As long as browsers wait for an answer.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long to wait for a change of the ready workers before those that refused are asked again.
const AGAIN: Duration = Duration::from_millis(200);
/// How long a client that was sent everything may go on without closing.
const FAREWELL: Duration = Duration::from_secs(30);

/// The ready workers of one listener.
pub type Ready = Arc<[Route]>;

/// Where accepted connections are handed in. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Desk {
    intake: mpsc::Sender<Stranded>,
    room: Arc<Semaphore>,
    relayed: Arc<AtomicU64>,
}

/// The right to hand in one connection.
#[derive(Debug)]
pub struct Room(OwnedSemaphorePermit);

/// An accepted client that nobody serves yet.
#[derive(Debug)]
struct Stranded {
    client: OwnedFd,
    ready: watch::Receiver<Ready>,
    room: Room,
}

impl Desk {
    /// A desk whose work is a task of `tasks`, and ends with it: relayed connections are cut then.
    pub fn open(tasks: &mut JoinSet<()>) -> Self {
        // As many as may hold a `Room`: sending never waits.
        let (intake, accepted) = mpsc::channel(MAX_RELAYS);
        let relayed = Arc::new(AtomicU64::new(0));
        tasks.spawn(work(accepted, Arc::clone(&relayed)));
        Self { intake, room: Arc::new(Semaphore::new(MAX_RELAYS)), relayed }
    }

    /// Waits until one more connection may be accepted; `None` when the agent ends.
    pub async fn room(&self) -> Option<Room> {
        Arc::clone(&self.room).acquire_owned().await.ok().map(Room)
    }

    /// The right to accept one more connection now.
    #[must_use]
    pub fn room_now(&self) -> Option<Room> {
        Arc::clone(&self.room).try_acquire_owned().ok().map(Room)
    }

    /// Takes over a non-blocking connection.
    pub fn take(&self, client: OwnedFd, ready: watch::Receiver<Ready>, room: Room) {
        if self.intake.try_send(Stranded { client, ready, room }).is_err() {
            debug!("a stranded connection is closed: the agent ends");
        }
    }

    /// How many connections have reached a worker this way.
    #[must_use]
    pub fn relayed(&self) -> u64 {
        self.relayed.load(Ordering::Relaxed)
    }
}

async fn work(mut accepted: mpsc::Receiver<Stranded>, relayed: Arc<AtomicU64>) {
    let turn = Arc::new(AtomicUsize::new(0));
    let mut relays = JoinSet::new();
    loop {
        tokio::select! {
            stranded = accepted.recv() => match stranded {
                Some(stranded) => {
                    relays.spawn(relay(stranded, Arc::clone(&turn), Arc::clone(&relayed)));
                }
                None => return,
            },
            Some(ended) = async { relays.join_next().await }, if !relays.is_empty() => {
                if let Err(error) = ended {
                    warn!(%error, "a relay ended early");
                }
            }
        }
    }
}

async fn relay(stranded: Stranded, turn: Arc<AtomicUsize>, relayed: Arc<AtomicU64>) {
    let Stranded { client, ready, room } = stranded;
    let client = match TcpStream::from_std(StdStream::from(client)) {
        Ok(client) => client,
        Err(error) => return warn!(%error, "a stranded connection is lost"),
    };
    match timeout(PATIENCE, reach_a_worker(ready, &turn)).await {
        Ok(Some(worker)) => {
            relayed.fetch_add(1, Ordering::Relaxed);
            if let Err(error) = join(client, worker).await {
                debug!(%error, "a relayed connection was cut by one of its ends");
            }
        }
        Ok(None) => {}
        Err(_) => warn!(after = ?PATIENCE, "a stranded connection is closed: no worker took it"),
    }
    drop(room.0);
}

/// A connection to one of the ready workers; `None` when the listener is gone.
async fn reach_a_worker(mut ready: watch::Receiver<Ready>, turn: &AtomicUsize) -> Option<TcpStream> {
    loop {
        let routes = Arc::clone(&*ready.wait_for(|routes| !routes.is_empty()).await.ok()?);
        for route in in_turn(&routes, turn.fetch_add(1, Ordering::Relaxed)) {
            match timeout(CONNECT, connect(route)).await {
                Ok(Ok(worker)) => return Some(worker),
                Ok(Err(error)) => debug!(to = %route.to, %error, "a worker refused a relayed connection"),
                Err(_) => debug!(to = %route.to, "a worker's queue is full"),
            }
        }
        // Whoever refused may be gone by now, and then the list says so: wait for that, but not for ever.
        if let Ok(Err(_)) = timeout(AGAIN, ready.changed()).await {
            return None;
        }
    }
}

/// All routes, those with an empty queue first, each time beginning with another.
fn in_turn(routes: &[Route], turn: usize) -> Vec<&Route> {
    let start = turn % routes.len().max(1);
    let (before, from) = routes.split_at(start);
    let mut routes: Vec<_> = from.iter().chain(before).collect();
    routes.sort_by_key(|route| route.gauge.queued().unwrap_or(u32::MAX) > 0);
    routes
}

async fn connect(route: &Route) -> io::Result<TcpStream> {
    if route.from.is_ipv4() {
        route.connect().await
    } else {
        // A marked IPv6 source is one port, good for one connection at a time. Without a mark the lane program chooses.
        TcpStream::connect(route.to).await
    }
}

/// Passes bytes both ways until both ends have closed, or one has failed.
async fn join(client: TcpStream, worker: TcpStream) -> io::Result<()> {
    client.set_nodelay(true)?;
    worker.set_nodelay(true)?;
    let (from_client, to_client) = client.into_split();
    let (from_worker, to_worker) = worker.into_split();
    let up = pass(from_client, to_worker);
    let down = pass(from_worker, to_client);
    tokio::pin!(up, down);
    tokio::select! {
        // The client has said all it will say; the worker may go on as long as it likes.
        asked = &mut up => { asked?; down.await }
        // The worker is done. What the client still sends has no reader, unless the worker only closed its half.
        answered = &mut down => { answered?; timeout(FAREWELL, up).await.unwrap_or(Ok(())) }
    }
}

/// One direction, its end included.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf) -> io::Result<()> {
    tokio::io::copy(&mut from, &mut to).await?;
    to.shutdown().await
}
