//! One rollout: forward, standing still, or back.
//!
//! Forward and back are the same walk with another goal: replace, slot by slot
//! and ready first, every worker that does not run the goal, within
//! `max_surge`, `max_unavailable` and `max_draining`.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::event::{Cause, Note, Outcome, Target};
use super::leaver::Leaver;
use super::limits::{Limits, OnFailure};
use super::place::{Coming, Place};
use super::service::{Life, Scaling, Service, Turn};
use crate::units::{Digest, Generation, Moment, RolloutId, Slot};

/// The rollout that is under way.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Rolling {
    pub(super) goal: Target,
    pub(super) from: Target,
    pub(super) since: Moment,
    pub(super) phase: Phase,
    /// The numbers that hold again if it is taken back.
    pub(super) limits_before: Limits,
}

/// Where it goes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) enum Phase {
    Forward,
    Paused(Cause),
    Back(Cause),
}

/// A request that was accepted and has not begun.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Waiting {
    pub(super) rollout: RolloutId,
    pub(super) release: Digest,
    pub(super) limits: Limits,
}

/// On the way back a slot whose replacement fails this often needs a person. Less patient than `give_up`, which may
/// take for ever when every try hangs until its deadline.
const TRIES_BACK: u32 = 3;

/// What a slot needs so that it gets the goal.
enum Need {
    /// Nobody serves there: no room needed.
    Fill(Slot),
    /// Somebody serves there: room above or below N needed.
    Replace(Slot),
}

impl Rolling {
    /// Whether a bad worker of this target ends the rollout.
    pub(super) fn brings(&self, target: Target) -> bool {
        match self.phase {
            Phase::Forward | Phase::Paused(_) => target == self.goal,
            Phase::Back(_) => false,
        }
    }

    fn aim(&self) -> Option<Target> {
        match self.phase {
            Phase::Forward => Some(self.goal),
            Phase::Paused(_) => None,
            Phase::Back(_) => Some(self.from),
        }
    }
}

impl Service {
    /// A request: it begins, or waits for the one that is under way.
    pub(super) fn asked(&mut self, request: Waiting, turn: &mut Turn) {
        if self.life != Life::Going {
            turn.say(Note::Ended { rollout: request.rollout, outcome: Outcome::Stopped });
            return;
        }
        if let Some(by) = self.newest().filter(|newest| *newest > request.rollout) {
            turn.say(Note::Ended { rollout: request.rollout, outcome: Outcome::Superseded { by } });
            return;
        }
        match &self.rolling {
            None => self.begin(request, turn),
            // Whoever asks for something new does not want to go on with what stands still.
            Some(Rolling { phase: Phase::Paused(_), goal, limits_before, .. }) => {
                let outcome = Outcome::Superseded { by: request.rollout };
                turn.say(Note::Ended { rollout: goal.rollout, outcome: outcome.clone() });
                self.limits = limits_before.clone();
                self.rolling = None;
                if let Some(older) = self.waiting.take() {
                    turn.say(Note::Ended { rollout: older.rollout, outcome });
                }
                self.begin(request, turn);
            }
            Some(Rolling { phase: Phase::Forward | Phase::Back(_), .. }) => {
                let rollout = request.rollout;
                let superseded = self.waiting.replace(request).map(|older| older.rollout);
                turn.say(Note::Queued { rollout, superseded });
                if let Some(older) = superseded {
                    turn.say(Note::Ended { rollout: older, outcome: Outcome::Superseded { by: rollout } });
                }
            }
        }
    }

    /// Every request that somebody still needs: the base, the rollout and its way back, the queue, and every worker's.
    #[must_use]
    pub fn rollouts(&self) -> BTreeSet<RolloutId> {
        let placed = self.places.values().flat_map(|place| {
            let serving = place.serving.as_ref().map(|serving| serving.target);
            serving.into_iter().chain(place.coming.worker().map(|(_, target)| target))
        });
        let leaving = self.leavers.values().map(|leaver| leaver.target);
        let rolling = self.rolling.iter().flat_map(|rolling| [rolling.goal, rolling.from]);
        let targets = placed.chain(leaving).chain(rolling).chain(self.base);
        targets.map(|target| target.rollout).chain(self.waiting.as_ref().map(|waiting| waiting.rollout)).collect()
    }

    /// Whether every slot serves this release and nothing else is under way or waiting.
    #[must_use]
    pub fn is_live(&self, release: Digest) -> bool {
        let idle = self.rolling.is_none() && self.waiting.is_none();
        idle && self.base.is_some_and(|base| base.release == release) && self.everybody_serves(self.base)
    }

    /// The rollout that will have brought this release when nothing else is asked.
    #[must_use]
    pub fn bringing(&self, release: Digest) -> Option<RolloutId> {
        if let Some(waiting) = &self.waiting {
            return (waiting.release == release).then_some(waiting.rollout);
        }
        match &self.rolling {
            Some(rolling) => {
                (rolling.phase == Phase::Forward && rolling.goal.release == release).then_some(rolling.goal.rollout)
            }
            None => {
                // What was given up is tried again only by another one.
                let goes_on = !self.places.values().any(|place| matches!(place.coming, Coming::GivenUp { .. }));
                self.first.filter(|_| goes_on && self.base.is_some_and(|base| base.release == release))
            }
        }
    }

    /// The first start, as long as not every slot has served.
    #[must_use]
    pub fn starting(&self) -> Option<RolloutId> {
        self.first
    }

    /// The release that is live, or that becomes live when nothing else is asked.
    #[must_use]
    pub fn becoming(&self) -> Option<Digest> {
        let waiting = self.waiting.as_ref().map(|waiting| waiting.release);
        let rolling = self.rolling.as_ref().map(|rolling| match rolling.phase {
            Phase::Forward | Phase::Paused(_) => rolling.goal.release,
            Phase::Back(_) => rolling.from.release,
        });
        waiting.or(rolling).or(self.base.map(|base| base.release))
    }

    /// The newest request that was accepted. Requests are numbered as they were asked, not as they became ready.
    #[must_use]
    pub fn newest(&self) -> Option<RolloutId> {
        let waiting = self.waiting.as_ref().map(|waiting| waiting.rollout);
        let rolling = self.rolling.as_ref().map(|rolling| rolling.goal.rollout);
        waiting.or(rolling).or(self.base.map(|base| base.rollout))
    }

    fn begin(&mut self, request: Waiting, turn: &mut Turn) {
        self.generations += 1;
        let generation = Generation(self.generations);
        let goal = Target { generation, rollout: request.rollout, release: request.release };
        turn.say(Note::Began { to: goal, from: self.base });
        if let Some(first) = self.first.take() {
            turn.say(Note::Ended { rollout: first, outcome: Outcome::Superseded { by: request.rollout } });
        }
        let limits_before = std::mem::replace(&mut self.limits, request.limits);
        self.add_places();
        self.places.values_mut().for_each(Place::forgive);
        let Some(from) = self.base else {
            self.base = Some(goal);
            self.first = Some(goal.rollout);
            return;
        };
        self.rolling = Some(Rolling { goal, from, since: turn.now, phase: Phase::Forward, limits_before });
        // What has not served yet makes room for the new release at once: it may never serve.
        for slot in self.places.keys().copied().collect::<Vec<_>>() {
            let place = self.place(slot);
            match place.coming {
                Coming::Starting { .. } | Coming::Proving { .. } => self.dismiss_coming(slot, turn),
                Coming::Backoff { .. } | Coming::GivenUp { .. } => place.coming = Coming::Nobody,
                Coming::Nobody | Coming::Holding { .. } => {}
            }
        }
    }

    pub(super) fn pause(&mut self, turn: &mut Turn) {
        if let Some(Rolling { phase: phase @ Phase::Forward, goal, .. }) = &mut self.rolling {
            *phase = Phase::Paused(Cause::Asked);
            turn.say(Note::Paused { rollout: goal.rollout, cause: Cause::Asked });
        }
    }

    pub(super) fn resume(&mut self, turn: &mut Turn) {
        if let Some(Rolling { phase: phase @ Phase::Paused(_), goal, .. }) = &mut self.rolling {
            *phase = Phase::Forward;
            turn.say(Note::Resumed { rollout: goal.rollout });
        }
    }

    pub(super) fn abort(&mut self, turn: &mut Turn) {
        match &self.rolling {
            Some(Rolling { phase: Phase::Forward | Phase::Paused(_), .. }) => self.go_back(Cause::Asked, turn),
            Some(Rolling { phase: Phase::Back(_), .. }) | None => {}
        }
        if let Some(waiting) = self.waiting.take() {
            turn.say(Note::Ended { rollout: waiting.rollout, outcome: Outcome::RolledBack(Cause::Asked) });
        }
    }

    /// A worker of the new target was no good.
    pub(super) fn fail(&mut self, cause: Cause, turn: &mut Turn) {
        match self.limits.on_failure {
            OnFailure::Rollback => self.go_back(cause, turn),
            OnFailure::Pause => {
                self.dismiss_newcomers(turn);
                if let Some(rolling) = &mut self.rolling {
                    rolling.phase = Phase::Paused(cause.clone());
                    turn.say(Note::Paused { rollout: rolling.goal.rollout, cause });
                }
                // It was asked before this failed; asked a moment later it would have begun, too.
                if let Some(next) = self.waiting.take() {
                    self.asked(next, turn);
                }
            }
        }
    }

    fn go_back(&mut self, cause: Cause, turn: &mut Turn) {
        self.dismiss_newcomers(turn);
        let Some(rolling) = &mut self.rolling else { return };
        rolling.phase = Phase::Back(cause.clone());
        turn.say(Note::RollingBack { rollout: rolling.goal.rollout, cause });
        self.limits = rolling.limits_before.clone();
        self.places.values_mut().for_each(Place::forgive);
        self.add_places();
    }

    /// Tells every worker of the new target that has no place yet to go.
    fn dismiss_newcomers(&mut self, turn: &mut Turn) {
        let Some(goal) = self.rolling.as_ref().map(|rolling| rolling.goal) else { return };
        for slot in self.places.keys().copied().collect::<Vec<_>>() {
            if self.places[&slot].coming.worker().is_some_and(|(_, target)| target == goal) {
                self.dismiss_coming(slot, turn);
            }
        }
    }

    /// Starts every replacement for which there is room.
    pub(super) fn roll(&mut self, turn: &mut Turn) {
        while let Some((aim, rollout)) = self.rolling.as_ref().and_then(|r| Some((r.aim()?, r.goal.rollout))) {
            let warming = self.within().filter(|(_, place)| place.coming.worker().is_some_and(|(_, t)| t == aim));
            let (alone, beside): (Vec<_>, Vec<_>) = warming.partition(|(_, place)| place.serving.is_none());
            let at_once = (self.limits.max_surge + self.limits.max_unavailable) as usize;
            if alone.len() + beside.len() >= at_once {
                return;
            }
            let draining = self.leavers.values().filter(|leaver| makes_room(leaver, rollout)).count() + beside.len();
            match self.need(aim) {
                None => return,
                Some(Need::Fill(slot)) => self.start(slot, aim, turn),
                Some(Need::Replace(_)) if draining >= self.limits.max_draining as usize => return,
                Some(Need::Replace(slot)) if self.room_above() => self.start(slot, aim, turn),
                Some(Need::Replace(slot)) if self.room_below(slot) => {
                    self.retire_serving(slot, turn);
                    self.start(slot, aim, turn);
                }
                Some(Need::Replace(_)) => return,
            }
        }
    }

    /// The next slot to bring to `aim`: those where nobody serves first, then the sick, then in order.
    fn need(&self, aim: Target) -> Option<Need> {
        let open = |place: &Place| match place.coming {
            Coming::Nobody | Coming::GivenUp { .. } => true,
            Coming::Backoff { .. } => matches!(&self.rolling, Some(r) if r.phase == Phase::Forward),
            Coming::Starting { .. } | Coming::Proving { .. } | Coming::Holding { .. } => false,
        };
        let lacks = |place: &Place| !place.serves(aim) && open(place);
        let empty = self.within().find(|(_, place)| place.serving.is_none() && lacks(place));
        let empty = empty.map(|(slot, _)| Need::Fill(*slot));
        let served = || self.within().filter(|(_, place)| lacks(place)).min_by_key(|(_, place)| place.is_fit());
        empty.or_else(|| served().map(|(slot, _)| Need::Replace(*slot)))
    }

    fn room_above(&self) -> bool {
        // Somebody may come to an empty slot at any time, and needs no room.
        let live: usize = self.within().map(|(_, place)| place.workers().count().max(1)).sum();
        live < (self.limits.workers + self.limits.max_surge) as usize
    }

    fn room_below(&self, slot: Slot) -> bool {
        // Whoever is sick is missed already, and without a surge its replacement has no other room.
        if self.limits.max_surge == 0 && !self.places[&slot].is_fit() {
            return true;
        }
        let fit = self.within().filter(|(other, place)| **other != slot && place.is_fit()).count();
        fit + self.limits.max_unavailable as usize >= self.limits.workers as usize
    }

    /// Ends what is finished. True: something new may have begun.
    pub(super) fn ends(&mut self, turn: &mut Turn) -> bool {
        self.end_of_start(turn);
        if self.rolling.is_none() {
            self.drop_places(turn);
        }
        if self.scaling == Scaling::Asked && self.rolling.is_none() && self.everybody_serves(self.base) {
            self.scaling = Scaling::No;
            turn.say(Note::Scaled { workers: self.limits.workers });
        }
        let Some(outcome) = self.outcome() else { return false };
        let Some(rolling) = self.rolling.take() else { return false };
        if outcome == Outcome::Done {
            self.base = Some(rolling.goal);
        }
        turn.say(Note::Ended { rollout: rolling.goal.rollout, outcome });
        self.drop_places(turn);
        if let Some(next) = self.waiting.take() {
            self.begin(next, turn);
        }
        true
    }

    fn end_of_start(&mut self, turn: &mut Turn) {
        if self.first.is_some() && self.everybody_serves(self.base) {
            let rollout = self.first.take();
            rollout.into_iter().for_each(|rollout| turn.say(Note::Ended { rollout, outcome: Outcome::Done }));
        }
    }

    fn outcome(&self) -> Option<Outcome> {
        let rolling = self.rolling.as_ref()?;
        let aim = rolling.aim()?;
        match &rolling.phase {
            Phase::Paused(_) => None,
            Phase::Forward => self.everybody_serves(Some(aim)).then_some(Outcome::Done),
            Phase::Back(cause) => {
                let tried = |place: &Place| place.streak() >= TRIES_BACK && !place.serves(aim);
                if self.within().any(|(_, place)| tried(place)) {
                    return Some(Outcome::Stuck(cause.clone()));
                }
                self.everybody_serves(Some(aim)).then(|| Outcome::RolledBack(cause.clone()))
            }
        }
    }

    pub(super) fn everybody_serves(&self, target: Option<Target>) -> bool {
        let settled =
            |place: &Place| target.is_some_and(|target| place.serves(target)) && place.coming == Coming::Nobody;
        self.within().all(|(_, place)| settled(place))
    }

    /// The slots up to N; those above are on their way out.
    pub(super) fn within(&self) -> impl Iterator<Item = (&Slot, &Place)> {
        self.places.range(..=Slot(self.limits.workers))
    }
}

fn makes_room(leaver: &Leaver, rollout: RolloutId) -> bool {
    leaver.for_rollout == Some(rollout) && !leaver.is_killed() && leaver.was_admitted()
}
