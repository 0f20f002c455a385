//! Signals as readable fds (signal-hook's self-pipe).

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use signal_hook::iterator::backend::SignalDelivery;
use signal_hook::iterator::exfiltrator::SignalOnly;

use crate::units::Signal;

/// Catches a set of signals from its creation on. The fd is readable while one is pending.
#[derive(Debug)]
pub struct Signals(SignalDelivery<UnixStream, SignalOnly>);

impl Signals {
    /// Catches these.
    ///
    /// # Errors
    /// One of them cannot be caught, or no fd is free.
    pub fn catch(signals: &[Signal]) -> io::Result<Self> {
        let (read, write) = UnixStream::pair()?;
        let numbers = signals.iter().map(|signal| signal.0);
        Ok(Self(SignalDelivery::with_pipe(read, write, SignalOnly, numbers)?))
    }

    /// Those that came since the last call, each once however often it came.
    pub fn take_pending(&mut self) -> Vec<Signal> {
        self.0.pending().map(Signal).collect()
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_read().as_fd()
    }
}
