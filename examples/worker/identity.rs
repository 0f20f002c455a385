//! Who answers: `version slot pid worker`.

use std::env;
use std::fmt;

/// One worker. A dash stands for what is not known because no agent started it.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    version: String,
    slot: String,
    pid: u32,
    worker: String,
}

impl Identity {
    /// From the environment that the agent gives its workers.
    pub(crate) fn of_this_process(version: String) -> Self {
        let or_dash = |name| env::var(name).unwrap_or_else(|_| "-".to_owned());
        Self { version, slot: or_dash("ROLLOUT_SLOT"), pid: std::process::id(), worker: or_dash("ROLLOUT_WORKER") }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, slot, pid, worker } = self;
        write!(f, "{version} {slot} {pid} {worker}")
    }
}
