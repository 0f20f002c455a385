//! The control API: HTTP/1.1 with JSON over a Unix socket.
//!
//! | method and path | body | answer |
//! |---|---|---|
//! | `GET /v1/status` | | [`Status`] |
//! | `GET /v1/status?watch=true` | | a stream: one [`Status`] per line, one at once and one after each change |
//! | `POST /v1/services/{service}/deploy` | [`Deploy`] | a stream of [`Progress`], one per line, that ends with [`Progress::Ended`] |
//! | `POST /v1/services/{service}/restart` | [`Restart`] | the same |
//! | `POST /v1/services/{service}/rollback` | [`Rollback`] | the same |
//! | `POST /v1/services/{service}/scale` | [`Scale`] | the same |
//! | `POST /v1/services/{service}/pause`, `/resume`, `/abort` | | [`Done`] |
//! | `GET /v1/services/{service}/history` | | [`History`] |
//! | `GET /v1/services/{service}/logs?lines=N&slot=S&follow=true` | | a stream of [`LogLine`], one per line |
//! | `POST /v1/stop` | | [`Done`]: everything is stopped |
//!
//! Anything else, and anything that is refused, is answered with a 4xx or 5xx status and a [`Refusal`].

use serde::{Deserialize, Serialize};

use crate::units::{Digest, Generation, RolloutId, Slot};

/// `rollout status --json`. Stable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// By name.
    pub services: Vec<ServiceStatus>,
}

/// One service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceStatus {
    /// Its name.
    pub name: String,
    /// `starting`, `serving`, `rolling`, `degraded`, `failed`, `stopping` or `stopped`.
    pub state: String,
    /// The generation that is live or is becoming live.
    pub generation: Option<Generation>,
    /// Its release.
    pub release: Option<Digest>,
    /// Addresses as they are bound: `0.0.0.0:8080`, `[::]:8080`, `unix:/run/x.sock`, `unix:@name`.
    pub listen: Vec<String>,
    /// By slot, then by age.
    pub workers: Vec<WorkerStatus>,
    /// The rollout that is under way.
    pub rollout: Option<RolloutStatus>,
}

/// One worker, or a slot that waits for one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Its place.
    pub slot: Slot,
    /// `None` while there is no process.
    pub pid: Option<i32>,
    /// `starting`, `ready`, `draining`, `backoff` or `failed`.
    pub state: String,
    /// What it belongs to.
    pub generation: Option<Generation>,
    /// What it runs.
    pub release: Option<Digest>,
    /// Since when it is in this state: RFC 3339, UTC.
    pub since: String,
    /// How often the slot's worker was started again outside a rollout.
    pub restarts: u32,
    /// Established connections, where they are counted (draining workers of TCP services).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<u32>,
}

/// A rollout that is under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutStatus {
    /// Which.
    pub id: RolloutId,
    /// `forward`, `paused` or `back`.
    pub phase: String,
    /// Old release.
    pub from: Option<Digest>,
    /// New release.
    pub to: Digest,
    /// Slots that serve the goal of this phase.
    pub done: u32,
    /// All slots.
    pub slots: u32,
    /// RFC 3339, UTC.
    pub since: String,
    /// Why it stands still or goes back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
}

/// Put a file live.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deploy {
    /// Absolute.
    pub path: String,
    /// Roll even if this release is live or was rejected.
    #[serde(default)]
    pub force: bool,
    /// The file must have this digest.
    #[serde(default)]
    pub sha256: Option<Digest>,
    /// For the history.
    #[serde(default)]
    pub note: Option<String>,
}

/// Re-read the configuration, re-hash the binary, roll every worker.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Restart {
    /// For the history.
    #[serde(default)]
    pub note: Option<String>,
}

/// Roll to an earlier release.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rollback {
    /// A digest or an unambiguous beginning of one; `None`: the release that was live before this one.
    #[serde(default)]
    pub release: Option<String>,
    /// For the history.
    #[serde(default)]
    pub note: Option<String>,
}

/// Change the number of slots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scale {
    /// At least 1.
    pub workers: u32,
}

/// What was asked is true now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// One line for a person.
    pub said: String,
}

/// What was asked was refused; nothing changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// A lower-case sentence that names the object, the cause and what to do next.
    pub error: String,
    /// The exit code a command should end with.
    pub exit: u8,
}

/// One step of a rollout. On the wire: `{"at":"2026-…","event":"ready","slot":1,…}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// RFC 3339, UTC, milliseconds.
    pub at: String,
    /// What happened.
    #[serde(flatten)]
    pub progress: Progress,
}

/// What happened in a rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Progress {
    /// The file is in the store.
    Stored {
        /// Its name.
        release: Digest,
        /// Bytes.
        size: u64,
        /// It was there before.
        already: bool,
    },
    /// Another rollout of this service is under way; this one comes next.
    Queued {
        /// This one.
        rollout: RolloutId,
        /// What it waits for.
        behind: RolloutId,
    },
    /// The rollout began.
    Began {
        /// Which.
        rollout: RolloutId,
        /// Counts them.
        generation: Generation,
        /// New release.
        release: Digest,
        /// Old release.
        from: Option<Digest>,
        /// How many slots.
        slots: u32,
    },
    /// A worker is being started.
    Starting {
        /// Where.
        slot: Slot,
        /// `w17`.
        worker: String,
        /// What it runs.
        release: Digest,
    },
    /// A worker is ready and admitted.
    Ready {
        /// Where.
        slot: Slot,
        /// `w17`.
        worker: String,
        /// From its start to its first passed check.
        took_ms: u64,
    },
    /// A worker is excluded and drains.
    Draining {
        /// Where it was.
        slot: Slot,
        /// `w17`.
        worker: String,
        /// Its established connections, where they are counted. Sent again when the number changes.
        connections: Option<u32>,
    },
    /// A worker that was told to go is gone.
    Gone {
        /// Where it was.
        slot: Slot,
        /// `w17`.
        worker: String,
        /// Since it was told.
        took_ms: u64,
        /// `exit code 0`.
        how: String,
    },
    /// A worker is no good.
    Failed {
        /// Where.
        slot: Slot,
        /// `w17`.
        worker: String,
        /// Why.
        why: String,
        /// Its last output lines.
        output: Vec<String>,
    },
    /// The rollout is being taken back.
    RollingBack {
        /// Why.
        why: String,
    },
    /// The rollout stands still.
    Paused {
        /// Why.
        why: String,
    },
    /// The rollout goes on.
    Resumed,
    /// The end. Nothing follows.
    Ended(Report),
}

/// How it ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Which; `None` when no rollout was needed.
    pub rollout: Option<RolloutId>,
    /// The service.
    pub service: String,
    /// In one word.
    pub outcome: Outcome,
    /// What is live now, as far as every slot agrees.
    pub release: Option<Digest>,
    /// One line for a person.
    pub said: String,
    /// What failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// From its beginning to its end.
    pub took_ms: u64,
    /// The exit code a command should end with.
    pub exit: u8,
}

/// The end in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Every slot serves what was asked.
    Done,
    /// It was live already; nothing was done.
    AlreadyLive,
    /// Failed; every slot is back on the old release.
    RolledBack,
    /// Failed and needs a person: paused, or the way back failed.
    NeedsPerson,
    /// A newer request took its place.
    Superseded,
    /// The service was stopped.
    Stopped,
}

/// Which worker was no good and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Where.
    pub slot: Slot,
    /// `w17`.
    pub worker: String,
    /// Why.
    pub why: String,
    /// Its last output lines.
    pub output: Vec<String>,
}

/// What happened to a service, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// One per rollout that ended.
    pub entries: Vec<Entry>,
}

/// One rollout in the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Which.
    pub rollout: RolloutId,
    /// `None` if it never began.
    pub generation: Option<Generation>,
    /// RFC 3339, UTC: when it was asked for.
    pub at: String,
    /// `start`, `deploy`, `restart`, `sighup`, `watch`, `rollback`.
    pub trigger: String,
    /// New release.
    pub release: Digest,
    /// Old release.
    pub from: Option<Digest>,
    /// How it ended.
    pub outcome: Outcome,
    /// Duration.
    pub took_ms: u64,
    /// Who asked: `uid 1000`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub who: Option<String>,
    /// What they noted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// What failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
}

/// One line of worker output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// RFC 3339, UTC, milliseconds.
    pub at: String,
    /// Whose.
    pub slot: Slot,
    /// `w17`.
    pub worker: String,
    /// Without its newline; not UTF-8: replaced.
    pub line: String,
}
