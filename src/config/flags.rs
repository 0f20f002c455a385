//! What `rollout run` without a file is told. A stand-in.

use std::path::PathBuf;

/// The flags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flags {
    /// The service's name.
    pub name: Option<String>,
    /// Entries of `listen:`.
    pub listen: Vec<String>,
    /// `auto` or a number.
    pub workers: Option<String>,
    /// `accept`, `notify`, `http:/path` …
    pub readiness: Option<String>,
    /// `K=V`.
    pub env: Vec<String>,
    /// Working directory.
    pub cwd: Option<PathBuf>,
    /// Program and arguments.
    pub command: Vec<String>,
}
