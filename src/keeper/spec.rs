//! What the shim is told about the worker that it becomes, and what it says when it cannot.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// One worker's specification. Sent as JSON in a memfd: the first fd of the one packet that waits on the shim's standard
/// input. The second fd becomes the worker's stdout and stderr; the rest become fds 3, 4, … in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// Program (searched in the `PATH` of `env` when it has no `/`) and arguments; at least one.
    pub command: Vec<String>,
    /// The whole environment. The shim adds `LISTEN_PID` when there is a `LISTEN_FDS`.
    pub env: Vec<(String, String)>,
    /// Working directory.
    pub cwd: PathBuf,
    /// How many fds follow from 3 on.
    pub listen_fds: usize,
    /// The soft RLIMIT_NOFILE that the agent found when it started; `None`: leave as it is.
    pub open_files: Option<u64>,
    /// Whether the keeper answers its calls of `bind`.
    pub filter: Filter,
}

/// Whether a worker's calls of `bind`, `listen` and `shutdown` are answered by the keeper.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// They go to the kernel.
    None,
    /// They are answered if this host can do it.
    IfPossible,
    /// They are answered, or the worker does not start.
    Required,
}

/// Why the worker's program does not run: a packet of JSON on the socket that was the shim's standard input. End of file
/// without one means that `execve` succeeded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{step}: {cause}")]
pub struct NotExecuted {
    /// What was tried, with its object: `start /srv/web`, `enter /srv`.
    pub step: String,
    /// The system's word on it.
    pub cause: String,
}
