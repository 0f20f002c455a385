//! What can happen to a service, and what the machine may answer. Plain data, no handles.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::limits::Limits;
use crate::units::{Digest, Exit, Generation, RolloutId, Slot, WorkerId};

/// What a worker is made from: the outcome of one accepted request, at one count of the service's rollouts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Target {
    /// Counts rollouts that began.
    pub generation: Generation,
    /// The request, whose configuration and environment the shell keeps.
    pub rollout: RolloutId,
    /// The bytes that run.
    pub release: Digest,
}

/// Something that happened. Late and foreign events are normal and are answered with no action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Somebody asked for every slot to run this request's release, configuration and environment.
    Roll {
        /// The request.
        rollout: RolloutId,
        /// Its release.
        release: Digest,
        /// The numbers of its configuration; they hold from the moment the rollout begins.
        limits: Limits,
    },
    /// Somebody asked for this many slots.
    Scale(u32),
    /// Stop the rollout where it is.
    Pause,
    /// Go on with a paused rollout.
    Resume,
    /// Take the rollout back.
    Abort,
    /// Drain and stop every worker and be over.
    Stop,
    /// The worker could not be started.
    SpawnFailed(WorkerId, Symptom),
    /// The worker passed its check: k good looks in a row.
    Passed(WorkerId),
    /// A worker that had passed failed its check: m bad looks in a row, or its lane is hung.
    Sickened(WorkerId, Symptom),
    /// The worker asked for this much more time for what it is doing (`EXTEND_TIMEOUT_USEC`).
    Extended(WorkerId, Duration),
    /// Nothing is queued on the excluded worker's lane any more.
    Settled(WorkerId, OnStop),
    /// The lingering worker has no connection left.
    Emptied(WorkerId),
    /// The worker's process is gone.
    Exited(WorkerId, Exit),
    /// A new agent found that the worker was never started: the old one died on the way there.
    NeverStarted(WorkerId),
    /// The time of `next_deadline()` may have come. Harmless when it has not.
    DeadlinePassed,
}

/// What the stop signal would do to a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnStop {
    /// It has a handler: it can finish what it is doing.
    Caught,
    /// It would die at once.
    Fatal,
}

/// Why a worker is not, or no longer, good.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Symptom {
    /// It could not be started; the text names program and cause.
    NotStarted(String),
    /// It was not ready when its time was over.
    NotReadyInTime(Duration),
    /// It ended before it was ready.
    DiedStarting(Exit),
    /// It was ready and ended before it was told to.
    Died(Exit),
    /// It was ready and then failed its check; the text says how.
    Unhealthy(String),
    /// Its lane's queue was not emptied for this long and a probe failed.
    Hung(Duration),
}

/// Something the shell must do. Total and in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Start a worker and begin to look at it.
    Spawn {
        /// Its name.
        worker: WorkerId,
        /// Its place.
        slot: Slot,
        /// What it is made from.
        target: Target,
    },
    /// Steer new connections to the worker's lane, too.
    Admit(WorkerId),
    /// Steer no new connection to the worker's lane; report `Settled` when its queue is empty.
    Exclude(WorkerId),
    /// Report `Emptied` when the worker has no connection left.
    AwaitEmpty(WorkerId),
    /// Send the stop signal.
    Stop(WorkerId),
    /// SIGKILL to the worker's whole tree.
    Kill(WorkerId),
    /// The worker is gone: its lane, pipe and exit code may be let go.
    Release(WorkerId),
    /// Tell whoever listens.
    Announce(Note),
    /// A stopped service has no worker left.
    Over,
}

/// What a person, a log and the journal are told. The shell adds names, times of day and output lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// A request waits for the rollout that is under way; `superseded` is the request that it replaces.
    Queued {
        /// The one that waits.
        rollout: RolloutId,
        /// The one that will now never begin.
        superseded: Option<RolloutId>,
    },
    /// A rollout began.
    Began {
        /// What it brings.
        to: Target,
        /// What was live.
        from: Option<Target>,
    },
    /// A worker is being started.
    Starting {
        /// Where.
        slot: Slot,
        /// Who.
        worker: WorkerId,
        /// From what.
        target: Target,
    },
    /// A worker passed its check and stayed so: it is admitted.
    Ready {
        /// Where.
        slot: Slot,
        /// Who.
        worker: WorkerId,
        /// From its start to its first passed check.
        took: Duration,
    },
    /// A worker was told to go: it is excluded and drains.
    Draining {
        /// Where it was.
        slot: Slot,
        /// Who.
        worker: WorkerId,
    },
    /// A worker that was told to go did not, and is killed.
    Killing {
        /// Where it was.
        slot: Slot,
        /// Who.
        worker: WorkerId,
        /// Since it was told.
        after: Duration,
    },
    /// A worker that was told to go is gone.
    Gone {
        /// Where it was.
        slot: Slot,
        /// Who.
        worker: WorkerId,
        /// How it ended.
        exit: Exit,
        /// Since it was told.
        took: Duration,
    },
    /// A worker is no good.
    Failed {
        /// Where.
        slot: Slot,
        /// Who.
        worker: WorkerId,
        /// Why.
        symptom: Symptom,
        /// When the next one is started there; `None` if this is for the rollout to decide.
        retry_in: Option<Duration>,
    },
    /// A slot is left alone: too many failures in too short a time.
    GaveUp {
        /// Where.
        slot: Slot,
        /// How many failures.
        failures: u32,
    },
    /// The rollout is being taken back.
    RollingBack {
        /// Which.
        rollout: RolloutId,
        /// Why.
        cause: Cause,
    },
    /// The rollout stands still until a person speaks.
    Paused {
        /// Which.
        rollout: RolloutId,
        /// Why.
        cause: Cause,
    },
    /// The rollout goes on.
    Resumed {
        /// Which.
        rollout: RolloutId,
    },
    /// The rollout is over.
    Ended {
        /// Which.
        rollout: RolloutId,
        /// How.
        outcome: Outcome,
    },
    /// Every slot that was asked for serves, or the change of their number was overtaken.
    Scaled {
        /// How many slots there are.
        workers: u32,
    },
}

/// Why a rollout does not go forward.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// A worker of the new target was no good.
    Worker {
        /// Where.
        slot: Slot,
        /// Who.
        worker: WorkerId,
        /// Why.
        symptom: Symptom,
    },
    /// Somebody said so.
    Asked,
}

/// How a rollout ended.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Every slot serves the new target.
    Done,
    /// Every slot is back on the old target.
    RolledBack(Cause),
    /// The way back failed too: slots are mixed, a person is needed.
    Stuck(Cause),
    /// It never began: a newer request took its place.
    Superseded {
        /// The newer one.
        by: RolloutId,
    },
    /// It never came to an end: the service was stopped.
    Stopped,
}
