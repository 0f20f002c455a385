//! Everything that can reach the loop through its inbox: the ends of tasks, mostly.

use crate::config::settings::{self, Settings};
use crate::keeper::spec::NotExecuted;
use crate::machine::event::Event;
use crate::units::{Digest, RolloutId, ServiceName, WorkerId};
use crate::wire::api::{Deploy, Refusal, Step};

use super::book::Trigger;
use super::request::Answer;

/// 4 reports per worker × 256 workers. When it is full reporters wait their turn; nothing is lost, and the loop itself
/// never sends here.
pub(crate) const INBOX_BOUND: usize = 1024;

/// Steps that a follower may be behind; one that is further behind is let go and reads the end in the history.
pub(crate) const STEPS_BOUND: usize = 4096;

/// One report.
#[derive(Debug)]
pub(crate) enum Happening {
    /// Something for a service's machine.
    Event(ServiceName, Event),
    /// The worker's program runs, or why it does not.
    Executed(ServiceName, WorkerId, Result<(), NotExecuted>),
    /// A draining worker has this many connections.
    Connections(ServiceName, WorkerId, u32),
    /// An order has its release.
    Prepared(Box<Order>, Result<Prepared, Refusal>),
    /// The configuration was read again.
    Reread(Reread, Result<Box<Settings>, String>),
    /// The watched file of a service settled with this content.
    NewContent(ServiceName, Digest),
    /// What a service that is over held is free.
    Freed,
}

/// Who wants the configuration read again.
#[derive(Debug)]
pub(crate) enum Reread {
    /// SIGHUP: for every service.
    Sighup,
    /// `rollout restart`: for one.
    Restart(Box<Order>),
}

/// Somebody's wish to roll a service, while its release is being prepared.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) service: ServiceName,
    pub(crate) rollout: RolloutId,
    pub(crate) trigger: Trigger,
    pub(crate) wish: Wish,
    /// New configuration to take with it.
    pub(crate) settings: Option<settings::Service>,
    pub(crate) who: Option<String>,
    pub(crate) note: Option<String>,
    /// Whoever follows it.
    pub(crate) answer: Option<Answer<tokio::sync::mpsc::Receiver<Step>>>,
}

/// Which release is wanted.
#[derive(Debug, Clone)]
pub(crate) enum Wish {
    /// This file.
    File(Deploy),
    /// What the configuration's binary or command is now; if the path holds what it held before, the live one.
    Configured,
    /// One that is in the store.
    Stored(Digest),
}

/// A release that may be rolled out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Prepared {
    pub(crate) release: Digest,
    /// In bytes; `None` for what is not in the store.
    pub(crate) size: Option<u64>,
    pub(crate) already: bool,
    /// What the watched path holds, when it was looked at.
    pub(crate) seen: Option<Digest>,
}
