//! Every order of events for one or two workers: breadth first over what machine and world can be, time being nothing
//! but "the next deadline passes".

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;
use std::time::Duration;

use rollout::machine::event::Event;
use rollout::machine::limits::{Backoff, GiveUp, Limits, Linger};
use rollout::units::{Moment, WorkerId};
use serde_json::Value;

use super::laws::Violation;
use super::seam::{Machine, Shipped};
use super::sim::Sim;
use super::world::release;

/// What may still go wrong on top of the release itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Budget {
    /// Workers that die at any moment.
    pub(crate) crashes: u32,
    /// Agents that die after none, some or all of what a step told them to do.
    pub(crate) agent_deaths: u32,
}

#[derive(Clone)]
struct Node {
    sim: Sim<Shipped>,
    budget: Budget,
    way: Option<Rc<Way>>,
}

/// How a node was reached.
struct Way {
    to: Move,
    from: Option<Rc<Way>>,
}

enum Move {
    Told { event: Box<Event>, dies_after: Option<usize> },
    Crashed(WorkerId),
}

impl fmt::Display for Move {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Told { event, dies_after: None } => write!(f, "told {event:?}"),
            Self::Told { event, dies_after: Some(done) } => {
                write!(f, "told {event:?}, agent dies after {done} actions")
            }
            Self::Crashed(worker) => write!(f, "{worker} crashes"),
        }
    }
}

/// What a search went through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Searched {
    pub(crate) states: usize,
    pub(crate) end: End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Nothing else can happen.
    Exhausted,
    /// Enough for this test.
    Cut,
}

pub(crate) fn limits(workers: u32, max_surge: u32, max_unavailable: u32) -> Limits {
    let second = Duration::from_secs(1);
    Limits {
        workers,
        max_surge,
        max_unavailable,
        min_ready: second,
        ready_timeout: second,
        settle: second,
        linger: Linger::For(Duration::ZERO),
        drain_timeout: second,
        backoff: Backoff { min: second, max: second },
        // A slot whose news never comes is given up, so that the search ends.
        give_up: GiveUp { failures: 2, within: Duration::from_secs(100_000) },
        ..Limits::default()
    }
}

/// A service that serves gets a rollout to release `number`; then everything that can happen happens.
///
/// # Errors
/// The way to the first broken law.
pub(crate) fn search(limits: &Limits, number: u8, budget: Budget, most: usize) -> Result<Searched, String> {
    let mut start = Sim::new(Shipped::default());
    begin(&mut start, limits, number).map_err(|violation| violation.to_string())?;
    let mut queue = VecDeque::from([Node { sim: start, budget, way: None }]);
    let mut seen = HashSet::new();
    while let Some(node) = queue.pop_front() {
        if seen.len() >= most {
            return Ok(Searched { states: seen.len(), end: End::Cut });
        }
        for next in node.steps()? {
            if seen.insert(next.key()) {
                queue.push_back(next);
            }
        }
    }
    Ok(Searched { states: seen.len(), end: End::Exhausted })
}

fn begin(sim: &mut Sim<Shipped>, limits: &Limits, number: u8) -> Result<(), Violation> {
    let roll = |rollout, number| Event::Roll { rollout, release: release(number), limits: limits.clone() };
    let first = sim.next_rollout();
    sim.tell(roll(first, 0))?;
    for event in sim.world.news() {
        sim.tell(event)?;
    }
    sim.wait(limits.min_ready)?;
    let second = sim.next_rollout();
    sim.tell(roll(second, number))
}

impl Node {
    fn steps(&self) -> Result<Vec<Self>, String> {
        let now = self.sim.now;
        let news = self.sim.world.news().into_iter().map(|event| (event, now));
        let due = self.sim.machine.next_deadline().map(|at| (Event::DeadlinePassed, at.max(now)));
        let mut steps = Vec::new();
        for (event, now) in news.chain(due) {
            let deaths = if self.budget.agent_deaths > 0 { &[None, Some(0), Some(1), Some(99)][..] } else { &[None] };
            for dies_after in deaths.iter().copied() {
                let agent_deaths = self.budget.agent_deaths - u32::from(dies_after.is_some());
                let told = Move::Told { event: Box::new(event.clone()), dies_after };
                let mut next = self.after(Budget { agent_deaths, ..self.budget }, told);
                next.sim.now = now;
                next.sim.dies_after = dies_after;
                let kept = next.sim.tell(event.clone());
                kept.map_err(|violation| format!("{violation}\n{}", next.story()))?;
                steps.push(next);
            }
        }
        if let Some(crashes) = self.budget.crashes.checked_sub(1) {
            for worker in self.sim.world.alive() {
                let mut next = self.after(Budget { crashes, ..self.budget }, Move::Crashed(worker));
                next.sim.kill(worker);
                steps.push(next);
            }
        }
        Ok(steps)
    }

    fn after(&self, budget: Budget, to: Move) -> Self {
        Self { sim: self.sim.clone(), budget, way: Some(Rc::new(Way { to, from: self.way.clone() })) }
    }

    /// How it came to this, last move first.
    fn story(&self) -> String {
        let ways = std::iter::successors(self.way.as_ref(), |way| way.from.as_ref());
        ways.map(|way| format!("{}\n", way.to)).collect()
    }

    /// Two nodes with the same key have the same future: moments are told apart only by how far they lie ahead.
    fn key(&self) -> u64 {
        let state = serde_json::to_value(&self.sim.machine.0).expect("a service can be written");
        let mut hasher = DefaultHasher::new();
        hash(&state, self.sim.now, &mut hasher);
        (&self.sim.world, self.budget).hash(&mut hasher);
        hasher.finish()
    }
}

fn hash(value: &Value, now: Moment, hasher: &mut DefaultHasher) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                name.hash(hasher);
                match name.as_str() {
                    "since" | "took" | "limits" | "limits_before" => {}
                    "until" | "deadline" | "kill_at" | "again_at" => {
                        field.as_u64().map(|at| at.saturating_sub(now.0)).hash(hasher);
                    }
                    "failures" => field.as_array().map(Vec::len).hash(hasher),
                    _ => hash(field, now, hasher),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| hash(item, now, hasher)),
        Value::String(text) => text.hash(hasher),
        Value::Number(number) => number.hash(hasher),
        Value::Bool(_) | Value::Null => value.to_string().hash(hasher),
    }
}
