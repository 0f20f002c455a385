//! What each event changes by itself; what becomes possible by it is for `advance`.

use std::time::Duration;

use super::event::{Action, Note, Outcome, Symptom};
use super::leaver::EXTENSION;
use super::place::Coming;
use super::service::{Found, Life, Scaling, Service, Turn};
use crate::units::{Exit, Moment, WorkerId};

impl Service {
    pub(super) fn scale(&mut self, workers: u32) {
        if self.life != Life::Going || self.base.is_none() || workers == 0 {
            return;
        }
        self.limits.workers = workers;
        if let Some(rolling) = &mut self.rolling {
            rolling.limits_before.workers = workers;
        }
        self.scaling = Scaling::Asked;
        self.add_places();
        self.places.values_mut().filter(|place| matches!(place.coming, Coming::GivenUp { .. })).for_each(|place| {
            place.forgive();
            place.coming = Coming::Nobody;
        });
    }

    pub(super) fn stop(&mut self, turn: &mut Turn) {
        if self.life != Life::Going {
            return;
        }
        self.life = Life::Stopping;
        self.scaling = Scaling::No;
        let rolling = self.rolling.take().map(|rolling| rolling.goal.rollout);
        let waiting = self.waiting.take().map(|waiting| waiting.rollout);
        for rollout in rolling.into_iter().chain(waiting).chain(self.first.take()) {
            turn.say(Note::Ended { rollout, outcome: Outcome::Stopped });
        }
        for slot in self.places.keys().copied().collect::<Vec<_>>() {
            self.vacate(slot, turn);
        }
        self.places.clear();
    }

    pub(super) fn passed(&mut self, worker: WorkerId, now: Moment) {
        let min_ready = self.limits.min_ready;
        for place in self.places.values_mut() {
            if let Coming::Starting { worker: starting, target, since, .. } = place.coming
                && starting == worker
            {
                let (took, until) = (now.since(since), now.after(min_ready));
                place.coming = Coming::Proving { worker, target, since: now, took, until };
            }
        }
    }

    pub(super) fn extended(&mut self, worker: WorkerId, by: Duration, now: Moment) {
        if let Some(leaver) = self.leavers.get_mut(&worker) {
            leaver.extended(by, now, &self.limits);
        }
        let longest = self.limits.ready_timeout.saturating_mul(EXTENSION);
        for place in self.places.values_mut() {
            if let Coming::Starting { worker: starting, since, deadline, .. } = &mut place.coming
                && *starting == worker
            {
                *deadline = now.after(by).min(since.after(longest)).max(*deadline);
            }
        }
    }

    pub(super) fn exited(&mut self, worker: WorkerId, exit: Exit, turn: &mut Turn) {
        match self.find(worker) {
            Found::Leaving => self.left(worker, exit, turn),
            Found::Serving(slot) => {
                turn.out.push(Action::Release(worker));
                self.serving_is_bad(slot, Symptom::Died(exit), turn);
            }
            Found::Coming(slot) => {
                turn.out.push(Action::Release(worker));
                let symptom = match self.places[&slot].coming {
                    Coming::Proving { .. } | Coming::Holding { .. } => Symptom::Died(exit),
                    Coming::Nobody | Coming::Backoff { .. } | Coming::Starting { .. } | Coming::GivenUp { .. } => {
                        Symptom::DiedStarting(exit)
                    }
                };
                self.coming_is_bad(slot, symptom, turn);
            }
            Found::Nowhere => {}
        }
    }

    fn left(&mut self, worker: WorkerId, exit: Exit, turn: &mut Turn) {
        if let Some(leaver) = self.leavers.remove(&worker) {
            let took = turn.now.since(leaver.since);
            turn.out.push(Action::Release(worker));
            turn.say(Note::Gone { slot: leaver.slot, worker, exit, took });
        }
    }

    pub(super) fn not_started(&mut self, worker: WorkerId, symptom: Symptom, turn: &mut Turn) {
        match self.find(worker) {
            Found::Coming(slot) => {
                turn.out.push(Action::Release(worker));
                self.coming_is_bad(slot, symptom, turn);
            }
            Found::Leaving => self.left(worker, Exit::Unknown, turn),
            Found::Serving(_) | Found::Nowhere => {}
        }
    }

    pub(super) fn never_started(&mut self, worker: WorkerId, turn: &mut Turn) {
        match self.find(worker) {
            Found::Coming(slot) => {
                turn.out.push(Action::Release(worker));
                self.place(slot).coming = Coming::Nobody;
            }
            Found::Leaving => self.left(worker, Exit::Unknown, turn),
            Found::Serving(_) | Found::Nowhere => {}
        }
    }

    pub(super) fn sickened(&mut self, worker: WorkerId, symptom: Symptom, turn: &mut Turn) {
        match self.find(worker) {
            Found::Serving(slot) => self.serving_is_sick(slot, symptom, turn),
            Found::Coming(slot) => match self.places[&slot].coming {
                Coming::Proving { .. } | Coming::Holding { .. } => {
                    self.dismiss_coming(slot, turn);
                    self.judge(slot, worker, symptom, Duration::ZERO, turn);
                }
                Coming::Nobody | Coming::Backoff { .. } | Coming::Starting { .. } | Coming::GivenUp { .. } => {}
            },
            Found::Leaving | Found::Nowhere => {}
        }
    }
}
