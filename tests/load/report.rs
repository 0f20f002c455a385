//! What happened, by kind of traffic.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::histogram::Histogram;

/// A kind of traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    /// A new connection for each request.
    Fresh,
    /// A kept connection.
    Kept,
    /// A kept connection, 20 ms away.
    Far,
    /// Two seconds until the answer.
    Slow,
    /// A body that takes its time.
    Upload,
    /// An answer that takes its time.
    Stream,
}

/// What went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Class {
    /// Nobody listens.
    Refused,
    /// No connection in time.
    ConnectTimeout,
    /// The connection was reset before the first byte of an answer.
    Reset,
    /// The connection was closed before the first byte of an answer.
    Eof,
    /// The connection was closed or reset in the middle of an answer.
    Cut,
    /// No whole answer in time.
    Timeout,
    /// An answer with another status than 200.
    BadStatus,
    /// An answer that is not what was asked for.
    BadBody,
    /// Anything else; the detail says what.
    Other,
}

/// A request that failed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Failure {
    pub(crate) class: Class,
    pub(crate) detail: String,
}

/// A failure to look at.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Detail {
    /// Since the client's start.
    pub(crate) at_ms: u64,
    pub(crate) class: Class,
    pub(crate) detail: String,
}

/// One kind of traffic.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Tally {
    /// Requests begun.
    pub(crate) sent: u64,
    /// Answered as they should.
    pub(crate) ok: u64,
    /// By class.
    pub(crate) failures: BTreeMap<Class, u64>,
    /// The first few.
    pub(crate) details: Vec<Detail>,
    /// Kept connections that the server closed while the client could see it: no failures.
    pub(crate) closed_idle: u64,
    /// Of the good answers, from the moment at which the request (or its connection) set out.
    pub(crate) latency: Histogram,
}

/// Everything.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Report {
    /// Until the last answer.
    pub(crate) seconds: f64,
    /// By kind.
    pub(crate) kinds: BTreeMap<Kind, Tally>,
    /// Good answers, by the version that gave them.
    pub(crate) versions: BTreeMap<String, u64>,
}

/// More say nothing new and a report must stay readable.
const DETAILS: usize = 10;

impl Report {
    /// Requests begun.
    pub(crate) fn sent(&self) -> u64 {
        self.kinds.values().map(|tally| tally.sent).sum()
    }

    /// Requests answered as they should.
    pub(crate) fn ok(&self) -> u64 {
        self.kinds.values().map(|tally| tally.ok).sum()
    }

    /// Requests that failed, whatever way.
    pub(crate) fn failures(&self) -> u64 {
        self.kinds.values().flat_map(|tally| tally.failures.values()).sum()
    }

    /// Requests that failed this way.
    pub(crate) fn failures_of(&self, class: Class) -> u64 {
        self.kinds.values().filter_map(|tally| tally.failures.get(&class)).sum()
    }

    /// Of all kinds that are meant to be answered at once and are not far away.
    pub(crate) fn latency(&self) -> Histogram {
        let mut all = Histogram::default();
        for (kind, tally) in &self.kinds {
            if matches!(kind, Kind::Fresh | Kind::Kept) {
                all.merge(&tally.latency);
            }
        }
        all
    }

    /// Adds another client's.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.seconds = self.seconds.max(other.seconds);
        for (kind, theirs) in &other.kinds {
            let ours = self.kinds.entry(*kind).or_default();
            ours.sent += theirs.sent;
            ours.ok += theirs.ok;
            ours.closed_idle += theirs.closed_idle;
            ours.latency.merge(&theirs.latency);
            for (class, count) in &theirs.failures {
                *ours.failures.entry(*class).or_default() += count;
            }
            let room = DETAILS.saturating_sub(ours.details.len());
            ours.details.extend(theirs.details.iter().take(room).cloned());
        }
        for (version, count) in &other.versions {
            *self.versions.entry(version.clone()).or_default() += count;
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} requests in {:.1} s: {} failed", self.sent(), self.seconds, self.failures())?;
        writeln!(f, "  kind        sent       ok   failed       p50       p99       max")?;
        for (kind, tally) in &self.kinds {
            let kind = format!("{kind:?}").to_lowercase();
            let failed: u64 = tally.failures.values().sum();
            let [p50, p99, max] = [tally.latency.quantile(500), tally.latency.quantile(990), tally.latency.max()]
                .map(|latency| format!("{:.1} ms", latency.as_secs_f64() * 1000.0));
            writeln!(f, "  {kind:<7} {:>8} {:>8} {failed:>8} {p50:>9} {p99:>9} {max:>9}", tally.sent, tally.ok)?;
            for (class, count) in &tally.failures {
                writeln!(f, "    {class:?}: {count}")?;
            }
            for Detail { at_ms, class, detail } in &tally.details {
                writeln!(f, "    at {at_ms} ms: {class:?}: {detail}")?;
            }
        }
        write!(f, "  answered by")?;
        for (version, count) in &self.versions {
            write!(f, " {version} ({count})")?;
        }
        Ok(())
    }
}

/// A report that is being written.
#[derive(Debug)]
pub(crate) struct Recorder {
    started: Instant,
    report: Mutex<Report>,
    changed: Condvar,
}

impl Default for Recorder {
    fn default() -> Self {
        Self { started: Instant::now(), report: Mutex::default(), changed: Condvar::new() }
    }
}

impl Recorder {
    /// A request begins.
    pub(crate) fn sent(&self, kind: Kind) {
        self.change(|report, _| report.kinds.entry(kind).or_default().sent += 1);
    }

    /// A request that began then has ended, with the version that answered it.
    pub(crate) fn ended(&self, kind: Kind, begin: Instant, end: Result<String, Failure>) {
        self.change(|report, at_ms| {
            let tally = report.kinds.entry(kind).or_default();
            match end {
                Ok(version) => {
                    tally.ok += 1;
                    tally.latency.add(begin.elapsed());
                    *report.versions.entry(version).or_default() += 1;
                }
                Err(Failure { class, detail }) => {
                    *tally.failures.entry(class).or_default() += 1;
                    if tally.details.len() < DETAILS {
                        tally.details.push(Detail { at_ms, class, detail });
                    }
                }
            }
        });
    }

    /// The server closed a kept connection, and the client saw it in time.
    pub(crate) fn closed_idle(&self, kind: Kind) {
        self.change(|report, _| report.kinds.entry(kind).or_default().closed_idle += 1);
    }

    /// A copy.
    pub(crate) fn report(&self) -> Report {
        self.lock().clone()
    }

    /// See [`super::Running::wait_until`].
    pub(crate) fn wait_until(&self, limit: Duration, mut enough: impl FnMut(&Report) -> bool) -> bool {
        let (report, _) = self
            .changed
            .wait_timeout_while(self.lock(), limit, |report| !enough(report))
            .unwrap_or_else(PoisonError::into_inner);
        enough(&report)
    }

    fn change(&self, change: impl FnOnce(&mut Report, u64)) {
        let since_start = self.started.elapsed();
        let mut report = self.lock();
        report.seconds = since_start.as_secs_f64();
        change(&mut report, u64::try_from(since_start.as_millis()).unwrap_or(u64::MAX));
        drop(report);
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Report> {
        // Every change is a few additions: none of them can leave half a report behind.
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
