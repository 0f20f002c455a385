//! The `http` look: `GET path` on the worker's lane. The only file of the prober that names hyper.

use std::pin::pin;
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::time::timeout;

use super::seconds;
use crate::agent::route::Route;
use crate::machine::verdict::Look;

/// A health answer is read up to here, so that the worker can finish; what is longer is cut off, and that is no fault.
const LONGEST_BODY: usize = 64 * 1024;

/// What is asked, and which answers are good.
#[derive(Debug, Clone)]
pub(super) struct Question {
    pub(super) path: String,
    pub(super) host: String,
    pub(super) expect: Vec<(u16, u16)>,
}

/// Good when the first steered listener answers as expected before `limit` is over.
pub(super) async fn look(question: &Question, routes: &[Route], limit: Duration) -> Look {
    let Some(route) = routes.first() else {
        return Look::Bad("there is no steered listener to ask".to_owned());
    };
    let problem = match timeout(limit, ask(question, route)).await {
        Ok(Ok(())) => return Look::Good,
        Ok(Err(problem)) => problem,
        Err(_) => format!(": no answer within {}", seconds(limit)),
    };
    Look::Bad(format!("GET {}{problem}", question.path))
}

/// One exchange on a connection of its own. The error continues the text `GET /path`.
async fn ask(question: &Question, route: &Route) -> Result<(), String> {
    let stream = route.connect().await.map_err(|error| {
        if error.kind() == std::io::ErrorKind::ConnectionRefused {
            format!(": {} refused the connection", route.to)
        } else {
            format!(": connect to {}: {error}", route.to)
        }
    })?;
    if route.from.is_ipv6() {
        // A marked port is wanted again at once: leave by reset, without TIME_WAIT on either side.
        stream.set_zero_linger().map_err(|error| format!(": {error}"))?;
    }
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| describe(&error))?;
    let request = Request::get(question.path.as_str())
        .header(HOST, &question.host)
        .header(USER_AGENT, "rollout")
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| format!(": {error}"))?;
    let mut exchange = pin!(exchange(sender, request, question));
    // The connection must be driven while the exchange waits; it may well end first, with the answer in its buffer.
    tokio::select! {
        biased;
        answer = &mut exchange => answer,
        _ = connection => exchange.await,
    }
}

async fn exchange(
    mut sender: http1::SendRequest<Empty<Bytes>>,
    request: Request<Empty<Bytes>>,
    question: &Question,
) -> Result<(), String> {
    let answer = sender.send_request(request).await.map_err(|error| describe(&error))?;
    let status = answer.status().as_u16();
    drain(answer).await.map_err(|error| format!(" answered {status}, but its body was cut: {error}"))?;
    if question.expect.iter().any(|&(first, last)| (first..=last).contains(&status)) {
        Ok(())
    } else {
        Err(format!(" answered {status}"))
    }
}

async fn drain(answer: Response<Incoming>) -> Result<(), hyper::Error> {
    let mut body = answer.into_body();
    let mut seen = 0;
    while seen < LONGEST_BODY {
        let Some(frame) = body.frame().await else { break };
        seen += frame?.data_ref().map_or(0, Bytes::len);
    }
    Ok(())
}

fn describe(error: &hyper::Error) -> String {
    if error.is_parse() {
        ": the answer is not HTTP/1.1".to_owned()
    } else if error.is_incomplete_message() || error.is_closed() || error.is_canceled() {
        ": closed before answering".to_owned()
    } else {
        // hyper's own word is "connection error"; the cause is the system's.
        let cause = std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
        format!(": {cause}")
    }
}
