//! Bugs planted at the seam: events, actions, deadlines and the state file are dropped, forged, put in another order.
//! The shipped machine inside is untouched.

#![expect(clippy::wildcard_enum_match_arm, reason = "each bug touches one thing and leaves all others as they are")]

use rollout::machine::event::{Action, Event, Note, Outcome};
use rollout::machine::limits::Limits;
use rollout::machine::view::{View, WorkerState, WorkerView};
use rollout::units::{Moment, Slot, WorkerId};

use super::laws::Law;
use super::seam::{Machine, Shipped};

/// One bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bug {
    /// Deaths of workers of slot 1 are not heard.
    DropsExited,
    /// Nobody is let go of.
    SwallowsRelease,
    /// The exit of a leaver is not heard.
    LosesLeavers,
    /// A start is taken for readiness.
    ForgesPassed,
    /// Connections are steered to a worker when it is started.
    AdmitsAtSpawn,
    /// The old worker is excluded before the new one is admitted.
    ExcludesFirst,
    /// One more slot may be empty than was said.
    LoosensUnavailable,
    /// One more worker may run than was said.
    LoosensSurge,
    /// Two more workers may drain than was said.
    LoosensDraining,
    /// A lane's queue is taken for empty at once.
    StopsOnExclude,
    /// More generations are cut than was said.
    CutsGenerations,
    /// Time is never due.
    HidesDeadlines,
    /// Time is due much later.
    PutsDeadlinesOff,
    /// Nobody is told that a request will never begin.
    LosesSuperseded,
    /// A rollout that was taken back is called done.
    CallsItDone,
    /// Each end is announced twice.
    EndsTwice,
    /// The state file has an old count of workers.
    RewindsWorkers,
    /// The state file has an old count of rollouts.
    RewindsGenerations,
    /// A new agent reads the state before the last one.
    ReadsOldState,
    /// A new agent excludes nobody again.
    AgainForgetsExclude,
    /// A new agent admits everybody.
    AgainAdmitsLeavers,
    /// Readiness of slot 1 is not heard.
    DropsPassed,
    /// Nobody hears that time is due.
    LosesDeadlinePassed,
    /// Each start is announced forty times.
    Repeats,
    /// Time is always due.
    AlwaysDue,
    /// Of two requests the older one comes last.
    SwapsRequests,
    /// A rollout is said to begin once more while it is under way.
    BeginsBeside,
}

/// Each bug with the law that it breaks.
pub(crate) const BUGS: [(Bug, Law); 27] = [
    (Bug::DropsExited, Law::NoGhost),
    (Bug::SwallowsRelease, Law::NoGhost),
    (Bug::LosesLeavers, Law::NoGhost),
    (Bug::ReadsOldState, Law::NoGhost),
    (Bug::ForgesPassed, Law::ReadyFirst),
    (Bug::AdmitsAtSpawn, Law::ReadyFirst),
    (Bug::ExcludesFirst, Law::ReadyFirst),
    (Bug::LoosensUnavailable, Law::Capacity),
    (Bug::LoosensSurge, Law::Surge),
    (Bug::LoosensDraining, Law::Draining),
    (Bug::StopsOnExclude, Law::Draining),
    (Bug::CutsGenerations, Law::Draining),
    (Bug::HidesDeadlines, Law::Deadline),
    (Bug::PutsDeadlinesOff, Law::Deadline),
    (Bug::LosesDeadlinePassed, Law::Bounded),
    (Bug::LosesSuperseded, Law::OneEnd),
    (Bug::CallsItDone, Law::OneEnd),
    (Bug::EndsTwice, Law::OneEnd),
    (Bug::RewindsWorkers, Law::NoReuse),
    (Bug::RewindsGenerations, Law::NoReuse),
    (Bug::AgainForgetsExclude, Law::Again),
    (Bug::AgainAdmitsLeavers, Law::Again),
    (Bug::DropsPassed, Law::Liveness),
    (Bug::Repeats, Law::Bounded),
    (Bug::AlwaysDue, Law::Bounded),
    (Bug::SwapsRequests, Law::OneRollout),
    (Bug::BeginsBeside, Law::OneRollout),
];

#[derive(Debug, Clone)]
pub(crate) struct Planted {
    inner: Shipped,
    bug: Bug,
    /// The state before the last step.
    older: Shipped,
    /// A request that is held back.
    held: Option<Event>,
}

impl Planted {
    pub(crate) fn new(bug: Bug) -> Self {
        Self { inner: Shipped::default(), bug, older: Shipped::default(), held: None }
    }

    fn slot_of(&self, worker: WorkerId) -> Option<Slot> {
        self.inner.view().workers.iter().find(|seen| seen.worker == Some(worker)).map(|seen| seen.slot)
    }

    fn is_leaving(&self, worker: WorkerId) -> bool {
        let leaves = |seen: &&WorkerView| seen.state == WorkerState::Draining;
        self.inner.view().workers.iter().filter(leaves).any(|seen| seen.worker == Some(worker))
    }

    fn hears(&mut self, event: Event) -> Vec<Event> {
        let in_slot_1 = |worker: WorkerId| self.slot_of(worker) == Some(Slot(1));
        let drops = match (&event, self.bug) {
            (Event::Exited(worker, _), Bug::DropsExited) | (Event::Passed(worker), Bug::DropsPassed) => {
                in_slot_1(*worker)
            }
            (Event::Exited(worker, _), Bug::LosesLeavers) => self.is_leaving(*worker),
            (Event::DeadlinePassed, Bug::LosesDeadlinePassed) => true,
            _ => false,
        };
        if drops {
            return Vec::new();
        }
        match event {
            Event::Roll { rollout, release, limits } => {
                let asked = Event::Roll { rollout, release, limits: self.loosened(limits) };
                if self.bug != Bug::SwapsRequests {
                    return vec![asked];
                }
                match self.held.take() {
                    Some(older) => vec![asked, older],
                    None if rollout.0 % 3 == 2 => {
                        self.held = Some(asked);
                        Vec::new()
                    }
                    None => vec![asked],
                }
            }
            other => vec![other],
        }
    }

    fn loosened(&self, limits: Limits) -> Limits {
        let (max_surge, max_unavailable, max_draining) =
            (limits.max_surge, limits.max_unavailable, limits.max_draining);
        match self.bug {
            Bug::LoosensUnavailable => Limits { max_unavailable: max_unavailable + 1, ..limits },
            Bug::LoosensSurge => Limits { max_surge: max_surge + 1, ..limits },
            Bug::LoosensDraining => Limits { max_draining: max_draining + 2, ..limits },
            Bug::CutsGenerations => Limits { max_generations: 0, ..limits },
            _ => limits,
        }
    }

    fn says(&mut self, now: Moment, actions: Vec<Action>) -> Vec<Action> {
        let mut out = Vec::new();
        for action in actions {
            match (&action, self.bug) {
                (Action::Release(_), Bug::SwallowsRelease)
                | (Action::Announce(Note::Ended { outcome: Outcome::Superseded { .. }, .. }), Bug::LosesSuperseded) => {
                }
                (Action::Spawn { worker, .. }, Bug::AdmitsAtSpawn) => {
                    out.extend([action.clone(), Action::Admit(*worker)])
                }
                (Action::Spawn { worker, .. }, Bug::ForgesPassed) => {
                    let worker = *worker;
                    out.push(action);
                    out.extend(self.inner.step(now, Event::Passed(worker)));
                }
                (Action::Exclude(worker), Bug::StopsOnExclude) => out.extend([action.clone(), Action::Stop(*worker)]),
                (
                    Action::Announce(Note::Ended { rollout, outcome: Outcome::RolledBack(_) | Outcome::Stuck(_) }),
                    Bug::CallsItDone,
                ) => out.push(Action::Announce(Note::Ended { rollout: *rollout, outcome: Outcome::Done })),
                (Action::Announce(Note::Ended { .. }), Bug::EndsTwice) => out.extend([action.clone(), action]),
                (Action::Announce(Note::Ready { .. }), Bug::BeginsBeside) => {
                    if let Some(rollout) = self.inner.view().rollout {
                        out.push(Action::Announce(Note::Began { to: rollout.to, from: rollout.from }));
                    }
                    out.push(action);
                }
                (Action::Announce(_), Bug::Repeats) => {
                    let forty = if matches!(action, Action::Announce(Note::Starting { .. })) { 40 } else { 1 };
                    out.extend(std::iter::repeat_n(action, forty));
                }
                _ => out.push(action),
            }
        }
        if self.bug == Bug::ExcludesFirst {
            out.sort_by_key(|action| matches!(action, Action::Admit(_)));
        }
        out
    }
}

impl Machine for Planted {
    fn step(&mut self, now: Moment, event: Event) -> Vec<Action> {
        self.older = self.inner.clone();
        let mut out = Vec::new();
        for event in self.hears(event) {
            let said = self.inner.step(now, event);
            out.extend(self.says(now, said));
        }
        out
    }

    fn next_deadline(&self) -> Option<Moment> {
        let real = self.inner.next_deadline();
        match self.bug {
            Bug::HidesDeadlines => None,
            Bug::AlwaysDue => Some(Moment(0)),
            Bug::PutsDeadlinesOff => real.map(|at| at.after(std::time::Duration::from_secs(20))),
            _ => real,
        }
    }

    fn view(&self) -> View {
        self.inner.view()
    }

    fn workers(&self) -> Vec<WorkerId> {
        self.inner.workers()
    }

    fn again(&self) -> Vec<Action> {
        let mut again = self.inner.again();
        match self.bug {
            Bug::AgainForgetsExclude => again.retain(|action| !matches!(action, Action::Exclude(_))),
            Bug::AgainAdmitsLeavers => again.extend(self.inner.workers().into_iter().map(Action::Admit)),
            _ => {}
        }
        again
    }

    fn save(&mut self) -> String {
        let text = self.inner.save();
        let mut state: serde_json::Value = serde_json::from_str(&text).expect("what was written can be read");
        let rewound = match self.bug {
            Bug::RewindsWorkers => "next_worker",
            Bug::RewindsGenerations => "generations",
            Bug::ReadsOldState => return self.older.save(),
            _ => return text,
        };
        let count = state[rewound].as_u64().expect("a count");
        state[rewound] = serde_json::json!(count.saturating_sub(1));
        state.to_string()
    }

    fn load(&mut self, text: &str) {
        self.inner.load(text);
    }
}
