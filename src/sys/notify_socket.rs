//! The socket on which a worker says `READY=1` (sd_notify(3)): one datagram socket per worker (unix(7)), with the sender's
//! pid and uid by the kernel's word (`SO_PASSCRED`).
//!
//! It has a path, as systemd's own has: there are libraries in use that know nothing else and take the `@` of a name in the
//! abstract namespace for a file name. Only where a path would be too long it has such a name.

use std::io;
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, bind, getsockname, setsockopt, socket, sockopt};

/// More than any honest message (systemd takes 4 KiB too); longer ones are dropped whole, never cut.
pub const LONGEST: usize = 4096;

/// Room for the sender's credentials and nothing else: fds that come along find no room and are closed by the kernel
/// without ever having been ours (`MSG_CTRUNC`, unix(7)); the credentials are always first. nix's `recvmsg` takes a cut
/// control message for an error and leaks what was not cut, hence this struct in the layout of cmsg(3).
#[repr(C)]
struct Control {
    header: libc::cmsghdr,
    sender: libc::ucred,
}

/// A worker's notify socket. Non-blocking; close-on-exec.
#[derive(Debug)]
pub struct NotifySocket {
    socket: OwnedFd,
    address: String,
}

/// One received message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Datagram {
    /// The sending process, which may be gone by now.
    pub pid: i32,
    /// Its user.
    pub uid: u32,
    /// What it said. Empty when it said too much (see [`LONGEST`]).
    pub bytes: Vec<u8>,
}

impl NotifySocket {
    /// A new socket at this path, instead of what is there; nobody removes it when it is not needed any more.
    ///
    /// # Errors
    /// As socket(2), bind(2) and unlink(2).
    pub fn at(path: &Path) -> io::Result<Self> {
        let Ok(address) = UnixAddr::new(path) else { return Self::unnamed() };
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Self::bound(&address),
        }
    }

    /// A new socket under a name that the kernel chooses and that nobody else has (autobind, unix(7)).
    ///
    /// # Errors
    /// As socket(2), bind(2): out of fds, or out of names.
    pub fn unnamed() -> io::Result<Self> {
        Self::bound(&UnixAddr::new_unnamed())
    }

    fn bound(address: &UnixAddr) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Unix, SockType::Datagram, flags, None)?;
        setsockopt(&socket, sockopt::PassCred, &true)?;
        bind(socket.as_raw_fd(), address)?;
        Self::adopt(socket)
    }

    /// A socket that an earlier agent made. What was sent meanwhile is still in it.
    ///
    /// # Errors
    /// It is not a Unix socket with a name.
    pub fn adopt(socket: OwnedFd) -> io::Result<Self> {
        let name: UnixAddr = getsockname(socket.as_raw_fd())?;
        let path = name.path().and_then(Path::to_str).map(str::to_owned);
        let abstract_name = || Some(format!("@{}", std::str::from_utf8(name.as_abstract()?).ok()?));
        let address = path.or_else(abstract_name).ok_or(Errno::EINVAL)?;
        Ok(Self { socket, address })
    }

    /// The value of `NOTIFY_SOCKET` for the worker: a path, or `@name`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }
}

impl AsFd for NotifySocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// To wait for messages with the runtime; [`receive`] takes them.
impl From<NotifySocket> for OwnedFd {
    fn from(socket: NotifySocket) -> Self {
        socket.socket
    }
}

/// The next message on a notify socket. Fds that came with it are closed before this returns, which is
/// the answer that `BARRIER=1` waits for: everything sent before it was received before it.
///
/// # Errors
/// `WouldBlock` when there is none now; else as recvmsg(2), none of which is expected.
pub fn receive(socket: BorrowedFd<'_>) -> io::Result<Datagram> {
    let mut buffer = [0_u8; LONGEST];
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut control = MaybeUninit::<Control>::zeroed();
    // SAFETY: a msghdr is integers and pointers, for which zero is a value.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = mem::size_of::<Control>();
    // SAFETY: `message` points at `part` and `control`, `part` at `buffer`, each with its true length; all outlive the
    // call. The fd is borrowed.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC) };
    let Ok(length) = usize::try_from(length) else {
        return Err(io::Error::last_os_error());
    };
    // SAFETY: a Control is integers; it was zeroed, and the kernel wrote integers over it.
    let control = unsafe { control.assume_init() };
    let bytes = if message.msg_flags & libc::MSG_TRUNC == 0 { buffer[..length].to_vec() } else { Vec::new() };
    let known = control.header.cmsg_level == libc::SOL_SOCKET && control.header.cmsg_type == libc::SCM_CREDENTIALS;
    // Pid 0 is nobody: in no worker's tree. It cannot happen with SO_PASSCRED.
    let (pid, uid) = if known { (control.sender.pid, control.sender.uid) } else { (0, u32::MAX) };
    Ok(Datagram { pid, uid, bytes })
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};

    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

    use super::*;

    fn client(socket: &NotifySocket) -> UnixDatagram {
        let name = socket.address().strip_prefix('@').expect("abstract");
        let client = UnixDatagram::unbound().expect("socket");
        client.connect_addr(&SocketAddr::from_abstract_name(name).expect("name")).expect("connect");
        client
    }

    #[test]
    fn a_message_arrives_with_its_sender() {
        let socket = NotifySocket::unnamed().expect("new");
        assert_eq!(receive(socket.as_fd()).expect_err("none").kind(), io::ErrorKind::WouldBlock);
        client(&socket).send(b"READY=1\nSTATUS=up").expect("send");
        let got = receive(socket.as_fd()).expect("receive");
        assert_eq!(got.bytes, b"READY=1\nSTATUS=up");
        assert_eq!(got.pid, i32::try_from(std::process::id()).expect("pid"));
        assert_eq!(got.uid, nix::unistd::getuid().as_raw());
        assert_eq!(receive(socket.as_fd()).expect_err("none").kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn two_sockets_have_two_names() {
        let (one, other) = (NotifySocket::unnamed().expect("new"), NotifySocket::unnamed().expect("new"));
        assert_ne!(one.address(), other.address());
        client(&one).send(b"x").expect("send");
        assert_eq!(receive(other.as_fd()).expect_err("none").kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_successor_adopts_the_socket_with_its_name_and_what_was_sent() {
        let socket = NotifySocket::unnamed().expect("new");
        client(&socket).send(b"READY=1").expect("send");
        let kept = socket.as_fd().try_clone_to_owned().expect("dup");
        let address = socket.address().to_owned();
        drop(socket);
        let socket = NotifySocket::adopt(kept).expect("adopt");
        assert_eq!(socket.address(), address);
        assert_eq!(receive(socket.as_fd()).expect("receive").bytes, b"READY=1");
    }

    #[test]
    fn a_socket_has_a_path_where_it_fits_and_takes_the_place_of_an_old_one() {
        let home = tempfile::tempdir().expect("a temporary directory");
        let path = home.path().join("w1");
        drop(NotifySocket::at(&path).expect("the first"));
        let socket = NotifySocket::at(&path).expect("the second");
        assert_eq!(Path::new(socket.address()), path);
        UnixDatagram::unbound().expect("socket").send_to(b"READY=1", &path).expect("send");
        let kept = socket.as_fd().try_clone_to_owned().expect("dup");
        drop(socket);
        let socket = NotifySocket::adopt(kept).expect("adopt");
        assert_eq!(Path::new(socket.address()), path);
        assert_eq!(receive(socket.as_fd()).expect("receive").bytes, b"READY=1");
        let long = NotifySocket::at(&home.path().join("x".repeat(120))).expect("a name instead of a path");
        client(&long).send(b"x").expect("send");
        NotifySocket::at(&home.path().join("nowhere/w1")).expect_err("there is no such directory");
    }

    #[test]
    fn a_message_of_the_longest_length_is_whole_and_a_longer_one_is_nothing() {
        let socket = NotifySocket::unnamed().expect("new");
        let client = client(&socket);
        client.send(&[b'a'; LONGEST]).expect("send");
        client.send(&[b'a'; LONGEST + 1]).expect("send");
        assert_eq!(receive(socket.as_fd()).expect("receive").bytes.len(), LONGEST);
        assert_eq!(receive(socket.as_fd()).expect("receive").bytes, b"");
    }

    #[test]
    fn fds_that_come_along_are_closed_even_when_they_are_many() {
        for many in [1, 4, 100] {
            let socket = NotifySocket::unnamed().expect("new");
            let (mut read, write) = io::pipe().expect("pipe");
            let fds = vec![write.as_raw_fd(); many];
            let parts = [io::IoSlice::new(b"BARRIER=1")];
            let rights = [ControlMessage::ScmRights(&fds)];
            sendmsg::<()>(client(&socket).as_raw_fd(), &parts, &rights, MsgFlags::empty(), None).expect("send");
            drop(write);
            let got = receive(socket.as_fd()).expect("receive");
            assert_eq!(got.bytes, b"BARRIER=1");
            assert_ne!(got.pid, 0, "credentials come even when fds are cut off");
            // End of file comes only when the last copy of the write end is closed; a leak would hang here.
            assert_eq!(read.read(&mut [0; 1]).expect("read"), 0);
        }
    }
}
