//! The agent's life as its parent sees it: running, or waiting to be started again.

use std::env;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::link::Link;
use super::protocol::{ENV_OPEN_FILES, ENV_WATCHDOG_USEC};
use super::systemd;
use crate::sys::{child, clock, fd_pass};
use crate::units::{Moment, Signal};

/// This binary, also when its file has been replaced or removed.
pub(super) const OWN_BINARY: &str = "/proc/self/exe";

/// How long an agent that has closed its link, or said that it is done, may take to exit.
const TIME_TO_LEAVE: Duration = Duration::from_secs(10);

/// How an agent is started.
#[derive(Debug)]
pub(super) struct Recipe {
    pub(super) args: Vec<OsString>,
    /// See [`ENV_OPEN_FILES`].
    pub(super) open_files: u64,
    /// See [`ENV_WATCHDOG_USEC`].
    pub(super) watchdog_usec: Option<u64>,
}

/// An agent that runs.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) pid: i32,
    pidfd: OwnedFd,
    /// `None` once it has closed its end or sent garbage.
    pub(super) link: Option<Link>,
    since: Moment,
    /// It is on its way out, and killed at this moment if it is still there.
    leave_by: Option<Moment>,
}

impl Recipe {
    /// Starts an agent with a link of its own.
    pub(super) fn start(&self) -> io::Result<Running> {
        let (ours, theirs) = fd_pass::pair()?;
        let mut command = Command::new(OWN_BINARY);
        if let Some(name) = env::args_os().next() {
            command.arg0(name);
        }
        systemd::hide_variables(&mut command);
        command.args(&self.args).stdin(Stdio::from(theirs)).env(ENV_OPEN_FILES, self.open_files.to_string());
        if let Some(usec) = self.watchdog_usec {
            command.env(ENV_WATCHDOG_USEC, usec.to_string());
        }
        // A group of its own: Ctrl-C on a terminal reaches the keeper alone, which passes it on once.
        command.process_group(0);
        let mut process = command.spawn()?;
        let pid = process.id().cast_signed();
        // Our copy of `theirs` goes with `command`: without that, the link would never end.
        drop(command);
        // It is our child and nobody has reaped it: the number is its own.
        let pidfd = child::pidfd_open(pid).inspect_err(|_| {
            // Without a name it would be nobody's. It is reaped as an orphan.
            let _ = process.kill();
        })?;
        Ok(Running { pid, pidfd, link: Some(Link::new(ours)), since: clock::now(), leave_by: None })
    }
}

impl Running {
    /// It should go by itself now.
    pub(super) fn expect_to_leave(&mut self) {
        self.leave_by.get_or_insert(clock::now().after(TIME_TO_LEAVE));
    }

    /// Ends it. Its exit is found like any other.
    pub(super) fn kill(&mut self) {
        self.leave_by = None;
        // ESRCH: it is dead already.
        let _ = child::signal(self.pidfd.as_fd(), Signal::KILL);
    }

    /// When to look at it again even if nothing happens.
    pub(super) fn deadline(&self) -> Option<Moment> {
        self.leave_by
    }

    /// Kills it if it has taken too long to leave.
    pub(super) fn kill_if_late(&mut self) {
        if self.leave_by.is_some_and(|by| by <= clock::now()) {
            self.kill();
        }
    }

    /// How long it has been running.
    pub(super) fn age(&self) -> Duration {
        clock::now().since(self.since)
    }
}

/// How long to wait before the next start: 10 ms, doubling to 5 s, from the beginning again after 10 s of life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Backoff(Duration);

impl Backoff {
    const FIRST: Duration = Duration::from_millis(10);
    const LONGEST: Duration = Duration::from_secs(5);
    const GOOD_LIFE: Duration = Duration::from_secs(10);

    pub(super) fn new() -> Self {
        Self(Self::FIRST)
    }

    /// The wait after an agent that lived for `age`.
    pub(super) fn after(&mut self, age: Duration) -> Duration {
        if age >= Self::GOOD_LIFE {
            self.0 = Self::FIRST;
        }
        let wait = self.0;
        self.0 = (wait * 2).min(Self::LONGEST);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_to_five_seconds_and_a_good_life_resets_it() {
        let mut backoff = Backoff::new();
        let millis: Vec<_> = (0..11).map(|_| backoff.after(Duration::ZERO).as_millis()).collect();
        assert_eq!(millis, [10, 20, 40, 80, 160, 320, 640, 1280, 2560, 5000, 5000]);
        assert_eq!(backoff.after(Duration::from_secs(10)).as_millis(), 10);
        assert_eq!(backoff.after(Duration::from_secs(9)).as_millis(), 20);
    }
}
