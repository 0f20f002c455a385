//! The process that made a call: what is in its memory, and what its fds are.
//!
//! Everything here is a guess until [`super::calls::Calls::waits`] says that the call still waited afterwards.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;

use super::calls::{Call, OnExec};
use crate::sys::{child, fd};

/// `struct sockaddr_storage`: no address is longer.
const LONGEST_ADDRESS: usize = 128;

/// What a program asked to be bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Asked {
    /// An IP address and a port.
    Ip(SocketAddr),
    /// A path, absolute.
    Path(PathBuf),
    /// A name in the abstract namespace, without its leading NUL.
    Abstract(Vec<u8>),
    /// Something else: packets, netlink, a Unix socket without a name.
    Other,
}

/// The address that a `bind` was called with.
///
/// # Errors
/// The memory may not be read, or there is none.
pub fn address(call: &Call, at: u64, length: u64) -> io::Result<Asked> {
    let length = usize::try_from(length).unwrap_or(usize::MAX).min(LONGEST_ADDRESS);
    let base = usize::try_from(at).map_err(|_| Errno::EFAULT)?;
    let mut bytes = [0; LONGEST_ADDRESS];
    let part = &mut [IoSliceMut::new(&mut bytes[..length])];
    let read = process_vm_readv(Pid::from_raw(call.thread), part, &[RemoteIoVec { base, len: length }])?;
    let asked = parsed(&bytes[..read]);
    if let Asked::Path(path) = &asked
        && path.is_relative()
    {
        return Ok(Asked::Path(directory(call)?.join(path)));
    }
    Ok(asked)
}

fn directory(call: &Call) -> io::Result<PathBuf> {
    fs::read_link(format!("/proc/{}/cwd", call.thread))
}

fn parsed(bytes: &[u8]) -> Asked {
    let Some((family, rest)) = bytes.split_first_chunk() else { return Asked::Other };
    match i32::from(u16::from_ne_bytes(*family)) {
        libc::AF_INET => ip4(rest).map_or(Asked::Other, |at| Asked::Ip(at.into())),
        libc::AF_INET6 => ip6(rest).map_or(Asked::Other, |at| Asked::Ip(at.into())),
        libc::AF_UNIX => match rest {
            [] => Asked::Other,
            [0, name @ ..] => Asked::Abstract(name.to_vec()),
            path => {
                let end = path.iter().position(|byte| *byte == 0).unwrap_or(path.len());
                Asked::Path(Path::new(OsStr::from_bytes(&path[..end])).to_owned())
            }
        },
        _ => Asked::Other,
    }
}

fn ip4(bytes: &[u8]) -> Option<SocketAddrV4> {
    let (port, rest) = bytes.split_first_chunk()?;
    Some(SocketAddrV4::new(Ipv4Addr::from(*rest.first_chunk::<4>()?), u16::from_be_bytes(*port)))
}

/// Up to the address: old programs leave out the scope behind it.
fn ip6(bytes: &[u8]) -> Option<SocketAddrV6> {
    let (port, rest) = bytes.split_first_chunk()?;
    let octets = rest.get(4..)?.first_chunk::<16>()?;
    Some(SocketAddrV6::new(Ipv6Addr::from(*octets), u16::from_be_bytes(*port), 0, 0))
}

/// A duplicate of the fd that a call is about (pidfd_getfd(2)).
///
/// # Errors
/// The process is gone or may not be looked into, or has no such fd.
pub fn fd_of(call: &Call) -> io::Result<OwnedFd> {
    let pidfd = child::pidfd_open(process_of(call.thread)?)?;
    // SAFETY: passes an fd that is borrowed for the call and integers. The kernel sets close-on-exec by itself.
    let number = unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_fd().as_raw_fd(), call.fd, 0) };
    let number = i32::try_from(number).unwrap_or(-1);
    if number < 0 { Err(io::Error::last_os_error()) } else { Ok(fd::adopt(number)) }
}

/// The process that this thread belongs to.
fn process_of(thread: i32) -> io::Result<i32> {
    let status = fs::read(format!("/proc/{thread}/status"))?;
    let line = status.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"Tgid:"));
    let number = line.and_then(|line| std::str::from_utf8(line).ok()?.trim().parse().ok());
    number.ok_or_else(|| Errno::ESRCH.into())
}

/// Whether an exec closes the fd that a call is about: a property of the number there, not of what a duplicate shows.
///
/// # Errors
/// There is no such thread or fd.
pub fn on_exec(call: &Call) -> io::Result<OnExec> {
    let info = fs::read_to_string(format!("/proc/{}/fdinfo/{}", call.thread, call.fd))?;
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok()).ok_or(Errno::EINVAL)?;
    Ok(if flags & libc::O_CLOEXEC == 0 { OnExec::Keep } else { OnExec::Close })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(family: i32, rest: &[u8]) -> Asked {
        let family = u16::try_from(family).expect("a small number").to_ne_bytes();
        parsed(&[&family[..], rest].concat())
    }

    #[test]
    fn addresses_of_every_kind_are_read() {
        assert_eq!(of(libc::AF_INET, &[31, 144, 127, 0, 0, 1]), Asked::Ip("127.0.0.1:8080".parse().expect("address")));
        let mut six = vec![31, 144, 0, 0, 0, 0];
        six.extend(Ipv6Addr::LOCALHOST.octets());
        assert_eq!(of(libc::AF_INET6, &six), Asked::Ip("[::1]:8080".parse().expect("address")));
        assert_eq!(of(libc::AF_UNIX, b"/run/x\0garbage"), Asked::Path("/run/x".into()));
        assert_eq!(of(libc::AF_UNIX, b"\0name"), Asked::Abstract(b"name".to_vec()));
        assert_eq!(of(libc::AF_UNIX, b""), Asked::Other);
        assert_eq!(of(libc::AF_INET, &[31]), Asked::Other);
        assert_eq!(of(libc::AF_NETLINK, &[0; 10]), Asked::Other);
    }

    #[test]
    fn a_thread_belongs_to_its_process() {
        let thread = std::thread::spawn(|| {
            let thread = nix::unistd::gettid().as_raw();
            (thread, process_of(thread).expect("ask"))
        });
        let (thread, process) = thread.join().expect("join");
        assert_eq!(process, child::own_pid());
        assert_ne!(thread, process);
    }

    proptest! {
        #[test]
        fn no_address_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..128)) {
            let _ = parsed(&bytes);
        }
    }
}
