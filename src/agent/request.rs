//! What the control API asks the loop, each question with the way back for its answer.

use tokio::sync::{broadcast, mpsc, oneshot};

use crate::wire::api;

/// An answer, or a refusal after which nothing has changed.
pub type Answer<T> = oneshot::Sender<Result<T, api::Refusal>>;

/// One question.
#[derive(Debug)]
pub enum Request {
    /// Bring the service to something. The answer is the stream of its steps, the last of which is `Ended`.
    Roll {
        /// Which service.
        service: String,
        /// To what.
        roll: Roll,
        /// Who asks.
        who: Peer,
        /// The steps.
        answer: Answer<mpsc::Receiver<api::Step>>,
    },
    /// Steer the rollout that is under way.
    Steer {
        /// Which service.
        service: String,
        /// How.
        steer: Steer,
        /// When it is so.
        answer: Answer<api::Done>,
    },
    /// The journal of a service.
    History {
        /// Which service.
        service: String,
        /// Newest first.
        answer: Answer<api::History>,
    },
    /// Kept and coming output of a service.
    Logs {
        /// Which service.
        service: String,
        /// How many kept lines at most.
        lines: usize,
        /// Only of this slot.
        slot: Option<crate::units::Slot>,
        /// The lines.
        answer: Answer<LogFeed>,
    },
    /// Drain and stop everything and end the agent. Answered when no worker is left.
    Stop {
        /// When it is so.
        answer: Answer<api::Done>,
    },
}

/// What to bring a service to.
#[derive(Debug)]
pub enum Roll {
    /// A file.
    Deploy(api::Deploy),
    /// What the configuration names now.
    Restart(api::Restart),
    /// An earlier release.
    Rollback(api::Rollback),
    /// A number of slots.
    Scale(api::Scale),
}

/// What to do with a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Steer {
    /// Stand still.
    Pause,
    /// Go on.
    Resume,
    /// Go back.
    Abort,
}

/// Who asks, by the kernel's word (`SO_PEERCRED`, unix(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// User.
    pub uid: u32,
    /// Process, for people.
    pub pid: Option<i32>,
}

/// Output of a service: what is kept, and what comes.
#[derive(Debug)]
pub struct LogFeed {
    /// Oldest first.
    pub kept: Vec<api::LogLine>,
    /// Every later line of every slot. A reader that is too slow misses lines and is told how many.
    pub coming: broadcast::Receiver<api::LogLine>,
}
