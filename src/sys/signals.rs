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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::sys::{clock, poll};

    #[test]
    fn a_signal_makes_the_fd_readable_and_is_taken_once() {
        let winch = Signal(libc::SIGWINCH);
        let mut signals = Signals::catch(&[winch]).expect("catch");
        nix::sys::signal::raise(nix::sys::signal::Signal::SIGWINCH).expect("raise");
        nix::sys::signal::raise(nix::sys::signal::Signal::SIGWINCH).expect("raise");
        let deadline = clock::now().after(Duration::from_secs(10));
        assert!(poll::wait_one(signals.as_fd(), poll::For::Reading, deadline).expect("wait"));
        assert_eq!(signals.take_pending(), [winch]);
        assert_eq!(signals.take_pending(), []);
    }
}
