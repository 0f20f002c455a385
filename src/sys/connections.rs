//! Which established TCP connections a process tree holds, by the kernel's own tables (sock_diag(7), proc(5)).
//!
//! One question over `NETLINK_SOCK_DIAG`, filtered by state in the kernel and by local port here, gives the inodes of
//! a service's connections; the links in `/proc/PID/fd` tell which of them the tree holds. No privilege is needed for
//! processes of the same user.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket, sockopt,
};
use nix::sys::stat::fstat;
use nix::sys::time::TimeVal;

/// How many established connections to these local ports the processes hold. A process that is gone holds none. The
/// processes are only asked for where there is a connection at all: to find them may take a search through `/proc`.
///
/// # Errors
/// The kernel has no socket diagnosis, or a process may not be looked at.
pub fn established(pids: impl FnOnce() -> Vec<i32>, ports: &[u16]) -> io::Result<u32> {
    if ports.is_empty() {
        return Ok(0);
    }
    let mut candidates = HashSet::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        candidates.extend(dump(family, ports)?);
    }
    let mut held = HashSet::new();
    if !candidates.is_empty() {
        for pid in pids() {
            held.extend(sockets_of(pid)?.into_iter().filter(|inode| candidates.contains(inode)));
        }
    }
    Ok(u32::try_from(held.len()).unwrap_or(u32::MAX))
}

/// Whether one of the processes holds this socket. A process that is gone holds none.
///
/// # Errors
/// It is no socket, or a process may not be looked at.
pub fn is_held(socket: impl AsFd, pids: &[i32]) -> io::Result<bool> {
    let inode = fstat(socket.as_fd())?.st_ino;
    for pid in pids {
        if sockets_of(*pid)?.into_iter().any(|held| u64::from(held) == inode) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The inodes of the sockets among a process' fds.
fn sockets_of(pid: i32) -> io::Result<Vec<u32>> {
    let entries = match fs::read_dir(format!("/proc/{pid}/fd")) {
        Ok(entries) => entries,
        Err(error) if is_gone(&error) => return Ok(vec![]),
        Err(error) => return Err(error),
    };
    // An fd that is closed while we look is none.
    let links = entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    Ok(links.filter_map(|link| inode_in(link.to_str()?)).collect())
}

fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}

/// `socket:[12345]`
fn inode_in(link: &str) -> Option<u32> {
    link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

// linux/netlink.h, linux/inet_diag.h, linux/sock_diag.h: layouts of the kernel's interface, in native byte order.
const HEADER: usize = 16;
const REQUEST: usize = HEADER + 56;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const ESTABLISHED: u8 = 1;
/// `idiag_sport` in `struct inet_diag_msg`, in network byte order.
const SPORT: usize = HEADER + 4;
/// `idiag_inode`, the last field.
const INODE: usize = HEADER + 68;

/// Inodes of the established connections of one address family with one of these local ports.
fn dump(family: i32, ports: &[u16]) -> io::Result<Vec<u32>> {
    let link = open_link()?;
    send(link.as_raw_fd(), &request(family), MsgFlags::empty())?;
    let mut found = vec![];
    // The kernel fills at most 32 KiB per answer (netlink(7)).
    let mut answer = vec![0; 1 << 15];
    loop {
        let length = recv(link.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Answer::Last = read_answer(&answer[..length], ports, &mut found)? {
            return Ok(found);
        }
    }
}

fn open_link() -> io::Result<OwnedFd> {
    let link =
        socket(AddressFamily::Netlink, SockType::Datagram, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkSockDiag)?;
    // The kernel answers at once; a deadline all the same, so that no surprise there can stop the agent.
    setsockopt(&link, sockopt::ReceiveTimeout, &TimeVal::new(1, 0))?;
    Ok(link)
}

/// `struct nlmsghdr` and `struct inet_diag_req_v2`.
fn request(family: i32) -> [u8; REQUEST] {
    let mut bytes = [0; REQUEST];
    let flags = u16::try_from(libc::NLM_F_REQUEST | libc::NLM_F_DUMP).unwrap_or(0);
    bytes[0..4].copy_from_slice(&u32::try_from(REQUEST).unwrap_or(0).to_ne_bytes());
    bytes[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
    bytes[HEADER] = u8::try_from(family).unwrap_or(0);
    bytes[HEADER + 1] = u8::try_from(libc::IPPROTO_TCP).unwrap_or(0);
    bytes[HEADER + 4..HEADER + 8].copy_from_slice(&(1_u32 << ESTABLISHED).to_ne_bytes());
    bytes
}

/// Whether more answers follow.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    More,
    Last,
}

fn read_answer(mut bytes: &[u8], ports: &[u16], found: &mut Vec<u32>) -> io::Result<Answer> {
    let broken = || io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer about sockets is broken");
    while bytes.len() >= HEADER {
        let length = usize::try_from(word(bytes, 0)).map_err(|_| broken())?;
        let message = bytes.get(..length).filter(|message| message.len() >= HEADER).ok_or_else(broken)?;
        match i32::from(u16::from_ne_bytes([message[4], message[5]])) {
            libc::NLMSG_DONE => return Ok(Answer::Last),
            libc::NLMSG_ERROR => {
                let code = message.get(HEADER..HEADER + 4).map_or(0, |_| word(message, HEADER).cast_signed());
                return Err(io::Error::from_raw_os_error(code.saturating_neg()));
            }
            _ if message.len() >= INODE + mem::size_of::<u32>() => {
                let port = u16::from_be_bytes([message[SPORT], message[SPORT + 1]]);
                if ports.contains(&port) {
                    found.push(word(message, INODE));
                }
            }
            _ => {}
        }
        // Messages begin at multiples of four (NLMSG_ALIGN).
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
    }
    Ok(Answer::More)
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::process::{Command, Stdio};

    use proptest::prelude::*;

    use super::*;

    fn me() -> i32 {
        i32::try_from(std::process::id()).expect("a pid")
    }

    #[test]
    fn accepted_connections_to_the_port_are_counted_and_nothing_else() {
        for address in ["127.0.0.1:0", "[::]:0"] {
            let listener = TcpListener::bind(address).expect("bind");
            let port = listener.local_addr().expect("address").port();
            let count = || established(|| vec![me()], &[port]).expect("ask");
            assert_eq!(count(), 0);
            // The client's end has the port as its remote one, and a queued connection belongs to nobody yet.
            let clients: Vec<_> = (0..3).map(|_| TcpStream::connect(("127.0.0.1", port)).expect("connect")).collect();
            assert_eq!(count(), 0);
            let mut accepted: Vec<_> = clients.iter().map(|_| listener.accept().expect("accept").0).collect();
            let twice = accepted[0].try_clone().expect("duplicate");
            assert_eq!(count(), 3, "{address}");
            accepted.pop();
            assert_eq!(count(), 2, "{address}");
            drop(twice);
            let other = TcpListener::bind("127.0.0.1:0").expect("bind").local_addr().expect("address").port();
            assert_eq!(established(|| vec![me()], &[other]).expect("ask"), 0);
        }
    }

    #[test]
    fn connections_of_other_processes_are_not_ours_and_the_dead_hold_none() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let port = listener.local_addr().expect("address").port();
        let _client = TcpStream::connect(("127.0.0.1", port)).expect("connect");
        let _accepted = listener.accept().expect("accept");
        let mut other = Command::new("cat").stdin(Stdio::piped()).spawn().expect("start cat");
        let pid = i32::try_from(other.id()).expect("a pid");
        assert_eq!(established(|| vec![pid], &[port]).expect("ask"), 0);
        drop(other.stdin.take());
        other.wait().expect("wait");
        assert_eq!(established(|| vec![pid, me()], &[port]).expect("ask"), 1);
        assert_eq!(established(Vec::new, &[port]).expect("ask"), 0);
    }

    #[test]
    fn a_socket_is_held_by_whoever_has_an_fd_for_it() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let mut other = Command::new("cat").stdin(Stdio::piped()).spawn().expect("start cat");
        let pid = i32::try_from(other.id()).expect("a pid");
        assert!(is_held(&listener, &[pid, me()]).expect("ask"));
        assert!(!is_held(&listener, &[pid]).expect("ask"));
        drop(other.stdin.take());
        other.wait().expect("wait");
        assert!(!is_held(&listener, &[pid]).expect("ask"));
    }

    #[test]
    fn many_connections_take_several_answers() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let port = listener.local_addr().expect("address").port();
        let pairs: Vec<_> = (0..300)
            .map(|_| (TcpStream::connect(("127.0.0.1", port)).expect("connect"), listener.accept().expect("accept")))
            .collect();
        assert_eq!(established(|| vec![me()], &[port]).expect("ask"), u32::try_from(pairs.len()).expect("few"));
    }

    proptest! {
        #[test]
        fn no_answer_of_the_kernel_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read_answer(&bytes, &[80], &mut vec![]);
        }
    }
}
