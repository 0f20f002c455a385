//! Adopting fds by number, once; the few flags and limits of fds that we change.
//!
//! Everything that the kernel hands out as a number (inherited fds, `SCM_RIGHTS`, raw system calls) becomes an
//! [`OwnedFd`] here and nowhere else.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Numbers given out by [`adopt_inherited`]: a second adoption would close somebody else's fd.
static ADOPTED: Mutex<BTreeSet<i32>> = Mutex::new(BTreeSet::new());

/// Takes an fd that this process was started with. It is close-on-exec from then on.
///
/// # Errors
/// The number is a standard stream (see [`take_stdin`]), is not open, or was adopted before.
pub fn adopt_inherited(number: i32) -> io::Result<OwnedFd> {
    if number < 3 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("fd {number} is not an inherited socket")));
    }
    // SAFETY: only borrowed for the next call, which fails cleanly if nothing is open at this number.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    close_on_exec(borrowed)?;
    if !ADOPTED.lock().unwrap_or_else(PoisonError::into_inner).insert(number) {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("fd {number} was adopted before")));
    }
    Ok(adopt(number))
}

/// Wraps a number that the kernel has just given to this process. The caller upholds that nobody else owns it.
#[expect(clippy::disallowed_methods, reason = "this is the blessed place")]
pub(super) fn adopt(number: i32) -> OwnedFd {
    // SAFETY: `pub(super)`: called only with a number fresh from a system call or, once, by `adopt_inherited`.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// Takes what this process has as standard input and leaves `/dev/null` there, so that number 0 is never reused.
///
/// # Errors
/// No fd is free, or there is no `/dev/null`.
pub fn take_stdin() -> io::Result<OwnedFd> {
    let stdin = io::stdin().as_fd().try_clone_to_owned()?;
    nix::unistd::dup2_stdin(File::open("/dev/null")?)?;
    Ok(stdin)
}

/// A second fd for the same open file, close-on-exec.
///
/// # Errors
/// No fd is free.
pub fn duplicate(fd: impl AsFd) -> io::Result<OwnedFd> {
    fd.as_fd().try_clone_to_owned()
}

/// Like [`duplicate`], with a number that is not below `lowest`.
pub(super) fn duplicate_from(fd: BorrowedFd<'_>, lowest: i32) -> io::Result<OwnedFd> {
    Ok(adopt(fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(lowest))?))
}

/// What a read or write does when it cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blocking {
    /// It waits.
    Wait,
    /// It fails with `EAGAIN`.
    Fail,
}

/// Sets or clears `O_NONBLOCK`, which belongs to the open file and so is seen by everybody who shares it.
///
/// # Errors
/// As fcntl(2).
pub fn set_blocking(fd: impl AsFd, blocking: Blocking) -> io::Result<()> {
    let now = OFlag::from_bits_retain(fcntl(fd.as_fd(), FcntlArg::F_GETFL)?);
    let wanted = match blocking {
        Blocking::Wait => now - OFlag::O_NONBLOCK,
        Blocking::Fail => now | OFlag::O_NONBLOCK,
    };
    if wanted != now {
        fcntl(fd.as_fd(), FcntlArg::F_SETFL(wanted))?;
    }
    Ok(())
}

/// Sets close-on-exec on one fd.
///
/// # Errors
/// As fcntl(2).
pub fn close_on_exec(fd: impl AsFd) -> io::Result<()> {
    fcntl(fd.as_fd(), FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    Ok(())
}

/// Sets close-on-exec on every fd from `lowest` on.
///
/// # Errors
/// The kernel is older than close_range(2) with `CLOSE_RANGE_CLOEXEC` (5.11) and `/proc` is not there.
pub fn close_on_exec_from(lowest: u32) -> io::Result<()> {
    // SAFETY: changes flags only; no memory is passed and no fd is closed before an exec.
    let code = unsafe { libc::syscall(libc::SYS_close_range, lowest, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if code == 0 {
        return Ok(());
    }
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let Some(number) = entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        if u32::try_from(number).is_ok_and(|number| number >= lowest) {
            // SAFETY: listed a moment ago by this single-threaded caller; a stale number only fails the call.
            let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
            close_on_exec(borrowed)?;
        }
    }
    Ok(())
}

/// A pipe, close-on-exec: the end to read, the end to write.
///
/// # Errors
/// No fd is free.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = io::pipe()?;
    Ok((reader.into(), writer.into()))
}

/// Asks for a pipe that holds `bytes`; answers how much it holds then (pipe(7): an ordinary user is limited by
/// `fs.pipe-max-size`, default 1 MiB).
///
/// # Errors
/// The size is over the limit or less than what is in the pipe; the pipe is as it was.
pub fn set_pipe_size(pipe: impl AsFd, bytes: u32) -> io::Result<u32> {
    let bytes = i32::try_from(bytes).map_err(|_| Errno::EINVAL)?;
    let now = fcntl(pipe.as_fd(), FcntlArg::F_SETPIPE_SZ(bytes))?;
    Ok(u32::try_from(now).unwrap_or(0))
}

/// Raises the soft limit of open files to the hard one and answers what it was: programs that use select(2) must be
/// started with the old one.
///
/// # Errors
/// As setrlimit(2).
pub fn raise_open_files() -> io::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(soft)
}

/// Sets the soft limit of open files, at most to the hard one.
///
/// # Errors
/// As setrlimit(2).
pub fn set_open_files(soft: u64) -> io::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, soft.min(hard), hard)?)
}

/// The number of an fd, for messages and for programs that are told a number.
#[must_use]
pub fn number(fd: impl AsFd) -> i32 {
    fd.as_fd().as_raw_fd()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_close_on_exec(fd: impl AsFd) -> bool {
        FdFlag::from_bits_retain(fcntl(fd.as_fd(), FcntlArg::F_GETFD).expect("flags")).contains(FdFlag::FD_CLOEXEC)
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "stands for a number that was inherited")]
    fn an_inherited_fd_is_adopted_once_and_does_not_outlive_an_exec() {
        use std::os::fd::IntoRawFd;
        let (reader, _writer) = pipe().expect("pipe");
        let number = reader.into_raw_fd();
        // SAFETY: owned by nobody between `into_raw_fd` and `adopt_inherited`.
        let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
        fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::empty())).expect("clear");
        let adopted = adopt_inherited(number).expect("first adoption");
        assert!(is_close_on_exec(&adopted));
        assert_eq!(adopt_inherited(number).expect_err("second adoption").kind(), io::ErrorKind::AlreadyExists);
        assert!(adopt_inherited(1).is_err());
    }

    #[test]
    fn everything_made_here_is_close_on_exec() {
        let (reader, writer) = pipe().expect("pipe");
        let high = duplicate_from(reader.as_fd(), 100).expect("duplicate");
        assert!(number(&high) >= 100);
        for fd in [&reader, &writer, &high, &duplicate(&writer).expect("duplicate")] {
            assert!(is_close_on_exec(fd));
        }
    }

    #[test]
    fn non_blocking_is_set_and_cleared() {
        let (reader, _writer) = pipe().expect("pipe");
        set_blocking(&reader, Blocking::Fail).expect("set");
        assert_eq!(nix::unistd::read(&reader, &mut [0]), Err(Errno::EAGAIN));
        set_blocking(&reader, Blocking::Wait).expect("clear");
        let flags = OFlag::from_bits_retain(fcntl(&reader, FcntlArg::F_GETFL).expect("flags"));
        assert!(!flags.contains(OFlag::O_NONBLOCK));
    }

    #[test]
    fn a_pipe_grows() {
        let (reader, _writer) = pipe().expect("pipe");
        assert_eq!(set_pipe_size(&reader, 256 * 1024).expect("grow"), 256 * 1024);
    }
}
