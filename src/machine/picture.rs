//! From the state to the picture that `status` shows.

use super::place::{Coming, Fitness, Place};
use super::rolling::Phase;
use super::service::{Life, Service};
use super::view::{RolloutPhase, RolloutView, ServiceState, View, WorkerState, WorkerView};
use crate::units::Slot;

impl Service {
    /// A picture of now.
    #[must_use]
    pub fn view(&self) -> View {
        let placed = self.places.iter().flat_map(|(slot, place)| placed(*slot, place));
        let leaving = self.leavers.values().map(|leaver| WorkerView {
            slot: leaver.slot,
            worker: Some(leaver.worker),
            state: WorkerState::Draining,
            target: Some(leaver.target),
            since: leaver.since,
            restarts: self.places.get(&leaver.slot).map_or(0, |place| place.restarts),
        });
        let mut workers: Vec<WorkerView> = placed.chain(leaving).collect();
        workers.sort_by_key(|worker| (worker.slot, worker.worker));
        View { state: self.state(), target: self.base, workers, rollout: self.rollout_view() }
    }

    fn state(&self) -> ServiceState {
        let given_up = |place: &Place| matches!(place.coming, Coming::GivenUp { .. });
        match self.life {
            Life::Over => ServiceState::Stopped,
            Life::Stopping => ServiceState::Stopping,
            Life::Going if self.rolling.is_some() => ServiceState::Rolling,
            Life::Going if self.places.values().any(given_up) => ServiceState::Failed,
            Life::Going if self.first.is_some() || self.base.is_none() => ServiceState::Starting,
            Life::Going if self.within().all(|(_, place)| place.is_fit()) => ServiceState::Serving,
            Life::Going => ServiceState::Degraded,
        }
    }

    fn rollout_view(&self) -> Option<RolloutView> {
        let rolling = self.rolling.as_ref()?;
        let (phase, aim) = match &rolling.phase {
            Phase::Forward => (RolloutPhase::Forward, rolling.goal),
            Phase::Paused(cause) => (RolloutPhase::Paused(cause.clone()), rolling.goal),
            Phase::Back(cause) => (RolloutPhase::Back(cause.clone()), rolling.from),
        };
        let done = self.within().filter(|(_, place)| place.serves(aim)).count();
        Some(RolloutView {
            to: rolling.goal,
            from: Some(rolling.from),
            phase,
            done: u32::try_from(done).unwrap_or(u32::MAX),
            slots: self.limits.workers,
            since: rolling.since,
        })
    }
}

fn placed(slot: Slot, place: &Place) -> impl Iterator<Item = WorkerView> {
    let restarts = place.restarts;
    let serving = place.serving.as_ref().map(|serving| WorkerView {
        slot,
        worker: Some(serving.worker),
        state: match serving.fitness {
            Fitness::Fit => WorkerState::Ready,
            Fitness::Sick | Fitness::LastResort => WorkerState::Failed,
        },
        target: Some(serving.target),
        since: serving.since,
        restarts,
    });
    let coming = match &place.coming {
        Coming::Nobody => None,
        Coming::Backoff { since, .. } => Some((WorkerState::Backoff, *since)),
        Coming::Starting { since, .. } | Coming::Proving { since, .. } => Some((WorkerState::Starting, *since)),
        Coming::Holding { since, .. } => Some((WorkerState::Ready, *since)),
        Coming::GivenUp { since } => Some((WorkerState::Failed, *since)),
    };
    let worker = place.coming.worker();
    let coming = coming.map(|(state, since)| WorkerView {
        slot,
        worker: worker.map(|(worker, _)| worker),
        state,
        target: worker.map(|(_, target)| target),
        since,
        restarts,
    });
    serving.into_iter().chain(coming)
}
