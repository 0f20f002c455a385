//! One connection, one request, one answer, and a name for each way in which that can fail.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::report::{Class, Failure};

/// A connection to the server.
pub(crate) struct Connection {
    stream: TcpStream,
    /// What was received and not yet used.
    received: Vec<u8>,
    /// How long a byte or a close is on its way, in either direction.
    distance: Duration,
}

/// What to send.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) path: String,
    pub(crate) after: After,
    pub(crate) body: Option<Pieces>,
}

/// What the client wants of the connection after the answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum After {
    Keep,
    Close,
}

/// A body that is sent bit by bit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pieces {
    pub(crate) count: usize,
    pub(crate) size: usize,
    /// Before each but the first.
    pub(crate) pause: Duration,
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) body: String,
    /// What the server wants of the connection.
    pub(crate) after: After,
}

/// What became of a connection while the client had nothing to say.
#[derive(Debug)]
pub(crate) enum Idle {
    /// As far as the client can see it is open.
    Open,
    /// The client has seen that the server closed it.
    Closed,
    /// The server spoke out of turn.
    Disturbed(Failure),
}

impl Connection {
    /// Connects.
    pub(crate) async fn open(address: SocketAddr, distance: Duration, limit: Duration) -> Result<Self, Failure> {
        travel(distance).await;
        let stream = match timeout(limit, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => {
                return Err(failure(Class::Refused, "connect", &error));
            }
            Ok(Err(error)) if error.kind() == ErrorKind::ConnectionReset => {
                return Err(failure(Class::Reset, "connect", &error));
            }
            Ok(Err(error)) => return Err(failure(Class::Other, "connect", &error)),
            Err(_) => {
                return Err(Failure {
                    class: Class::ConnectTimeout,
                    detail: format!("no connection within {limit:?}"),
                });
            }
        };
        stream.set_nodelay(true).map_err(|error| failure(Class::Other, "set TCP_NODELAY", &error))?;
        travel(distance).await;
        Ok(Self { stream, received: Vec::new(), distance })
    }

    /// Waits until it is time for the next request, and looks at what the server does meanwhile. A client at a distance
    /// cannot yet know what the server did just now, and sends its request all the same.
    pub(crate) async fn idle_until(&mut self, due: Instant) -> Idle {
        loop {
            tokio::select! {
                biased;
                ready = self.stream.ready(Interest::READABLE) => if let Err(error) = ready {
                    return Idle::Disturbed(failure(Class::Other, "wait", &error));
                },
                () = sleep_until(due) => return Idle::Open,
            }
            match self.stream.try_read(&mut [0; 1]) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Ok(0) | Err(_) if Instant::now() + self.distance <= due => return Idle::Closed,
                Ok(0) | Err(_) if self.distance.is_zero() => return Idle::Closed,
                Ok(0) | Err(_) => {
                    sleep_until(due).await;
                    return Idle::Open;
                }
                Ok(_) => {
                    let detail = "the server sent something that answers no request".to_owned();
                    return Idle::Disturbed(Failure { class: Class::Other, detail });
                }
            }
        }
    }

    /// Sends a request and reads its answer, which must have status 200.
    pub(crate) async fn exchange(&mut self, request: &Request, limit: Duration) -> Result<Answer, Failure> {
        let exchange = async {
            travel(self.distance).await;
            self.send(request).await?;
            let answer = self.receive().await;
            travel(self.distance).await;
            answer
        };
        timeout(limit, exchange).await.unwrap_or_else(|_| {
            Err(Failure {
                class: Class::Timeout,
                detail: format!("no whole answer to {} within {limit:?}", request.path),
            })
        })
    }

    async fn send(&mut self, request: &Request) -> Result<(), Failure> {
        let Request { path, after, body } = request;
        let (method, pieces) =
            body.map_or(("GET", Pieces { count: 0, size: 0, pause: Duration::ZERO }), |pieces| ("POST", pieces));
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n");
        if *after == After::Close {
            head += "connection: close\r\n";
        }
        if body.is_some() {
            head += &format!("content-length: {}\r\n", pieces.count * pieces.size);
        }
        head += "\r\n";
        self.write(head.as_bytes()).await?;
        let piece = vec![b'x'; pieces.size];
        for index in 0..pieces.count {
            if index > 0 {
                sleep(pieces.pause).await;
            }
            self.write(&piece).await?;
        }
        Ok(())
    }

    async fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.stream.write_all(bytes).await.map_err(|error| {
            // A broken pipe is a reset that somebody else has already been told of.
            let reset = matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe);
            failure(if reset { Class::Reset } else { Class::Other }, "send", &error)
        })
    }

    async fn receive(&mut self) -> Result<Answer, Failure> {
        let mut first = Part::Nothing;
        let head = loop {
            if let Some(end) = self.received.windows(4).position(|window| window == b"\r\n\r\n") {
                let rest = self.received.split_off(end + 4);
                break String::from_utf8_lossy(&std::mem::replace(&mut self.received, rest)).into_owned();
            }
            self.read_more(first).await?;
            first = Part::Some;
        };
        let field = |name: &str| {
            let fields = head.lines().skip(1).filter_map(|line| line.split_once(':'));
            fields.filter(|(key, _)| key.trim().eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
        };
        let status = head.split_whitespace().nth(1).unwrap_or("none").to_owned();
        let close = field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        let chunked = field("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked"));
        let length = field("content-length").and_then(|value| value.parse().ok());
        let body = match length {
            Some(length) => self.take(length).await?,
            None if chunked => self.take_chunks().await?,
            None => return Err(bad_body("an answer with neither length nor chunks")),
        };
        let body = String::from_utf8_lossy(&body).into_owned();
        if status != "200" {
            return Err(Failure { class: Class::BadStatus, detail: format!("status {status}: {}", body.trim()) });
        }
        Ok(Answer { body, after: if close { After::Close } else { After::Keep } })
    }

    async fn take_chunks(&mut self) -> Result<Vec<u8>, Failure> {
        let mut body = Vec::new();
        loop {
            let end = loop {
                if let Some(end) = self.received.windows(2).position(|window| window == b"\r\n") {
                    break end;
                }
                self.read_more(Part::Some).await?;
            };
            let line = self.take(end + 2).await?;
            let size = String::from_utf8_lossy(&line);
            let size = usize::from_str_radix(size.trim(), 16).map_err(|_| bad_body("a chunk without its size"))?;
            let chunk = self.take(size + 2).await?;
            if size == 0 {
                return Ok(body);
            }
            body.extend_from_slice(&chunk[..size]);
        }
    }

    async fn take(&mut self, length: usize) -> Result<Vec<u8>, Failure> {
        while self.received.len() < length {
            self.read_more(Part::Some).await?;
        }
        let rest = self.received.split_off(length);
        Ok(std::mem::replace(&mut self.received, rest))
    }

    async fn read_more(&mut self, so_far: Part) -> Result<(), Failure> {
        match (self.stream.read_buf(&mut self.received).await, so_far) {
            (Ok(0), Part::Nothing) => {
                Err(Failure { class: Class::Eof, detail: "closed before the first byte of an answer".to_owned() })
            }
            (Ok(0), Part::Some) => {
                Err(Failure { class: Class::Cut, detail: "closed in the middle of an answer".to_owned() })
            }
            (Ok(_), _) => Ok(()),
            (Err(error), Part::Nothing) if error.kind() == ErrorKind::ConnectionReset => {
                Err(failure(Class::Reset, "receive", &error))
            }
            (Err(error), Part::Some) if error.kind() == ErrorKind::ConnectionReset => {
                Err(failure(Class::Cut, "receive the rest of an answer", &error))
            }
            (Err(error), _) => Err(failure(Class::Other, "receive", &error)),
        }
    }
}

/// The way there or back. A sleep of no time would last until the next tick of the timer.
async fn travel(distance: Duration) {
    if !distance.is_zero() {
        sleep(distance).await;
    }
}

/// How much of an answer there is.
#[derive(Debug, Clone, Copy)]
enum Part {
    Nothing,
    Some,
}

fn failure(class: Class, step: &str, error: &io::Error) -> Failure {
    Failure { class, detail: format!("{step}: {error}") }
}

/// An answer that is not what was asked for.
pub(crate) fn bad_body(what: &str) -> Failure {
    Failure { class: Class::BadBody, detail: what.to_owned() }
}
