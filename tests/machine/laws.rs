//! The promises by name, so that a test can say which one was broken.

use std::fmt;

/// One promise. The comment is what the checker looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Law {
    /// What the world runs is what the machine knows, each worker once, at most two of them in a slot.
    NoGhost,
    /// Nobody is admitted who did not pass and stay well for `min_ready`; who leaves or was never proved has no client;
    /// a slot that may not be empty gets its replacement admitted before the old worker is taken away.
    ReadyFirst,
    /// ready ≥ N − `max_unavailable`, less the slots that crashed, sickened or never served; and the machine itself takes
    /// nobody away below N − `max_unavailable`, whatever crashed.
    Capacity,
    /// No start beside a fit worker lifts (fit + coming, an empty slot counted as one) over N + `max_surge`.
    Surge,
    /// At most `max_draining` workers that a rollout itself replaced drain at once.
    Draining,
    /// Whatever is not steady has a deadline, and nobody outstays the sum of them.
    Deadline,
    /// Each request ends exactly once and the end is the truth.
    OneEnd,
    /// Worker ids and generations are never used twice.
    NoReuse,
    /// Whatever a crash of the agent left undone, `again` does, and nothing else.
    Again,
    /// In a kind world everything comes to rest: every slot serves or was given up, nobody leaves, nothing rolls.
    Liveness,
    /// A step says a bounded number of things and time alone does not go round in circles.
    Bounded,
    /// One rollout at a time, one request waiting, and it is the newest.
    OneRollout,
}

/// A broken promise.
#[derive(Debug, Clone)]
pub(crate) struct Violation {
    pub(crate) law: Law,
    pub(crate) what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.law, self.what)
    }
}

/// `Err` unless it holds.
pub(crate) fn hold(holds: bool, law: Law, what: impl FnOnce() -> String) -> Result<(), Violation> {
    if holds { Ok(()) } else { Err(Violation { law, what: what() }) }
}
