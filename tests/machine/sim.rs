//! The agent's loop in miniature: tell the machine, perform what it says, check every law, die at will.

use std::time::Duration;

use rollout::machine::event::{Action, Event, Note, Outcome};
use rollout::units::{Exit, Moment, RolloutId, WorkerId};

use super::laws::{Law, Violation, hold};
use super::ledger::{Ledger, Life};
use super::seam::Machine;
use super::world::{Fate, Manner, World};

type Checked = Result<(), Violation>;

/// How many times in a row time may be due at one moment: a leaver with no patience at all settles, lingers, stops and
/// is killed, and one more for whoever follows it.
const ROUNDS: u32 = 8;

/// More steps than a kind world needs from any history of this length.
const KIND_STEPS: u32 = 5000;

#[derive(Clone)]
pub(crate) struct Sim<M> {
    pub(crate) machine: M,
    pub(crate) world: World,
    pub(crate) ledger: Ledger,
    pub(crate) now: Moment,
    /// The next step is the agent's last: it performs this many of its actions.
    pub(crate) dies_after: Option<usize>,
    pub(crate) heard: Vec<Event>,
    /// A new agent has found out that these were never started and is about to say so.
    never_started: Vec<WorkerId>,
    next_rollout: u64,
}

impl<M: Machine> Sim<M> {
    pub(crate) fn new(machine: M) -> Self {
        let (world, ledger, heard) = (World::new(), Ledger::new(), Vec::new());
        let (dies_after, never_started) = (None, Vec::new());
        Self { machine, world, ledger, now: Moment(1), dies_after, heard, never_started, next_rollout: 1 }
    }

    pub(crate) fn next_rollout(&mut self) -> RolloutId {
        self.next_rollout += 1;
        RolloutId(self.next_rollout - 1)
    }

    /// Tells the machine one thing and does what it says.
    pub(crate) fn tell(&mut self, event: Event) -> Checked {
        self.world.told(&event);
        self.ledger.event(self.now, &event);
        let mut before = self.world.clone();
        let known = self.ledger.live_workers();
        let actions = self.machine.step(self.now, event.clone());
        self.remember(event);
        let mut rolled_back = Vec::new();
        for action in &actions {
            self.ledger.action(self.now, action)?;
            if let Action::Announce(Note::Ended { rollout, outcome: Outcome::RolledBack(_) }) = action {
                rolled_back.push(*rollout);
            }
        }
        let most = 40 + 12 * (known + self.ledger.live_workers() + self.ledger.slots() as usize);
        hold(actions.len() <= most, Law::Bounded, || format!("{} actions in one step", actions.len()))?;
        let dies_after = self.dies_after.take();
        let did = dies_after.map_or(&actions[..], |count| &actions[..count.min(actions.len())]);
        let mut after = before.clone();
        did.iter().for_each(|action| self.world.perform(action));
        actions.iter().for_each(|action| after.perform(action));
        self.machine.again().iter().for_each(|action| before.perform(action));
        same("an agent that died at once would have left it different", &before, &after)?;
        if dies_after.is_some() {
            self.revive(&after)?;
        }
        self.ledger.state(self.now, &self.machine.view(), &rolled_back, self.machine.next_deadline())?;
        self.nobody_is_a_ghost()
    }

    fn remember(&mut self, event: Event) {
        // Enough for duplicates that are late by a few steps.
        if self.heard.len() >= 16 {
            self.heard.remove(0);
        }
        self.heard.push(event);
    }

    /// A new agent reads the state, does again what its predecessor may not have done, and hears what is true.
    fn revive(&mut self, expected: &World) -> Checked {
        let text = self.machine.save();
        self.machine.load(&text);
        self.world.forget_what_was_told();
        let wanted = self.machine.workers();
        self.world.processes.retain(|worker, process| {
            wanted.contains(worker) || process.fate == Fate::Alive // it is forgotten at the keeper
        });
        self.machine.again().iter().for_each(|action| self.world.perform(action));
        same("a new agent has left it different", &self.world, expected)?;
        let missing = wanted.iter().filter(|worker| !self.world.processes.contains_key(worker));
        self.never_started = missing.copied().collect();
        while let Some(worker) = self.never_started.pop() {
            self.tell(Event::NeverStarted(worker))?;
        }
        Ok(())
    }

    fn nobody_is_a_ghost(&self) -> Checked {
        let mut known = self.machine.workers();
        known.sort_unstable();
        let count = known.len();
        known.dedup();
        hold(known.len() == count, Law::NoGhost, || "a worker is in two places".to_owned())?;
        known.retain(|worker| !self.never_started.contains(worker));
        let run: Vec<WorkerId> = self.world.processes.keys().copied().collect();
        hold(known == run, Law::NoGhost, || format!("the machine knows {known:?}, the world runs {run:?}"))?;
        let lost = &self.world.lost;
        hold(lost.is_empty(), Law::NoGhost, || format!("{lost:?} live and were let go of"))
    }

    /// Tells whatever is due at this moment.
    pub(crate) fn punctual(&mut self) -> Checked {
        let mut rounds = 0;
        while self.machine.next_deadline().is_some_and(|at| at <= self.now) {
            hold(rounds < ROUNDS, Law::Bounded, || format!("time goes round in circles at {:?}", self.now))?;
            self.tell(Event::DeadlinePassed)?;
            rounds += 1;
        }
        Ok(())
    }

    /// Time passes and the agent wakes at every deadline.
    pub(crate) fn wait(&mut self, time: Duration) -> Checked {
        let until = self.now.after(time);
        self.punctual()?;
        while let Some(at) = self.machine.next_deadline().filter(|at| *at <= until) {
            self.now = at;
            self.punctual()?;
        }
        self.now = until;
        Ok(())
    }

    /// Time passes and the agent is stopped, or starved, meanwhile.
    pub(crate) fn oversleep(&mut self, time: Duration) -> Checked {
        self.now = self.now.after(time);
        self.ledger.lateness += time;
        self.tell(Event::DeadlinePassed)?;
        self.punctual()
    }

    /// Good releases, obedient processes, and nobody asks for anything.
    pub(crate) fn kindly(&mut self) -> Checked {
        self.world.be_kind();
        self.ledger.world_is_kind();
        for _ in 0..KIND_STEPS {
            if let Some(event) = self.world.news().first().cloned() {
                self.tell(event)?;
            } else if let Some(at) = self.machine.next_deadline() {
                self.now = self.now.max(at);
                self.tell(Event::DeadlinePassed)?;
            } else {
                let stopped = self.ledger.life == Life::Stopping;
                hold(!stopped || self.world.over > 0, Law::Liveness, || "stopped and never over".to_owned())?;
                return self.ledger.rest(&self.machine.view());
            }
        }
        hold(false, Law::Liveness, || format!("no rest after {KIND_STEPS} kind steps: {:?}", self.machine.view()))
    }

    pub(crate) fn kill(&mut self, worker: WorkerId) {
        self.world.crash(worker);
    }

    /// Something about a worker that never was.
    pub(crate) fn foreign(&mut self, number: u64) -> Checked {
        self.tell(Event::Exited(WorkerId(100_000 + number), Exit::Unknown))
    }
}

/// Whether two worlds are under the same orders. (Who was started in one only is told by `NeverStarted`.)
fn same(what: &str, one: &World, other: &World) -> Checked {
    for (worker, process) in &one.processes {
        let Some(twin) = other.processes.get(worker) else { continue };
        let alive = process.fate == twin.fate && process.fate == Fate::Alive;
        let alike = process.gate == twin.gate && process.order == twin.order;
        hold(!alive || alike, Law::Again, || format!("{what}: {worker} is {process:?} instead of {twin:?}"))?;
        // An obedient one would have died of the order. (One that dies of being admitted needs no order.)
        let comparable = process.manner != Manner::DiesAdmitted;
        hold(!comparable || process.fate == twin.fate, Law::Again, || {
            format!("{what}: {worker} is {process:?}, not {twin:?}")
        })?;
    }
    Ok(())
}
