//! Random histories.

use std::time::Duration;

use proptest::prelude::*;
use rollout::machine::event::{Event, OnStop, Symptom};
use rollout::machine::limits::{Backoff, GiveUp, Limits, Linger, OnFailure};
use rollout::units::WorkerId;

use super::laws::Violation;
use super::seam::Machine;
use super::sim::Sim;
use super::world::{RELEASES, release};

/// Something that happens.
#[derive(Debug, Clone)]
pub(crate) enum Op {
    Roll(u8, Limits),
    Scale(u32),
    Pause,
    Resume,
    Abort,
    Stop,
    /// One of the things that are true is told, out of order.
    News(usize),
    /// This many rounds of everything that is true.
    AllNews(u8),
    Kill(usize),
    Sicken(usize),
    Recover(usize),
    Extend(usize, Duration),
    /// Something untrue or meaningless about a worker that is, was or never will be.
    Foreign(u64),
    /// Something is told again.
    Again(usize),
    Wait(Duration),
    Oversleep(Duration),
    /// The agent dies in its next step after this many actions.
    AgentDies(usize),
}

/// How it begins and what happens then.
#[derive(Debug, Clone)]
pub(crate) struct History {
    pub(crate) first: u8,
    pub(crate) limits: Limits,
    pub(crate) ops: Vec<Op>,
}

fn moment(choices: &'static [u64]) -> impl Strategy<Value = Duration> {
    proptest::sample::select(choices).prop_map(Duration::from_millis)
}

/// The longest of each is known to `ledger`.
pub(crate) fn limits() -> impl Strategy<Value = Limits> {
    let room = (1u32..=6, 0u32..=2).prop_flat_map(|(workers, surge)| {
        let least = u32::from(surge == 0);
        (Just(workers), Just(surge), least..=workers.saturating_sub(1).max(least))
    });
    let times = (moment(&[0, 1000]), moment(&[0, 0, 3000]), moment(&[1000, 5000]), moment(&[0, 1000]));
    let linger = prop_oneof![Just(Linger::Auto), moment(&[0, 2000]).prop_map(Linger::For)];
    let rules = (prop_oneof![Just(OnFailure::Rollback), Just(OnFailure::Pause)], linger);
    let counts = (1u32..=3, 1u32..=3, 1u32..=5);
    (room, times, rules, counts, moment(&[1000, 3000])).prop_map(|(room, times, rules, counts, drain_timeout)| {
        let (workers, max_surge, max_unavailable) = room;
        let (min_ready, hold, ready_timeout, settle) = times;
        let (on_failure, linger) = rules;
        let (max_draining, max_generations, failures) = counts;
        let backoff = Backoff { min: Duration::from_millis(100), max: Duration::from_secs(2) };
        let give_up = GiveUp { failures, within: Duration::from_secs(20) };
        Limits {
            workers,
            max_surge,
            max_unavailable,
            min_ready,
            hold,
            max_draining,
            on_failure,
            ready_timeout,
            settle,
            linger,
            drain_timeout,
            max_generations,
            backoff,
            give_up,
        }
    })
}

fn op() -> impl Strategy<Value = Op> {
    let pick = 0usize..16;
    prop_oneof![
        6 => (any_release(), limits()).prop_map(|(release, limits)| Op::Roll(release, limits)),
        2 => (1u32..=6).prop_map(Op::Scale),
        2 => Just(Op::Pause),
        3 => Just(Op::Resume),
        2 => Just(Op::Abort),
        24 => pick.clone().prop_map(Op::News),
        10 => (1u8..=4).prop_map(Op::AllNews),
        5 => pick.clone().prop_map(Op::Kill),
        5 => pick.clone().prop_map(Op::Sicken),
        2 => pick.clone().prop_map(Op::Recover),
        1 => (pick.clone(), moment(&[1000, 100_000])).prop_map(|(pick, by)| Op::Extend(pick, by)),
        2 => (0u64..64).prop_map(Op::Foreign),
        3 => pick.clone().prop_map(Op::Again),
        16 => moment(&[1, 100, 1000, 1000, 3000, 10_000]).prop_map(Op::Wait),
        1 => moment(&[100, 2000, 60_000]).prop_map(Op::Oversleep),
        4 => pick.prop_map(Op::AgentDies),
    ]
}

/// Good ones twice as often as all bad ones together would like.
fn any_release() -> impl Strategy<Value = u8> {
    prop_oneof![3 => 0u8..4, 2 => 0u8..RELEASES]
}

pub(crate) fn history() -> impl Strategy<Value = History> {
    let stop = proptest::option::weighted(0.1, 0usize..60);
    let first = prop_oneof![6 => 0u8..4, 1 => 0u8..RELEASES];
    (first, limits(), proptest::collection::vec(op(), 1..60), stop).prop_map(|(first, limits, mut ops, stop)| {
        if let Some(at) = stop {
            ops.insert(at.min(ops.len()), Op::Stop);
        }
        History { first, limits, ops }
    })
}

/// Plays the whole history, and then lets the world be kind.
pub(crate) fn play<M: Machine>(history: &History, machine: M) -> Result<(), Violation> {
    let mut sim = Sim::new(machine);
    perform(&mut sim, &Op::Roll(history.first, history.limits.clone()))?;
    for op in &history.ops {
        perform(&mut sim, op)?;
        sim.punctual()?;
    }
    sim.kindly()
}

fn perform<M: Machine>(sim: &mut Sim<M>, op: &Op) -> Result<(), Violation> {
    let worker = |sim: &Sim<M>, pick: usize| {
        let alive = sim.world.alive();
        alive.get(pick % alive.len().max(1)).copied()
    };
    match op {
        Op::Roll(number, limits) => {
            let rollout = sim.next_rollout();
            sim.tell(Event::Roll { rollout, release: release(*number), limits: limits.clone() })
        }
        Op::Scale(workers) => sim.tell(Event::Scale(*workers)),
        Op::Pause => sim.tell(Event::Pause),
        Op::Resume => sim.tell(Event::Resume),
        Op::Abort => sim.tell(Event::Abort),
        Op::Stop => sim.tell(Event::Stop),
        Op::News(pick) => {
            let news = sim.world.news();
            news.get(pick % news.len().max(1)).cloned().map_or(Ok(()), |event| sim.tell(event))
        }
        Op::AllNews(rounds) => {
            for _ in 0..*rounds {
                for event in sim.world.news() {
                    // It may have become untrue meanwhile: then it is late.
                    sim.tell(event)?;
                }
                sim.punctual()?;
            }
            Ok(())
        }
        Op::Kill(pick) => {
            worker(sim, *pick).into_iter().for_each(|worker| sim.kill(worker));
            Ok(())
        }
        Op::Sicken(pick) => {
            worker(sim, *pick).into_iter().for_each(|worker| sim.world.sicken(worker));
            Ok(())
        }
        Op::Recover(pick) => {
            worker(sim, *pick).into_iter().for_each(|worker| sim.world.recover(worker));
            Ok(())
        }
        Op::Extend(pick, by) => worker(sim, *pick).map_or(Ok(()), |worker| sim.tell(Event::Extended(worker, *by))),
        Op::Foreign(number) => foreign(sim, *number),
        Op::Again(pick) => {
            let heard = sim.heard.get(pick % sim.heard.len().max(1)).cloned();
            heard.filter(is_told_twice).map_or(Ok(()), |event| sim.tell(event))
        }
        Op::Wait(time) => sim.wait(*time),
        Op::Oversleep(time) => sim.oversleep(*time),
        Op::AgentDies(after) => {
            sim.dies_after = Some(*after);
            Ok(())
        }
    }
}

/// Untrue: about nobody, or harmless about anybody.
fn foreign<M: Machine>(sim: &mut Sim<M>, number: u64) -> Result<(), Violation> {
    let somebody = WorkerId(number / 2);
    match number % 6 {
        0 => sim.foreign(number),
        1 => sim.tell(Event::Settled(somebody, OnStop::Fatal)),
        2 => sim.tell(Event::Emptied(somebody)),
        3 => sim.tell(Event::DeadlinePassed),
        4 => sim.tell(Event::Passed(WorkerId(100_000))),
        _ => sim.tell(Event::Sickened(WorkerId(100_000), Symptom::Unhealthy(String::new()))),
    }
}

/// What the agent's parts may say twice; a request has one id and is asked once.
fn is_told_twice(event: &Event) -> bool {
    match event {
        Event::Roll { .. } | Event::NeverStarted(_) => false,
        Event::Scale(_)
        | Event::Pause
        | Event::Resume
        | Event::Abort
        | Event::Stop
        | Event::SpawnFailed(..)
        | Event::Passed(_)
        | Event::Sickened(..)
        | Event::Extended(..)
        | Event::Settled(..)
        | Event::Emptied(_)
        | Event::Exited(..)
        | Event::DeadlinePassed => true,
    }
}
