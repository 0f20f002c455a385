//! Watches how many workers are ready while a test does something else.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rollout::sys::clock;
use rollout::wire::api::Status;

use super::control::Lines;
use super::{GENEROUS, pause};

/// Follows `status?watch=true` on a thread of its own: a sample at once and one after each change, so that not even a
/// short dip between two looks is missed. Goes on when the agent is started again.
pub(crate) struct ReadySampler {
    over: Arc<AtomicBool>,
    samples: Arc<Mutex<Samples>>,
    thread: Option<JoinHandle<()>>,
}

/// What was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Samples {
    /// How many statuses.
    pub(crate) seen: usize,
    /// The fewest ready workers in one of them.
    pub(crate) least_ready: usize,
    /// The most workers that had a process, whatever their state, in one of them.
    pub(crate) most_workers: usize,
}

impl ReadySampler {
    /// Begins to watch a service; returns when the first sample was taken.
    pub(crate) fn start(rig: &super::Rig, service: &str) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let samples = Arc::new(Mutex::new(Samples { seen: 0, least_ready: usize::MAX, most_workers: 0 }));
        let watch =
            Watch { socket: rig.socket(), service: service.to_owned(), over: over.clone(), samples: samples.clone() };
        let sampler = Self { over, samples, thread: Some(std::thread::spawn(move || watch.run())) };
        sampler.wait_until("the first sample", |samples| samples.seen > 0);
        sampler
    }

    /// What was seen so far.
    pub(crate) fn so_far(&self) -> Samples {
        *self.samples.lock().expect("the sampler did not panic")
    }

    /// Waits until this was seen.
    pub(crate) fn wait_until(&self, what: &str, is_so: impl Fn(&Samples) -> bool) {
        let deadline = clock::now().after(GENEROUS);
        while !is_so(&self.so_far()) {
            assert!(!clock::until(deadline).is_zero(), "gave up waiting for {what}: {:?}", self.so_far());
            pause();
        }
    }

    /// Ends; returns what was seen.
    pub(crate) fn stop(mut self) -> Samples {
        self.over.store(true, Ordering::SeqCst);
        self.thread.take().expect("not stopped yet").join().expect("the sampler did not panic");
        self.so_far()
    }
}

impl Drop for ReadySampler {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
    }
}

/// The thread's part.
struct Watch {
    socket: PathBuf,
    service: String,
    over: Arc<AtomicBool>,
    samples: Arc<Mutex<Samples>>,
}

impl Watch {
    fn run(&self) {
        while !self.over.load(Ordering::SeqCst) {
            if self.follow().is_err() {
                // The agent is away; its successor answers soon, or the test fails by itself.
                pause();
            }
        }
    }

    fn follow(&self) -> io::Result<()> {
        let mut lines = Lines::get(&self.socket, "/v1/status?watch=true")?;
        while !self.over.load(Ordering::SeqCst) {
            if let Some(line) = lines.next(Duration::from_millis(100))? {
                self.count(&serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in {line}")));
            }
        }
        Ok(())
    }

    fn count(&self, status: &Status) {
        let workers = &status.services.iter().find(|it| it.name == self.service).expect("the service is there").workers;
        let mut samples = self.samples.lock().expect("nobody panics while holding it");
        samples.seen += 1;
        samples.least_ready = samples.least_ready.min(workers.iter().filter(|worker| worker.state == "ready").count());
        samples.most_workers = samples.most_workers.max(workers.iter().filter(|worker| worker.pid.is_some()).count());
    }
}
