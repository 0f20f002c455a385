//! Every order of events for one or two workers: breadth first over what machine and world can be, time being nothing
//! but "the next deadline passes".

use std::collections::{HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use rollout::machine::event::Event;
use rollout::machine::limits::{Backoff, GiveUp, Limits, Linger};
use rollout::units::Moment;

use super::laws::Violation;
use super::seam::{Machine, Shipped};
use super::sim::Sim;
use super::world::release;

/// What may still go wrong on top of the release itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Budget {
    crashes: u32,
    sicknesses: u32,
    agent_deaths: u32,
    aborts: u32,
}

#[derive(Clone)]
struct Node {
    sim: Sim<Shipped>,
    budget: Budget,
    path: Vec<String>,
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
pub(crate) fn search(limits: &Limits, number: u8, most: usize) -> Result<Searched, String> {
    let mut start = Sim::new(Shipped::default());
    let begun = begin(&mut start, limits, number);
    begun.map_err(|violation| violation.to_string())?;
    let budget = Budget { crashes: 1, sicknesses: 1, agent_deaths: 1, aborts: 1 };
    let mut queue = VecDeque::from([Node { sim: start, budget, path: Vec::new() }]);
    let mut seen = HashSet::new();
    while let Some(node) = queue.pop_front() {
        if seen.len() >= most {
            return Ok(Searched { states: seen.len(), end: End::Cut });
        }
        for next in node.steps().map_err(|(path, violation)| format!("{violation}\n{}", path.join("\n")))? {
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
    fn steps(&self) -> Result<Vec<Self>, (Vec<String>, Violation)> {
        let mut steps = Vec::new();
        let mut told: Vec<(Event, Moment, Budget)> = Vec::new();
        let now = self.sim.now;
        told.extend(self.sim.world.news().into_iter().map(|event| (event, now, self.budget)));
        if let Some(at) = self.sim.machine.next_deadline() {
            told.push((Event::DeadlinePassed, at.max(now), self.budget));
        }
        if let Some(aborts) = self.budget.aborts.checked_sub(1) {
            told.push((Event::Abort, now, Budget { aborts, ..self.budget }));
        }
        for (event, now, budget) in told {
            // The agent lives, or dies after none, some or all of what it has to do.
            let deaths = if budget.agent_deaths > 0 { &[None, Some(0), Some(2), Some(99)][..] } else { &[None][..] };
            for dies_after in deaths {
                let agent_deaths = budget.agent_deaths - u32::from(dies_after.is_some());
                let mut next =
                    self.after(Budget { agent_deaths, ..budget }, format!("{event:?}, dies after {dies_after:?}"));
                next.sim.now = now;
                next.sim.dies_after = *dies_after;
                let held = next.sim.tell(event.clone());
                held.map_err(|violation| (next.path.clone(), violation))?;
                steps.push(next);
            }
        }
        for worker in self.sim.world.alive() {
            if let Some(crashes) = self.budget.crashes.checked_sub(1) {
                let mut next = self.after(Budget { crashes, ..self.budget }, format!("{worker} crashes"));
                next.sim.kill(worker);
                steps.push(next);
            }
            if let Some(sicknesses) = self.budget.sicknesses.checked_sub(1) {
                let mut next = self.after(Budget { sicknesses, ..self.budget }, format!("{worker} sickens"));
                next.sim.world.sicken(worker);
                steps.push(next);
            }
        }
        Ok(steps)
    }

    fn after(&self, budget: Budget, what: String) -> Self {
        let mut path = self.path.clone();
        path.push(what);
        Self { sim: self.sim.clone(), budget, path }
    }

    /// Two nodes with the same key have the same future: moments are told apart only by how far they lie ahead.
    fn key(&self) -> u64 {
        let mut state = serde_json::to_value(&self.sim.machine.0).expect("a service can be written");
        relative(&mut state, self.sim.now);
        let mut hasher = DefaultHasher::new();
        (state.to_string(), &self.sim.world, self.budget).hash(&mut hasher);
        hasher.finish()
    }
}

fn relative(value: &mut serde_json::Value, now: Moment) {
    match value {
        serde_json::Value::Object(fields) => {
            fields.retain(|name, _| !["since", "took", "limits", "limits_before"].contains(&name.as_str()));
            for (name, field) in fields.iter_mut() {
                match (name.as_str(), field.as_u64()) {
                    ("until" | "deadline" | "kill_at" | "again_at", Some(at)) => {
                        *field = at.saturating_sub(now.0).into()
                    }
                    ("failures", _) => *field = field.as_array().map_or(0, Vec::len).into(),
                    _ => relative(field, now),
                }
            }
        }
        serde_json::Value::Array(items) => items.iter_mut().for_each(|item| relative(item, now)),
        serde_json::Value::Null
        | serde_json::Value::Bool(_)
        | serde_json::Value::Number(_)
        | serde_json::Value::String(_) => {}
    }
}
