//! The checked numbers that the machine obeys. Built by `config/`, never by hand.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Each worker has a lane, lanes of draining generations are extra, and a lane's number has 16 bits.
pub const MOST_WORKERS: u32 = 4096;

/// Everything about one service that is a number or a choice between rules.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Limits {
    /// N: how many slots. At least 1.
    pub workers: u32,
    /// How many workers above N a rollout may run (serving or warming; leavers do not count).
    pub max_surge: u32,
    /// How many slots below N may serve during a rollout. `max_surge + max_unavailable` is at least 1.
    pub max_unavailable: u32,
    /// How long a worker must stay ready before it is admitted.
    pub min_ready: Duration,
    /// How long an admitted replacement serves beside its predecessor.
    pub hold: Duration,
    /// How many old workers of one rollout may be draining at once. At least 1.
    pub max_draining: u32,
    /// What a failed rollout does.
    pub on_failure: OnFailure,
    /// How long a worker may take from its start until it is ready.
    pub ready_timeout: Duration,
    /// How long an excluded lane may take to empty before the worker is told to stop anyway.
    pub settle: Duration,
    /// How long a worker that is told nothing may go on serving the connections it has.
    pub linger: Linger,
    /// From the stop signal to SIGKILL.
    pub drain_timeout: Duration,
    /// How many generations may be draining at once; the oldest is killed beyond that. At least 1.
    pub max_generations: u32,
    /// Delays between the starts of a worker that keeps dying.
    pub backoff: Backoff,
    /// When to stop trying.
    pub give_up: GiveUp,
}

/// What a failed rollout does with the slots it has already replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// Bring them back to the old release, ready first.
    Rollback,
    /// Leave everything as it is until a person says `resume` or `abort`.
    Pause,
}

/// How long to linger before the stop signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Linger {
    /// Not at all where the program catches the stop signal, 10 s where it does not.
    Auto,
    /// This long, or until its connections are gone.
    For(Duration),
}

/// Delay before start number k of a worker that keeps dying: `min`, doubled k times, at most `max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Backoff {
    /// The first delay.
    pub min: Duration,
    /// The longest delay. Not less than `min`.
    pub max: Duration,
}

/// A slot whose worker died `failures` times `within` this time is left alone until a person or a rollout comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct GiveUp {
    /// At least 1.
    pub failures: u32,
    /// The window that slides over the failures.
    pub within: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            workers: 1,
            max_surge: 1,
            max_unavailable: 0,
            min_ready: Duration::from_secs(1),
            hold: Duration::ZERO,
            max_draining: 1,
            on_failure: OnFailure::Rollback,
            ready_timeout: Duration::from_secs(30),
            settle: Duration::from_secs(1),
            linger: Linger::Auto,
            drain_timeout: Duration::from_secs(30),
            max_generations: 4,
            backoff: Backoff { min: Duration::from_millis(100), max: Duration::from_secs(30) },
            give_up: GiveUp { failures: 10, within: Duration::from_secs(60) },
        }
    }
}
