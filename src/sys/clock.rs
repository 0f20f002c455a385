//! The clocks. Nothing else in the program reads one.

use std::time::{Duration, SystemTime};

use nix::time::{ClockId, clock_gettime};

use crate::units::Moment;

/// Now, on `CLOCK_MONOTONIC`: goes on across restarts of the agent, stands still in suspend, starts anew at boot.
///
/// # Panics
/// Never on Linux: the clock always exists (clock_gettime(2)).
#[must_use]
pub fn now() -> Moment {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("CLOCK_MONOTONIC always exists");
    let seconds = u64::try_from(time.tv_sec()).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec()).unwrap_or(0);
    Moment(seconds * 1_000_000_000 + nanos)
}

/// The time of day of a moment, as far as the clock of the wall has not been set since.
#[must_use]
pub fn time_of(moment: Moment) -> SystemTime {
    let now = now();
    if moment <= now { time_of_day() - now.since(moment) } else { time_of_day() + moment.since(now) }
}

/// The time of day.
#[expect(clippy::disallowed_methods, reason = "this is the blessed place")]
#[must_use]
pub fn time_of_day() -> SystemTime {
    SystemTime::now()
}

/// How long until `moment`; zero if it is over.
#[must_use]
pub fn until(moment: Moment) -> Duration {
    moment.since(now())
}
