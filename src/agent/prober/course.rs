//! Looks at one worker: until it passes, while it must stay so, and from then on.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout_at};

use super::watches::{Finding, Reporter, Stage};
use super::{accept, exec, http};
use crate::agent::route::Route;
use crate::config::settings::{Check, Pace};
use crate::machine::event::Symptom;
use crate::machine::verdict::{Look, Patience, Tally, Verdict};
use crate::sys::clock;
use crate::units::Moment;

/// The task that looks at one worker.
pub(super) struct Course {
    pub(super) glance: Glance,
    pub(super) routes: Vec<Route>,
    pub(super) cwd: PathBuf,
    pub(super) readiness: Pace,
    pub(super) liveness: Option<Pace>,
    pub(super) min_ready: Duration,
    pub(super) hung_after: Duration,
    pub(super) started: Moment,
    pub(super) stage: Stage,
    pub(super) suspicion: Arc<Notify>,
    pub(super) reporter: Reporter,
}

/// How long before the end of `min_ready` the last word on it is said; a fifth of it if that is less.
const HEAD_START: Duration = Duration::from_millis(250);

/// What one look is.
pub(super) enum Glance {
    Accept,
    Http(http::Question),
    Exec(exec::Errand),
    /// There is nothing to look at: the worker speaks for itself.
    Notify,
    /// There is nothing to look at: time passes.
    AliveFor(Duration),
}

/// A passed worker's health as it was last reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    Good,
    Sick,
}

/// A good worker on a busy host may take this long to answer, however short `min_ready` is. In a window shorter than
/// this a hang cannot be told from that.
const SHORTEST_LOOK: Duration = Duration::from_millis(500);

impl Glance {
    /// What a look is for this check; `env` is for its command.
    pub(super) fn new(check: &Check, env: Vec<(String, String)>) -> Self {
        match check {
            Check::Accept => Self::Accept,
            Check::Http { path, host, expect } => {
                Self::Http(http::Question { path: path.clone(), host: host.clone(), expect: expect.clone() })
            }
            Check::Notify => Self::Notify,
            Check::Exec { command } => Self::Exec(exec::Errand { command: command.clone(), env }),
            Check::AliveFor { time } => Self::AliveFor(*time),
        }
    }
}

impl Course {
    /// Looks until it is aborted. Sleeps without a timer where there is nothing to look at.
    pub(super) async fn run(self) {
        match (&self.glance, self.stage) {
            (Glance::Accept | Glance::Http(_) | Glance::Exec(_), stage) => {
                let standing = match stage {
                    Stage::Starting => {
                        let usual = self.warm().await;
                        self.reporter.report(Finding::Passed).await;
                        self.prove(usual).await
                    }
                    Stage::Ready => Standing::Good,
                };
                self.steady(standing).await;
            }
            (Glance::AliveFor(time), Stage::Starting) => {
                sleep(clock::until(self.started.after(*time))).await;
                self.reporter.report(Finding::Passed).await;
            }
            (Glance::AliveFor(_), Stage::Ready) | (Glance::Notify, _) => {}
        }
        loop {
            self.suspicion.notified().await;
            self.look_into_suspicion().await;
        }
    }

    /// Returns when the worker has passed, with the time that a good look takes.
    async fn warm(&self) -> Duration {
        let mut tally = Tally::new(self.readiness.successes, Patience::Endless);
        let mut fastest = Duration::MAX;
        let mut good_looks = 0;
        let mut said = None;
        loop {
            let began = Instant::now();
            let look = self.look(self.readiness.timeout).await;
            match &look {
                Look::Good => {
                    good_looks += 1;
                    fastest = fastest.min(began.elapsed());
                }
                Look::Bad(how) if said.as_ref() != Some(how) => {
                    said = Some(how.clone());
                    self.reporter.report(Finding::NotYet(how.clone())).await;
                }
                Look::Bad(_) => {}
            }
            if tally.count(look) == Verdict::Pass {
                // The first good look may have waited for the program to begin. If it was slow, a second one, at once, tells
                // a slow start from a slow answer: `prove` must know how long an answer takes.
                if good_looks > 1 || fastest <= self.min_ready / 2 || self.min_ready.is_zero() {
                    return fastest;
                }
            } else {
                sleep(self.readiness.interval).await;
            }
        }
    }

    /// Looks on at the same pace for `min_ready`, after which the machine admits the worker unless it was reported sick.
    ///
    /// A hang shows as a look that does not end, and the window may be shorter than the look's timeout: so here a look gets
    /// half of the window (or twice the time that a good one takes, or [`SHORTEST_LOOK`]), and the window must not end on
    /// a bad one.
    async fn prove(&self, usual: Duration) -> Standing {
        if self.min_ready.is_zero() {
            return Standing::Good;
        }
        // Less than `min_ready`, so that the report is there before the machine's own timer on a busy host, too.
        let end = Instant::now() + self.min_ready.saturating_sub(HEAD_START.min(self.min_ready / 5));
        let patience = (self.min_ready / 2).max(usual.saturating_mul(2)).max(SHORTEST_LOOK);
        let limit = self.readiness.timeout.min(patience);
        let mut tally = Tally::new(self.readiness.successes, Patience::Looks(self.readiness.failures));
        let mut last = Look::Good;
        // A look that the end of the window cuts off says nothing.
        while let Ok(look) = timeout_at(end, self.look(limit)).await {
            last = look.clone();
            if let Verdict::Fail(how) = tally.count(look) {
                self.report_sick(how).await;
                return Standing::Sick;
            }
            if timeout_at(end, sleep(self.readiness.interval)).await.is_err() {
                break;
            }
        }
        match last {
            Look::Good => Standing::Good,
            Look::Bad(how) => {
                self.report_sick(how).await;
                Standing::Sick
            }
        }
    }

    /// Looks at liveness pace. Returns only where liveness is off.
    async fn steady(&self, mut standing: Standing) {
        let Some(pace) = self.liveness else { return };
        let mut tally = Tally::new(pace.successes, Patience::Looks(pace.failures));
        loop {
            tokio::select! {
                biased;
                () = self.suspicion.notified() => self.look_into_suspicion().await,
                () = sleep(pace.interval) => match tally.count(self.look(pace.timeout).await) {
                    Verdict::Undecided => {}
                    Verdict::Pass => standing = Standing::Good,
                    Verdict::Fail(how) => {
                        if standing == Standing::Good {
                            self.report_sick(how).await;
                        }
                        standing = Standing::Sick;
                    }
                },
            }
        }
    }

    async fn look_into_suspicion(&self) {
        let limit = self.liveness.unwrap_or(self.readiness).timeout;
        let look = match &self.glance {
            Glance::Http(question) => http::look(question, &self.routes, limit).await,
            // Whatever makes the worker ready, the suspicion is about its lane.
            Glance::Accept | Glance::Exec(_) | Glance::Notify | Glance::AliveFor(_) => {
                accept::look(&self.routes, limit).await
            }
        };
        if let Look::Bad(how) = look {
            tracing::warn!(service = %self.reporter.service, worker = %self.reporter.worker, how, "the worker hangs");
            self.reporter.report(Finding::Sick(Symptom::Hung(self.hung_after))).await;
        }
    }

    async fn look(&self, limit: Duration) -> Look {
        match &self.glance {
            Glance::Accept => accept::look(&self.routes, limit).await,
            Glance::Http(question) => http::look(question, &self.routes, limit).await,
            Glance::Exec(errand) => exec::look(errand, &self.cwd, limit).await,
            Glance::Notify | Glance::AliveFor(_) => Look::Good,
        }
    }

    async fn report_sick(&self, how: String) {
        self.reporter.report(Finding::Sick(Symptom::Unhealthy(how))).await;
    }
}
