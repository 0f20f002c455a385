//! The calls that a filter stopped: received one at a time, and answered.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Where the calls of one worker, its threads and all of its descendants arrive. To be waited for like a socket.
#[derive(Debug)]
pub struct Calls(OwnedFd);

/// A call that waits for its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    id: u64,
    /// The thread that made it; 0 if it is not to be seen from here.
    pub thread: i32,
    /// Its first argument: the number of an fd there.
    pub fd: i32,
    /// Which call.
    pub what: What,
}

/// Which call, with the arguments that matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// bind(2).
    Bind {
        /// Where the address is in the caller's memory.
        address: u64,
        /// Its length.
        length: u64,
    },
    /// listen(2).
    Listen,
    /// shutdown(2).
    Shutdown,
}

/// What is there.
#[derive(Debug)]
pub enum Next {
    /// A call.
    Call(Call),
    /// Nothing now.
    Nothing,
    /// Nobody is left who could call.
    Over,
}

/// What becomes of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The kernel carries it out.
    GoOn,
    /// It is not carried out and returns 0.
    Succeed,
    /// It is not carried out and fails with `EADDRINUSE`.
    AddressInUse,
}

/// Whether an fd that is put in place is closed by an exec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnExec {
    /// It is.
    Close,
    /// It is not.
    Keep,
}

/// The kernel writes as much as it knows fields: room for those of a later one, which are zero before.
#[repr(C)]
struct Roomy<T> {
    known: T,
    later: [u64; 16],
}

impl Calls {
    /// The fd that installing a filter gave.
    #[must_use]
    pub fn new(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// The next call. Never waits.
    ///
    /// # Errors
    /// The fd is not what it should be.
    pub fn next(&self) -> io::Result<Next> {
        // Receiving would wait where nothing is: only poll(2) tells that, and whether anybody is left.
        let mut polled = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
        poll(&mut polled, PollTimeout::ZERO)?;
        let found = polled[0].revents().unwrap_or(PollFlags::empty());
        if found.contains(PollFlags::POLLIN) {
            return self.receive();
        }
        let over = found.intersects(PollFlags::POLLHUP | PollFlags::POLLERR | PollFlags::POLLNVAL);
        Ok(if over { Next::Over } else { Next::Nothing })
    }

    fn receive(&self) -> io::Result<Next> {
        // SAFETY: plain numbers, for which zero is a value; the kernel insists on zeros.
        let mut notice = unsafe { MaybeUninit::<Roomy<libc::seccomp_notif>>::zeroed().assume_init() };
        match self.control(libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut notice) {
            Ok(()) => {}
            // The caller was killed or got a signal in between.
            Err(Errno::ENOENT | Errno::EINTR) => return Ok(Next::Nothing),
            Err(error) => return Err(error.into()),
        }
        let libc::seccomp_notif { id, pid, data, .. } = notice.known;
        let [fd, second, third, ..] = data.args;
        let what = match libc::c_long::from(data.nr) {
            libc::SYS_bind => What::Bind { address: second, length: third },
            libc::SYS_listen => What::Listen,
            // The filter stops no other.
            _ => What::Shutdown,
        };
        // As the kernel itself: an fd is the lower half of its register.
        #[expect(clippy::cast_possible_truncation, reason = "as the kernel does")]
        let fd = fd as i32;
        Ok(Next::Call(Call { id, thread: pid.cast_signed(), fd, what }))
    }

    /// Whether the call still waits, so that what was read of its caller was the caller's and not that of another process
    /// with its number.
    #[must_use]
    pub fn waits(&self, call: &Call) -> bool {
        let mut id = call.id;
        self.control(libc::SECCOMP_IOCTL_NOTIF_ID_VALID, &raw mut id).is_ok()
    }

    /// Puts a duplicate of `fd` where the call's own fd is, which is closed by this.
    ///
    /// # Errors
    /// The caller is gone, or may not have so many fds.
    pub fn put_in_place(&self, call: &Call, fd: BorrowedFd<'_>, on_exec: OnExec) -> io::Result<()> {
        // Not answered in the same step (SECCOMP_ADDFD_FLAG_SEND): the call would return the fd's number, and bind must
        // return 0.
        let flag = if on_exec == OnExec::Close { libc::O_CLOEXEC } else { 0 };
        let mut put = libc::seccomp_notif_addfd {
            id: call.id,
            flags: u32::try_from(libc::SECCOMP_ADDFD_FLAG_SETFD).unwrap_or(0),
            srcfd: fd.as_raw_fd().cast_unsigned(),
            newfd: call.fd.cast_unsigned(),
            newfd_flags: flag.cast_unsigned(),
        };
        Ok(self.control(libc::SECCOMP_IOCTL_NOTIF_ADDFD, &raw mut put)?)
    }

    /// Answers a call. That its caller is gone by now is no error.
    ///
    /// # Errors
    /// The kernel does not take the answer.
    pub fn answer(&self, call: &Call, answer: Answer) -> io::Result<()> {
        let (error, flags) = match answer {
            Answer::GoOn => (0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE),
            Answer::Succeed => (0, 0),
            Answer::AddressInUse => (-libc::EADDRINUSE, 0),
        };
        let known =
            libc::seccomp_notif_resp { id: call.id, val: 0, error, flags: u32::try_from(flags).unwrap_or_default() };
        let mut response = Roomy { known, later: [0; 16] };
        match self.control(libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut response) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn control<T>(&self, request: libc::Ioctl, argument: *mut T) -> Result<(), Errno> {
        // SAFETY: each request here comes with a pointer to the struct that it wants, alive and writable, and maybe longer.
        let code = unsafe { libc::ioctl(self.0.as_raw_fd(), request, argument) };
        if code < 0 { Err(Errno::last()) } else { Ok(()) }
    }
}

impl AsFd for Calls {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
