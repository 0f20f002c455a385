//! From the death of a worker to the start of its replacement's `main`.

use std::os::fd::AsFd;
use std::time::Duration;

use rollout::sys::{child, clock};
use rollout::units::Signal;

use super::figure::{Figure, Spread, Target, millis};
use super::worker::Starts;
use super::{agent, bare};
use crate::support::GENEROUS;

const WORKERS: usize = 16;

pub(crate) fn figures() -> Vec<Figure> {
    let home = agent::home();
    let starts = Starts::listen(home.path());
    let config = agent::trivial(WORKERS, &Starts::env(home.path()));
    let mut rig = agent::start(home, &config);
    // A worker that dies young waits for its replacement: that is the backoff, not the agent's speed.
    super::pass(Duration::from_millis(1100));
    let mut rounds = Vec::new();
    let mut simplest = Vec::new();
    for slot in 1..=u32::try_from(WORKERS).expect("small") {
        rig.wait_until_serving();
        starts.forget();
        // In the same weather: most of the time is that of two programs that begin, and of waiting for a processor.
        simplest.push(bare::crash_to_main(&starts, rig.home()));
        let service = rig.service("web");
        let worker = service.workers.iter().find(|worker| worker.slot.0 == slot).expect("the slot");
        let pidfd = child::pidfd_open(worker.pid.expect("a process")).expect("a pidfd");
        let killed = clock::now();
        child::signal(pidfd.as_fd(), Signal::KILL).expect("kill a worker");
        let (replaced, began) = starts.next(GENEROUS).expect("a replacement");
        assert_eq!(replaced, slot);
        rounds.push(millis(began.since(killed)));
    }
    vec![
        Figure::new("kill -9 of a worker to its replacement's main", Spread::of(rounds), "ms", Target::AtMost(5.0)),
        Figure::new("… with the simplest supervisor: wait, spawn", Spread::of_times(simplest), "ms", Target::None),
    ]
}
