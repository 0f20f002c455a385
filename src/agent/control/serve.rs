//! Connections: who may have one, how many there are, and how long they may take.

use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::{Control, routes};
use crate::agent::request::{Peer, Request};
use crate::wire::api;

/// Connections that are served at once: people, their scripts and a few dashboards. A connection costs a task and a buffer.
const BOUND: usize = 64;
/// Connections beyond those, which are told that there are too many. Beyond these, the kernel's queue holds them.
const RESERVE: usize = 8;
/// How long answers that are on their way when the loop ends may take to be read.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// No buffer of a connection grows beyond this; a question's head fits many times.
const BUFFER: usize = 64 * 1024;

/// How long a client may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// For the head of a question; also how long a connection may be idle.
    pub(super) head: Duration,
    /// For the body of a question, and for room in the loop's inbox.
    pub(super) rest: Duration,
}

const PATIENCE: Patience = Patience { head: Duration::from_secs(10), rest: Duration::from_secs(10) };

/// Serves the control API until the loop drops its end of `requests`; then lets the last answers be read and returns.
pub async fn serve(control: Control, requests: mpsc::Sender<Request>, status: watch::Receiver<Arc<api::Status>>) {
    serve_with(PATIENCE, control, requests, status).await;
}

pub(super) async fn serve_with(
    patience: Patience,
    control: Control,
    requests: mpsc::Sender<Request>,
    status: watch::Receiver<Arc<api::Status>>,
) {
    let open = routes::open(requests.clone(), status, patience.rest);
    let full = routes::full(BOUND);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = requests.closed() => break,
            Some(_) = connections.join_next() => {}
            stream = accept(&control.listener), if connections.len() < BOUND + RESERVE => {
                let Some((stream, peer)) = stream.and_then(|stream| admit(stream, control.owner)) else { continue };
                let routes = if connections.len() < BOUND { &open } else { &full };
                connections.spawn(converse(stream, routes.clone(), peer, patience, requests.clone()));
            }
        }
    }
    drop(control);
    let all_gone = async { while connections.join_next().await.is_some() {} };
    // Whoever does not read its last answer in time loses it: dropping the set closes what is left.
    drop(tokio::time::timeout(LAST_WORDS, all_gone).await);
}

async fn accept(listener: &UnixListener) -> Option<UnixStream> {
    match listener.accept().await {
        Ok((stream, _)) => Some(stream),
        Err(_) => {
            // Out of fds (accept(2)): the connection stays in the queue and the socket readable, so asking again at once
            // would spin. The end of any connection interrupts this wait.
            tokio::time::sleep(Duration::from_millis(100)).await;
            None
        }
    }
}

/// Only the agent's own user and root may ask anything; anybody else's connection is closed without a word.
fn admit(stream: UnixStream, owner: u32) -> Option<(UnixStream, Peer)> {
    let who = stream.peer_cred().ok()?;
    let peer = Peer { uid: who.uid(), pid: who.pid() };
    if may_ask(peer.uid, owner) {
        Some((stream, peer))
    } else {
        tracing::warn!(uid = peer.uid, pid = peer.pid, "control: connection of another user closed");
        None
    }
}

pub(super) fn may_ask(uid: u32, owner: u32) -> bool {
    uid == owner || uid == 0
}

async fn converse(stream: UnixStream, routes: Router, peer: Peer, patience: Patience, requests: mpsc::Sender<Request>) {
    let service = TowerToHyperService::new(routes.layer(Extension(peer)));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(patience.head)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    // How a connection ends (reset, garbage, too slow) is the client's affair: hyper has told it what it could.
    tokio::select! {
        _ended = connection.as_mut() => return,
        () = requests.closed() => connection.as_mut().graceful_shutdown(),
    }
    drop(connection.await);
}
