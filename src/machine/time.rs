//! What time alone does.

use std::time::Duration;

use super::event::{Action, Note, Symptom, Target};
use super::leaver::{Expired, Leaver};
use super::place::{Coming, Fitness, Place, Serving};
use super::service::{Service, Turn};
use crate::units::{Generation, Slot, WorkerId};

impl Service {
    pub(super) fn expire_places(&mut self, turn: &mut Turn) {
        let surplus = Slot(self.limits.workers.saturating_add(1));
        for slot in self.places.keys().copied().collect::<Vec<_>>() {
            let Some(place) = self.places.get(&slot) else { continue };
            match place.coming.clone() {
                Coming::Starting { worker, since, deadline, .. } if deadline <= turn.now => {
                    self.dismiss_coming(slot, turn);
                    let symptom = Symptom::NotReadyInTime(turn.now.since(since));
                    self.judge(slot, worker, symptom, Duration::ZERO, turn);
                }
                Coming::Proving { worker, target, took, until, .. } if until <= turn.now => {
                    self.admit(slot, worker, target, took, turn);
                }
                Coming::Holding { worker, target, since, until } if until <= turn.now => {
                    self.succeed(slot, Serving { worker, target, since, fitness: Fitness::Fit }, turn);
                }
                // Nobody is missed there: whoever is started next needs room, or is not wanted.
                Coming::Backoff { until, .. } if until <= turn.now && (place.is_fit() || slot >= surplus) => {
                    self.place(slot).coming = Coming::Nobody;
                }
                Coming::Nobody
                | Coming::Backoff { .. }
                | Coming::Starting { .. }
                | Coming::Proving { .. }
                | Coming::Holding { .. }
                | Coming::GivenUp { .. } => {}
            }
        }
    }

    pub(super) fn admit(&mut self, slot: Slot, worker: WorkerId, target: Target, took: Duration, turn: &mut Turn) {
        turn.out.push(Action::Admit(worker));
        turn.say(Note::Ready { slot, worker, took });
        let (now, hold) = (turn.now, self.limits.hold);
        let place = self.place(slot);
        if place.is_fit() && !hold.is_zero() {
            place.coming = Coming::Holding { worker, target, since: now, until: now.after(hold) };
        } else {
            self.succeed(slot, Serving { worker, target, since: now, fitness: Fitness::Fit }, turn);
        }
    }

    /// The worker takes the place; its predecessor is told to go.
    pub(super) fn succeed(&mut self, slot: Slot, successor: Serving, turn: &mut Turn) {
        self.retire_serving(slot, turn);
        let place = self.place(slot);
        place.serving = Some(successor);
        place.coming = Coming::Nobody;
    }

    /// Sick workers get connections while nobody is fit, and only then.
    pub(super) fn weigh_the_sick(&mut self, turn: &mut Turn) {
        let somebody_is_fit = self.places.values().any(Place::is_fit);
        for serving in self.places.values_mut().filter_map(|place| place.serving.as_mut()) {
            match serving.fitness {
                Fitness::LastResort if somebody_is_fit => {
                    serving.fitness = Fitness::Sick;
                    turn.out.push(Action::Exclude(serving.worker));
                }
                Fitness::Sick if !somebody_is_fit => {
                    serving.fitness = Fitness::LastResort;
                    turn.out.push(Action::Admit(serving.worker));
                }
                Fitness::Fit | Fitness::Sick | Fitness::LastResort => {}
            }
        }
    }

    pub(super) fn expire_leavers(&mut self, turn: &mut Turn) {
        for leaver in self.leavers.values_mut() {
            match leaver.expire(turn.now, &self.limits, &mut turn.out) {
                Expired::Killed => {
                    let (slot, worker, after) = (leaver.slot, leaver.worker, turn.now.since(leaver.since));
                    turn.out.push(Action::Announce(Note::Killing { slot, worker, after }));
                }
                Expired::Nothing => {}
            }
        }
    }

    /// Kills the workers of the oldest generation when more generations drain than `max_generations` allows.
    pub(super) fn cut_oldest_generation(&mut self, turn: &mut Turn) {
        // Who never was admitted has nothing to drain.
        let drains = |leaver: &&Leaver| leaver.was_admitted() && !leaver.is_killed();
        let mut draining: Vec<Generation> =
            self.leavers.values().filter(drains).map(|leaver| leaver.target.generation).collect();
        draining.sort_unstable();
        draining.dedup();
        let excess = draining.len().saturating_sub(self.limits.max_generations as usize);
        for oldest in &draining[..excess] {
            let cut = |leaver: &&mut Leaver| leaver.target.generation == *oldest && !leaver.is_killed();
            for leaver in self.leavers.values_mut().filter(cut) {
                let after = turn.now.since(leaver.since);
                leaver.kill(turn.now, &mut turn.out);
                turn.out.push(Action::Announce(Note::Killing { slot: leaver.slot, worker: leaver.worker, after }));
            }
        }
    }
}
