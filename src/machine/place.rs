//! One slot: who serves there and who is coming to.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::event::Target;
use super::limits::{Backoff, GiveUp};
use crate::units::{Moment, WorkerId};

/// One slot's two facts (who serves, who is coming) and the record of its failures.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Place {
    pub(super) serving: Option<Serving>,
    pub(super) coming: Coming,
    /// How often a worker was started here outside a rollout because one had died.
    pub(super) restarts: u32,
    /// Failures in a row, none of which served for long: the exponent of the backoff.
    streak: u32,
    /// When workers of this slot failed lately; bounded by `GiveUp::failures`.
    failures: Vec<Moment>,
}

/// A worker that is admitted, or was and is sick.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Serving {
    pub(super) worker: WorkerId,
    pub(super) target: Target,
    pub(super) since: Moment,
    pub(super) fitness: Fitness,
}

/// Whether a serving worker still passes its check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) enum Fitness {
    Fit,
    /// It failed its check: it is excluded and being replaced.
    Sick,
    /// It failed its check and is being replaced, but nobody is fit: it gets connections until somebody is.
    LastResort,
}

/// Who is coming.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) enum Coming {
    #[default]
    Nobody,
    /// The next start is put off.
    Backoff { since: Moment, until: Moment },
    /// Started, not ready.
    Starting { worker: WorkerId, target: Target, since: Moment, deadline: Moment },
    /// Ready, not yet for long enough.
    Proving { worker: WorkerId, target: Target, since: Moment, took: Duration, until: Moment },
    /// Admitted; the predecessor still serves, too.
    Holding { worker: WorkerId, target: Target, since: Moment, until: Moment },
    /// Too many failures: nobody comes until a rollout or a change of the number of slots.
    GivenUp { since: Moment },
}

impl Coming {
    /// The worker that is coming, if there is one.
    pub(super) fn worker(&self) -> Option<(WorkerId, Target)> {
        match self {
            Self::Starting { worker, target, .. }
            | Self::Proving { worker, target, .. }
            | Self::Holding { worker, target, .. } => Some((*worker, *target)),
            Self::Nobody | Self::Backoff { .. } | Self::GivenUp { .. } => None,
        }
    }

    /// When time alone changes this.
    pub(super) fn deadline(&self) -> Option<Moment> {
        match self {
            Self::Backoff { until, .. } | Self::Proving { until, .. } | Self::Holding { until, .. } => Some(*until),
            Self::Starting { deadline, .. } => Some(*deadline),
            Self::Nobody | Self::GivenUp { .. } => None,
        }
    }
}

/// What follows a failure.
pub(super) enum Retry {
    After(Duration),
    Never { failures: u32 },
}

/// A worker that served this many times the smallest backoff before it died ended its slot's streak of failures.
const STEADY: u32 = 10;

impl Place {
    /// Whether a fit worker of this target serves. A sick one does not count: it is on its way out.
    pub(super) fn serves(&self, target: Target) -> bool {
        self.is_fit() && self.serving.as_ref().is_some_and(|serving| serving.target == target)
    }

    pub(super) fn is_fit(&self) -> bool {
        self.serving.as_ref().is_some_and(|serving| serving.fitness == Fitness::Fit)
    }

    /// Every worker of this slot that was not told to go.
    pub(super) fn workers(&self) -> impl Iterator<Item = WorkerId> {
        let serving = self.serving.as_ref().map(|serving| serving.worker);
        serving.into_iter().chain(self.coming.worker().map(|(worker, _)| worker))
    }

    /// Records a failure, after the worker had served for `served`, and says when to try again.
    pub(super) fn failed(&mut self, now: Moment, served: Duration, backoff: Backoff, give_up: GiveUp) -> Retry {
        if served >= backoff.min * STEADY {
            self.streak = 0;
        }
        self.failures.retain(|then| now.since(*then) < give_up.within);
        self.failures.push(now);
        let failures = u32::try_from(self.failures.len()).unwrap_or(u32::MAX);
        let before = self.streak;
        self.streak = self.streak.saturating_add(1);
        if failures >= give_up.failures {
            return Retry::Never { failures };
        }
        Retry::After(match before {
            0 => Duration::ZERO,
            streak => backoff.min.saturating_mul(1 << (streak - 1).min(30)).min(backoff.max),
        })
    }

    /// Forgets old failures: somebody made a fresh start.
    pub(super) fn forgive(&mut self) {
        self.failures.clear();
        self.streak = 0;
    }

    /// Failures in a row since the last fresh start.
    pub(super) fn streak(&self) -> u32 {
        self.streak
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff { min: Duration::from_millis(100), max: Duration::from_secs(1) };
    const GIVE_UP: GiveUp = GiveUp { failures: 7, within: Duration::from_secs(60) };

    fn delays(place: &mut Place, served: Duration, times: u64) -> Vec<Option<u128>> {
        (0..times)
            .map(|k| match place.failed(Moment(k), served, BACKOFF, GIVE_UP) {
                Retry::After(delay) => Some(delay.as_millis()),
                Retry::Never { .. } => None,
            })
            .collect()
    }

    #[test]
    fn the_first_start_again_is_at_once_and_then_they_slow_down_and_end() {
        let found = delays(&mut Place::default(), Duration::ZERO, 7);
        assert_eq!(found, [Some(0), Some(100), Some(200), Some(400), Some(800), Some(1000), None]);
    }

    #[test]
    fn a_worker_that_served_steadily_is_started_again_at_once() {
        let found = delays(&mut Place::default(), Duration::from_secs(1), 3);
        assert_eq!(found, [Some(0), Some(0), Some(0)]);
    }

    #[test]
    fn old_failures_do_not_count() {
        let mut place = Place::default();
        for minute in 0..20 {
            let now = Moment(0).after(Duration::from_secs(61 * minute));
            assert!(matches!(place.failed(now, Duration::ZERO, BACKOFF, GIVE_UP), Retry::After(_)));
        }
        assert_eq!(place.failures.len(), 1);
    }
}
