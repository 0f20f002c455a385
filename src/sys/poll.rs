//! Waiting for several fds at once, until a moment (poll(2)).

use std::io;
use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::clock;
use crate::units::Moment;

/// What to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum For {
    /// Something to read, the end of it, or an error.
    Reading,
    /// Room to write, or an error.
    Writing,
    /// Either.
    Both,
    /// Nothing but an error or a hang-up, which the kernel always reports.
    Trouble,
}

/// What was found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ready {
    /// A read will not wait.
    pub reading: bool,
    /// A write will not wait.
    pub writing: bool,
}

/// Waits until one of the fds is ready or the moment has come; answers in the order of the question. `None` waits for ever.
/// A signal ends the wait early with nothing ready.
///
/// # Errors
/// As poll(2).
pub fn wait(fds: &[(BorrowedFd<'_>, For)], until: Option<Moment>) -> io::Result<Vec<Ready>> {
    let mut polled: Vec<PollFd<'_>> = fds.iter().map(|(fd, what)| PollFd::new(*fd, flags(*what))).collect();
    let timeout = until.map_or(PollTimeout::NONE, |until| {
        // One millisecond more than the whole ones: waking too early would spin until the moment has come.
        let millis = clock::until(until).as_micros().div_ceil(1000);
        PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX)
    });
    match poll(&mut polled, timeout) {
        Ok(_) => Ok(polled.iter().map(found).collect()),
        Err(Errno::EINTR) => Ok(vec![Ready::default(); fds.len()]),
        Err(error) => Err(error.into()),
    }
}

/// Waits for one fd. `false` when the moment came first.
///
/// # Errors
/// As poll(2).
pub fn wait_one(fd: BorrowedFd<'_>, what: For, until: Moment) -> io::Result<bool> {
    loop {
        if wait(&[(fd, what)], Some(until))?.first().is_some_and(|ready| *ready != Ready::default()) {
            return Ok(true);
        }
        if clock::until(until).is_zero() {
            return Ok(false);
        }
    }
}

fn flags(what: For) -> PollFlags {
    match what {
        For::Reading => PollFlags::POLLIN,
        For::Writing => PollFlags::POLLOUT,
        For::Both => PollFlags::POLLIN | PollFlags::POLLOUT,
        For::Trouble => PollFlags::empty(),
    }
}

fn found(polled: &PollFd<'_>) -> Ready {
    let found = polled.revents().unwrap_or(PollFlags::empty());
    let trouble = found.intersects(PollFlags::POLLERR | PollFlags::POLLHUP | PollFlags::POLLNVAL);
    Ready {
        reading: trouble || found.contains(PollFlags::POLLIN),
        writing: trouble || found.contains(PollFlags::POLLOUT),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::time::Duration;

    use super::*;
    use crate::sys::fd;

    #[test]
    fn a_pipe_is_ready_once_something_is_in_it_and_not_before() {
        let (reader, writer) = fd::pipe().expect("pipe");
        let soon = clock::now().after(Duration::from_millis(5));
        assert!(!wait_one(reader.as_fd(), For::Reading, soon).expect("wait"));
        assert!(clock::now() >= soon);
        nix::unistd::write(&writer, b"x").expect("write");
        let later = clock::now().after(Duration::from_secs(10));
        assert!(wait_one(reader.as_fd(), For::Reading, later).expect("wait"));
    }

    #[test]
    fn the_end_of_a_pipe_counts_as_readable() {
        let (reader, writer) = fd::pipe().expect("pipe");
        drop(writer);
        let ready = wait(&[(reader.as_fd(), For::Trouble)], None).expect("wait");
        assert_eq!(ready.first().map(|ready| ready.reading), Some(true));
    }
}
