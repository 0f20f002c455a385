//! The client's side of the control API. The only file of cli/ that names hyper.

use std::error::Error;
use std::io;
use std::marker::PhantomData;
use std::path::PathBuf;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::exit::{Exit, Failure};
use crate::config::paths;
use crate::wire::api::{Refusal, Status};

/// No answer and no line is larger: the status of a thousand workers is a few hundred kilobytes.
const LARGEST: usize = 64 * 1024 * 1024;

/// How long an agent may take to come back. Its keeper starts it again at once; this covers many attempts.
const AWAY: Duration = Duration::from_secs(30);
/// Between two attempts to connect: a socket that nobody has bound yet gives no event.
const PAUSE: Duration = Duration::from_millis(100);

/// One agent, by its socket. Each question has a connection of its own.
#[derive(Debug)]
pub(super) struct Client {
    socket: PathBuf,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    /// Nobody listens.
    #[error("no agent answers at {socket}: start one with 'rollout run', or name its socket with --socket", socket = .0.display())]
    NoAgent(PathBuf),
    /// The socket is somebody else's.
    #[error("not allowed to talk to the agent at {socket}: only its own user and root may: try with sudo", socket = .0.display())]
    NotAllowed(PathBuf),
    /// The system refused otherwise.
    #[error("connect to the agent at {socket}", socket = .socket.display())]
    Connect {
        /// Where.
        socket: PathBuf,
        /// The system's word on it.
        source: io::Error,
    },
    /// The agent said no.
    #[error("{}", .0.error)]
    Refused(Refusal),
    /// The connection ended before the answer did.
    #[error("the agent at {socket} went away before it had answered: look with 'rollout status'", socket = .0.display())]
    Cut(PathBuf),
    /// The answer makes no sense.
    #[error("the agent at {socket} answered what this program does not understand ({what}): are both of the same version?", socket = .socket.display())]
    Garbled {
        /// Where.
        socket: PathBuf,
        /// The difficulty.
        what: String,
    },
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let exit = match &error {
            ClientError::NoAgent(_) | ClientError::Connect { .. } | ClientError::Cut(_) => Exit::NoAgent,
            ClientError::NotAllowed(_) => Exit::Refused,
            ClientError::Refused(refusal) => Exit::from_agent(refusal.exit),
            ClientError::Garbled { .. } => Exit::NeedsPerson,
        };
        Self::because(exit, &error)
    }
}

impl Client {
    /// The agent at this socket, or at the first of the usual ones that exists.
    pub(super) fn new(socket: Option<PathBuf>) -> Self {
        let usual = || {
            let mut sockets = paths::usual_sockets(&paths::environment);
            let there = sockets.iter().position(|socket| socket.exists()).unwrap_or(0);
            sockets.swap_remove(there)
        };
        Self { socket: socket.unwrap_or_else(usual) }
    }

    /// Asks and reads the whole answer.
    pub(super) async fn get<A: DeserializeOwned>(&self, path: &str) -> Result<A, ClientError> {
        self.ask(Method::GET, path, Bytes::new()).await
    }

    /// Tells, and reads the whole answer.
    pub(super) async fn post<A: DeserializeOwned>(&self, path: &str) -> Result<A, ClientError> {
        self.ask(Method::POST, path, Bytes::new()).await
    }

    /// Asks, and gives back the lines of the answer as they come.
    pub(super) async fn get_lines<A: DeserializeOwned>(&self, path: &str) -> Result<Lines<A>, ClientError> {
        self.lines(Method::GET, path, Bytes::new()).await
    }

    /// Tells, and gives back the lines of the answer as they come.
    pub(super) async fn post_lines<Q: Serialize, A: DeserializeOwned>(
        &self,
        path: &str,
        question: &Q,
    ) -> Result<Lines<A>, ClientError> {
        let body = serde_json::to_vec(question).map_err(|error| self.garbled(&error))?;
        self.lines(Method::POST, path, body.into()).await
    }

    /// The status now and after each change.
    pub(super) async fn changes(&self) -> Result<Lines<Status>, ClientError> {
        self.get_lines("/v1/status?watch=true").await
    }

    /// The same, from an agent that has gone and is expected back.
    pub(super) async fn changes_once_back(&self) -> Result<Lines<Status>, Failure> {
        let deadline = Instant::now() + AWAY;
        loop {
            match self.changes().await {
                Err(ClientError::NoAgent(_) | ClientError::Cut(_)) if Instant::now() < deadline => sleep(PAUSE).await,
                Err(error @ (ClientError::NoAgent(_) | ClientError::Cut(_))) => {
                    let said = format!("the agent went away and did not come back within {AWAY:?}: {error}");
                    return Err(Failure::told(Exit::NoAgent, said));
                }
                answer => return Ok(answer?),
            }
        }
    }

    async fn ask<A: DeserializeOwned>(&self, method: Method, path: &str, body: Bytes) -> Result<A, ClientError> {
        let (answer, _connection) = self.exchange(method, path, body).await?;
        let bytes = self.whole(answer).await?;
        serde_json::from_slice(&bytes).map_err(|error| self.garbled(&error))
    }

    async fn lines<A>(&self, method: Method, path: &str, body: Bytes) -> Result<Lines<A>, ClientError> {
        let (answer, connection) = self.exchange(method, path, body).await?;
        let body = answer.into_body();
        let socket = self.socket.clone();
        Ok(Lines { body, held: Vec::new(), socket, _connection: connection, of: PhantomData })
    }

    /// One question on a fresh connection, which lives as long as the `JoinSet`. Refusals come back as errors.
    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(Response<Incoming>, JoinSet<()>), ClientError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| self.unreachable(error))?;
        let cut = |_| ClientError::Cut(self.socket.clone());
        let (mut send, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(cut)?;
        let mut tasks = JoinSet::new();
        // How the connection ends is seen by whoever reads the answer.
        tasks.spawn(async move { drop(connection.await) });
        let question = Request::builder().method(method).uri(path).header("host", "rollout");
        let question = question.body(Full::new(body)).map_err(|error| self.garbled(&error))?;
        let answer = send.send_request(question).await.map_err(cut)?;
        if answer.status() == StatusCode::OK {
            return Ok((answer, tasks));
        }
        let status = answer.status();
        let bytes = self.whole(answer).await?;
        match serde_json::from_slice(&bytes) {
            Ok(refusal) => Err(ClientError::Refused(refusal)),
            Err(_) => Err(ClientError::Garbled { socket: self.socket.clone(), what: format!("status {status}") }),
        }
    }

    async fn whole(&self, answer: Response<Incoming>) -> Result<Bytes, ClientError> {
        let body = Limited::new(answer.into_body(), LARGEST).collect().await;
        body.map(http_body_util::Collected::to_bytes).map_err(|_| ClientError::Cut(self.socket.clone()))
    }

    fn unreachable(&self, source: io::Error) -> ClientError {
        let socket = self.socket.clone();
        let kind = source.kind();
        if kind == io::ErrorKind::NotFound || kind == io::ErrorKind::ConnectionRefused {
            ClientError::NoAgent(socket)
        } else if kind == io::ErrorKind::PermissionDenied {
            ClientError::NotAllowed(socket)
        } else {
            ClientError::Connect { socket, source }
        }
    }

    fn garbled(&self, error: &dyn Error) -> ClientError {
        ClientError::Garbled { socket: self.socket.clone(), what: error.to_string() }
    }
}

/// An answer that comes line by line.
#[derive(Debug)]
pub(super) struct Lines<A> {
    body: Incoming,
    /// Bytes after the last newline.
    held: Vec<u8>,
    socket: PathBuf,
    _connection: JoinSet<()>,
    of: PhantomData<fn() -> A>,
}

impl<A: DeserializeOwned> Lines<A> {
    /// The next line; `None` at the end. May be cancelled without losing anything.
    pub(super) async fn next(&mut self) -> Result<Option<A>, ClientError> {
        loop {
            if let Some(end) = self.held.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.held.drain(..=end).collect();
                return serde_json::from_slice(&line).map(Some).map_err(|error| self.garbled(error.to_string()));
            }
            if self.held.len() > LARGEST {
                return Err(self.garbled(format!("a line of more than {LARGEST} bytes")));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(_)) => return Err(ClientError::Cut(self.socket.clone())),
                Some(Ok(frame)) => self.held.extend(frame.into_data().unwrap_or_default()),
            }
        }
    }

    fn garbled(&self, what: String) -> ClientError {
        ClientError::Garbled { socket: self.socket.clone(), what }
    }
}
