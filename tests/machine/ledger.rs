//! What an honest observer at the seam knows: events that were told, actions and notes in their order, and the numbers
//! in force. It never looks into the machine, and checks the laws as it writes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rollout::machine::event::{Action, Event, Note, Outcome, Target};
use rollout::machine::limits::Limits;
use rollout::units::{Generation, Moment, RolloutId, Slot, WorkerId};

use super::laws::{Law, Violation, hold};
use super::world::{Gate, Health};

/// The longest that the histories' limits let anybody stay: see `history::limits`. Extensions multiply by ten.
pub(crate) const LONGEST_START: Duration = Duration::from_secs(5 * 10);
pub(crate) const LONGEST_HOLD: Duration = Duration::from_secs(3);
pub(crate) const LONGEST_FAREWELL: Duration = Duration::from_secs(1 + 10 + 3 * 10);

pub(super) type Checked = Result<(), Violation>;

/// One worker as the ledger knows it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Worker {
    pub(super) slot: Slot,
    pub(super) target: Target,
    pub(super) born: Moment,
    /// The rollout during which it was started.
    pub(super) spawned_in: Option<RolloutId>,
    /// When it will have passed and stayed well for `min_ready`.
    pub(super) proved_at: Option<Moment>,
    pub(super) admitted_at: Option<Moment>,
    pub(super) gate: Gate,
    pub(super) health: Health,
    pub(super) path: Path,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Path {
    InPlace,
    Leaving { since: Moment, paced_by: Option<RolloutId>, patience: Patience },
    Killed,
    Gone,
}

/// Until when a worker that had clients is to be left alone. Moments are the machine's own promise at that time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Patience {
    /// It never had any.
    Unseen,
    /// Not stopped before this, unless its queue is empty.
    Settles { until: Moment },
    /// Its queue is empty.
    Settled,
    /// Not killed before this, unless too many generations drain.
    Stopped { until: Moment },
}

impl Worker {
    pub(super) fn is_in_place(&self) -> bool {
        self.path == Path::InPlace
    }

    pub(super) fn is_ready(&self) -> bool {
        self.is_in_place() && self.gate == Gate::Open && self.health == Health::Well
    }

    /// Fit or still to be judged: what counts against the surge.
    fn counts(&self) -> bool {
        self.is_in_place() && self.health == Health::Well
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Way {
    Forward,
    Paused,
    Back,
}

/// The rollout under way.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Current {
    pub(super) rollout: RolloutId,
    pub(super) way: Way,
    pub(super) before: Limits,
    pub(super) max_draining: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Life {
    Going,
    Stopping,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Asked {
    pub(super) limits: Limits,
    pub(super) fate: Vec<Outcome>,
    pub(super) generation: Option<Generation>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Ledger {
    pub(super) workers: BTreeMap<WorkerId, Worker>,
    pub(super) limits: Limits,
    pub(super) current: Option<Current>,
    pub(super) first: Option<RolloutId>,
    pub(super) waiting: Option<RolloutId>,
    pub(super) asked: BTreeMap<RolloutId, Asked>,
    pub(super) newest_generation: Option<Generation>,
    /// Slots whose emptiness is nobody's doing: they crashed, sickened, or never served.
    pub(super) excused: BTreeSet<Slot>,
    /// Slots that were empty by the numbers of a rollout that is taken back, until they are served.
    pub(super) forgiven: BTreeSet<Slot>,
    /// Slots to which nobody comes.
    pub(super) given_up: BTreeSet<Slot>,
    pub(crate) life: Life,
    /// Time that the agent was late altogether.
    pub(crate) lateness: Duration,
    /// The last worker that was started in a world that could be bad.
    pub(super) last_unkind: Option<WorkerId>,
}

impl Ledger {
    pub(crate) fn new() -> Self {
        Self {
            workers: BTreeMap::new(),
            limits: Limits::default(),
            current: None,
            first: None,
            waiting: None,
            asked: BTreeMap::new(),
            newest_generation: None,
            excused: BTreeSet::new(),
            forgiven: BTreeSet::new(),
            given_up: BTreeSet::new(),
            life: Life::Going,
            lateness: Duration::ZERO,
            last_unkind: None,
        }
    }

    /// From now on nobody who is started fails.
    pub(crate) fn world_is_kind(&mut self) {
        self.last_unkind = Some(self.workers.keys().next_back().copied().unwrap_or(WorkerId(0)));
    }

    pub(crate) fn slots(&self) -> u32 {
        if self.newest_generation.is_some() { self.limits.workers } else { 0 }
    }

    pub(crate) fn live_workers(&self) -> usize {
        self.workers.values().filter(|worker| worker.path != Path::Gone).count()
    }

    pub(super) fn ready(&self) -> usize {
        self.workers.values().filter(|worker| worker.is_ready()).count()
    }

    pub(super) fn is_served(&self, slot: Slot) -> bool {
        self.workers.values().any(|worker| worker.slot == slot && worker.is_ready())
    }

    fn unserved(&self) -> impl Iterator<Item = Slot> {
        (1..=self.limits.workers).map(Slot).filter(|slot| !self.is_served(*slot))
    }

    // ---- events ---------------------------------------------------------------------------------------------------

    pub(crate) fn event(&mut self, now: Moment, event: &Event) {
        match event {
            Event::Roll { rollout, limits, .. } => {
                let asked = Asked { limits: limits.clone(), fate: Vec::new(), generation: None };
                self.asked.insert(*rollout, asked);
            }
            Event::Scale(workers) => self.scaled(*workers),
            Event::Stop => self.life = Life::Stopping,
            Event::Passed(worker) => {
                let min_ready = self.limits.min_ready;
                if let Some(worker) = self.workers.get_mut(worker)
                    && worker.is_in_place()
                    && worker.proved_at.is_none()
                {
                    worker.proved_at = Some(now.after(min_ready));
                }
            }
            Event::Sickened(worker, _) => self.lost(*worker, |worker| {
                if worker.proved_at.is_some() {
                    worker.health = Health::Sick;
                }
            }),
            Event::Exited(worker, _) | Event::SpawnFailed(worker, _) | Event::NeverStarted(worker) => {
                self.lost(*worker, |worker| worker.path = Path::Gone);
            }
            Event::Pause
            | Event::Resume
            | Event::Abort
            | Event::Extended(..)
            | Event::Emptied(_)
            | Event::DeadlinePassed => {}
            Event::Settled(worker, _) => {
                if let Some(Worker { path: Path::Leaving { patience, .. }, .. }) = self.workers.get_mut(worker)
                    && let Patience::Settles { .. } = patience
                {
                    *patience = Patience::Settled;
                }
            }
        }
    }

    fn scaled(&mut self, workers: u32) {
        if self.life == Life::Going && self.newest_generation.is_some() && workers > 0 {
            let grown = (self.limits.workers + 1..=workers).map(Slot).filter(|slot| !self.is_served(*slot));
            self.excused.extend(grown.collect::<Vec<_>>());
            self.limits.workers = workers;
            self.given_up.clear();
            if let Some(current) = &mut self.current {
                current.before.workers = workers;
            }
        }
    }

    /// The world took a worker: its slot is excused until it is served again.
    fn lost(&mut self, worker: WorkerId, change: impl FnOnce(&mut Worker)) {
        let Some(known) = self.workers.get_mut(&worker) else { return };
        let slot = known.slot;
        let was_ready = known.is_ready();
        change(known);
        if was_ready && !self.is_served(slot) {
            self.excused.insert(slot);
        }
    }

    // ---- actions --------------------------------------------------------------------------------------------------

    pub(crate) fn action(&mut self, now: Moment, action: &Action) -> Checked {
        match action {
            Action::Spawn { worker, slot, target } => self.spawned(now, *worker, *slot, *target),
            Action::Admit(worker) => self.admitted(now, *worker),
            Action::Exclude(worker) => self.shut(*worker),
            Action::AwaitEmpty(_) => Ok(()),
            Action::Stop(worker) => {
                self.leaves(now, *worker, Patience::Unseen);
                self.shut(*worker)?;
                self.stopped(now, *worker)
            }
            Action::Kill(worker) => {
                self.leaves(now, *worker, Patience::Unseen);
                self.shut(*worker)?;
                self.killed(now, *worker)?;
                if let Some(worker) = self.workers.get_mut(worker)
                    && worker.path != Path::Gone
                {
                    worker.path = Path::Killed;
                }
                Ok(())
            }
            Action::Release(worker) => {
                hold(self.workers.get(worker).is_none_or(|worker| worker.path == Path::Gone), Law::NoGhost, || {
                    format!("{worker} is let go of and nobody said that it is gone")
                })
            }
            Action::Announce(note) => self.note(now, note),
            Action::Over => hold(self.live_workers() == 0, Law::NoGhost, || "over with workers left".to_owned()),
        }
    }

    fn spawned(&mut self, now: Moment, worker: WorkerId, slot: Slot, target: Target) -> Checked {
        hold(!self.workers.contains_key(&worker), Law::NoReuse, || format!("{worker} was started twice"))?;
        let began = self.asked.get(&target.rollout).and_then(|asked| asked.generation);
        hold(began == Some(target.generation), Law::NoReuse, || {
            format!("{worker} is of {target:?} which never began")
        })?;
        let beside_fit = slot.0 <= self.limits.workers && self.is_served(slot);
        let (born, spawned_in) = (now, self.current.as_ref().map(|current| current.rollout));
        let (gate, health, path) = (Gate::Shut, Health::Well, Path::InPlace);
        let (proved_at, admitted_at) = (None, None);
        let started = Worker { slot, target, born, spawned_in, proved_at, admitted_at, gate, health, path };
        self.workers.insert(worker, started);
        let here = self.workers.values().filter(|worker| worker.slot == slot && worker.is_in_place()).count();
        hold(here <= 2, Law::NoGhost, || format!("{here} workers in slot {slot}"))?;
        let (live, most) = (self.live_within(), self.limits.workers + self.limits.max_surge);
        hold(!beside_fit || live <= most as usize, Law::Surge, || {
            format!("{worker} was started beside a fit worker of slot {slot}: {live} of at most {most}")
        })
    }

    /// Fit and coming workers of the slots up to N, an empty slot counted as the one that it will have.
    fn live_within(&self) -> usize {
        let in_slot =
            |slot: Slot| self.workers.values().filter(|worker| worker.slot == slot && worker.counts()).count();
        (1..=self.limits.workers).map(|slot| in_slot(Slot(slot)).max(1)).sum()
    }

    fn admitted(&mut self, now: Moment, worker: WorkerId) -> Checked {
        let Some(known) = self.workers.get_mut(&worker) else {
            return hold(false, Law::ReadyFirst, || format!("{worker} is admitted and was never started"));
        };
        hold(known.is_in_place(), Law::ReadyFirst, || format!("{worker} is admitted and {:?}", known.path))?;
        let proved = known.proved_at.is_some_and(|at| at <= now) && known.health == Health::Well;
        hold(known.admitted_at.is_some() || proved, Law::ReadyFirst, || {
            format!("{worker} is admitted at {now:?} and proved at {:?}, {:?}", known.proved_at, known.health)
        })?;
        known.gate = Gate::Open;
        known.admitted_at.get_or_insert(now);
        if known.health == Health::Well {
            let slot = known.slot;
            self.excused.remove(&slot);
            self.forgiven.remove(&slot);
            self.given_up.remove(&slot);
        }
        Ok(())
    }

    fn leaves(&mut self, now: Moment, worker: WorkerId, patience: Patience) {
        if let Some(known) = self.workers.get_mut(&worker)
            && known.is_in_place()
        {
            known.path = Path::Leaving { since: now, paced_by: None, patience };
        }
    }

    fn stopped(&mut self, now: Moment, worker: WorkerId) -> Checked {
        let until = now.after(self.limits.drain_timeout);
        if let Some(Worker { path: Path::Leaving { patience, .. }, .. }) = self.workers.get_mut(&worker) {
            let settled = match *patience {
                Patience::Settles { until } => until <= now,
                Patience::Unseen | Patience::Settled | Patience::Stopped { .. } => true,
            };
            hold(settled, Law::Draining, || format!("{worker} is stopped before its queue is empty"))?;
            if *patience != Patience::Unseen {
                *patience = Patience::Stopped { until };
            }
        }
        Ok(())
    }

    fn killed(&self, now: Moment, worker: WorkerId) -> Checked {
        let Some(Worker { path: Path::Leaving { patience, .. }, .. }) = self.workers.get(&worker) else {
            return Ok(());
        };
        let due = match *patience {
            Patience::Stopped { until } => until <= now,
            Patience::Settles { .. } | Patience::Settled => false,
            Patience::Unseen => true,
        };
        let with_clients = |worker: &&Worker| match worker.path {
            Path::Leaving { patience, .. } => patience != Patience::Unseen,
            Path::InPlace | Path::Killed | Path::Gone => false,
        };
        let generations: BTreeSet<Generation> =
            self.workers.values().filter(with_clients).map(|worker| worker.target.generation).collect();
        let (count, most) = (generations.len(), self.limits.max_generations);
        hold(due || count > most as usize, Law::Draining, || {
            format!("{worker} is killed early: {count} generations drain of at most {most}")
        })
    }

    /// No new connection reaches the worker any more. A ready one is missed from now on.
    fn shut(&mut self, worker: WorkerId) -> Checked {
        let Some(known) = self.workers.get_mut(&worker) else { return Ok(()) };
        let was_open = known.gate == Gate::Open;
        known.gate = Gate::Shut;
        if !was_open || known.health == Health::Sick || known.path == Path::Gone || self.life == Life::Stopping {
            return Ok(());
        }
        let slot = known.slot;
        let served_by = self.workers.values().find(|peer| peer.slot == slot && peer.is_ready());
        let by_this_rollout = self.current.as_ref().map(|current| current.rollout);
        let paced = served_by.is_none_or(|peer| peer.spawned_in == by_this_rollout) && slot.0 <= self.limits.workers;
        let served = served_by.is_some();
        self.taken_away(worker, slot, served)?;
        if paced { self.paced(worker) } else { Ok(()) }
    }

    fn taken_away(&self, worker: WorkerId, slot: Slot, served: bool) -> Checked {
        let (ready, floor) = (self.ready(), (self.limits.workers as usize).saturating_sub(self.unavailable()));
        if slot.0 <= self.limits.workers {
            hold(served || self.unavailable() > 0, Law::ReadyFirst, || {
                format!("{worker} is taken away from slot {slot} before a replacement is admitted")
            })?;
            hold(served || ready >= floor, Law::Capacity, || {
                format!("{worker} is taken away from slot {slot}: {ready} ready of at least {floor}")
            })
        } else {
            let given_up = self.given_up.iter().filter(|slot| slot.0 <= self.limits.workers).count();
            hold(ready + given_up >= floor, Law::Capacity, || {
                format!("{worker} is taken away from surplus slot {slot}: {ready} ready of at least {floor}")
            })
        }
    }

    pub(super) fn unavailable(&self) -> usize {
        self.limits.max_unavailable as usize
    }

    /// One more worker drains because the rollout has replaced it, or is about to.
    fn paced(&mut self, worker: WorkerId) -> Checked {
        let Some(current) = &self.current else { return Ok(()) };
        let (rollout, most) = (current.rollout, current.max_draining.max(self.limits.max_draining));
        if let Some(Worker { path: Path::Leaving { paced_by, .. }, .. }) = self.workers.get_mut(&worker) {
            *paced_by = Some(rollout);
        }
        let draining = self.workers.values().filter(|worker| match worker.path {
            Path::Leaving { paced_by, .. } => paced_by == Some(rollout),
            Path::InPlace | Path::Killed | Path::Gone => false,
        });
        let draining = draining.count();
        hold(draining <= most as usize, Law::Draining, || format!("{draining} drain for {rollout}, at most {most} may"))
    }

    // ---- notes ----------------------------------------------------------------------------------------------------

    fn note(&mut self, now: Moment, note: &Note) -> Checked {
        match note {
            Note::Queued { rollout, superseded } => {
                hold(self.waiting == *superseded, Law::OneRollout, || {
                    format!("{rollout} waits in place of {superseded:?}, but {:?} waited", self.waiting)
                })?;
                self.waiting = Some(*rollout);
                Ok(())
            }
            Note::Began { to, from } => self.began(*to, *from),
            Note::Draining { worker, .. } => {
                self.leaves(now, *worker, Patience::Settles { until: now.after(self.limits.settle) });
                Ok(())
            }
            Note::Failed { slot, worker, .. } => {
                if !self.is_served(*slot) {
                    self.excused.insert(*slot);
                }
                let excusable = self.last_unkind.is_none_or(|last| *worker <= last);
                hold(excusable, Law::Liveness, || format!("{worker} failed in a kind world"))
            }
            Note::GaveUp { slot, .. } => {
                self.given_up.insert(*slot);
                Ok(())
            }
            Note::RollingBack { rollout, .. } => self.goes(*rollout, Way::Back),
            Note::Paused { rollout, .. } => self.goes(*rollout, Way::Paused),
            Note::Resumed { rollout } => self.goes(*rollout, Way::Forward),
            Note::Ended { rollout, outcome } => self.ended(*rollout, outcome),
            Note::Starting { .. }
            | Note::Ready { .. }
            | Note::Killing { .. }
            | Note::Gone { .. }
            | Note::Scaled { .. } => Ok(()),
        }
    }

    fn began(&mut self, to: Target, from: Option<Target>) -> Checked {
        hold(self.current.is_none(), Law::OneRollout, || format!("{} began beside {:?}", to.rollout, self.current))?;
        hold(self.newest_generation < Some(to.generation), Law::NoReuse, || format!("{} again", to.generation))?;
        self.newest_generation = Some(to.generation);
        let newest = self.asked.keys().next_back() == Some(&to.rollout);
        hold(newest, Law::OneRollout, || format!("{} began, but a newer one was asked for", to.rollout))?;
        self.waiting = None;
        self.given_up.clear();
        let Some(asked) = self.asked.get_mut(&to.rollout) else {
            return hold(false, Law::OneEnd, || format!("{} began and nobody asked for it", to.rollout));
        };
        asked.generation = Some(to.generation);
        let before = std::mem::replace(&mut self.limits, asked.limits.clone());
        if from.is_none() {
            self.first = Some(to.rollout);
        } else {
            let max_draining = self.limits.max_draining;
            self.current = Some(Current { rollout: to.rollout, way: Way::Forward, before, max_draining });
        }
        // What was empty before is not this rollout's doing.
        self.excused.extend(self.unserved().collect::<Vec<_>>());
        Ok(())
    }

    fn goes(&mut self, rollout: RolloutId, way: Way) -> Checked {
        let Some(current) = self.current.as_mut().filter(|current| current.rollout == rollout) else {
            return hold(false, Law::OneRollout, || format!("{rollout} is {way:?} and not under way"));
        };
        hold(current.way != Way::Back, Law::OneEnd, || format!("{rollout} is {way:?} after it was taken back"))?;
        current.way = way;
        if way == Way::Back {
            self.limits = current.before.clone();
            // The numbers changed under slots that were empty by the old ones. That excuses nobody who is taken away.
            self.forgiven = self.unserved().collect();
            self.given_up.clear();
        }
        Ok(())
    }

    fn ended(&mut self, rollout: RolloutId, outcome: &Outcome) -> Checked {
        let Some(asked) = self.asked.get_mut(&rollout) else {
            return hold(false, Law::OneEnd, || format!("{rollout} ended and nobody asked for it"));
        };
        asked.fate.push(outcome.clone());
        hold(asked.fate.len() == 1, Law::OneEnd, || format!("{rollout} ended: {:?}", asked.fate))?;
        match outcome {
            Outcome::Done => {
                let by_goal = |slot: Slot| {
                    let here = |worker: &&Worker| worker.slot == slot && worker.is_ready();
                    self.workers.values().filter(here).any(|worker| worker.target.rollout == rollout)
                };
                let missing = (1..=self.limits.workers).map(Slot).find(|slot| !by_goal(*slot));
                hold(missing.is_none(), Law::OneEnd, || format!("{rollout} is done without slot {missing:?}"))?;
            }
            Outcome::Superseded { by } => {
                hold(*by > rollout, Law::OneRollout, || format!("{rollout} is superseded by the older {by}"))?;
            }
            Outcome::RolledBack(_) | Outcome::Stuck(_) | Outcome::Stopped => {}
        }
        if self.first == Some(rollout) {
            self.first = None;
        }
        if self.waiting == Some(rollout) {
            self.waiting = None;
        }
        if let Some(current) = self.current.take_if(|current| current.rollout == rollout)
            && current.way == Way::Paused
            && matches!(outcome, Outcome::Superseded { .. })
        {
            self.limits = current.before;
        }
        Ok(())
    }
}
