//! The listening sockets: inherited, or one of our own when nobody gave us any.

use std::future::poll_fn;
use std::io;
use std::net::{SocketAddr, TcpListener as StdTcp};
use std::os::unix::net::UnixListener as StdUnix;
use std::task::Poll;

use listenfd::ListenFd;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};

/// Sockets that this process owns and the runtime does not yet know.
pub(crate) struct Lanes {
    pub(crate) tcp: Vec<StdTcp>,
    unix: Vec<StdUnix>,
}

/// Sockets that can be accepted from.
pub(crate) struct Listening {
    tcp: Vec<TcpListener>,
    unix: Vec<UnixListener>,
}

/// A connection of either family.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

impl Lanes {
    /// Those of `LISTEN_FDS` (if `LISTEN_PID` says that they are ours), else a new one at `otherwise`.
    ///
    /// Call it before the first thread starts: it takes the variables out of the environment.
    pub(crate) fn take(otherwise: &SocketAddr) -> io::Result<Self> {
        let mut inherited = ListenFd::from_env();
        let mut lanes = Self { tcp: Vec::new(), unix: Vec::new() };
        for index in 0..inherited.len() {
            match inherited.take_tcp_listener(index) {
                Ok(listener) => lanes.tcp.extend(listener),
                // Not TCP; the error of the second try is the one to report.
                Err(_) => lanes.unix.extend(inherited.take_unix_listener(index)?),
            }
        }
        if inherited.len() == 0 {
            lanes.tcp.push(StdTcp::bind(otherwise)?);
        }
        Ok(lanes)
    }

    /// Hands them to the runtime.
    pub(crate) fn listen(self) -> io::Result<Listening> {
        let mut listening = Listening { tcp: Vec::new(), unix: Vec::new() };
        for listener in self.tcp {
            // Whoever made the socket may have left it blocking, and an accept that blocks would stop everything.
            listener.set_nonblocking(true)?;
            listening.tcp.push(TcpListener::from_std(listener)?);
        }
        for listener in self.unix {
            listener.set_nonblocking(true)?;
            listening.unix.push(UnixListener::from_std(listener)?);
        }
        Ok(listening)
    }

    /// Where the first TCP socket listens.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        self.tcp.first()?.local_addr().ok()
    }
}

impl Listening {
    /// The next connection on any of them.
    pub(crate) async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        poll_fn(|context| {
            for listener in &self.tcp {
                if let Poll::Ready(accepted) = listener.poll_accept(context) {
                    return Poll::Ready(accepted.and_then(|(stream, _)| {
                        // A small answer must not wait for the client's acknowledgement of the one before.
                        stream.set_nodelay(true)?;
                        Ok(Box::new(stream) as Box<dyn Stream>)
                    }));
                }
            }
            for listener in &self.unix {
                if let Poll::Ready(accepted) = listener.poll_accept(context) {
                    return Poll::Ready(accepted.map(|(stream, _)| Box::new(stream) as Box<dyn Stream>));
                }
            }
            Poll::Pending
        })
        .await
    }
}
