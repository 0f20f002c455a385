//! A service as `status` shows it.

use super::Shell;
use crate::agent::clock::Wall;
use crate::agent::words;
use crate::machine::view::{RolloutPhase, RolloutView, WorkerView};
use crate::wire::api::{RolloutStatus, ServiceStatus, WorkerStatus};

impl Shell {
    pub(crate) fn status(&self, wall: Wall) -> ServiceStatus {
        let view = self.machine.view();
        ServiceStatus {
            name: self.name.to_string(),
            state: words::service_state(view.state).to_owned(),
            generation: view.target.map(|target| target.generation),
            release: view.target.map(|target| target.release),
            listen: self.lanes.addresses(),
            workers: view.workers.iter().map(|worker| self.worker_status(worker, wall)).collect(),
            rollout: view.rollout.as_ref().map(|rollout| self.rollout_status(rollout, wall)),
        }
    }

    fn worker_status(&self, view: &WorkerView, wall: Wall) -> WorkerStatus {
        let hand = view.worker.and_then(|worker| self.workers.get(&worker));
        WorkerStatus {
            slot: view.slot,
            pid: hand.map(|hand| hand.pid),
            state: words::worker_state(view.state).to_owned(),
            generation: view.target.map(|target| target.generation),
            release: view.target.map(|target| target.release),
            since: wall.text(view.since),
            restarts: view.restarts,
            connections: hand.and_then(|hand| hand.connections),
        }
    }

    fn rollout_status(&self, view: &RolloutView, wall: Wall) -> RolloutStatus {
        let (phase, cause) = match &view.phase {
            RolloutPhase::Forward => ("forward", None),
            RolloutPhase::Paused(cause) => ("paused", Some(self.cause(view.to.rollout, cause))),
            RolloutPhase::Back(cause) => ("back", Some(self.cause(view.to.rollout, cause))),
        };
        RolloutStatus {
            id: view.to.rollout,
            phase: phase.to_owned(),
            from: view.from.map(|from| from.release),
            to: view.to.release,
            done: view.done,
            slots: view.slots,
            since: wall.text(view.since),
            cause,
        }
    }
}
