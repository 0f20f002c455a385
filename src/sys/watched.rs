//! An fd that an async task can wait for. tokio's own constructor is unsafe, because it must trust that the fd stays
//! open; an `OwnedFd` that nobody else can reach keeps that promise.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// An fd watched for reading: a pidfd, a socket or a pipe (not a file: epoll refuses those).
#[derive(Debug)]
pub struct Watched(AsyncFd<OwnedFd>);

impl Watched {
    /// Watches this fd. Panics outside of a tokio runtime.
    ///
    /// # Errors
    /// The kernel cannot watch such an fd, or has no room.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        // SAFETY: an OwnedFd is open for as long as it lives and always has the same number; this one lives as long as its
        // AsyncFd, which is private and lends it out as a BorrowedFd only.
        let watched = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
        Ok(Self(watched?))
    }

    /// Tries until the attempt does not fail with [`io::ErrorKind::WouldBlock`], each time that there is something to read.
    /// Cancel-safe: nothing is awaited after an attempt that succeeded.
    ///
    /// # Errors
    /// Those of the attempt.
    pub async fn read_with<T>(&self, mut attempt: impl FnMut(BorrowedFd<'_>) -> io::Result<T>) -> io::Result<T> {
        loop {
            let mut ready = self.0.readable().await?;
            if let Ok(outcome) = ready.try_io(|fd| attempt(fd.get_ref().as_fd())) {
                return outcome;
            }
        }
    }

    /// Waits until there is something to read or the end of it: for a pidfd, until its process has exited.
    ///
    /// # Errors
    /// The runtime is shutting down.
    pub async fn readable(&self) -> io::Result<()> {
        self.0.readable().await?.retain_ready();
        Ok(())
    }
}

impl AsFd for Watched {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;
    use crate::sys::{fd, fd_pass};

    #[tokio::test]
    async fn an_attempt_is_repeated_until_there_is_something() {
        let (ours, theirs) = fd_pass::pair().expect("pair");
        let watched = Watched::new(ours).expect("watch");
        let read = watched.read_with(fd_pass::receive);
        assert!(timeout(Duration::ZERO, read).await.is_err());
        fd_pass::send(theirs.as_fd(), b"x", &[]).expect("send");
        let packet = watched.read_with(fd_pass::receive).await.expect("receive").expect("a packet");
        assert_eq!(packet.bytes, b"x");
    }

    #[tokio::test]
    async fn the_end_of_a_pipe_ends_the_wait() {
        let (reader, writer) = fd::pipe().expect("pipe");
        let watched = Watched::new(reader).expect("watch");
        assert!(timeout(Duration::ZERO, watched.readable()).await.is_err());
        drop(writer);
        watched.readable().await.expect("readable");
    }
}
