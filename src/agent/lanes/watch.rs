//! Lanes that nobody accepts from: what arrives there is taken and relayed.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;
use tracing::warn;

use crate::agent::relay::{Desk, Ready, Room};
use crate::sys::fd::{Blocking, set_blocking};
use crate::sys::listener::accept_nonblocking;
use crate::sys::tcp_info::{Listening, listening};
use crate::sys::watched::Watched;

/// How long a connection may wait for a worker that was told to stop. A program that still accepts takes far less.
const STRAGGLER: Duration = Duration::from_millis(50);
/// After an accept that failed for want of fds or memory: there is no event for "there is some again".
const SHORTAGE: Duration = Duration::from_millis(100);

/// When a waiting connection is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Take {
    /// At once: no worker has the lane, and it does not block.
    AtOnce,
    /// After [`STRAGGLER`]: the worker that has it was told to stop.
    Stragglers,
}

/// The tasks of one service's lanes and what they share.
#[derive(Debug)]
pub(super) struct Tasks {
    set: JoinSet<()>,
    pub desk: Desk,
    disturbed: Arc<Notify>,
}

impl Tasks {
    pub(super) fn new(disturbed: Arc<Notify>) -> Self {
        let mut set = JoinSet::new();
        let desk = Desk::open(&mut set);
        Self { set, desk, disturbed }
    }

    /// Watches a lane, by a duplicate of its fd: the kernel tells registrations apart by number.
    pub(super) fn watch(&mut self, lane: OwnedFd, take: Take, ready: watch::Receiver<Ready>) -> AbortHandle {
        let watch = Watch { take, ready, desk: self.desk.clone(), disturbed: Arc::clone(&self.disturbed) };
        self.set.spawn(async move {
            if let Err(error) = watch.run(lane).await {
                warn!(%error, "a lane without a worker cannot be watched");
            }
        })
    }

    /// Forgets the tasks that have ended.
    pub(super) fn sweep(&mut self) {
        while let Some(ended) = self.set.try_join_next() {
            if let Err(error) = ended
                && error.is_panic()
            {
                warn!(%error, "the watch of a lane failed");
            }
        }
    }
}

/// Why a watch stops looking for now.
enum Pause {
    Empty,
    /// Somebody called `shutdown` on the lane, or its listener is gone.
    Over,
}

struct Watch {
    take: Take,
    ready: watch::Receiver<Ready>,
    desk: Desk,
    disturbed: Arc<Notify>,
}

impl Watch {
    async fn run(mut self, lane: OwnedFd) -> io::Result<()> {
        let lane = Watched::new(lane)?;
        loop {
            let found = lane.read_with(something_new).await?;
            if !found.open {
                // A closed socket is readable for ever: whoever repairs the lane watches it anew.
                self.disturbed.notify_one();
                return Ok(());
            }
            if self.take == Take::Stragglers {
                sleep(STRAGGLER).await;
                if listening(&lane)?.queued == 0 {
                    continue;
                }
                set_blocking(&lane, Blocking::Fail)?;
            }
            if let Pause::Over = self.empty(lane.as_fd()).await {
                return Ok(());
            }
        }
    }

    /// Takes what waits, as soon as somebody is ready to have it.
    async fn empty(&mut self, lane: BorrowedFd<'_>) -> Pause {
        loop {
            let Some(room) = self.desk.room().await else { return Pause::Over };
            if self.ready.wait_for(|ready| !ready.is_empty()).await.is_err() {
                return Pause::Over;
            }
            match take_one(lane, &self.desk, &self.ready, room) {
                Ok(Taken::One) => {}
                Ok(Taken::None) => return Pause::Empty,
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    self.disturbed.notify_one();
                    return Pause::Over;
                }
                Err(error) => {
                    warn!(%error, "a waiting connection cannot be accepted");
                    sleep(SHORTAGE).await;
                }
            }
        }
    }
}

/// Something waits, or nothing ever will.
fn something_new(lane: BorrowedFd<'_>) -> io::Result<Listening> {
    let found = listening(lane)?;
    if found.open && found.queued == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(found) }
}

/// Whether something waited.
pub(super) enum Taken {
    One,
    None,
}

/// Hands the next waiting connection of a non-blocking lane to the desk.
pub(super) fn take_one(
    lane: BorrowedFd<'_>,
    desk: &Desk,
    ready: &watch::Receiver<Ready>,
    room: Room,
) -> io::Result<Taken> {
    match accept_nonblocking(lane)? {
        Some(client) => {
            desk.take(client, ready.clone(), room);
            Ok(Taken::One)
        }
        None => Ok(Taken::None),
    }
}
