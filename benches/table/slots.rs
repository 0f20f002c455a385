//! What a rollout takes beyond the workers' own time: each slot's start in turn, and the last one's end.

use std::time::Duration;

use super::figure::{Figure, Spread, Target, millis};
use super::{agent, bare};

const ROUNDS: usize = 5;

pub(crate) fn figures() -> Vec<Figure> {
    let mut figures = Vec::new();
    let mut per_slot = Vec::new();
    let mut own = Vec::new();
    for slots in [4_u32, 16, 64] {
        let workers = usize::try_from(slots).expect("small");
        let rig = agent::start(agent::home(), &agent::trivial(workers, "    rollout: {min_ready: 0s}\n"));
        let rounds: Vec<f64> =
            (0..ROUNDS).map(|_| of_the_agent(agent::roll(&rig, "restart", "{}").took(), slots, &mut own)).collect();
        per_slot.push(Spread::of(rounds.iter().copied()));
        figures.push(Figure::new(
            format!("rollout of {slots} slots, per slot, minus the worker's own time"),
            Spread::of(rounds),
            "ms",
            Target::AtMost(20.0),
        ));
    }
    let linear = Spread::of([per_slot[2].median / per_slot[0].median]);
    figures.push(Figure::new("… per slot of 64 ÷ per slot of 4: linear", linear, "", Target::AtMost(1.2)));
    figures.insert(
        0,
        Figure::new("trivial worker without the agent: from spawn to READY=1", Spread::of(own), "ms", Target::None),
    );
    figures
}

/// Milliseconds per slot. The worker's own time is measured now, so that both meet the same weather.
fn of_the_agent(took: Duration, slots: u32, own: &mut Vec<f64>) -> f64 {
    let (starts, ends): (Vec<_>, Vec<_>) = (0..5).map(|_| bare::trivial_start_and_end()).unzip();
    let (start, end) = (Spread::of_times(starts).median, Spread::of_times(ends).median);
    own.push(start);
    (millis(took) - end) / f64::from(slots) - start
}
