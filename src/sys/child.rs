//! Processes by pidfd (pidfd_open(2)); reaping children so that no pid can be reused too early (waitid(2)).

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;

use nix::errno::Errno;
use nix::sys::signal::{Signal as NixSignal, killpg};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use super::fd;
use crate::units::{Exit, Signal};

/// An fd that stands for this process, and never for another that gets its number. Readable when it has exited.
///
/// # Errors
/// There is no such process (or no fd is free).
pub fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: passes two integers. The kernel sets close-on-exec by itself.
    let number = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let number = i32::try_from(number).unwrap_or(-1);
    if number < 0 { Err(io::Error::last_os_error()) } else { Ok(fd::adopt(number)) }
}

/// Sends a signal to the process of this pidfd.
///
/// # Errors
/// It has exited and was reaped (`ESRCH`), or is not ours to signal.
pub fn signal(pidfd: BorrowedFd<'_>, signal: Signal) -> io::Result<()> {
    send(pidfd, signal.0)
}

/// Whether the number of this pidfd's process still belongs to it: it lives, or nobody has reaped it yet.
#[must_use]
pub fn holds_its_number(pidfd: BorrowedFd<'_>) -> bool {
    // Signal 0 only checks (kill(2)); a process that is not ours to signal exists all the same.
    !send(pidfd, 0).is_err_and(|error| error.raw_os_error() == Some(libc::ESRCH))
}

fn send(pidfd: BorrowedFd<'_>, number: i32) -> io::Result<()> {
    let no_details = ptr::null::<libc::siginfo_t>();
    // SAFETY: passes an fd that is borrowed for the call, integers, and a null pointer, which the call allows.
    let code = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), number, no_details, 0) };
    if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes this process the one that inherits its descendants' orphans (prctl(2)), as PID 1 does for everybody.
///
/// # Errors
/// Never on the kernels that this program supports.
pub fn become_subreaper() -> io::Result<()> {
    Ok(nix::sys::prctl::set_child_subreaper(true)?)
}

/// A child that has exited and is not reaped: its pid cannot be reused.
#[derive(Debug, PartialEq, Eq)]
pub struct Dead {
    /// Its pid.
    pub pid: i32,
    /// How it ended.
    pub exit: Exit,
}

/// The next child that has exited, if there is one; it stays as it is until it is buried.
///
/// # Errors
/// As waitid(2). That there are no children at all is not an error.
pub fn next_dead() -> io::Result<Option<Dead>> {
    let mut found = MaybeUninit::<libc::siginfo_t>::zeroed();
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    loop {
        // SAFETY: `found` is a siginfo_t of our own that the kernel may fill in.
        let code = unsafe { libc::waitid(libc::P_ALL, 0, found.as_mut_ptr(), options) };
        if code == 0 {
            break;
        }
        let error = Errno::last();
        if error == Errno::ECHILD {
            return Ok(None);
        }
        if error != Errno::EINTR {
            return Err(error.into());
        }
    }
    // SAFETY: zeroed memory is a valid siginfo_t, whatever part of it the kernel wrote.
    let found = unsafe { found.assume_init() };
    // SAFETY: after waitid(2) the SIGCHLD fields are the valid ones; all zero when nothing was found.
    let pid = unsafe { found.si_pid() };
    // SAFETY: as above.
    let status = unsafe { found.si_status() };
    let exit = if found.si_code == libc::CLD_EXITED { Exit::Code(status) } else { Exit::Signal(Signal(status)) };
    Ok((pid != 0).then_some(Dead { pid, exit }))
}

/// What to do with the process group of a dead child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leftovers {
    /// It led a group of its own: whoever is left in it dies too.
    Kill,
    /// None of our business.
    Leave,
}

/// Reaps a dead child. Leftovers are killed before, while its zombie still keeps the number of the group from being
/// reused.
///
/// # Errors
/// Somebody else has reaped it.
pub fn bury(dead: &Dead, leftovers: Leftovers) -> io::Result<()> {
    let pid = Pid::from_raw(dead.pid);
    if leftovers == Leftovers::Kill {
        // ESRCH: it never made a group, so there is nobody to kill. EPERM: only processes that changed their user.
        let _ = killpg(pid, NixSignal::SIGKILL);
    }
    // Not nix's decoded status: that fails for a death by a real-time signal, and we know it already.
    match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
        Ok(_) | Err(Errno::EINVAL) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The pid of this process.
#[must_use]
pub fn own_pid() -> i32 {
    Pid::this().as_raw()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::process::{Command, Stdio};
    use std::time::Duration;

    use super::*;
    use crate::sys::{clock, poll};

    // next_dead and bury look at all children of the process, which the tests of one binary share:
    // tests/keeper_real.rs proves them on a process of their own.

    #[test]
    fn a_pidfd_tells_the_end_and_carries_signals() {
        let mut child = Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().expect("spawn");
        let pidfd = pidfd_open(i32::try_from(child.id()).expect("pid")).expect("pidfd");
        assert!(holds_its_number(pidfd.as_fd()));
        signal(pidfd.as_fd(), Signal::KILL).expect("signal");
        let deadline = clock::now().after(Duration::from_secs(10));
        assert!(poll::wait_one(pidfd.as_fd(), poll::For::Reading, deadline).expect("wait"));
        assert!(holds_its_number(pidfd.as_fd()), "a zombie holds its number");
        child.wait().expect("reap");
        assert!(!holds_its_number(pidfd.as_fd()));
        assert_eq!(signal(pidfd.as_fd(), Signal::TERM).expect_err("gone").raw_os_error(), Some(libc::ESRCH));
    }
}
