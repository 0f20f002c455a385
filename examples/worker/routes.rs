//! What the worker answers.
//!
//! | path | answer |
//! |---|---|
//! | `/`, `/version` | `version slot pid worker` |
//! | `/healthz` | `ok` |
//! | `/slow?ms=2000` | like `/`, after that time |
//! | `/upload` | reads the whole body; its length, then like `/` |
//! | `/stream?ms=3000&every=50` | for that time a line per `every` ms: its number, then like `/` |

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::{Request, Response, StatusCode};
use tokio::time::{Interval, interval, sleep};

use super::identity::Identity;
use super::serve::Answer;

/// Answers one request.
pub(crate) async fn answer(identity: Arc<Identity>, request: Request<Incoming>) -> Answer {
    match request.uri().path() {
        "/" | "/version" => text(StatusCode::OK, format!("{identity}\n")),
        "/healthz" => text(StatusCode::OK, "ok\n".to_owned()),
        "/slow" => {
            sleep(Duration::from_millis(number(&request, "ms", 2000))).await;
            text(StatusCode::OK, format!("{identity}\n"))
        }
        "/upload" => match length_of(request.into_body()).await {
            Ok(length) => text(StatusCode::OK, format!("{length} {identity}\n")),
            Err(error) => text(StatusCode::BAD_REQUEST, format!("{error}\n")),
        },
        "/stream" => {
            let every = number(&request, "every", 50).max(1);
            let lines = number(&request, "ms", 3000) / every;
            let every = interval(Duration::from_millis(every));
            Response::new(Lines { identity, every, sent: 0, lines }.boxed())
        }
        path => text(StatusCode::NOT_FOUND, format!("nothing at {path}\n")),
    }
}

/// A short answer.
pub(crate) fn text(status: StatusCode, body: String) -> Answer {
    let mut answer = Response::new(Full::from(body).boxed());
    *answer.status_mut() = status;
    answer
}

fn number(request: &Request<Incoming>, name: &str, otherwise: u64) -> u64 {
    let pairs = request.uri().query().unwrap_or("").split('&').filter_map(|pair| pair.split_once('='));
    pairs.filter(|(key, _)| *key == name).find_map(|(_, value)| value.parse().ok()).unwrap_or(otherwise)
}

async fn length_of(mut body: Incoming) -> Result<usize, hyper::Error> {
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        length += frame?.data_ref().map_or(0, Bytes::len);
    }
    Ok(length)
}

/// Numbered lines, one per tick, sent in chunks.
struct Lines {
    identity: Arc<Identity>,
    every: Interval,
    sent: u64,
    lines: u64,
}

impl Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.sent == self.lines {
            return Poll::Ready(None);
        }
        ready!(self.every.poll_tick(context));
        self.sent += 1;
        let line = format!("{} {}\n", self.sent, self.identity);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from(line)))))
    }
}
