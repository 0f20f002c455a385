//! Listening sockets (socket(7), ip(7), ipv6(7), tcp(7), unix(7)): made, repaired, asked.
//!
//! Binding and listening are two steps, so that a lane program can be attached in between: then no connection is ever
//! steered without it. A socket that `group` made binds *without* `SO_REUSEPORT` at first, because with it a second
//! program of the same user would silently share the port instead of getting "address in use".

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::{fmt, fs};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, Shutdown, SockFlag, SockType, SockaddrIn, SockaddrIn6, SockaddrStorage, UnixAddr, accept4, bind,
    getsockname, getsockopt, setsockopt, shutdown, socket, sockopt,
};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{Gid, Group, Uid, User, chown};

use super::fd::{Blocking, set_blocking};
use super::tcp_info::listening;

/// Where a socket is bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// TCP.
    Tcp(SocketAddr),
    /// A Unix socket with a path.
    Unix(PathBuf),
    /// A Unix socket in the abstract namespace, without its leading NUL.
    Abstract(Vec<u8>),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(at) => write!(f, "{at}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Abstract(name) => write!(f, "unix:@{}", String::from_utf8_lossy(name)),
        }
    }
}

/// Which packets an IPv6 socket gets. Always said explicitly, whatever `net.ipv6.bindv6only` is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv6 alone (`IPV6_V6ONLY`).
    OnlyV6,
    /// IPv4 too, if the address is `::`.
    Both,
}

/// Whether a TCP socket shares its port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// It has the port for itself.
    Alone,
    /// It is the first of a `SO_REUSEPORT` group: nobody else may be there.
    Founds,
    /// It joins the group that this process' user has there.
    Joins,
}

/// Who may connect to a Unix socket with a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// Permission bits.
    pub mode: u32,
    /// `user` or `user:group`, by name or number.
    pub owner: Option<String>,
}

/// Why there is no such socket.
#[derive(Debug, thiserror::Error)]
pub enum ListenerError {
    /// Somebody else is there.
    #[error(
        "listen on {place}: the address is in use by another program; stop it (`ss -lp` names it) or use another address"
    )]
    InUse {
        /// Where.
        place: Place,
    },
    /// A port below `net.ipv4.ip_unprivileged_port_start`, or a directory that may not be written.
    #[error("listen on {place}: {advice}")]
    NotAllowed {
        /// Where.
        place: Place,
        /// What to do.
        advice: &'static str,
    },
    /// No interface has the address.
    #[error("listen on {place}: this host does not have this address; use one that `ip address` shows, or 0.0.0.0")]
    NoSuchAddress {
        /// Where.
        place: Place,
    },
    /// The kernel has no IPv6.
    #[error("listen on {place}: this host has no IPv6; use an IPv4 address such as 0.0.0.0")]
    NoIpv6 {
        /// Where.
        place: Place,
    },
    /// A file that is not a socket.
    #[error("listen on {place}: there is a file that is not a socket; remove it or use another path")]
    NotASocket {
        /// Where.
        place: Place,
    },
    /// The directory of a Unix socket.
    #[error("listen on {place}: its directory does not exist; create it or use another path")]
    NoDirectory {
        /// Where.
        place: Place,
    },
    /// Longer than `sun_path`.
    #[error("listen on {place}: a Unix socket's path or name has at most 107 bytes; use a shorter one")]
    TooLong {
        /// Where.
        place: Place,
    },
    /// `owner:` names nobody.
    #[error("own {place}: there is no user or group {name:?} on this host")]
    NoSuchOwner {
        /// Where.
        place: Place,
        /// Who.
        name: String,
    },
    /// Anything else that the kernel said.
    #[error("{step} {place}")]
    Kernel {
        /// What was tried.
        step: &'static str,
        /// Where.
        place: Place,
        /// The kernel's word.
        source: io::Error,
    },
}

fn refused(step: &'static str, place: &Place, error: Errno) -> ListenerError {
    let place = place.clone();
    match (error, &place) {
        (Errno::EADDRINUSE, _) => ListenerError::InUse { place },
        (Errno::EACCES, Place::Tcp(_)) => ListenerError::NotAllowed {
            place,
            advice: "ports below 1024 need a privilege; let the service manager open the socket, give the agent \
                     CAP_NET_BIND_SERVICE, or use a higher port",
        },
        (Errno::EACCES | Errno::EPERM | Errno::EROFS, _) => ListenerError::NotAllowed {
            place,
            advice: "this user may not do that; use a directory that the agent may write, or another owner",
        },
        (Errno::EADDRNOTAVAIL, _) => ListenerError::NoSuchAddress { place },
        (Errno::EAFNOSUPPORT, _) => ListenerError::NoIpv6 { place },
        (Errno::ENOENT | Errno::ENOTDIR, Place::Unix(_)) => ListenerError::NoDirectory { place },
        (other, _) => ListenerError::Kernel { step, place, source: other.into() },
    }
}

/// A TCP socket, bound and not yet listening.
///
/// # Errors
/// The address cannot be had.
pub fn bind_tcp(at: SocketAddr, family: Family, sharing: Sharing) -> Result<OwnedFd, ListenerError> {
    let place = Place::Tcp(at);
    let said = |error| refused("listen on", &place, error);
    let first = bind_once(at, family, sharing).map_err(said)?;
    if at.port() != 0 {
        return Ok(first);
    }
    // A socket for which the kernel chose the port loses it when it is shut down; one that was bound by number keeps it.
    let mut numbered = at;
    if let Place::Tcp(chosen) = place_of(&first).map_err(|error| said(errno_of(&error)))? {
        numbered.set_port(chosen.port());
    }
    bind_once(numbered, family, sharing).map_err(said)
}

fn bind_once(at: SocketAddr, family: Family, sharing: Sharing) -> Result<OwnedFd, Errno> {
    let domain = if at.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(domain, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    if at.is_ipv6() {
        setsockopt(&fd, sockopt::Ipv6V6Only, &(family == Family::OnlyV6))?;
    }
    // Connections of an earlier life in TIME_WAIT must not keep the port.
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    if sharing == Sharing::Joins {
        setsockopt(&fd, sockopt::ReusePort, &true)?;
    }
    match at {
        SocketAddr::V4(at) => bind(fd.as_raw_fd(), &SockaddrIn::from(at))?,
        SocketAddr::V6(at) => bind(fd.as_raw_fd(), &SockaddrIn6::from(at))?,
    }
    if sharing == Sharing::Founds {
        setsockopt(&fd, sockopt::ReusePort, &true)?;
    }
    Ok(fd)
}

/// A Unix socket with a path, bound with its final owner and mode, not yet listening. A dead socket there is replaced.
///
/// # Errors
/// The path cannot be had.
pub fn bind_unix(path: &Path, access: &Access) -> Result<OwnedFd, ListenerError> {
    let place = Place::Unix(path.to_owned());
    let said = |error| refused("listen on", &place, error);
    let address = UnixAddr::new(path).map_err(|_| ListenerError::TooLong { place: place.clone() })?;
    let owner = access.owner.as_deref().map(|owner| owner_of(owner, &place)).transpose()?;
    make_way(path, &place)?;
    let fd = unix_socket().map_err(said)?;
    // The file gets the mode of the socket's inode (and umask): never wider than asked for, not even for a moment.
    fchmod(&fd, Mode::from_bits_truncate(access.mode)).map_err(said)?;
    bind(fd.as_raw_fd(), &address).map_err(said)?;
    let owned = match owner {
        Some((user, group)) => chown(path, user, group).map_err(said),
        None => Ok(()),
    };
    let mode = fs::Permissions::from_mode(access.mode);
    let allowed = owned.and_then(|()| fs::set_permissions(path, mode).map_err(|error| said(errno_of(&error))));
    if let Err(error) = allowed {
        // Nobody listens there, and nobody ever will.
        fs::remove_file(path).ok();
        return Err(error);
    }
    Ok(fd)
}

/// A Unix socket in the abstract namespace, bound and not yet listening.
///
/// # Errors
/// The name is taken.
pub fn bind_abstract(name: &[u8]) -> Result<OwnedFd, ListenerError> {
    let place = Place::Abstract(name.to_vec());
    let address = UnixAddr::new_abstract(name).map_err(|_| ListenerError::TooLong { place: place.clone() })?;
    let fd = unix_socket().map_err(|error| refused("listen on", &place, error))?;
    bind(fd.as_raw_fd(), &address).map_err(|error| refused("listen on", &place, error))?;
    Ok(fd)
}

fn unix_socket() -> Result<OwnedFd, Errno> {
    socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
}

/// Removes a socket that nobody listens on any more.
fn make_way(path: &Path, place: &Place) -> Result<(), ListenerError> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(refused("look at", place, errno_of(&error))),
    };
    if !found.file_type().is_socket() {
        return Err(ListenerError::NotASocket { place: place.clone() });
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(|error| refused("replace", place, errno_of(&error)))
        }
        // A full queue, a refusal by permissions, an answer: in each case somebody may be there.
        Ok(_) | Err(_) => Err(ListenerError::InUse { place: place.clone() }),
    }
}

fn errno_of(error: &io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw)
}

/// `user` or `user:group` as numbers. A user alone brings his group along.
fn owner_of(owner: &str, place: &Place) -> Result<(Option<Uid>, Option<Gid>), ListenerError> {
    let nobody = |name: &str| ListenerError::NoSuchOwner { place: place.clone(), name: name.to_owned() };
    let (user, group) = owner.split_once(':').map_or((owner, None), |(user, group)| (user, Some(group)));
    let (uid, own_gid) = match (user.parse(), User::from_name(user)) {
        (_, Ok(Some(user))) => (Some(user.uid), Some(user.gid)),
        (Ok(number), _) => (Some(Uid::from_raw(number)), None),
        (Err(_), _) if user.is_empty() => (None, None),
        (Err(_), _) => return Err(nobody(user)),
    };
    let gid = match group {
        None => own_gid,
        Some(group) => match (group.parse(), Group::from_name(group)) {
            (_, Ok(Some(group))) => Some(group.gid),
            (Ok(number), _) => Some(Gid::from_raw(number)),
            (Err(_), _) => return Err(nobody(group)),
        },
    };
    Ok((uid, gid))
}

/// Makes a bound socket listen, or a listening one listen with this backlog. A live member of a group stays in its place.
///
/// # Errors
/// Somebody else listens there by now, or the fd is no stream socket.
pub fn listen(fd: impl AsFd, backlog: u32) -> io::Result<()> {
    let backlog = libc::c_int::try_from(backlog).unwrap_or(libc::c_int::MAX);
    // SAFETY: listen(2) takes numbers only; the fd is open because it is borrowed.
    let code = unsafe { libc::listen(fd.as_fd().as_raw_fd(), backlog) };
    if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Stops listening: what waits is reset, and the last member of the group takes the socket's place. [`listen`] brings it
/// back as the last member.
///
/// # Errors
/// It does not listen.
pub fn stop_listening(fd: impl AsFd) -> io::Result<()> {
    Ok(shutdown(fd.as_fd().as_raw_fd(), Shutdown::Both)?)
}

/// What a program did to a listening socket that it was lent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// `shutdown`: it did not listen any more. What was queued was reset, and its place in a group was lost.
    Closed,
    /// `listen` with a smaller backlog.
    Backlog {
        /// The length of the queue that was found.
        found: u32,
    },
    /// `O_NONBLOCK`. What every event loop does: no fault, but the next program may not expect it.
    NonBlocking,
}

/// Makes a TCP listener as good as new: it listens, with this backlog, and blocks. Gives back what was wrong.
///
/// # Errors
/// The fd is not a TCP listener, or its address is taken by now.
pub fn mend(fd: impl AsFd, backlog: u32) -> io::Result<Vec<Damage>> {
    let fd = fd.as_fd();
    let mut damage = reopen(fd, backlog)?;
    if blocking_of(fd)? == Blocking::Fail {
        set_blocking(fd, Blocking::Wait)?;
        damage.push(Damage::NonBlocking);
    }
    Ok(damage)
}

/// As [`mend`], for a socket that others hold as well: `O_NONBLOCK` is theirs, too, and stays.
///
/// # Errors
/// As [`mend`].
pub fn reopen(fd: impl AsFd, backlog: u32) -> io::Result<Vec<Damage>> {
    let fd = fd.as_fd();
    let mut damage = Vec::new();
    let found = listening(fd)?;
    listen(fd, backlog)?;
    if !found.open {
        damage.push(Damage::Closed);
    } else if found.backlog < listening(fd)?.backlog {
        damage.push(Damage::Backlog { found: found.backlog });
    }
    Ok(damage)
}

/// Whether calls on a socket wait. A property of the open file description: all who hold the socket share it.
fn blocking_of(fd: BorrowedFd<'_>) -> io::Result<Blocking> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    Ok(if flags.contains(OFlag::O_NONBLOCK) { Blocking::Fail } else { Blocking::Wait })
}

/// The next connection of a listener, which gets `O_NONBLOCK` by this; `None` when nothing is queued. The connection never
/// blocks.
///
/// # Errors
/// As accept(2), but for connections that were gone before they were accepted: those are passed over.
pub fn accept_nonblocking(fd: impl AsFd) -> io::Result<Option<OwnedFd>> {
    let fd = fd.as_fd();
    // Each time anew: the flag belongs to everybody who holds the socket, and an accept that waits would stop the agent.
    set_blocking(fd, Blocking::Fail)?;
    loop {
        match accept4(fd, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK) {
            Ok(connection) => return Ok(Some(connection)),
            Err(Errno::EAGAIN) => return Ok(None),
            // accept(2): errors of the connection itself are reported by accept and are to be treated like EAGAIN.
            Err(
                Errno::EINTR
                | Errno::ECONNABORTED
                | Errno::EPROTO
                | Errno::ENETDOWN
                | Errno::ENOPROTOOPT
                | Errno::EHOSTDOWN
                | Errno::ENONET
                | Errno::EHOSTUNREACH
                | Errno::ENETUNREACH,
            ) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Where a socket is bound.
///
/// # Errors
/// It is no socket, or of another family.
pub fn place_of(fd: impl AsFd) -> io::Result<Place> {
    let address: SockaddrStorage = getsockname(fd.as_fd().as_raw_fd())?;
    if let Some(at) = address.as_sockaddr_in() {
        return Ok(Place::Tcp(SocketAddrV4::new(at.ip(), at.port()).into()));
    }
    if let Some(at) = address.as_sockaddr_in6() {
        return Ok(Place::Tcp(SocketAddrV6::new(at.ip(), at.port(), 0, at.scope_id()).into()));
    }
    let unix = address.as_unix_addr();
    let path = unix.and_then(UnixAddr::path).map(|path| Place::Unix(path.to_owned()));
    let name = || unix.and_then(UnixAddr::as_abstract).map(|name| Place::Abstract(name.to_vec()));
    path.or_else(name).ok_or_else(|| io::Error::new(io::ErrorKind::Unsupported, "not a bound TCP or Unix socket"))
}

/// Whether an IPv6 socket takes IPv6 alone. `Both` for other sockets.
///
/// # Errors
/// It is no socket.
pub fn family_of(fd: impl AsFd) -> io::Result<Family> {
    match getsockopt(&fd, sockopt::Ipv6V6Only) {
        Ok(true) => Ok(Family::OnlyV6),
        Ok(false) | Err(Errno::ENOPROTOOPT | Errno::EOPNOTSUPP) => Ok(Family::Both),
        Err(error) => Err(error.into()),
    }
}

/// Whether the socket has `SO_REUSEPORT`, without which no lane can join it.
///
/// # Errors
/// It is no socket.
pub fn can_share(fd: impl AsFd) -> io::Result<Sharing> {
    Ok(if getsockopt(&fd, sockopt::ReusePort)? { Sharing::Joins } else { Sharing::Alone })
}

/// How this host reaches a listener that is bound to `at`.
#[must_use]
pub fn reached_at(at: SocketAddr, family: Family) -> SocketAddr {
    let ip = match (at.ip(), family) {
        (IpAddr::V4(ip), _) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        (IpAddr::V6(ip), Family::Both) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        (IpAddr::V6(ip), Family::OnlyV6) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        (ip, _) => ip.to_canonical(),
    };
    match (at, ip) {
        // Keeps the scope of a link-local address.
        (SocketAddr::V6(mut v6), IpAddr::V6(ip)) => {
            v6.set_ip(ip);
            v6.into()
        }
        (at, ip) => SocketAddr::new(ip, at.port()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixListener;

    use super::*;

    const ANY: &str = "127.0.0.1:0";

    fn any() -> SocketAddr {
        ANY.parse().expect("address")
    }

    fn at(fd: &OwnedFd) -> SocketAddr {
        match place_of(fd).expect("place") {
            Place::Tcp(at) => at,
            other @ (Place::Unix(_) | Place::Abstract(_)) => panic!("{other}"),
        }
    }

    #[test]
    fn an_address_that_somebody_listens_on_is_in_use_even_for_a_group() {
        let first = bind_tcp(any(), Family::Both, Sharing::Founds).expect("found");
        listen(&first, 8).expect("listen");
        for sharing in [Sharing::Founds, Sharing::Alone] {
            let second = bind_tcp(at(&first), Family::Both, sharing);
            let error = second.expect_err("another program's group");
            assert!(matches!(error, ListenerError::InUse { .. }), "{error:?}");
            assert!(error.to_string().contains("in use by another program"), "{error}");
        }
        let joined = bind_tcp(at(&first), Family::Both, Sharing::Joins).expect("join");
        listen(&joined, 8).expect("listen");
    }

    #[test]
    fn dual_stack_and_ipv6_alone_are_said_explicitly() {
        for (family, v4_works) in [(Family::Both, true), (Family::OnlyV6, false)] {
            let fd = bind_tcp("[::]:0".parse().expect("address"), family, Sharing::Alone).expect("bind");
            listen(&fd, 8).expect("listen");
            assert_eq!(family_of(&fd).expect("ask"), family);
            let port = at(&fd).port();
            assert_eq!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok(), v4_works);
            TcpStream::connect((Ipv6Addr::LOCALHOST, port)).expect("IPv6");
            assert_eq!(reached_at(at(&fd), family).is_ipv4(), v4_works);
        }
    }

    #[test]
    fn an_address_of_another_host_says_so() {
        let error = bind_tcp("192.0.2.1:0".parse().expect("address"), Family::Both, Sharing::Alone);
        assert!(matches!(error, Err(ListenerError::NoSuchAddress { .. })), "{error:?}");
    }

    #[test]
    fn damage_is_found_and_undone() {
        let fd = bind_tcp(any(), Family::Both, Sharing::Founds).expect("bind");
        listen(&fd, 64).expect("listen");
        assert_eq!(mend(&fd, 64).expect("mend"), []);
        listen(&fd, 1).expect("shrink");
        set_blocking(&fd, Blocking::Fail).expect("fcntl");
        assert_eq!(mend(&fd, 64).expect("mend"), [Damage::Backlog { found: 1 }, Damage::NonBlocking]);
        let before = at(&fd);
        stop_listening(&fd).expect("shutdown");
        assert_eq!(at(&fd), before, "it keeps its port");
        TcpStream::connect(at(&fd)).expect_err("it is closed");
        assert_eq!(mend(&fd, 64).expect("mend"), [Damage::Closed]);
        TcpStream::connect(at(&fd)).expect("it is open");
        assert_eq!(listening(&fd).expect("ask").backlog, 64);
        assert_eq!(mend(&fd, 64).expect("mend"), []);
    }

    #[test]
    fn accepting_never_waits() {
        let fd = bind_tcp(any(), Family::Both, Sharing::Alone).expect("bind");
        listen(&fd, 8).expect("listen");
        // It blocks, as the kernel makes it: an accept that waited would hang here.
        assert!(accept_nonblocking(&fd).expect("accept").is_none());
        let _client = TcpStream::connect(at(&fd)).expect("connect");
        assert!(accept_nonblocking(&fd).expect("accept").is_some());
        assert!(accept_nonblocking(&fd).expect("accept").is_none());
    }

    #[test]
    fn a_dead_unix_socket_is_replaced_and_a_living_one_is_not() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("s");
        let access = Access { mode: 0o600, owner: None };
        drop(UnixListener::bind(&path).expect("leave a dead one"));
        let fd = bind_unix(&path, &access).expect("replace it");
        listen(&fd, 8).expect("listen");
        assert_eq!(fs::metadata(&path).expect("stat").permissions().mode() & 0o777, 0o600);
        UnixStream::connect(&path).expect("connect");
        assert!(matches!(bind_unix(&path, &access), Err(ListenerError::InUse { .. })));
        assert_eq!(place_of(&fd).expect("place"), Place::Unix(path));
    }

    #[test]
    fn unix_mode_and_owner_are_as_asked_and_bad_ones_leave_nothing() {
        let directory = tempfile::tempdir().expect("directory");
        let path = directory.path().join("s");
        let owner = |owner: &str| Access { mode: 0o777, owner: Some(owner.to_owned()) };
        let error = bind_unix(&path, &owner("no-such-user-here")).expect_err("nobody");
        assert!(error.to_string().contains("no user or group \"no-such-user-here\""), "{error}");
        assert!(matches!(bind_unix(&path, &owner("0:no-such-group")), Err(ListenerError::NoSuchOwner { .. })));
        assert!(!path.exists());
        let me = Uid::current();
        drop(bind_unix(&path, &owner(&me.to_string())).expect("own it"));
        assert_eq!(fs::metadata(&path).expect("stat").permissions().mode() & 0o777, 0o777, "whatever the umask");
        let file = directory.path().join("f");
        fs::write(&file, "precious").expect("write");
        assert!(matches!(bind_unix(&file, &owner("0")), Err(ListenerError::NotASocket { .. })));
        assert_eq!(fs::read(&file).expect("read"), b"precious");
        let nowhere = bind_unix(&directory.path().join("no/s"), &Access { mode: 0o600, owner: None });
        assert!(matches!(nowhere, Err(ListenerError::NoDirectory { .. })), "{nowhere:?}");
        let long = bind_unix(&directory.path().join("x".repeat(120)), &Access { mode: 0o600, owner: None });
        assert!(matches!(long, Err(ListenerError::TooLong { .. })), "{long:?}");
    }

    #[test]
    fn an_abstract_socket_has_its_name() {
        let name = format!("rollout-test-{}", std::process::id());
        let fd = bind_abstract(name.as_bytes()).expect("bind");
        listen(&fd, 8).expect("listen");
        assert_eq!(place_of(&fd).expect("place").to_string(), format!("unix:@{name}"));
        assert!(matches!(bind_abstract(name.as_bytes()), Err(ListenerError::InUse { .. })));
    }

    #[test]
    fn a_group_can_be_told_from_a_lone_socket() {
        let alone = TcpListener::bind(ANY).expect("bind");
        assert_eq!(can_share(&alone).expect("ask"), Sharing::Alone);
        let first = bind_tcp(any(), Family::Both, Sharing::Founds).expect("bind");
        assert_eq!(can_share(&first).expect("ask"), Sharing::Joins);
    }
}
