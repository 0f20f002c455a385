//! The control API as any program can use it: blocking HTTP/1.1 over the Unix socket, without the crate's own client.

use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::GENEROUS;

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: String,
}

/// `GET path`.
pub(crate) fn get(socket: &Path, path: &str) -> io::Result<Answer> {
    ask(socket, &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"), "")
}

/// `POST path` with a body of JSON.
pub(crate) fn post(socket: &Path, path: &str, body: &str) -> io::Result<Answer> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    ask(socket, &head, body)
}

/// Sends these very bytes and reads until the agent closes. An empty answer is status 0.
pub(crate) fn ask(socket: &Path, head: &str, body: &str) -> io::Result<Answer> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(GENEROUS))?;
    stream.write_all(head.as_bytes())?;
    // An agent that refuses early may have closed before it read the body.
    let _ = stream.write_all(body.as_bytes());
    let mut reader = Reader::default();
    loop {
        match reader.read_on(&mut stream) {
            Ok(true) => {}
            Ok(false) => break,
            // That is how a Unix socket ends when its peer has not read everything: fine once it has answered.
            Err(error) if error.kind() == ErrorKind::ConnectionReset && reader.status().is_some() => break,
            Err(error) => return Err(error),
        }
    }
    Ok(Answer { status: reader.status().unwrap_or(0), body: String::from_utf8_lossy(&reader.body()).into_owned() })
}

/// A stream of lines, as `GET /v1/status?watch=true` or a deploy answers.
pub(crate) struct Lines {
    stream: UnixStream,
    reader: Reader,
    taken: usize,
}

impl Lines {
    pub(crate) fn get(socket: &Path, path: &str) -> io::Result<Self> {
        Self::ask(socket, &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"))
    }

    /// The answer to a `POST` with a body of JSON.
    pub(crate) fn post(socket: &Path, path: &str, body: &str) -> io::Result<Self> {
        let fields = "Host: localhost\r\nConnection: close\r\nContent-Type: application/json";
        let length = body.len();
        Self::ask(socket, &format!("POST {path} HTTP/1.1\r\n{fields}\r\nContent-Length: {length}\r\n\r\n{body}"))
    }

    fn ask(socket: &Path, request: &str) -> io::Result<Self> {
        let mut stream = UnixStream::connect(socket)?;
        stream.write_all(request.as_bytes())?;
        Ok(Self { stream, reader: Reader::default(), taken: 0 })
    }

    /// The next line, or `None` when there is none within `wait`.
    pub(crate) fn next(&mut self, wait: Duration) -> io::Result<Option<String>> {
        self.stream.set_read_timeout(Some(wait))?;
        loop {
            let body = self.reader.body();
            if let Some(length) = body[self.taken..].iter().position(|&byte| byte == b'\n') {
                let line = String::from_utf8_lossy(&body[self.taken..self.taken + length]).into_owned();
                self.taken += length + 1;
                return Ok(Some(line));
            }
            match self.reader.read_on(&mut self.stream) {
                Ok(true) => {}
                Ok(false) => return Err(ErrorKind::UnexpectedEof.into()),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }
}

/// What came so far of an answer, and where its parts are.
#[derive(Default)]
struct Reader {
    raw: Vec<u8>,
}

impl Reader {
    /// Reads once; false at the end.
    fn read_on(&mut self, stream: &mut UnixStream) -> io::Result<bool> {
        let mut piece = [0; 16 * 1024];
        let length = stream.read(&mut piece)?;
        self.raw.extend_from_slice(&piece[..length]);
        Ok(length > 0)
    }

    fn head_and_rest(&self) -> Option<(String, &[u8])> {
        let end = self.raw.windows(4).position(|window| window == b"\r\n\r\n")?;
        Some((String::from_utf8_lossy(&self.raw[..end]).to_ascii_lowercase(), &self.raw[end + 4..]))
    }

    fn status(&self) -> Option<u16> {
        self.head_and_rest()?.0.split(' ').nth(1)?.parse().ok()
    }

    /// The body so far, without the framing of `Transfer-Encoding: chunked`.
    fn body(&self) -> Vec<u8> {
        let Some((head, mut rest)) = self.head_and_rest() else { return Vec::new() };
        if !head.contains("transfer-encoding: chunked") {
            return rest.to_vec();
        }
        let mut body = Vec::new();
        while let Some(end) = rest.windows(2).position(|window| window == b"\r\n") {
            let size = std::str::from_utf8(&rest[..end]).ok().and_then(|size| usize::from_str_radix(size, 16).ok());
            let chunk = &rest[end + 2..];
            match size {
                Some(size) if size > 0 && chunk.len() >= size + 2 => {
                    body.extend_from_slice(&chunk[..size]);
                    rest = &chunk[size + 2..];
                }
                Some(_) | None => break,
            }
        }
        body
    }
}
