//! What must be so after each step, and at rest.

use std::time::Duration;

use rollout::machine::view::{View, WorkerState};
use rollout::units::{Moment, RolloutId, Slot, WorkerId};

use super::laws::{Law, hold};
use super::ledger::{Checked, LONGEST_FAREWELL, LONGEST_HOLD, LONGEST_START, Ledger, Life, Path, Way, Worker};
use super::world::{Gate, Health};

impl Ledger {
    /// After a step.
    pub(crate) fn state(
        &self,
        now: Moment,
        view: &View,
        rolled_back: &[RolloutId],
        deadline: Option<Moment>,
    ) -> Checked {
        self.gates(view)?;
        for rollout in rolled_back {
            let left =
                self.workers.iter().find(|(_, worker)| worker.is_in_place() && worker.target.rollout == *rollout);
            hold(left.is_none(), Law::OneEnd, || format!("{rollout} was rolled back and {left:?} is in its place"))?;
        }
        if self.current.is_some() && self.life == Life::Going {
            let excused = self.excused.union(&self.forgiven);
            let excused = excused.filter(|slot| slot.0 <= self.limits.workers && !self.is_served(**slot));
            let floor = (self.limits.workers as usize).saturating_sub(self.unavailable() + excused.count());
            hold(self.ready() >= floor, Law::Capacity, || format!("{} ready of at least {floor}", self.ready()))?;
        }
        self.deadlines(now, view, deadline)
    }

    /// Who is ready for the machine is admitted, and nobody else but the sick who serve for want of better.
    fn gates(&self, view: &View) -> Checked {
        for seen in &view.workers {
            let Some(worker) = seen.worker else { continue };
            let Some(known) = self.workers.get(&worker) else {
                return hold(false, Law::NoGhost, || format!("{worker} was never started"));
            };
            hold(known.path != Path::Gone, Law::NoGhost, || format!("{worker} is {:?} and is gone", seen.state))?;
            let (open, place) = (known.gate == Gate::Open, known.is_in_place());
            let (law, fine) = match seen.state {
                WorkerState::Starting => (Law::ReadyFirst, place && !open),
                WorkerState::Ready => (Law::ReadyFirst, place && open && known.health == Health::Well),
                WorkerState::Draining => (Law::ReadyFirst, !place && !open),
                WorkerState::Failed | WorkerState::Backoff => (Law::NoGhost, place && known.health == Health::Sick),
            };
            hold(fine, law, || format!("{worker} is {:?} for the machine, and truly {known:?}", seen.state))?;
        }
        Ok(())
    }

    fn deadlines(&self, now: Moment, view: &View, deadline: Option<Moment>) -> Checked {
        let leaving = view.workers.iter().any(|worker| worker.state == WorkerState::Draining);
        let waits = leaving || self.waits_for_time(view);
        hold(!waits || deadline.is_some(), Law::Deadline, || format!("no deadline in {view:?}"))?;
        let longest = now.after(LONGEST_START.max(LONGEST_FAREWELL));
        hold(deadline.is_none_or(|at| at <= longest), Law::Deadline, || format!("a deadline at {deadline:?}"))?;
        for (id, worker) in &self.workers {
            let (since, longest, what) = match (worker.path, worker.proved_at, worker.admitted_at) {
                (Path::Leaving { since, .. }, ..) => (since, LONGEST_FAREWELL, "leaves"),
                (Path::InPlace, None, _) => (worker.born, LONGEST_START, "starts"),
                (Path::InPlace, Some(at), None) if worker.health == Health::Well => (at, Duration::ZERO, "proves"),
                (Path::InPlace, _, Some(at)) if self.has_older_peer(*id, worker) => (at, LONGEST_HOLD, "is held"),
                (Path::InPlace | Path::Killed | Path::Gone, ..) => continue,
            };
            let took = now.since(since);
            hold(took <= longest + self.lateness, Law::Deadline, || format!("{id} {what} for {took:?} already"))?;
        }
        Ok(())
    }

    fn has_older_peer(&self, id: WorkerId, worker: &Worker) -> bool {
        let peer = |(other, peer): (&WorkerId, &Worker)| *other < id && peer.slot == worker.slot && peer.is_ready();
        worker.is_ready() && self.workers.iter().any(peer)
    }

    /// Some slot neither serves nor was given up, or a rollout is under way that nobody has paused.
    fn waits_for_time(&self, view: &View) -> bool {
        let moves = self.current.as_ref().is_some_and(|current| current.way != Way::Paused);
        let lacks = |slot: u32| !self.is_served(Slot(slot)) && !is_given_up(view, Slot(slot));
        self.life == Life::Going && (moves || (1..=self.slots()).any(lacks))
    }

    /// What must be so when the world was kind for long enough.
    pub(crate) fn rest(&self, view: &View) -> Checked {
        let rests = |holds, what: &str| hold(holds, Law::Liveness, || format!("{what}: {view:?}"));
        let leaving = view.workers.iter().any(|worker| worker.state == WorkerState::Draining);
        rests(!leaving, "somebody leaves")?;
        if self.life == Life::Stopping {
            rests(self.live_workers() == 0, "stopped with workers left")?;
        } else {
            let lacks = |slot: u32| !self.is_served(Slot(slot)) && !is_given_up(view, Slot(slot));
            rests(!(1..=self.slots()).any(lacks), "a slot does not serve")?;
            let surplus = view.workers.iter().any(|worker| worker.slot.0 > self.limits.workers);
            rests(!surplus || self.current.is_some(), "a surplus slot is served")?;
            rests(self.current.as_ref().is_none_or(|current| current.way == Way::Paused), "a rollout is under way")?;
            rests(view.rollout.is_some() == self.current.is_some(), "the view disagrees about the rollout")?;
        }
        for (rollout, asked) in &self.asked {
            let current = self.current.as_ref().is_some_and(|current| current.rollout == *rollout);
            let given_up = (1..=self.slots()).any(|slot| is_given_up(view, Slot(slot)));
            let behind = self.waiting == Some(*rollout) && self.current.is_some();
            let open = current || behind || (self.first == Some(*rollout) && given_up);
            hold(open || !asked.fate.is_empty(), Law::OneEnd, || format!("{rollout} never ended"))?;
        }
        Ok(())
    }
}

fn is_given_up(view: &View, slot: Slot) -> bool {
    view.workers.iter().any(|seen| seen.slot == slot && seen.worker.is_none() && seen.state == WorkerState::Failed)
}
