//! The checked configuration: what the rest of the program is given. Every value here has passed every rule.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::machine::limits::Limits;
use crate::units::{ServiceName, Signal};

/// A whole configuration file (or what `rollout run`'s flags mean).
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// The services, by name. At least one.
    pub services: BTreeMap<ServiceName, Service>,
    /// `state_dir:`, absolute.
    pub state_dir: Option<PathBuf>,
    /// `socket:`, the control socket, absolute.
    pub socket: Option<PathBuf>,
}

/// One service. Serialised into the state file and into release snapshots (environment values masked there).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Service {
    /// What runs.
    pub program: Program,
    /// Working directory of the workers, absolute. The directory of the configuration file if not given.
    pub cwd: PathBuf,
    /// Added to the agent's own environment.
    pub env: BTreeMap<String, String>,
    /// The sockets, in the order in which workers get them (fd 3 first). May be empty.
    pub listen: Vec<Listen>,
    /// How workers get them.
    #[serde(default)]
    pub handover: Handover,
    /// When a worker is ready, and how it is watched afterwards.
    pub health: Health,
    /// The machine's numbers.
    pub limits: Limits,
    /// Asks a worker to stop.
    pub stop_signal: Signal,
    /// Rotation of the kept worker output.
    pub logs: Logs,
    /// How many releases to keep. At least 1.
    pub keep: usize,
}

/// What runs in a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Program {
    /// A file whose content is the release: copied into the store, and the copy runs.
    Binary {
        /// Where new releases appear, absolute. Not resolved: a symbolic link is followed at each rollout.
        path: PathBuf,
        /// The command line; `{release}` is replaced by the stored copy.
        command: Vec<String>,
        /// Whether a new content of `path` starts a rollout by itself.
        watch: Watch,
    },
    /// A command that is run in place. Its release is the digest of the program file that `PATH` finds.
    Command {
        /// Program and arguments; at least one.
        command: Vec<String>,
    },
}

/// Whether the binary is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Watch {
    /// Only `deploy`, `restart` and SIGHUP look at it.
    Off,
    /// A content that has not changed for `settle` and is not the live one starts a rollout.
    On {
        /// How long size, inode and mtime must stay the same.
        settle: Duration,
    },
}

/// One entry of `listen:`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listen {
    /// Unique in the service; goes into `LISTEN_FDNAMES`. The address's port or the file name if not given.
    pub name: String,
    /// Where.
    pub address: Address,
    /// One lane per worker or one socket for all.
    pub mode: Mode,
    /// Length of the accept queue; 4096 if not given.
    pub backlog: u32,
    /// What the program binds instead of this address. `None`: the same.
    #[serde(default)]
    pub alias: Option<Alias>,
}

/// What a program that binds for itself binds where it means a listener: `as:`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Alias {
    /// A TCP port.
    Port(u16),
    /// A Unix socket with a path, absolute.
    Path(PathBuf),
}

/// How workers get their sockets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Handover {
    /// As systemd passes them: `LISTEN_FDS`, from fd 3 on.
    #[default]
    ListenFds,
    /// For their own `bind(2)` of the same port or path, which is answered in the kernel's place.
    Intercept,
    /// Both, whichever the program uses.
    Auto,
}

/// Where a listener listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Address {
    /// TCP. `[::]` is dual stack unless `only_v6`. Port 0 is chosen once and then kept.
    Tcp {
        /// Address and port.
        at: SocketAddr,
        /// IPV6_V6ONLY.
        only_v6: bool,
    },
    /// A Unix socket with a path, absolute.
    Unix {
        /// The file.
        path: PathBuf,
        /// Its permission bits; 0o660 if not given.
        mode: u32,
        /// `user` or `user:group` to own it.
        owner: Option<String>,
    },
    /// A Unix socket in the abstract namespace, without its leading NUL; written `unix:@name`.
    Abstract {
        /// The name.
        name: String,
    },
}

/// How connections reach workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// A lane per worker, chosen by the agent's program.
    Steered,
    /// One socket that all workers accept from.
    Shared,
}

/// Readiness and liveness of a service's workers: one prober, one rule, two paces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// What to look at.
    pub check: Check,
    /// Until ready.
    pub readiness: Pace,
    /// After that; `None`: no probing of a ready worker (a hung lane is still noticed).
    pub liveness: Option<Pace>,
    /// How long a lane's accept queue may stay non-empty before the worker is probed for being hung.
    pub hung_after: Duration,
}

/// How often to look and how many looks make a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pace {
    /// Between the end of one look and the next.
    pub interval: Duration,
    /// For one look.
    pub timeout: Duration,
    /// Good looks in a row that mean good.
    pub successes: u32,
    /// Bad looks in a row that mean bad (readiness only ends at its deadline: there, bad looks are simply repeated).
    pub failures: u32,
}

/// What a look is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Check {
    /// The program accepted the agent's connection to its lane.
    Accept,
    /// `GET path` on the lane answers with a status in the given set.
    Http {
        /// Starts with `/`.
        path: String,
        /// The `Host:` header.
        host: String,
        /// Inclusive ranges of good status codes; 200..=399 if not given.
        expect: Vec<(u16, u16)>,
    },
    /// The worker says `READY=1` on its `NOTIFY_SOCKET`.
    Notify,
    /// A command exits 0.
    Exec {
        /// Program and arguments.
        command: Vec<String>,
    },
    /// The process is alive this long after its start. Proves nothing, so it must be asked for by name.
    AliveFor {
        /// From its start.
        time: Duration,
    },
}

/// Rotation of the kept worker output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logs {
    /// Bytes after which a file is rotated.
    pub max_size: u64,
    /// How many files are kept, the current one included. At least 1.
    pub files: u32,
}
