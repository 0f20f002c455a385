//! A read-only picture of a service for `status`.

use crate::machine::event::{Cause, Target};
use crate::units::{Moment, Slot, WorkerId};

/// The whole service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// In one word.
    pub state: ServiceState,
    /// What is live, or becomes live when the rollout is done.
    pub target: Option<Target>,
    /// Every worker, by slot and then by age; those told to go included.
    pub workers: Vec<WorkerView>,
    /// The rollout that is under way.
    pub rollout: Option<RolloutView>,
}

/// A service in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceState {
    /// Not every slot has had a ready worker yet.
    Starting,
    /// Every slot serves.
    Serving,
    /// A rollout (or its way back) is under way.
    Rolling,
    /// Some slot does not serve and is being brought back.
    Degraded,
    /// Some slot was given up.
    Failed,
    /// Workers are draining for good.
    Stopping,
    /// No worker is left.
    Stopped,
}

/// One worker, or a slot's wait for one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerView {
    /// Its place.
    pub slot: Slot,
    /// Who; `None` while the slot waits (`Backoff`) or was given up (`Failed`).
    pub worker: Option<WorkerId>,
    /// What it does.
    pub state: WorkerState,
    /// What it is made from.
    pub target: Option<Target>,
    /// Since when it is in this state.
    pub since: Moment,
    /// How often this slot's worker was started again without a rollout.
    pub restarts: u32,
}

/// What a worker does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerState {
    /// Started, not ready yet or not ready for long enough.
    Starting,
    /// Admitted.
    Ready,
    /// Told to go.
    Draining,
    /// Waiting for the next start.
    Backoff,
    /// Given up.
    Failed,
}

/// The rollout that is under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RolloutView {
    /// Where it goes.
    pub to: Target,
    /// Where it came from.
    pub from: Option<Target>,
    /// What it does now.
    pub phase: RolloutPhase,
    /// Slots that serve the goal of this phase.
    pub done: u32,
    /// All slots.
    pub slots: u32,
    /// Since when.
    pub since: Moment,
}

/// What a rollout does now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RolloutPhase {
    /// Replacing.
    Forward,
    /// Standing still.
    Paused(Cause),
    /// Bringing the old target back.
    Back(Cause),
}
