//! Rules of the machine's numbers: `workers`, `rollout`, `drain`, `restart`.

use std::time::Duration;

use crate::config::problem::{At, Problems};
use crate::config::raw;
use crate::config::read::{Count, Field, Workers};
use crate::machine::limits::{Limits, MOST_WORKERS};

use super::{Surroundings, at_least_one, positive, time};

pub(super) fn check(raw: &raw::Service, at: &At, around: &Surroundings<'_>, problems: &mut Problems<'_>) -> Limits {
    let nothing = (raw::Rollout::default(), raw::Drain::default(), raw::Restart::default(), raw::Readiness::default());
    let rollout = raw.rollout.value().unwrap_or(&nothing.0);
    let drain = raw.drain.value().unwrap_or(&nothing.1);
    let restart = raw.restart.value().unwrap_or(&nothing.2);
    let readiness = raw.readiness.value().unwrap_or(&nothing.3);
    let usual = Limits::default();
    let workers = workers(&raw.workers, around, problems);
    let (max_surge, max_unavailable) = strategy(raw, rollout, workers, at, problems);
    Limits {
        workers,
        max_surge,
        max_unavailable,
        min_ready: time(&rollout.min_ready, usual.min_ready),
        hold: time(&rollout.hold, usual.hold),
        max_draining: at_least_one(&rollout.max_draining, workers, problems),
        on_failure: rollout.on_failure.value().copied().unwrap_or(usual.on_failure),
        ready_timeout: positive(&readiness.timeout, usual.ready_timeout, problems),
        settle: time(&drain.settle, usual.settle),
        linger: drain.linger.value().copied().unwrap_or(usual.linger),
        drain_timeout: positive(&drain.timeout, usual.drain_timeout, problems),
        max_generations: at_least_one(&drain.max_generations, usual.max_generations, problems),
        backoff: restart.backoff.value().copied().unwrap_or(usual.backoff),
        give_up: restart.give_up.value().copied().unwrap_or(usual.give_up),
    }
}

fn workers(field: &Field<Workers>, around: &Surroundings<'_>, problems: &mut Problems<'_>) -> u32 {
    let auto = around.cpus.clamp(1, MOST_WORKERS);
    let Some((Workers::Number(number), at)) = field.given() else {
        return auto;
    };
    if *number == 0 {
        problems.add(at, "must be at least 1 (`rollout stop` stops a service)");
    }
    if *number > MOST_WORKERS {
        problems.add(at, format!("at most {MOST_WORKERS} workers"));
    }
    *number
}

/// How far a rollout may go above and below the number of workers: somewhere, and never down to none.
fn strategy(
    raw: &raw::Service,
    rollout: &raw::Rollout,
    workers: u32,
    at: &At,
    problems: &mut Problems<'_>,
) -> (u32, u32) {
    let surge = rollout.max_surge.value().map_or(1, |Count(count)| *count);
    let unavailable = rollout.max_unavailable.value().map_or(0, |Count(count)| *count);
    let place = |field: &Field<Count>| field.given().map_or_else(|| at.clone(), |(_, at)| at.clone());
    if surge == 0 && unavailable == 0 {
        let message = "a rollout needs room: set max_surge or max_unavailable to at least 1 \
                       (with both at 0 no worker could be started before one has left, and none could leave)";
        problems.add(&place(&rollout.max_surge), message);
    }
    if surge > MOST_WORKERS {
        problems.add(&place(&rollout.max_surge), format!("at most {MOST_WORKERS}"));
    }
    if unavailable > 0 && unavailable >= workers && workers > 0 {
        let auto = match raw.workers.value() {
            Some(Workers::Number(_)) => "",
            Some(Workers::Auto) | None => " (workers: auto)",
        };
        let message = format!(
            "with {workers} {noun}{auto} this leaves a moment when nobody serves: \
             use max_surge: 1 and max_unavailable: {less}",
            noun = if workers == 1 { "worker" } else { "workers" },
            less = workers - 1,
        );
        problems.add(&place(&rollout.max_unavailable), message);
    }
    (surge, unavailable)
}

/// How long readiness may take; the health rules compare with it.
pub(super) fn ready_timeout(readiness: &raw::Readiness) -> Duration {
    time(&readiness.timeout, Limits::default().ready_timeout)
}
