//! Rules of `readiness` and `liveness`.

use std::time::Duration;

use crate::config::problem::{At, Problems};
use crate::config::raw;
use crate::config::read::{Field, List, Statuses, Switchable, Text};
use crate::config::settings::{Address, Check, Health, Listen, Mode, Pace};

use super::{at_least_one, limits, positive, words};

/// Soon enough that a rollout does not wait for it, seldom enough that a hundred warming workers do not notice.
const READINESS_INTERVAL: Duration = Duration::from_millis(100);
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);
const LIVENESS_INTERVAL: Duration = Duration::from_secs(10);
const LIVENESS_FAILURES: u32 = 3;
const HUNG_AFTER: Duration = Duration::from_secs(5);

pub(super) fn check(raw: &raw::Service, at: &At, listen: &[Listen], problems: &mut Problems<'_>) -> Health {
    let usual = raw::Readiness::default();
    let (readiness, at) = raw.readiness.given().unwrap_or((&usual, at));
    let check = what(readiness, at, problems);
    // A listener that could not be read may be the one.
    let is_whole = raw.listen.value().map_or(raw.listen.is_absent(), |list| list.written == listen.len());
    if !raw.readiness.is_bad() && is_whole {
        reachable(&check, listen, at, problems);
    }
    fitting(readiness, &check, problems);
    let pace = Pace {
        interval: positive(&readiness.interval, READINESS_INTERVAL, problems),
        timeout: positive(&readiness.probe_timeout, LOOK_TIMEOUT, problems),
        successes: at_least_one(&readiness.successes, 1, problems),
        // A replacement that fails one look while it has to prove itself has not proved itself.
        failures: 1,
    };
    in_time(readiness, &check, pace, problems);
    let (liveness, hung_after) = liveness(&raw.liveness, &check, problems);
    Health { check, readiness: pace, liveness, hung_after }
}

/// Exactly one kind of look.
fn what(raw: &raw::Readiness, at: &At, problems: &mut Problems<'_>) -> Check {
    let given: Vec<&str> = [
        ("accept", !raw.accept.is_absent()),
        ("http", !raw.http.is_absent()),
        ("notify", !raw.notify.is_absent()),
        ("exec", !raw.exec.is_absent()),
        ("alive_for", !raw.alive_for.is_absent()),
    ]
    .into_iter()
    .filter_map(|(name, is_given)| is_given.then_some(name))
    .collect();
    if given.len() > 1 {
        problems.add(at, format!("{} exclude each other: keep one", given.join(" and ")));
    }
    match given.first() {
        Some(&"http") => http(raw, problems),
        Some(&"notify") => Check::Notify,
        Some(&"exec") => Check::Exec { command: words(&raw.exec, problems).unwrap_or_default() },
        Some(&"alive_for") => Check::AliveFor { time: positive(&raw.alive_for, LOOK_TIMEOUT, problems) },
        Some(_) | None => Check::Accept,
    }
}

fn http(raw: &raw::Readiness, problems: &mut Problems<'_>) -> Check {
    let text = |field: &Field<Text>, usual: &str| field.value().map_or_else(|| usual.to_owned(), |text| text.0.clone());
    let (path, host) = (text(&raw.http, "/"), text(&raw.host, "localhost"));
    if let Some((_, at)) = raw.http.given()
        && !(path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_graphic()))
    {
        problems.add(at, "not a path of a URL: begin with '/', and write other characters than ASCII as %XX");
    }
    if let Some((_, at)) = raw.host.given()
        && (host.is_empty() || !host.bytes().all(|byte| byte.is_ascii_graphic()))
    {
        problems.add(at, "not a Host header: write a name like example.org");
    }
    if let Some((List { written: 0, .. }, at)) = raw.expect.given() {
        problems.add(at, "no status is good: write [200-399], or remove the key");
    }
    let expect = match raw.expect.given() {
        Some((List { good, .. }, _)) if !good.is_empty() => {
            good.iter().map(|(Statuses(low, high), _)| (*low, *high)).collect()
        }
        _ => vec![(200, 399)],
    };
    Check::Http { path, host, expect }
}

/// A look that goes through a worker's own lane needs one.
fn reachable(check: &Check, listen: &[Listen], at: &At, problems: &mut Problems<'_>) {
    let kind = match check {
        Check::Accept => "accept",
        Check::Http { .. } => "http",
        Check::Notify | Check::Exec { .. } | Check::AliveFor { .. } => return,
    };
    let has_lane = |one: &Listen| matches!((&one.address, one.mode), (Address::Tcp { .. }, Mode::Steered));
    if listen.iter().any(has_lane) {
        return;
    }
    let why = match listen {
        [] => "and there is no listener: add one with listen",
        _ => "and neither a Unix socket nor a shared one leads to one certain worker: add a steered TCP listener",
    };
    let message =
        format!("readiness {kind} connects to each worker, {why}, or choose readiness notify, exec or alive_for");
    problems.add(at, message);
}

/// Keys that would have no effect are refused: their writer expects one.
fn fitting(raw: &raw::Readiness, check: &Check, problems: &mut Problems<'_>) {
    let mut refuse = |at: Option<&At>, message: &str| {
        if let Some(at) = at {
            problems.add(at, message);
        }
    };
    if !matches!(check, Check::Http { .. }) {
        let message = "only http has this: remove it, or write http: /path beside it";
        refuse(raw.host.at(), message);
        refuse(raw.expect.at(), message);
    }
    if matches!(check, Check::Notify | Check::AliveFor { .. }) {
        let message = "has no effect here: only accept, http and exec look at a worker again and again";
        refuse(raw.interval.at(), message);
        refuse(raw.probe_timeout.at(), message);
        refuse(raw.successes.at(), message);
    }
}

/// A worker must be able to become ready before its time is up.
fn in_time(raw: &raw::Readiness, check: &Check, pace: Pace, problems: &mut Problems<'_>) {
    let timeout = limits::ready_timeout(raw);
    let needed = match check {
        Check::AliveFor { time } => *time,
        Check::Accept | Check::Http { .. } | Check::Exec { .. } => {
            pace.interval.saturating_mul(pace.successes.saturating_sub(1))
        }
        Check::Notify => Duration::ZERO,
    };
    if timeout.is_zero() || needed < timeout {
        return;
    }
    let places = [raw.timeout.at(), raw.alive_for.at(), raw.successes.at(), raw.interval.at()];
    if let Some(at) = places.into_iter().flatten().next() {
        let message =
            format!("no worker can be ready in time: it needs {needed:?} and readiness.timeout is {timeout:?}");
        problems.add(at, message);
    }
}

fn liveness(
    field: &Field<Switchable<raw::Liveness>>,
    check: &Check,
    problems: &mut Problems<'_>,
) -> (Option<Pace>, Duration) {
    let usual = raw::Liveness::default();
    let mut is_on = matches!(check, Check::Http { .. } | Check::Exec { .. });
    let raw = match field.given() {
        None => &usual,
        Some((Switchable::Off, _)) => return (None, HUNG_AFTER),
        Some((Switchable::On(raw), at)) => {
            // `hung_after` alone is about queues, not about looks.
            let asks = raw.hung_after.is_absent()
                || !(raw.interval.is_absent() && raw.timeout.is_absent() && raw.failures.is_absent());
            if asks && matches!(check, Check::Notify | Check::AliveFor { .. }) {
                problems.add(
                    at,
                    "readiness notify and alive_for say nothing about a worker that is ready: \
                                  remove liveness, or choose readiness http, exec or accept",
                );
            }
            is_on |= asks;
            raw
        }
    };
    let pace = Pace {
        interval: positive(&raw.interval, LIVENESS_INTERVAL, problems),
        timeout: positive(&raw.timeout, LOOK_TIMEOUT, problems),
        successes: 1,
        failures: at_least_one(&raw.failures, LIVENESS_FAILURES, problems),
    };
    (is_on.then_some(pace), positive(&raw.hung_after, HUNG_AFTER, problems))
}
