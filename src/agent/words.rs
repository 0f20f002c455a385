//! Symptoms, causes and ends in words, and the exit code that each end means.

use std::time::Duration;

use crate::machine::event::{self as machine, Cause, Symptom};
use crate::machine::view::{ServiceState, WorkerState};
use crate::wire::api::Outcome;

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

/// Why a rollout does not go forward.
pub(crate) fn cause(cause: &Cause) -> String {
    match cause {
        Cause::Worker { slot, worker, symptom: sign } => format!("worker {worker} in slot {slot} {}", symptom(sign)),
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

/// A duration, to the millisecond below ten seconds and to the second above.
pub(crate) fn time(time: Duration) -> String {
    let rounded = if time < Duration::from_secs(10) {
        Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
    } else {
        Duration::from_secs(time.as_secs())
    };
    humantime::format_duration(rounded).to_string()
}
