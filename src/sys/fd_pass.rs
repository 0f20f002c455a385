//! Packets with fds (unix(7): `SOCK_SEQPACKET`, `SCM_RIGHTS`).
//!
//! A packet arrives whole, with all of its fds, or not at all: a cut one is an error, and the fds that came with it
//! are closed. Received fds are close-on-exec from birth.

use std::io::{self, IoSlice};
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair};

use super::{fd, poll};
use crate::units::Moment;

/// The kernel passes no more fds than this with one packet (`SCM_MAX_FD`).
pub const MAX_FDS: usize = 253;

/// The longest packet. Anything longer travels in a memfd; this bounds what a peer can make us hold.
pub const MAX_BYTES: usize = 16 * 1024;

/// One packet.
#[derive(Debug, Default)]
pub struct Packet {
    /// What it says; never empty.
    pub bytes: Vec<u8>,
    /// What came with it.
    pub fds: Vec<OwnedFd>,
}

/// Two connected sockets, close-on-exec.
///
/// # Errors
/// No fd is free.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?)
}

/// Sends one packet, or fails at once with [`io::ErrorKind::WouldBlock`] when there is no room.
///
/// # Errors
/// The packet is empty or too long, has too many fds, or the peer is gone (`BrokenPipe`; no SIGPIPE is raised).
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    // An empty packet could not be told from the end of the conversation.
    if bytes.is_empty() || bytes.len() > MAX_BYTES {
        let length = bytes.len();
        return Err(invalid(format!("a packet of {length} bytes cannot be sent: the limit is 1 to {MAX_BYTES}")));
    }
    if fds.len() > MAX_FDS {
        let count = fds.len();
        return Err(invalid(format!("{count} fds cannot be sent at once: the limit is {MAX_FDS}")));
    }
    let numbers: Vec<_> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&numbers)];
    let control = if fds.is_empty() { &rights[..0] } else { &rights[..] };
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    loop {
        match sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(bytes)], control, flags, None) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Sends one packet, waiting for room until `deadline`.
///
/// # Errors
/// As [`send`]; [`io::ErrorKind::TimedOut`] instead of `WouldBlock`.
pub fn send_before(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>], deadline: Moment) -> io::Result<()> {
    loop {
        match send(socket, bytes, fds) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            sent => return sent,
        }
        if !poll::wait_one(socket, poll::For::Writing, deadline)? {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
}

/// Receives one packet, or fails at once with [`io::ErrorKind::WouldBlock`] when none is there. `None` is the end: the
/// peer is gone and everything that it sent has been received.
///
/// # Errors
/// The packet was cut: longer than [`MAX_BYTES`] or no fd was free for what came with it (`InvalidData`).
pub fn receive(socket: BorrowedFd<'_>) -> io::Result<Option<Packet>> {
    loop {
        match receive_once(socket) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Said once when the peer left with packets of ours unread. What it had sent is still there to be read.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
            received => return received,
        }
    }
}

/// Receives one packet, waiting for it until `deadline`.
///
/// # Errors
/// As [`receive`]; [`io::ErrorKind::TimedOut`] instead of `WouldBlock`.
pub fn receive_before(socket: BorrowedFd<'_>, deadline: Moment) -> io::Result<Option<Packet>> {
    loop {
        match receive(socket) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            received => return received,
        }
        if !poll::wait_one(socket, poll::For::Reading, deadline)? {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
}

/// Room for one control message with [`MAX_FDS`] fds, aligned as cmsg(3) wants it.
#[repr(C, align(8))]
struct Control([u8; mem::size_of::<libc::cmsghdr>() + MAX_FDS * mem::size_of::<libc::c_int>() + 8]);

fn receive_once(socket: BorrowedFd<'_>) -> io::Result<Option<Packet>> {
    let mut bytes = vec![0; MAX_BYTES];
    let mut control = Control([0; _]);
    let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    // SAFETY: a msghdr of zeros is valid: no name, no parts, no control.
    let mut message = unsafe { MaybeUninit::<libc::msghdr>::zeroed().assume_init() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control.0.len();
    let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
    // SAFETY: `message` points to `part`, `bytes` and `control`, which live and stay in place until after the call.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    // First of all: an fd that is not taken now is never closed.
    let fds = taken_fds(&message);
    if message.msg_flags & libc::MSG_TRUNC != 0 {
        return Err(cut(format!("a packet is longer than {MAX_BYTES} bytes")));
    }
    if message.msg_flags & libc::MSG_CTRUNC != 0 {
        return Err(cut("a packet came without some of its fds: too many files are open".to_owned()));
    }
    if length == 0 {
        return Ok(None);
    }
    bytes.truncate(length);
    Ok(Some(Packet { bytes, fds }))
}

/// Takes the fds out of a message that recvmsg(2) has just filled in.
fn taken_fds(message: &libc::msghdr) -> Vec<OwnedFd> {
    let mut fds = Vec::new();
    // SAFETY: recvmsg has set msg_controllen to what it wrote into msg_control, which is aligned and alive.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !header.is_null() {
        // SAFETY: not null, so it lies whole inside the control buffer (cmsg(3)).
        let head = unsafe { *header };
        if head.cmsg_level == libc::SOL_SOCKET && head.cmsg_type == libc::SCM_RIGHTS {
            // SAFETY: arithmetic only.
            let empty = unsafe { libc::CMSG_LEN(0) } as usize;
            // SAFETY: as for `header`; arithmetic only.
            let first = unsafe { libc::CMSG_DATA(header) }.cast::<libc::c_int>();
            for place in 0..head.cmsg_len.saturating_sub(empty) / mem::size_of::<libc::c_int>() {
                // SAFETY: within the cmsg_len bytes that the kernel wrote; CMSG_DATA need not be aligned for an int.
                let number = unsafe { ptr::read_unaligned(first.wrapping_add(place)) };
                fds.push(fd::adopt(number));
            }
        }
        // SAFETY: both come from this message, unchanged.
        header = unsafe { libc::CMSG_NXTHDR(message, header) };
    }
    fds
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

fn cut(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::time::Duration;

    use nix::fcntl::{FcntlArg, FdFlag, fcntl};

    use super::*;
    use crate::sys::clock;

    #[test]
    fn a_packet_arrives_whole_with_its_fds_close_on_exec() {
        let (ours, theirs) = pair().expect("pair");
        let (reader, writer) = fd::pipe().expect("pipe");
        send(ours.as_fd(), b"two", &[reader.as_fd(), writer.as_fd()]).expect("send");
        send(ours.as_fd(), b"none", &[]).expect("send");
        drop((reader, writer));
        let packet = receive(theirs.as_fd()).expect("receive").expect("a packet");
        assert_eq!((packet.bytes.as_slice(), packet.fds.len()), (&b"two"[..], 2));
        for fd in &packet.fds {
            assert_eq!(fcntl(fd, FcntlArg::F_GETFD).expect("flags"), FdFlag::FD_CLOEXEC.bits());
        }
        let [reader, writer] = <[OwnedFd; 2]>::try_from(packet.fds).expect("two");
        File::from(writer).write_all(b"through").expect("write");
        let mut text = String::new();
        File::from(reader).read_to_string(&mut text).expect("read");
        assert_eq!(text, "through");
        assert_eq!(receive(theirs.as_fd()).expect("receive").expect("a packet").bytes, b"none");
    }

    #[test]
    fn as_many_fds_as_the_kernel_allows_and_not_one_more() {
        let (ours, theirs) = pair().expect("pair");
        let file = File::open("/dev/null").expect("open");
        send(ours.as_fd(), b"many", &[file.as_fd(); MAX_FDS]).expect("send");
        assert_eq!(receive(theirs.as_fd()).expect("receive").expect("a packet").fds.len(), MAX_FDS);
        assert!(send(ours.as_fd(), b"many", &[file.as_fd(); MAX_FDS + 1]).is_err());
    }

    #[test]
    fn a_long_packet_is_refused_on_both_sides() {
        let (ours, theirs) = pair().expect("pair");
        let long = vec![b'x'; MAX_BYTES + 1];
        assert_eq!(send(ours.as_fd(), &long, &[]).expect_err("too long").kind(), io::ErrorKind::InvalidInput);
        nix::unistd::write(&ours, &long).expect("a peer without manners");
        assert_eq!(receive(theirs.as_fd()).expect_err("cut").kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn what_a_peer_sent_is_received_after_it_left_with_packets_unread() {
        let (ours, theirs) = pair().expect("pair");
        send(ours.as_fd(), b"unread", &[]).expect("send");
        send(theirs.as_fd(), b"last words", &[]).expect("send");
        drop(theirs);
        assert_eq!(receive(ours.as_fd()).expect("receive").expect("a packet").bytes, b"last words");
        assert!(receive(ours.as_fd()).expect("receive").is_none());
        assert_eq!(send(ours.as_fd(), b"x", &[]).expect_err("gone").kind(), io::ErrorKind::BrokenPipe);
    }

    #[test]
    fn waiting_ends_at_the_deadline() {
        let (ours, theirs) = pair().expect("pair");
        let soon = || clock::now().after(Duration::from_millis(5));
        assert_eq!(receive_before(ours.as_fd(), soon()).expect_err("nothing came").kind(), io::ErrorKind::TimedOut);
        let full = loop {
            if let Err(error) = send_before(ours.as_fd(), &[b'x'; MAX_BYTES], &[], soon()) {
                break error;
            }
        };
        assert_eq!(full.kind(), io::ErrorKind::TimedOut);
        drop(theirs);
    }
}
