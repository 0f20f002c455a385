//! An agent as people run it, with this program as its trivial worker.

use std::path::PathBuf;
use std::time::Duration;

use rollout::sys::clock;
use rollout::units::Moment;
use rollout::wire::api::{Outcome, Progress, Step};
use tempfile::TempDir;

use crate::support::control::Lines;
use crate::support::{GENEROUS, Rig, pause};

/// `cargo bench` builds the program that is measured.
pub(crate) fn program() -> PathBuf {
    env!("CARGO_BIN_EXE_rollout").into()
}

/// This very program.
pub(crate) fn this_program() -> PathBuf {
    std::env::current_exe().expect("the path of this program")
}

/// An agent on this configuration that serves. It logs as it does by default; the rig's own default is more.
pub(crate) fn start(home: TempDir, config: &str) -> Rig {
    let mut rig = Rig::start_program(&program(), home, config, &[("RUST_LOG", "info")]);
    let limit = clock::now().after(GENEROUS);
    let serves = |rig: &Rig| {
        rig.try_status().is_some_and(|status| status.services.iter().all(|service| service.state == "serving"))
    };
    // Hundreds of workers take longer than any test gives them.
    while !serves(&rig) && !clock::until(limit).is_zero() {
        pause();
    }
    rig.wait_until_serving();
    rig
}

/// A temporary directory.
pub(crate) fn home() -> TempDir {
    TempDir::new().expect("a temporary directory")
}

/// A service `web` of trivial workers that listen on a lane, and what else is to be said of it.
pub(crate) fn trivial(workers: usize, more: &str) -> String {
    let program = this_program();
    let program = program.display();
    format!(
        "services:\n  web:\n    binary: {program}\n    watch: off\n    command: ['{{release}}', worker]\n    \
         workers: {workers}\n    listen: ['127.0.0.1:0']\n    readiness: notify\n    drain: {{linger: 0s}}\n{more}"
    )
}

/// When a rollout did what.
pub(crate) struct Course {
    pub(crate) began: Moment,
    pub(crate) ended: Moment,
}

/// Asks for a rollout of service `web` (`restart`, `deploy`) and follows it to its end.
pub(crate) fn roll(rig: &Rig, verb: &str, body: &str) -> Course {
    let mut lines = Lines::post(&rig.socket(), &format!("/v1/services/web/{verb}"), body).expect("ask the agent");
    let mut began = None;
    loop {
        let line = lines.next(GENEROUS).expect("follow the rollout").expect("a step within the time");
        let now = clock::now();
        let step: Step = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in {line}"));
        match step.progress {
            Progress::Began { .. } => began = Some(now),
            Progress::Ended(report) => {
                assert_eq!(report.outcome, Outcome::Done, "{report:?}");
                return Course { began: began.expect("it began"), ended: now };
            }
            Progress::Stored { .. }
            | Progress::Queued { .. }
            | Progress::Starting { .. }
            | Progress::Ready { .. }
            | Progress::Draining { .. }
            | Progress::Gone { .. }
            | Progress::Failed { .. }
            | Progress::RollingBack { .. }
            | Progress::Paused { .. }
            | Progress::Resumed => {}
        }
    }
}

impl Course {
    pub(crate) fn took(&self) -> Duration {
        self.ended.since(self.began)
    }
}
