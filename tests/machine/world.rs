//! The true world: processes with their own will, whatever the machine believes.
//!
//! What a process would like to say (`news`) is derived from what is true and
//! what was told already, so that it can be told late, in any order, or again.

use std::collections::{BTreeMap, BTreeSet};

use rollout::machine::event::{Action, Event, OnStop, Symptom, Target};
use rollout::units::{Digest, Exit, Signal, Slot, WorkerId};

/// What a release's program does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Manner {
    Good,
    /// Good, but ignores the stop signal.
    Rude,
    /// Good, but would die of the stop signal.
    Fatal,
    Unstartable,
    ExitsAtOnce,
    NeverReady,
    DiesProving,
    SickensProving,
    DiesAdmitted,
}

/// Releases by number: 0 and 1 are good.
pub(crate) const RELEASES: u8 = 11;

pub(crate) fn release(number: u8) -> Digest {
    Digest([number % RELEASES; 32])
}

fn manner(release: Digest, slot: Slot) -> Manner {
    match release.0[0] {
        0 | 1 => Manner::Good,
        2 => Manner::Rude,
        3 => Manner::Fatal,
        4 => Manner::Unstartable,
        5 => Manner::ExitsAtOnce,
        6 => Manner::NeverReady,
        7 => Manner::DiesProving,
        8 => Manner::SickensProving,
        9 => Manner::DiesAdmitted,
        _ if slot == Slot(2) => Manner::ExitsAtOnce,
        _ => Manner::Good,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Fate {
    Alive,
    Dead,
    NeverBorn,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Health {
    Well,
    Sick,
}

/// Whether new connections reach it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Gate {
    Shut,
    Open,
}

/// The last thing it was told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Order {
    Serve,
    AwaitEmpty,
    Stop,
    Kill,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Told {
    Passed,
    Sick,
    /// `Exclude` was asked for and `Settled` is owed.
    OwesSettled,
    OwesEmptied,
    Gone,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Process {
    pub(crate) slot: Slot,
    pub(crate) target: Target,
    pub(crate) manner: Manner,
    pub(crate) fate: Fate,
    pub(crate) health: Health,
    pub(crate) gate: Gate,
    pub(crate) order: Order,
    told: BTreeSet<Told>,
}

/// Whether new programs may be bad.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Mood {
    AsReleased,
    Kind,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct World {
    pub(crate) processes: BTreeMap<WorkerId, Process>,
    mood: Mood,
    pub(crate) over: u32,
    /// Processes that were let go of while they lived.
    pub(crate) lost: BTreeSet<WorkerId>,
}

impl World {
    pub(crate) fn new() -> Self {
        Self { processes: BTreeMap::new(), mood: Mood::AsReleased, over: 0, lost: BTreeSet::new() }
    }

    pub(crate) fn perform(&mut self, action: &Action) {
        match action {
            Action::Spawn { worker, slot, target } => self.spawn(*worker, *slot, *target),
            Action::Admit(worker) => self.change(*worker, |process| {
                process.gate = Gate::Open;
                if process.manner == Manner::DiesAdmitted {
                    process.fate = Fate::Dead;
                }
            }),
            Action::Exclude(worker) => self.change(*worker, |process| {
                process.gate = Gate::Shut;
                process.told.insert(Told::OwesSettled);
            }),
            Action::AwaitEmpty(worker) => self.change(*worker, |process| {
                process.order = Order::AwaitEmpty;
                process.told.insert(Told::OwesEmptied);
            }),
            Action::Stop(worker) => self.change(*worker, |process| {
                process.order = Order::Stop;
                process.obey();
            }),
            Action::Kill(worker) => self.change(*worker, |process| {
                process.order = Order::Kill;
                process.fate = Fate::Dead;
            }),
            Action::Release(worker) => {
                if self.processes.remove(worker).is_some_and(|process| process.fate == Fate::Alive) {
                    self.lost.insert(*worker);
                }
            }
            Action::Announce(_) => {}
            Action::Over => self.over += 1,
        }
    }

    fn spawn(&mut self, worker: WorkerId, slot: Slot, target: Target) {
        let manner = match self.mood {
            Mood::AsReleased => manner(target.release, slot),
            Mood::Kind => Manner::Good,
        };
        let fate = match manner {
            Manner::Unstartable => Fate::NeverBorn,
            Manner::ExitsAtOnce => Fate::Dead,
            Manner::Good
            | Manner::Rude
            | Manner::Fatal
            | Manner::NeverReady
            | Manner::DiesProving
            | Manner::SickensProving
            | Manner::DiesAdmitted => Fate::Alive,
        };
        let (health, gate, order, told) = (Health::Well, Gate::Shut, Order::Serve, BTreeSet::new());
        self.processes.insert(worker, Process { slot, target, manner, fate, health, gate, order, told });
    }

    fn change(&mut self, worker: WorkerId, change: impl FnOnce(&mut Process)) {
        if let Some(process) = self.processes.get_mut(&worker)
            && process.fate == Fate::Alive
        {
            change(process);
        }
    }

    /// Everything that is true and that nobody has heard yet.
    pub(crate) fn news(&self) -> Vec<Event> {
        self.processes.iter().flat_map(|(worker, process)| process.news(*worker)).collect()
    }

    /// The event reaches the agent.
    pub(crate) fn told(&mut self, event: &Event) {
        match event {
            Event::Passed(worker) => self.change(*worker, |process| {
                process.told.insert(Told::Passed);
                match process.manner {
                    Manner::DiesProving => process.fate = Fate::Dead,
                    Manner::SickensProving => process.health = Health::Sick,
                    Manner::Good
                    | Manner::Rude
                    | Manner::Fatal
                    | Manner::Unstartable
                    | Manner::ExitsAtOnce
                    | Manner::NeverReady
                    | Manner::DiesAdmitted => {}
                }
            }),
            Event::Sickened(worker, _) => self.change(*worker, |process| {
                process.told.insert(Told::Sick);
            }),
            Event::Settled(worker, _) => self.change(*worker, |process| {
                process.told.remove(&Told::OwesSettled);
            }),
            Event::Emptied(worker) => self.change(*worker, |process| {
                process.told.remove(&Told::OwesEmptied);
            }),
            Event::Exited(worker, _) | Event::SpawnFailed(worker, _) => {
                if let Some(process) = self.processes.get_mut(worker) {
                    process.told.insert(Told::Gone);
                }
            }
            Event::Roll { .. }
            | Event::Scale(_)
            | Event::Pause
            | Event::Resume
            | Event::Abort
            | Event::Stop
            | Event::Extended(..)
            | Event::NeverStarted(_)
            | Event::DeadlinePassed => {}
        }
    }

    /// A new agent begins to look: what is true now will be said again, what was only asked for is forgotten.
    /// (That a worker passed is in the state.)
    pub(crate) fn forget_what_was_told(&mut self) {
        self.processes.values_mut().for_each(|process| process.told.retain(|told| *told == Told::Passed));
    }

    /// From now on programs are good and processes obey; who has sickened and was not found out recovers.
    pub(crate) fn be_kind(&mut self) {
        self.mood = Mood::Kind;
        for process in self.processes.values_mut().filter(|process| process.fate == Fate::Alive) {
            process.manner = Manner::Good;
            if !process.told.contains(&Told::Sick) {
                process.health = Health::Well;
            }
            if process.order == Order::Stop {
                process.obey();
            }
        }
    }

    pub(crate) fn alive(&self) -> Vec<WorkerId> {
        let alive = self.processes.iter().filter(|(_, process)| process.fate == Fate::Alive);
        alive.map(|(worker, _)| *worker).collect()
    }

    pub(crate) fn crash(&mut self, worker: WorkerId) {
        self.change(worker, |process| process.fate = Fate::Dead);
    }

    pub(crate) fn sicken(&mut self, worker: WorkerId) {
        self.change(worker, |process| process.health = Health::Sick);
    }

    pub(crate) fn recover(&mut self, worker: WorkerId) {
        self.change(worker, |process| {
            if !process.told.contains(&Told::Sick) {
                process.health = Health::Well;
            }
        });
    }
}

impl Process {
    fn obey(&mut self) {
        if self.manner != Manner::Rude {
            self.fate = Fate::Dead;
        }
    }

    fn news(&self, worker: WorkerId) -> Vec<Event> {
        let told = |told| self.told.contains(&told);
        match self.fate {
            Fate::Dead | Fate::NeverBorn if told(Told::Gone) => return Vec::new(),
            Fate::Dead if self.order == Order::Kill => return vec![Event::Exited(worker, Exit::Signal(Signal::KILL))],
            Fate::Dead => return vec![Event::Exited(worker, Exit::Code(1))],
            Fate::NeverBorn => {
                return vec![Event::SpawnFailed(worker, Symptom::NotStarted("no such file".to_owned()))];
            }
            Fate::Alive => {}
        }
        let mut news = Vec::new();
        if !told(Told::Passed) && self.manner != Manner::NeverReady && self.health == Health::Well {
            news.push(Event::Passed(worker));
        }
        if told(Told::Passed) && self.health == Health::Sick && !told(Told::Sick) {
            news.push(Event::Sickened(worker, Symptom::Unhealthy("503".to_owned())));
        }
        if told(Told::OwesSettled) {
            let on_stop = if self.manner == Manner::Fatal { OnStop::Fatal } else { OnStop::Caught };
            news.push(Event::Settled(worker, on_stop));
        }
        if told(Told::OwesEmptied) {
            news.push(Event::Emptied(worker));
        }
        news
    }
}
