//! The machine of one service: the only door through which its state changes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::event::{Action, Event, Note, Target};
use super::leaver::{Goer, Leaver, Standing};
use super::limits::Limits;
use super::place::{Coming, Fitness, Place, Serving};
use super::rolling::{Phase, Rolling, Waiting};
use crate::units::{Moment, RolloutId, Slot, WorkerId};

/// Everything that is decided about one service. Written to the state file as it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Service {
    pub(super) limits: Limits,
    /// What every slot that is not part of a rollout runs; `None` before the first start.
    pub(super) base: Option<Target>,
    /// The first start, until every slot has served once.
    pub(super) first: Option<RolloutId>,
    pub(super) rolling: Option<Rolling>,
    /// The newest request that came while another was under way. One is enough: newer ones take its place.
    pub(super) waiting: Option<Waiting>,
    pub(super) places: BTreeMap<Slot, Place>,
    pub(super) leavers: BTreeMap<WorkerId, Leaver>,
    pub(super) scaling: Scaling,
    pub(super) life: Life,
    next_worker: u64,
    pub(super) generations: u64,
}

/// Whether somebody waits for a new number of slots to serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) enum Scaling {
    No,
    Asked,
}

/// Whether the service goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) enum Life {
    Going,
    Stopping,
    Over,
}

/// One call of `step`: its moment, and the actions that it collects.
pub(super) struct Turn {
    pub(super) now: Moment,
    pub(super) out: Vec<Action>,
}

impl Turn {
    pub(super) fn say(&mut self, note: Note) {
        self.out.push(Action::Announce(note));
    }
}

/// What a worker is wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// It is admitted and must stay well.
    Ready,
    /// It is to get ready.
    Coming,
    /// It passed its check and must stay well until it is admitted.
    Proving,
    /// It was told to go, or is not known.
    No,
}

/// Where a worker is known.
pub(super) enum Found {
    Serving(Slot),
    Coming(Slot),
    Leaving,
    Nowhere,
}

impl Default for Service {
    fn default() -> Self {
        Self::new()
    }
}

impl Service {
    /// A service that has never been started. The first [`Event::Roll`] starts it.
    #[must_use]
    pub fn new() -> Self {
        Self {
            limits: Limits::default(),
            base: None,
            first: None,
            rolling: None,
            waiting: None,
            places: BTreeMap::new(),
            leavers: BTreeMap::new(),
            scaling: Scaling::No,
            life: Life::Going,
            next_worker: 1,
            generations: 0,
        }
    }

    /// A service that begins anew after this one's life. No worker or generation gets a number that was used in it.
    #[must_use]
    pub fn reborn(&self) -> Self {
        Self { next_worker: self.next_worker, generations: self.generations, ..Self::new() }
    }

    /// Somebody else had this number: nobody gets it again, nor one before it.
    pub fn number_on_after(&mut self, worker: WorkerId) {
        self.next_worker = self.next_worker.max(worker.0.saturating_add(1));
    }

    /// Takes one event and says what to do about it, in order. Late and foreign events are normal and change nothing.
    pub fn step(&mut self, now: Moment, event: Event) -> Vec<Action> {
        let mut turn = Turn { now, out: Vec::new() };
        self.take(event, &mut turn);
        self.advance(&mut turn);
        turn.out
    }

    /// When [`Event::DeadlinePassed`] is due; `None`: nothing happens by time alone.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Moment> {
        let coming = self.places.values().filter_map(|place| place.coming.deadline());
        let leaving = self.leavers.values().map(Leaver::deadline);
        coming.chain(leaving).min()
    }

    /// What a new agent must do again, because the old one may have died after it wrote this state and before it acted.
    /// Every one of these actions may be done twice.
    #[must_use]
    pub fn again(&self) -> Vec<Action> {
        let mut out = Vec::new();
        for place in self.places.values() {
            if let Some(serving) = &place.serving {
                out.push(match serving.fitness {
                    Fitness::Sick => Action::Exclude(serving.worker),
                    Fitness::Fit | Fitness::LastResort => Action::Admit(serving.worker),
                });
            }
            match &place.coming {
                Coming::Holding { worker, .. } => out.push(Action::Admit(*worker)),
                Coming::Nobody
                | Coming::Backoff { .. }
                | Coming::Starting { .. }
                | Coming::Proving { .. }
                | Coming::GivenUp { .. } => {}
            }
        }
        self.leavers.values().for_each(|leaver| leaver.again(&mut out));
        if self.life == Life::Over {
            out.push(Action::Over);
        }
        out
    }

    fn take(&mut self, event: Event, turn: &mut Turn) {
        match event {
            Event::Roll { rollout, release, limits } => self.asked(Waiting { rollout, release, limits }, turn),
            Event::Scale(workers) => self.scale(workers),
            Event::Pause => self.pause(turn),
            Event::Resume => self.resume(turn),
            Event::Abort => self.abort(turn),
            Event::Stop => self.stop(turn),
            Event::SpawnFailed(worker, symptom) => self.not_started(worker, symptom, turn),
            Event::Passed(worker) => self.passed(worker, turn.now),
            Event::Sickened(worker, symptom) => self.sickened(worker, symptom, turn),
            Event::Extended(worker, by) => self.extended(worker, by, turn.now),
            Event::Settled(worker, on_stop) => {
                if let Some(leaver) = self.leavers.get_mut(&worker) {
                    leaver.settled(on_stop, turn.now, &self.limits, &mut turn.out);
                }
            }
            Event::Emptied(worker) => {
                if let Some(leaver) = self.leavers.get_mut(&worker) {
                    leaver.emptied(turn.now, &self.limits, &mut turn.out);
                }
            }
            Event::Exited(worker, exit) => self.exited(worker, exit, turn),
            Event::NeverStarted(worker) => self.never_started(worker, turn),
            Event::DeadlinePassed => {}
        }
    }

    /// Does everything that is due or has become possible.
    fn advance(&mut self, turn: &mut Turn) {
        self.expire_places(turn);
        self.expire_leavers(turn);
        self.weigh_the_sick(turn);
        match self.life {
            Life::Going => loop {
                self.roll(turn);
                self.fill(turn);
                if !self.ends(turn) {
                    break;
                }
            },
            Life::Stopping if self.leavers.is_empty() => {
                self.life = Life::Over;
                turn.out.push(Action::Over);
            }
            Life::Stopping | Life::Over => {}
        }
        self.weigh_the_sick(turn);
        self.cut_oldest_generation(turn);
    }

    /// Starts what a slot lacks, where that is not for the rollout to do.
    fn fill(&mut self, turn: &mut Turn) {
        let Some(base) = self.base else { return };
        let rollout_fills = matches!(&self.rolling, Some(rolling) if rolling.phase == Phase::Forward);
        for slot in self.within().map(|(slot, _)| *slot).collect::<Vec<_>>() {
            let place = self.place(slot);
            match place.coming {
                Coming::Backoff { until, .. } if until <= turn.now && !place.is_fit() => {
                    place.restarts += 1;
                    self.start(slot, base, turn);
                }
                Coming::Nobody if !place.is_fit() && !rollout_fills => {
                    if self.limits.max_surge == 0 {
                        self.retire_serving(slot, turn);
                    }
                    self.start(slot, base, turn);
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

    pub(super) fn start(&mut self, slot: Slot, target: Target, turn: &mut Turn) {
        let worker = WorkerId(self.next_worker);
        self.next_worker += 1;
        let deadline = turn.now.after(self.limits.ready_timeout);
        self.place(slot).coming = Coming::Starting { worker, target, since: turn.now, deadline };
        turn.say(Note::Starting { slot, worker, target });
        turn.out.push(Action::Spawn { worker, slot, target });
    }

    pub(super) fn retire_serving(&mut self, slot: Slot, turn: &mut Turn) {
        if let Some(Serving { worker, target, .. }) = self.place(slot).serving.take() {
            self.tell_to_go(slot, worker, target, Standing::Admitted, turn);
        }
    }

    pub(super) fn dismiss_coming(&mut self, slot: Slot, turn: &mut Turn) {
        let standing = match self.places[&slot].coming {
            Coming::Holding { .. } => Standing::Admitted,
            Coming::Nobody
            | Coming::Backoff { .. }
            | Coming::Starting { .. }
            | Coming::Proving { .. }
            | Coming::GivenUp { .. } => Standing::Unseen,
        };
        if let Some((worker, target)) = self.place(slot).coming.worker() {
            self.tell_to_go(slot, worker, target, standing, turn);
        }
        self.place(slot).coming = Coming::Nobody;
    }

    /// Tells everybody in a slot to go.
    pub(super) fn vacate(&mut self, slot: Slot, turn: &mut Turn) {
        self.retire_serving(slot, turn);
        self.dismiss_coming(slot, turn);
    }

    fn tell_to_go(&mut self, slot: Slot, worker: WorkerId, target: Target, standing: Standing, turn: &mut Turn) {
        let for_rollout = self.rolling.as_ref().map(|rolling| rolling.goal.rollout);
        if standing == Standing::Admitted {
            turn.say(Note::Draining { slot, worker });
        }
        let leaver = Leaver::new(Goer { worker, slot, target }, standing, for_rollout, &self.limits, turn);
        self.leavers.insert(worker, leaver);
    }

    pub(super) fn add_places(&mut self) {
        for slot in 1..=self.limits.workers {
            self.places.entry(Slot(slot)).or_default();
        }
    }

    /// Tells the workers of slots above N to go; those that serve, only when they are no longer missed below.
    pub(super) fn drop_places(&mut self, turn: &mut Turn) {
        let somebody_comes = |place: &Place| !place.is_fit() && !matches!(place.coming, Coming::GivenUp { .. });
        let are_missed = self.within().any(|(_, place)| somebody_comes(place));
        let above = Slot(self.limits.workers.saturating_add(1));
        let surplus = self.places.range(above..).filter(|(_, place)| !(are_missed && place.is_fit()));
        for slot in surplus.map(|(slot, _)| *slot).collect::<Vec<_>>() {
            self.vacate(slot, turn);
            self.places.remove(&slot);
        }
    }

    pub(super) fn place(&mut self, slot: Slot) -> &mut Place {
        self.places.entry(slot).or_default()
    }

    pub(super) fn find(&self, worker: WorkerId) -> Found {
        if self.leavers.contains_key(&worker) {
            return Found::Leaving;
        }
        for (slot, place) in &self.places {
            if place.serving.as_ref().is_some_and(|serving| serving.worker == worker) {
                return Found::Serving(*slot);
            }
            if place.coming.worker().is_some_and(|(coming, _)| coming == worker) {
                return Found::Coming(*slot);
            }
        }
        Found::Nowhere
    }

    /// What a worker is wanted for.
    #[must_use]
    pub fn need_of(&self, worker: WorkerId) -> Wanted {
        match self.find(worker) {
            Found::Serving(_) => Wanted::Ready,
            Found::Coming(slot) => match self.places[&slot].coming {
                Coming::Holding { .. } => Wanted::Ready,
                Coming::Proving { .. } => Wanted::Proving,
                Coming::Nobody | Coming::Backoff { .. } | Coming::Starting { .. } | Coming::GivenUp { .. } => {
                    Wanted::Coming
                }
            },
            Found::Leaving | Found::Nowhere => Wanted::No,
        }
    }

    /// Every worker that should have a process.
    #[must_use]
    pub fn workers(&self) -> Vec<WorkerId> {
        self.places.values().flat_map(Place::workers).chain(self.leavers.keys().copied()).collect()
    }
}

#[cfg(test)]
mod tests;
