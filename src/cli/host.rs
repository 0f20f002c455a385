//! This machine, as far as a command needs it: the clock, Ctrl-C and a runtime. The only file of cli/ that sees sys/.

use std::future::Future;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::SystemTime;

use super::exit::{Exit, Failure};
use crate::sys::clock;
use crate::sys::signals::Signals;
use crate::units::Signal;

/// Runs a command that talks to an agent.
pub(super) fn block_on<T>(talk: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::told(Exit::Unchanged, format!("start a runtime: {error}")))?;
    runtime.block_on(talk)
}

/// The time of day.
pub(super) fn now() -> SystemTime {
    clock::time_of_day()
}

/// Whether a person looks at stdout.
pub(super) fn stdout_is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Whether a person looks at stderr, on something that can move its cursor.
pub(super) fn stderr_is_terminal() -> bool {
    io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Whether output may be coloured: a person looks and has not said `NO_COLOR`.
pub(super) fn stdout_has_colour() -> bool {
    stdout_is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// CPUs that this process may use.
pub(super) fn cpus() -> u32 {
    std::thread::available_parallelism().map_or(1, |cpus| u32::try_from(cpus.get()).unwrap_or(u32::MAX))
}

/// Ctrl-C, caught from the creation of this on.
#[derive(Debug)]
pub(super) struct Interrupt {
    readable: tokio::net::UnixStream,
    /// Catches as long as it lives.
    _signals: Signals,
}

impl Interrupt {
    /// SIGINT.
    const SIGNAL: Signal = Signal(2);

    /// Begins to catch Ctrl-C.
    pub(super) fn catch() -> Result<Self, Failure> {
        let failed = |error: io::Error| Failure::told(Exit::Unchanged, format!("catch Ctrl-C: {error}"));
        let signals = Signals::catch(&[Self::SIGNAL]).map_err(failed)?;
        // signal-hook's fd is one end of a pair of Unix sockets.
        let end = UnixStream::from(signals.as_fd().try_clone_to_owned().map_err(failed)?);
        end.set_nonblocking(true).map_err(failed)?;
        let readable = tokio::net::UnixStream::from_std(end).map_err(failed)?;
        Ok(Self { readable, _signals: signals })
    }

    /// Waits for Ctrl-C.
    pub(super) async fn came(&self) {
        // An error means that there is no reactor, which `block_on` has made.
        drop(self.readable.readable().await);
    }
}
