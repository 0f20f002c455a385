//! How the agent reaches exactly one worker through the service's public port.

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpSocket, TcpStream};

use crate::sys::steer::MARK_CLASS;
use crate::sys::tcp_info::Gauge;

/// A way to one worker's lane: connections from `from` are steered to it by the lane program.
#[derive(Debug, Clone)]
pub struct Route {
    /// The marked source: `127.114.x.y` with port 0 for IPv4, `::1` with a port of the marked range (and
    /// the marked traffic class) for IPv6 only.
    pub from: SocketAddr,
    /// The listener, as reached from this host.
    pub to: SocketAddr,
    /// The accept queue of the lane.
    pub gauge: Gauge,
}

impl Route {
    /// Connects. The caller bounds the time.
    ///
    /// # Errors
    /// As connect(2).
    pub async fn connect(&self) -> io::Result<TcpStream> {
        let socket = if self.from.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // A marked IPv6 source port is used again at once; without this, TIME_WAIT of the last use would refuse it.
        socket.set_reuseaddr(true)?;
        if self.from.is_ipv6() {
            socket.set_tclass_v6(u32::from(MARK_CLASS))?;
        }
        socket.bind(self.from)?;
        socket.connect(self.to).await
    }
}
