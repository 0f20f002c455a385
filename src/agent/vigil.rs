//! Looks at workers that were told to go: has the lane settled, how many connections are left.
//!
//! The kernel has no event for either, so these look again and again, but only while somebody leaves, and each look
//! ends with the worker.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet, spawn_blocking};
use tokio::time::sleep;

use super::happening::Happening;
use crate::machine::event::{Event, OnStop};
use crate::sys::clock;
use crate::sys::connections::established;
use crate::sys::proc::{self, Disposition};
use crate::sys::tcp_info::Gauge;
use crate::sys::tree;
use crate::units::{ServiceName, Signal, WorkerId};

/// The shortest pause between two looks at a queue.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
/// The longest.
const LONGEST_PAUSE: Duration = Duration::from_millis(10);
/// A connection whose handshake was under way when the program changed is in the queue after this long, on the hosts
/// near by; one from further away is relayed when it comes.
const STRAGGLERS: Duration = Duration::from_millis(2);
/// Between two counts of a lingering worker's connections.
const COUNT_PAUSE: Duration = Duration::from_millis(100);
/// The pause after a count is at least this many times as long as the count.
const COUNTING_SHARE: u32 = 10;
/// Looks in a row at which a worker that would die of the stop signal has no connection. On a busy host the last one may
/// still be on its way from the lane's handshake to the program when the first look finds none.
const QUIET_LOOKS: u32 = 2;
/// Between two counts that only people wait for.
const SHOW_PAUSE: Duration = Duration::from_secs(1);

/// The looks that are under way, by worker.
pub(crate) struct Vigils {
    /// One count at a time: each takes a thread and looks at every process.
    counting: Arc<Semaphore>,
    tasks: JoinSet<()>,
    by_worker: BTreeMap<WorkerId, Vec<AbortHandle>>,
}

impl Default for Vigils {
    fn default() -> Self {
        Self { counting: Arc::new(Semaphore::new(1)), tasks: JoinSet::new(), by_worker: BTreeMap::new() }
    }
}

impl Vigils {
    /// Reports `Settled` when every queue has been empty for a moment.
    pub(crate) fn settle(
        &mut self,
        service: &ServiceName,
        worker: WorkerId,
        pid: i32,
        stop_signal: Signal,
        gauges: Vec<Gauge>,
        inbox: &mpsc::Sender<Happening>,
    ) {
        let (service, inbox) = (service.clone(), inbox.clone());
        self.spawn(worker, async move {
            settled(&gauges).await;
            let event = Event::Settled(worker, on_stop(pid, stop_signal));
            let _ = inbox.send(Happening::Event(service, event)).await;
        });
    }

    /// Reports `Emptied` when the worker holds no connection any more and none waits for it.
    pub(crate) fn empty(
        &mut self,
        service: &ServiceName,
        worker: WorkerId,
        pid: i32,
        ports: Arc<[u16]>,
        gauges: Vec<Gauge>,
        inbox: &mpsc::Sender<Happening>,
    ) {
        let (service, inbox, counting) = (service.clone(), inbox.clone(), Arc::clone(&self.counting));
        self.spawn(worker, async move {
            let mut quiet = 0;
            while quiet < QUIET_LOOKS {
                let (quick, pause) = connections(&counting, pid, &ports, Search::Quick, COUNT_PAUSE).await;
                let none = quick == Some(0)
                    && is_empty(&gauges)
                    && connections(&counting, pid, &ports, Search::Thorough, COUNT_PAUSE).await.0 == Some(0);
                quiet = if none { quiet + 1 } else { 0 };
                sleep(pause).await;
            }
            let _ = inbox.send(Happening::Event(service, Event::Emptied(worker))).await;
        });
    }

    /// Reports how many connections the worker has, whenever that has changed.
    pub(crate) fn count(
        &mut self,
        service: &ServiceName,
        worker: WorkerId,
        pid: i32,
        ports: Arc<[u16]>,
        inbox: &mpsc::Sender<Happening>,
    ) {
        if ports.is_empty() {
            return;
        }
        let (service, inbox, counting) = (service.clone(), inbox.clone(), Arc::clone(&self.counting));
        self.spawn(worker, async move {
            let mut last = None;
            loop {
                let (now, pause) = connections(&counting, pid, &ports, Search::Quick, SHOW_PAUSE).await;
                if let Some(count) = now.filter(|_| now != last)
                    && inbox.send(Happening::Connections(service.clone(), worker, count)).await.is_err()
                {
                    return;
                }
                last = now;
                sleep(pause).await;
            }
        });
    }

    /// Ends every look at this worker.
    pub(crate) fn end(&mut self, worker: WorkerId) {
        self.by_worker.remove(&worker).into_iter().flatten().for_each(|task| task.abort());
        while self.tasks.try_join_next().is_some() {}
    }

    fn spawn(&mut self, worker: WorkerId, task: impl Future<Output = ()> + Send + 'static) {
        let handle = self.tasks.spawn(task);
        self.by_worker.entry(worker).or_default().push(handle);
    }
}

async fn settled(gauges: &[Gauge]) {
    let mut pause = FIRST_PAUSE;
    loop {
        if is_empty(gauges) {
            sleep(STRAGGLERS).await;
            if is_empty(gauges) {
                return;
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// A queue that cannot be asked about does not hold anybody up.
fn is_empty(gauges: &[Gauge]) -> bool {
    gauges.iter().all(|gauge| gauge.queued().unwrap_or(0) == 0)
}

fn on_stop(pid: i32, stop_signal: Signal) -> OnStop {
    match proc::disposition(pid, stop_signal) {
        Ok(Disposition::Default) => OnStop::Fatal,
        // One that ignores it does not die of it; one that is gone needs no care.
        Ok(Disposition::Caught | Disposition::Ignored) | Err(_) => OnStop::Caught,
    }
}

/// Where to look for a worker's processes beside its main process.
#[derive(Debug, Clone, Copy)]
enum Search {
    /// Where they usually are.
    Quick,
    /// Also those that have left their parent: looks at every process of the host.
    Thorough,
}

/// Counts off the loop's thread, and says how long to pause until the next count: at least this long, and so long that
/// counting takes a small part of the time.
async fn connections(
    counting: &Semaphore,
    pid: i32,
    ports: &Arc<[u16]>,
    search: Search,
    least: Duration,
) -> (Option<u32>, Duration) {
    // Never closed.
    let _turn = counting.acquire().await;
    let (began, ports) = (clock::now(), Arc::clone(ports));
    let counted = spawn_blocking(move || count(pid, &ports, search)).await;
    (counted.ok().flatten(), least.max(clock::now().since(began) * COUNTING_SHARE))
}

fn count(pid: i32, ports: &[u16], search: Search) -> Option<u32> {
    let processes = || {
        let mut processes = match search {
            Search::Quick => tree::offspring(pid),
            Search::Thorough => tree::tree(pid),
        };
        // They are its descendants; most programs serve in the main process.
        processes.push(pid);
        processes
    };
    established(processes, ports).ok()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_connections_of_the_main_process_itself_count() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("bound");
        let counted = |search| count(crate::sys::child::own_pid(), &[address.port()], search);
        assert_eq!(counted(Search::Thorough), Some(0));
        let _client = TcpStream::connect(address).expect("connect");
        let server = listener.accept().expect("accept");
        assert_eq!((counted(Search::Quick), counted(Search::Thorough)), (Some(1), Some(1)));
        drop(server);
        assert_eq!((counted(Search::Quick), counted(Search::Thorough)), (Some(0), Some(0)));
    }
}
