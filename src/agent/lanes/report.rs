//! What the loop is told about lanes.

use std::io;
use std::os::fd::OwnedFd;

use crate::sys::listener::{self, ListenerError};
use crate::units::{LaneIndex, WorkerId};

/// A new socket, for the keeper to hold.
#[derive(Debug)]
pub struct Made {
    /// Under this name.
    pub keeper_name: String,
    /// A duplicate.
    pub fd: OwnedFd,
}

/// Everything a new worker is given.
#[derive(Debug)]
pub struct Assigned {
    /// Its lane; `None` if the service has no steered listener.
    pub lane: Option<LaneIndex>,
    /// Listener name and socket, in the order of the configuration.
    pub fds: Vec<(String, OwnedFd)>,
    /// To be `Put` before the worker is started.
    pub made: Vec<Made>,
    /// What was found and undone since the last report.
    pub damage: Vec<Damage>,
}

/// What a program did to a socket that it was lent. It has been undone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Which listener.
    pub listener: String,
    /// What.
    pub what: What,
    /// Who had the lane; `None` if that is not known, or if all workers have the socket.
    pub by: Option<WorkerId>,
}

/// Kinds of damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum What {
    /// `shutdown(2)`: connections that waited in the lane were reset. A program should close its listener instead.
    #[error(
        "it called shutdown() on its listening socket instead of closing it; connections that waited there were reset"
    )]
    Closed,
    /// `listen(2)` with a small backlog.
    #[error("it shortened the queue of its listening socket to {0}; raise the backlog in the program's listen()")]
    Backlog(u32),
    /// `O_NONBLOCK`: usual for event loops, worth no more than a line for the curious.
    #[error("it left its listening socket non-blocking")]
    NonBlocking,
    /// More lanes were shut down at once than there is reserve for: the program may steer to wrong lanes.
    #[error(
        "too many listening sockets were shut down at once; the order of lanes is lost: stop and start the service"
    )]
    OrderLost,
}

impl From<listener::Damage> for What {
    fn from(damage: listener::Damage) -> Self {
        match damage {
            listener::Damage::Closed => Self::Closed,
            listener::Damage::Backlog { found } => Self::Backlog(found),
            listener::Damage::NonBlocking => Self::NonBlocking,
        }
    }
}

/// How a worker stands with new connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Not admitted, or no longer: only marked connections reach it.
    Excluded,
    /// It takes its share of new connections.
    Admitted,
    /// The stop signal was sent.
    Stopping,
}

/// Why lanes could not be had.
#[derive(Debug, thiserror::Error)]
pub enum LanesError {
    /// The socket could not be made.
    #[error("listener {listener:?}: {cause}")]
    Listener {
        /// Its name.
        listener: String,
        /// What, and what to do.
        cause: ListenerError,
    },
    /// A socket from the service manager that nobody can join.
    #[error(
        "listener {listener:?}: the inherited socket cannot have lanes: set `ReusePort=yes` in its .socket unit, or `mode: shared` here"
    )]
    InheritedAlone {
        /// Its name.
        listener: String,
    },
    /// A socket from the service manager that belongs to another user.
    #[error(
        "listener {listener:?}: no lane can join the inherited socket, because another user made it: use `mode: shared` here"
    )]
    InheritedForeign {
        /// Its name.
        listener: String,
    },
    /// Same name, other address.
    #[error(
        "listener {listener:?} is still open at {held}, not at {wanted}: give the listener at the new address another name"
    )]
    AddressChanged {
        /// Its name.
        listener: String,
        /// Where it is.
        held: String,
        /// Where it should be.
        wanted: String,
    },
    /// Same name, other mode.
    #[error(
        "listener {listener:?} cannot change its mode while it is open: give it another name, or stop the service first"
    )]
    ModeChanged {
        /// Its name.
        listener: String,
    },
    /// More lanes than there can be.
    #[error("a steered listener serves at most {most} workers at once, {wanted} are wanted: use `mode: shared`")]
    TooMany {
        /// Wanted.
        wanted: usize,
        /// Possible.
        most: usize,
    },
    /// An adopted worker has a lane that is not there.
    #[error("there is no lane {lane} for worker {worker}")]
    NoSuchLane {
        /// Which.
        lane: LaneIndex,
        /// Whose.
        worker: WorkerId,
    },
    /// The kernel refused something that it usually does.
    #[error("{step} of listener {listener:?}")]
    Kernel {
        /// What was tried.
        step: &'static str,
        /// Its name.
        listener: String,
        /// The kernel's word.
        source: io::Error,
    },
}
