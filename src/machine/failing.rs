//! What follows when a worker is no good.

use std::time::Duration;

use super::event::{Cause, Note, Symptom, Target};
use super::place::{Coming, Fitness, Retry, Serving};
use super::service::{Service, Turn};
use crate::units::{Slot, WorkerId};

impl Service {
    /// The serving worker's process is gone.
    pub(super) fn serving_is_bad(&mut self, slot: Slot, symptom: Symptom, turn: &mut Turn) {
        let Some(lost) = self.place(slot).serving.take() else { return };
        let served = turn.now.since(lost.since);
        if let Coming::Holding { worker, target, since, .. } = self.place(slot).coming {
            // It is admitted already: it takes the place at once.
            let place = self.place(slot);
            place.serving = Some(Serving { worker, target, since, fitness: Fitness::Fit });
            place.coming = Coming::Nobody;
            turn.say(Note::Failed { slot, worker: lost.worker, symptom, retry_in: None });
            return;
        }
        self.judge_target(slot, lost.worker, lost.target, symptom, served, turn);
    }

    /// The serving worker fails its check and its process is there: it is replaced, ready first.
    pub(super) fn serving_is_sick(&mut self, slot: Slot, symptom: Symptom, turn: &mut Turn) {
        let Some(serving) = &mut self.place(slot).serving else { return };
        if serving.fitness != Fitness::Fit {
            return;
        }
        serving.fitness = Fitness::LastResort;
        let (worker, target, served) = (serving.worker, serving.target, turn.now.since(serving.since));
        if let Coming::Holding { worker: holder, target, since, .. } = self.place(slot).coming {
            // It is admitted already: it takes the place at once.
            self.succeed(slot, Serving { worker: holder, target, since, fitness: Fitness::Fit }, turn);
            turn.say(Note::Failed { slot, worker, symptom, retry_in: None });
            return;
        }
        if self.limits.max_surge == 0 {
            self.retire_serving(slot, turn);
        }
        self.weigh_the_sick(turn);
        self.judge_target(slot, worker, target, symptom, served, turn);
    }

    /// The coming worker's process is gone, or was never there.
    pub(super) fn coming_is_bad(&mut self, slot: Slot, symptom: Symptom, turn: &mut Turn) {
        let Some((worker, target)) = self.place(slot).coming.worker() else { return };
        self.place(slot).coming = Coming::Nobody;
        self.judge_target(slot, worker, target, symptom, Duration::ZERO, turn);
    }

    /// As [`Self::judge_target`] for a worker that was just dismissed.
    pub(super) fn judge(&mut self, slot: Slot, worker: WorkerId, symptom: Symptom, served: Duration, turn: &mut Turn) {
        if let Some(target) = self.leavers.get(&worker).map(|leaver| leaver.target) {
            self.judge_target(slot, worker, target, symptom, served, turn);
        }
    }

    /// A worker of `target` was no good in this slot: that ends the rollout that brings this target, and is tried again
    /// with a growing delay otherwise.
    fn judge_target(
        &mut self,
        slot: Slot,
        worker: WorkerId,
        target: Target,
        symptom: Symptom,
        served: Duration,
        turn: &mut Turn,
    ) {
        if self.rolling.as_ref().is_some_and(|rolling| rolling.brings(target)) {
            turn.say(Note::Failed { slot, worker, symptom: symptom.clone(), retry_in: None });
            self.fail(Cause::Worker { slot, worker, symptom }, turn);
            return;
        }
        let (backoff, give_up) = (self.limits.backoff, self.limits.give_up);
        let place = self.place(slot);
        match (place.failed(turn.now, served, backoff, give_up), &place.coming) {
            (Retry::After(delay), Coming::Nobody) => {
                place.coming = Coming::Backoff { since: turn.now, until: turn.now.after(delay) };
                turn.say(Note::Failed { slot, worker, symptom, retry_in: Some(delay) });
            }
            (Retry::Never { failures }, Coming::Nobody) => {
                place.coming = Coming::GivenUp { since: turn.now };
                turn.say(Note::Failed { slot, worker, symptom, retry_in: None });
                turn.say(Note::GaveUp { slot, failures });
            }
            // A replacement is on its way already.
            (
                Retry::After(_) | Retry::Never { .. },
                Coming::Backoff { .. }
                | Coming::Starting { .. }
                | Coming::Proving { .. }
                | Coming::Holding { .. }
                | Coming::GivenUp { .. },
            ) => turn.say(Note::Failed { slot, worker, symptom, retry_in: None }),
        }
    }
}
