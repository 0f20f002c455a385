//! The socket that a program made, and what of it moves to the one that is put in its place.

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use libc::{IPPROTO_IPV6, IPPROTO_TCP, SOL_SOCKET};
use nix::fcntl::{FcntlArg, OFlag, fcntl};

use crate::sys::fd::{Blocking, set_blocking};

/// What a stream socket talks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// TCP over IPv4.
    Ip4,
    /// TCP over IPv6 and, unless that was switched off, IPv4.
    Ip6 {
        /// `IPV6_V6ONLY`.
        only: bool,
    },
    /// A Unix stream.
    Unix,
    /// Not a stream, or of another protocol.
    Other,
}

/// What kind of socket this is.
///
/// # Errors
/// It is none.
pub fn kind(fd: impl AsFd) -> io::Result<Kind> {
    let fd = fd.as_fd();
    let is_stream = get(fd, SOL_SOCKET, libc::SO_TYPE)? == libc::SOCK_STREAM;
    // Go listens with MPTCP, whose connections are TCP for all who do not ask for more.
    let is_tcp =
        || Ok::<_, io::Error>([IPPROTO_TCP, libc::IPPROTO_MPTCP].contains(&get(fd, SOL_SOCKET, libc::SO_PROTOCOL)?));
    Ok(match get(fd, SOL_SOCKET, libc::SO_DOMAIN)? {
        libc::AF_INET if is_stream && is_tcp()? => Kind::Ip4,
        libc::AF_INET6 if is_stream && is_tcp()? => Kind::Ip6 { only: get(fd, IPPROTO_IPV6, libc::IPV6_V6ONLY)? != 0 },
        libc::AF_UNIX if is_stream => Kind::Unix,
        _ => Kind::Other,
    })
}

/// A number that this socket has and no other ever had: what tells whether two fds are the same socket.
///
/// # Errors
/// It is no socket.
pub fn identity(fd: impl AsFd) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut length = libc::socklen_t::try_from(mem::size_of::<u64>()).unwrap_or(0);
    let number = fd.as_fd().as_raw_fd();
    // SAFETY: the kernel writes at most the eight bytes of `cookie`, and their number to `length`.
    let code =
        unsafe { libc::getsockopt(number, SOL_SOCKET, libc::SO_COOKIE, (&raw mut cookie).cast(), &raw mut length) };
    if code < 0 { Err(io::Error::last_os_error()) } else { Ok(cookie) }
}

/// How a value that was read is written back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Written {
    AsRead,
    /// socket(7): the kernel doubles the size of a buffer when it is set.
    Halved,
}

/// What programs set on their socket before they bind it, and what connections inherit from it.
const OPTIONS: [(i32, i32, Written); 11] = [
    (IPPROTO_TCP, libc::TCP_NODELAY, Written::AsRead),
    (SOL_SOCKET, libc::SO_KEEPALIVE, Written::AsRead),
    (IPPROTO_TCP, libc::TCP_KEEPIDLE, Written::AsRead),
    (IPPROTO_TCP, libc::TCP_KEEPINTVL, Written::AsRead),
    (IPPROTO_TCP, libc::TCP_KEEPCNT, Written::AsRead),
    (IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, Written::AsRead),
    (IPPROTO_TCP, libc::TCP_FASTOPEN, Written::AsRead),
    (IPPROTO_TCP, libc::TCP_USER_TIMEOUT, Written::AsRead),
    (SOL_SOCKET, libc::SO_RCVBUF, Written::Halved),
    (SOL_SOCKET, libc::SO_SNDBUF, Written::Halved),
    // Last: setting a buffer locks its size, and this says again whether it is (5.14).
    (SOL_SOCKET, libc::SO_BUF_LOCK, Written::AsRead),
];

/// Gives `lane` the options and the `O_NONBLOCK` of the socket that it replaces. Those of an earlier program go with that.
///
/// # Errors
/// `O_NONBLOCK` cannot be had or set. A single option that one of the two does not know stays as it is.
pub fn carry_over(from: impl AsFd, lane: BorrowedFd<'_>) -> io::Result<()> {
    for (level, name, written) in OPTIONS {
        let (Ok(theirs), Ok(ours)) = (get(from.as_fd(), level, name), get(lane, level, name)) else { continue };
        if theirs != ours {
            let value = if written == Written::Halved { theirs / 2 } else { theirs };
            // Refused above a limit of the host: then the lane has what it had.
            let _ = set(lane, level, name, value);
        }
    }
    let flags = OFlag::from_bits_retain(fcntl(from.as_fd(), FcntlArg::F_GETFL)?);
    set_blocking(lane, if flags.contains(OFlag::O_NONBLOCK) { Blocking::Fail } else { Blocking::Wait })
}

fn get(fd: BorrowedFd<'_>, level: i32, name: i32) -> io::Result<i32> {
    let mut value = 0_i32;
    let mut length = libc::socklen_t::try_from(mem::size_of::<i32>()).unwrap_or(0);
    // SAFETY: the kernel writes at most the four bytes of `value`, and their number to `length`.
    let code = unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut length) };
    if code < 0 { Err(io::Error::last_os_error()) } else { Ok(value) }
}

fn set(fd: BorrowedFd<'_>, level: i32, name: i32, value: i32) -> io::Result<()> {
    let length = libc::socklen_t::try_from(mem::size_of::<i32>()).unwrap_or(0);
    // SAFETY: the kernel reads the four bytes of `value`.
    let code = unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), length) };
    if code < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};
    use std::os::unix::net::UnixListener;

    use super::*;

    fn listener(at: &str) -> TcpListener {
        TcpListener::bind(at).expect("bind")
    }

    #[test]
    fn kinds_are_told_apart() {
        assert_eq!(kind(listener("127.0.0.1:0")).expect("ask"), Kind::Ip4);
        assert_eq!(kind(listener("[::]:0")).expect("ask"), Kind::Ip6 { only: false });
        assert_eq!(kind(UdpSocket::bind("127.0.0.1:0").expect("bind")).expect("ask"), Kind::Other);
        let directory = tempfile::tempdir().expect("directory");
        let unix = UnixListener::bind(directory.path().join("s")).expect("bind");
        assert_eq!(kind(unix).expect("ask"), Kind::Unix);
        kind(std::fs::File::open("/dev/null").expect("open")).expect_err("no socket");
    }

    #[test]
    fn a_duplicate_is_the_same_socket_and_another_is_not() {
        let (one, other) = (listener("127.0.0.1:0"), listener("127.0.0.1:0"));
        let again = one.try_clone().expect("duplicate");
        assert_eq!(identity(&one).expect("ask"), identity(again).expect("ask"));
        assert_ne!(identity(&one).expect("ask"), identity(other).expect("ask"));
    }

    #[test]
    fn options_move_to_the_lane_and_back_to_what_the_next_program_has() {
        let (theirs, lane) = (listener("127.0.0.1:0"), listener("127.0.0.1:0"));
        let all = |of: &TcpListener| OPTIONS.map(|(level, name, _)| get(of.as_fd(), level, name).ok());
        let fresh = all(&lane);
        let wanted = [1, 1, 77, 7, 3, 3, 16, 5000, 20_000, 30_000];
        for ((level, name, _), value) in OPTIONS.into_iter().zip(wanted) {
            set(theirs.as_fd(), level, name, value).expect("set");
        }
        theirs.set_nonblocking(true).expect("set");
        carry_over(&theirs, lane.as_fd()).expect("carry over");
        assert_eq!(all(&lane), all(&theirs));
        assert_ne!(all(&lane), fresh);
        assert_eq!(lane.accept().expect_err("it does not wait").kind(), io::ErrorKind::WouldBlock);
        carry_over(listener("127.0.0.1:0"), lane.as_fd()).expect("carry over");
        assert_eq!(all(&lane), fresh);
    }
}
