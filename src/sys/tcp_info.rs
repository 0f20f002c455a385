//! `TCP_INFO` of a listening socket (tcp(7)): for a listener the kernel reports its accept queue there.

use std::io;
use std::mem::{self, MaybeUninit};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// What the kernel says about a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listening {
    /// Connections that wait for `accept` (`tcpi_unacked`).
    pub queued: u32,
    /// The length of the queue (`tcpi_sacked`): the smallest of what `listen` was given and `net.core.somaxconn`.
    pub backlog: u32,
    /// Whether it listens; it does not after somebody called `shutdown` on it.
    pub open: bool,
}

/// `TCP_LISTEN` in `include/net/tcp_states.h`.
const TCP_LISTEN: u8 = 10;

/// Asks the kernel about a listening TCP socket.
///
/// # Errors
/// The fd is not a TCP socket.
pub fn listening(socket: impl AsFd) -> io::Result<Listening> {
    let info = tcp_info(socket.as_fd())?;
    Ok(Listening { queued: info.tcpi_unacked, backlog: info.tcpi_sacked, open: info.tcpi_state == TCP_LISTEN })
}

/// Whether everything this side sent, its end included, has reached the peer's kernel. For a connection that was just
/// made and half-closed it proves that the other side's listener has queued it: TCP takes the end in order after the
/// last packet of the handshake.
///
/// # Errors
/// The fd is not a TCP socket.
pub fn end_arrived(socket: impl AsFd) -> io::Result<bool> {
    // TCP_FIN_WAIT2, TCP_TIME_WAIT, TCP_CLOSE, TCP_LAST_ACK and TCP_CLOSING; the last two mean that the peer ended, too.
    tcp_info(socket.as_fd()).map(|info| matches!(info.tcpi_state, 5..=7 | 9 | 11))
}

fn tcp_info(socket: BorrowedFd<'_>) -> io::Result<libc::tcp_info> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = mem::size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: `info` is `length` bytes long and stays alive over the call; the kernel writes at most that much.
    let code = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if code != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: zeroed memory is a valid tcp_info (integers only), whatever part of it the kernel wrote.
    Ok(unsafe { info.assume_init() })
}

/// Reads the accept queue of one lane; cheap to clone and to keep. Works on a duplicate of the lane's fd.
#[derive(Debug, Clone)]
pub struct Gauge(Arc<OwnedFd>);

impl Gauge {
    /// A gauge on this lane.
    #[must_use]
    pub fn new(lane: Arc<OwnedFd>) -> Self {
        Self(lane)
    }

    /// All that the kernel says about the lane now.
    ///
    /// # Errors
    /// The fd is not a TCP socket.
    pub fn listening(&self) -> io::Result<Listening> {
        listening(&*self.0)
    }

    /// How many connections wait for `accept` now.
    ///
    /// # Errors
    /// The fd is not a TCP socket.
    pub fn queued(&self) -> io::Result<u32> {
        listening(&*self.0).map(|listening| listening.queued)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn the_queue_grows_with_a_connection_and_shrinks_with_its_accept() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        assert_eq!(listening(&listener).expect("ask").queued, 0);
        let _client = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
        assert_eq!(listening(&listener).expect("ask").queued, 1);
        listener.accept().expect("accept");
        let now = listening(&listener).expect("ask");
        assert_eq!((now.queued, now.open), (0, true));
    }
}
