//! Looks at workers that were told to go: has the lane settled, how many connections are left.
//!
//! The kernel has no event for either, so these look again and again, but only while somebody leaves, and each look
//! ends with the worker.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep;

use super::happening::Happening;
use crate::machine::event::{Event, OnStop};
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
/// Between two counts that only people wait for.
const SHOW_PAUSE: Duration = Duration::from_secs(1);

/// The looks that are under way, by worker.
#[derive(Default)]
pub(crate) struct Vigils {
    tasks: JoinSet<()>,
    by_worker: BTreeMap<WorkerId, Vec<AbortHandle>>,
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

    /// Reports `Emptied` when the worker holds no connection any more.
    pub(crate) fn empty(
        &mut self,
        service: &ServiceName,
        worker: WorkerId,
        pid: i32,
        ports: Vec<u16>,
        inbox: &mpsc::Sender<Happening>,
    ) {
        let (service, inbox) = (service.clone(), inbox.clone());
        self.spawn(worker, async move {
            while connections(pid, &ports, Search::Quick) != Some(0)
                || connections(pid, &ports, Search::Thorough) != Some(0)
            {
                sleep(COUNT_PAUSE).await;
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
        ports: Vec<u16>,
        inbox: &mpsc::Sender<Happening>,
    ) {
        if ports.is_empty() {
            return;
        }
        let (service, inbox) = (service.clone(), inbox.clone());
        self.spawn(worker, async move {
            let mut last = None;
            loop {
                let now = connections(pid, &ports, Search::Quick);
                if let Some(count) = now.filter(|_| now != last)
                    && inbox.send(Happening::Connections(service.clone(), worker, count)).await.is_err()
                {
                    return;
                }
                last = now;
                sleep(SHOW_PAUSE).await;
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
    /// Where they usually are. Everybody waits for this loop, and the host may have thousands of processes.
    Quick,
    /// Also those that have left their parent.
    Thorough,
}

fn connections(pid: i32, ports: &[u16], search: Search) -> Option<u32> {
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
        let count = |search| connections(crate::sys::child::own_pid(), &[address.port()], search);
        assert_eq!(count(Search::Thorough), Some(0));
        let _client = TcpStream::connect(address).expect("connect");
        let server = listener.accept().expect("accept");
        assert_eq!((count(Search::Quick), count(Search::Thorough)), (Some(1), Some(1)));
        drop(server);
        assert_eq!((count(Search::Quick), count(Search::Thorough)), (Some(0), Some(0)));
    }
}
