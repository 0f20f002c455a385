//! What agent and keeper say to each other over their `SOCK_SEQPACKET` pair.
//!
//! One JSON value per packet, with at most a few fds beside it (`SCM_RIGHTS`).
//! Anything that could be long (a worker's specification, the inventory)
//! travels in a memfd, so that no packet comes near the socket's size limit.
//! Packets are answered in order; [`Tell::Exited`] and [`Tell::Signalled`] may
//! come between a question and its answer.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::units::{Exit, Signal};

/// Both sides must say the same number.
pub const VERSION: u32 = 2;

/// The number of the fd on which an agent finds its link to the keeper: its standard input.
pub const LINK_FD: i32 = 0;

/// The environment variable in which an agent finds the soft limit of open files that the keeper was started with, before
/// it raised its own: workers are started with this one.
pub const ENV_OPEN_FILES: &str = "ROLLOUT_OPEN_FILES";

/// The environment variable in which an agent finds how often, in microseconds, the service manager wants to hear
/// [`Notice::Watchdog`]. Not there: never.
pub const ENV_WATCHDOG_USEC: &str = "ROLLOUT_WATCHDOG_USEC";

/// From the agent. Only those marked "answered" get a packet back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// Answered with [`Tell::Welcome`] or, for a foreign version, [`Tell::Foreign`].
    Hello {
        /// The agent's [`VERSION`].
        version: u32,
    },
    /// Hold the one fd that comes with this packet under this name, instead of what had the name before.
    Put {
        /// Any text, unique.
        name: String,
    },
    /// Answered with [`Tell::Fd`] or [`Tell::Missing`]: a duplicate; the keeper goes on holding it.
    Take {
        /// A name that was `Put`.
        name: String,
    },
    /// Let go of a named fd. Unknown names are fine.
    Drop {
        /// A name that was `Put`.
        name: String,
    },
    /// Start a child. The one fd that comes with this packet becomes standard input of `rollout __exec`, which finds
    /// there, already sent, a packet with the worker's specification and fds. Answered with [`Tell::Spawned`] (and a
    /// pidfd) or [`Tell::NotSpawned`].
    Spawn {
        /// A name that no living or unforgotten child has.
        child: String,
        /// What the child and its descendants get instead of what they bind. Not empty: the specification must ask for
        /// the filter ([`super::spec::Spec::filter`]), whose calls the keeper then answers.
        managed: Vec<Managed>,
    },
    /// The exit of this child has been dealt with; the keeper no longer needs to remember it.
    Forget {
        /// A name that was `Spawn`ed.
        child: String,
    },
    /// Pass this on to the service manager (`NOTIFY_SOCKET` of the keeper), if there is one.
    Notice(Notice),
    /// The agent has recovered and is in charge. Until the first of these, an exit of the agent ends the keeper with
    /// the agent's exit code; after it, the agent is started again.
    InCharge,
    /// Everything is stopped. The keeper lets go of everything and exits with this code when the agent has exited.
    Done {
        /// Exit code.
        code: u8,
    },
}

/// From the keeper.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tell {
    /// Comes with a memfd that holds an [`Inventory`] as JSON.
    Welcome,
    /// The agent speaks another version than the keeper.
    Foreign {
        /// The keeper's [`VERSION`].
        version: u32,
    },
    /// Comes with the fd.
    Fd {
        /// The name that was asked for.
        name: String,
    },
    /// Nothing has this name.
    Missing {
        /// The name that was asked for.
        name: String,
    },
    /// Comes with the child's pidfd.
    Spawned {
        /// The child's name.
        child: String,
        /// A kernel detail, for people.
        pid: i32,
    },
    /// The child could not be started.
    NotSpawned {
        /// The child's name.
        child: String,
        /// The cause.
        error: String,
    },
    /// A child is gone, its process group with it. Said once to each agent, and again to its successor until `Forget`.
    Exited {
        /// The child's name.
        child: String,
        /// How.
        exit: Exit,
    },
    /// The keeper got a signal that is meant for the agent: SIGHUP, SIGTERM, SIGINT, SIGUSR1 or SIGUSR2.
    Signalled(Signal),
}

/// Everything that the keeper holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// Names of the fds. Sockets inherited from a service manager are `inherited:<index>:<name>`.
    pub fds: Vec<String>,
    /// Children that were not forgotten. Their pidfds can be taken under the name `pidfd:<child>`.
    pub children: Vec<Child>,
    /// How many agents the keeper has started before this one.
    pub agents_before: u32,
}

/// One child.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Child {
    /// Its name.
    pub name: String,
    /// A kernel detail.
    pub pid: i32,
    /// `None` while it lives.
    pub exit: Option<Exit>,
}

/// What the service manager is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Notice {
    /// `READY=1`: start-up or a reload is finished.
    Ready,
    /// `STATUS=`.
    Status(String),
    /// `RELOADING=1` with `MONOTONIC_USEC` in the same datagram.
    Reloading,
    /// `EXTEND_TIMEOUT_USEC=`.
    ExtendTimeout {
        /// Microseconds.
        usec: u64,
    },
    /// `STOPPING=1`.
    Stopping,
    /// `WATCHDOG=1`.
    Watchdog,
}

/// A socket that is put in the place of what a worker binds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Managed {
    /// What the program binds.
    pub at: ManagedAt,
    /// The socket that it gets: a name that was `Put`.
    pub socket: String,
}

/// What a program binds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ManagedAt {
    /// A TCP port, on whatever address.
    Port(u16),
    /// A path, absolute.
    Path(PathBuf),
    /// A name in the abstract namespace.
    Abstract(String),
}
