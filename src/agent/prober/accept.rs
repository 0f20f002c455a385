//! The `accept` look: the program takes the agent's connection from its lane.

use std::io;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout_at};

use super::seconds;
use crate::agent::route::Route;
use crate::machine::verdict::Look;
use crate::sys::tcp_info::end_arrived;

/// The kernel has no event for "somebody called accept": the queue is read again after this time, and then after longer
/// ones, up to `SELDOM`. Only while a look is under way.
const OFTEN: Duration = Duration::from_millis(1);
const SELDOM: Duration = Duration::from_millis(20);

/// Good when the program accepts on every route before `limit` is over.
pub(super) async fn look(routes: &[Route], limit: Duration) -> Look {
    if routes.is_empty() {
        return Look::Bad("there is no steered listener to connect to".to_owned());
    }
    let deadline = Instant::now() + limit;
    for route in routes {
        match timeout_at(deadline, accepted(route)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Look::Bad(format!("connect to {}: {error}", route.to)),
            Err(_) => return Look::Bad(format!("no accept on {} within {}", route.to, seconds(limit))),
        }
    }
    Look::Good
}

/// Returns when the program has accepted a connection after this call began.
async fn accepted(route: &Route) -> io::Result<()> {
    let queued_before = route.gauge.queued()?;
    let connection = connect(route).await?;
    // Ours is in the queue now, or was. Accepts are in order of arrival, so an empty queue means that ours was taken, and a
    // shorter one that somebody's was: the program accepts, which is what we want to know.
    let mut queued = queued_before + 1;
    let mut pause = OFTEN;
    loop {
        let now = route.gauge.listening()?;
        if !now.open {
            return Err(io::Error::other("the lane does not listen any more: the program shut it down"));
        }
        if now.queued == 0 || now.queued < queued {
            drop(connection);
            return Ok(());
        }
        queued = now.queued;
        sleep(pause).await;
        pause = (pause * 2).min(SELDOM);
    }
}

/// A connection that has reached the lane's queue. The client's side of a handshake ends before the server's does: only a
/// proof of arrival keeps a queue that is *still* empty from being taken for one that is empty *again*.
async fn connect(route: &Route) -> io::Result<TcpStream> {
    let mut connection = route.connect().await?;
    if route.from.is_ipv4() {
        // The program sees a client that ends without having asked anything, which it must survive anyway.
        connection.shutdown().await?;
        while !end_arrived(&connection)? {
            sleep(OFTEN).await;
        }
    } else {
        // Whoever ends first keeps the port in TIME_WAIT, and a marked port is wanted again at once. So no end here, but a
        // reset when dropped; and for a proof, time: on loopback the handshake is over microseconds after connect.
        connection.set_zero_linger()?;
        sleep(OFTEN).await;
    }
    Ok(connection)
}
