//! Who has which lane and which listeners: the rows of the table.

use super::listener::Listener;
use super::report::Standing;
use crate::units::{LaneIndex, Moment, WorkerId};

/// A listener and whether new workers get it.
#[derive(Debug)]
pub(super) struct Entry {
    pub listener: Listener,
    pub tenure: Tenure,
}

/// Whether new workers get a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tenure {
    /// They do.
    Configured,
    /// It goes when the last worker that has it goes.
    Retired,
}

/// Who has a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Occupant {
    /// Perhaps a worker that this agent has not heard of yet.
    Unclaimed,
    /// Nobody, after this one.
    Vacant(Option<WorkerId>),
    /// A worker.
    Worker(WorkerId),
}

/// A worker's side of it.
#[derive(Debug)]
pub(super) struct Tenant {
    pub lane: Option<LaneIndex>,
    pub standing: Standing,
    /// What it was given: a listener that was added later is not among them.
    pub listeners: Vec<String>,
    /// Since when something waits in its lane without interruption.
    pub waiting_since: Option<Moment>,
}

impl Tenant {
    pub(super) fn has(&self, listener: &str) -> bool {
        self.listeners.iter().any(|name| name == listener)
    }
}
