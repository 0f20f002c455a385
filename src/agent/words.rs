//! Symptoms, causes and ends in words, and the exit code that each end means.

use std::time::Duration;

use crate::machine::event::{self as machine, Cause, Symptom};
use crate::machine::view::{ServiceState, WorkerState};
use crate::wire::api::{Failure, Outcome};

/// One symptom as a lower-case fragment.
pub(crate) fn symptom(symptom: &Symptom) -> String {
    match symptom {
        Symptom::NotStarted(why) => format!("could not be started: {why}"),
        Symptom::NotReadyInTime(after) => format!("was not ready after {}", time(*after)),
        Symptom::DiedStarting(exit) => format!("ended before it was ready: {exit}"),
        Symptom::Died(exit) => format!("ended although nobody had told it to: {exit}"),
        Symptom::Unhealthy(how) => format!("failed its check: {how}"),
        Symptom::Hung(after) => format!("took no connection for {}", time(*after)),
    }
}

/// Why a rollout does not go forward; `known` is what was said when the worker failed, which may be more.
pub(crate) fn cause(cause: &Cause, known: Option<&Failure>) -> String {
    match cause {
        Cause::Worker { slot, worker, symptom: sign } => {
            let known = known.filter(|failure| failure.worker == worker.to_string());
            let why = known.map_or_else(|| symptom(sign), |failure| failure.why.clone());
            format!("worker {worker} in slot {slot} {why}")
        }
        Cause::Asked => "somebody asked for it".to_owned(),
    }
}

/// The end of a rollout in one word.
pub(crate) fn outcome(outcome: &machine::Outcome) -> Outcome {
    match outcome {
        machine::Outcome::Done => Outcome::Done,
        machine::Outcome::RolledBack(_) => Outcome::RolledBack,
        machine::Outcome::Stuck(_) => Outcome::NeedsPerson,
        machine::Outcome::Superseded { .. } => Outcome::Superseded,
        machine::Outcome::Stopped => Outcome::Stopped,
    }
}

/// The exit code of DESIGN 10's table.
pub(crate) fn exit(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Done | Outcome::AlreadyLive => 0,
        Outcome::RolledBack => 3,
        Outcome::NeedsPerson => 4,
        Outcome::Superseded | Outcome::Stopped => 5,
    }
}

pub(crate) fn service_state(state: ServiceState) -> &'static str {
    match state {
        ServiceState::Starting => "starting",
        ServiceState::Serving => "serving",
        ServiceState::Rolling => "rolling",
        ServiceState::Degraded => "degraded",
        ServiceState::Failed => "failed",
        ServiceState::Stopping => "stopping",
        ServiceState::Stopped => "stopped",
    }
}

pub(crate) fn worker_state(state: WorkerState) -> &'static str {
    match state {
        WorkerState::Starting => "starting",
        WorkerState::Ready => "ready",
        WorkerState::Draining => "draining",
        WorkerState::Backoff => "backoff",
        WorkerState::Failed => "failed",
    }
}

pub(crate) fn workers(count: u32) -> &'static str {
    if count == 1 { "worker" } else { "workers" }
}

pub(crate) fn slots(count: u32) -> &'static str {
    if count == 1 { "slot" } else { "slots" }
}

/// A duration as people say it: `12 ms`, `3 s`, `1.5 s`, `2m 5s`.
pub(crate) fn time(time: Duration) -> String {
    let tenths = (time.as_millis() + 50) / 100;
    match (tenths / 10, tenths % 10) {
        (0, _) => format!("{} ms", time.as_millis()),
        (60.., _) => {
            let seconds = Duration::from_millis(u64::try_from(tenths * 100).unwrap_or(u64::MAX)).as_secs();
            humantime::format_duration(Duration::from_secs(seconds)).to_string()
        }
        (whole, 0) => format!("{whole} s"),
        (whole, tenths) => format!("{whole}.{tenths} s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{Slot, WorkerId};

    #[test]
    fn times_are_rounded_to_what_matters() {
        let said =
            [0, 16, 949, 950, 1_000, 3_002, 1_249, 59_949, 59_950, 125_900].map(|ms| time(Duration::from_millis(ms)));
        assert_eq!(said, ["0 ms", "16 ms", "949 ms", "1 s", "1 s", "3 s", "1.2 s", "59.9 s", "1m", "2m 5s"]);
    }

    #[test]
    fn a_cause_says_all_that_is_known_of_its_worker_and_nothing_of_another() {
        let symptom = Symptom::NotReadyInTime(Duration::from_secs(30));
        let stuck = Cause::Worker { slot: Slot(2), worker: WorkerId(9), symptom };
        let why = "was not ready after 30 s: GET /healthz answered 503".to_owned();
        let failure =
            |worker: &str| Failure { slot: Slot(2), worker: worker.to_owned(), why: why.clone(), output: vec![] };
        let said = |known: Option<&Failure>| cause(&stuck, known);
        assert_eq!(said(Some(&failure("w9"))), format!("worker w9 in slot 2 {why}"));
        assert_eq!(said(Some(&failure("w8"))), "worker w9 in slot 2 was not ready after 30 s");
        assert_eq!(said(None), "worker w9 in slot 2 was not ready after 30 s");
    }
}
