//! Who answers where: a connection that only asks which member of a group gets it.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6, bind, connect, setsockopt, socket, sockopt,
};

use super::poll::{For, wait};
use super::steer::MARK_CLASS;
use crate::units::Moment;

/// Begins a marked connection and does not wait for it. Dropping it ends it.
///
/// # Errors
/// As connect(2).
pub fn knock(from: SocketAddr, to: SocketAddr) -> io::Result<OwnedFd> {
    let domain = if from.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(domain, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    // Closed with a reset: no TIME_WAIT, which would keep a marked IPv6 port for a minute.
    setsockopt(&fd, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 })?;
    match from {
        SocketAddr::V4(from) => bind(fd.as_raw_fd(), &SockaddrIn::from(from))?,
        SocketAddr::V6(from) => {
            setsockopt(&fd, sockopt::Ipv6TClass, &i32::from(MARK_CLASS))?;
            bind(fd.as_raw_fd(), &SockaddrIn6::from(from))?;
        }
    }
    let begun = match to {
        SocketAddr::V4(to) => connect(fd.as_raw_fd(), &SockaddrIn::from(to)),
        SocketAddr::V6(to) => connect(fd.as_raw_fd(), &SockaddrIn6::from(to)),
    };
    match begun {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(fd),
        Err(error) => Err(error.into()),
    }
}

/// The first of these that has something to read or accept before this moment.
///
/// # Errors
/// As poll(2).
pub fn first_readable(fds: &[BorrowedFd<'_>], until: Moment) -> io::Result<Option<usize>> {
    let asked: Vec<_> = fds.iter().map(|fd| (*fd, For::Reading)).collect();
    Ok(wait(&asked, Some(until))?.iter().position(|found| found.reading))
}
