//! The table of `wire/api.rs` as routes.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;
use tokio_stream::wrappers::{BroadcastStream, ReceiverStream, WatchStream};
use tokio_stream::{Stream, StreamExt};

use super::reading::{Question, question};
use super::refused::Refused;
use crate::agent::request::{Answer, LogFeed, Peer, Request, Roll, Steer};
use crate::units::Slot;
use crate::wire::api;

/// Kept lines that one question may ask for: what a person can read, and a bound for the agent's memory.
const MOST_LINES: usize = 10_000;

/// What every route can reach.
#[derive(Clone)]
struct Desk {
    requests: mpsc::Sender<Request>,
    status: watch::Receiver<Arc<api::Status>>,
    patience: Duration,
}

/// The routes.
pub(super) fn open(
    requests: mpsc::Sender<Request>,
    status: watch::Receiver<Arc<api::Status>>,
    patience: Duration,
) -> Router {
    Router::new()
        .route("/v1/status", get(status_of_all))
        .route("/v1/stop", post(stop))
        .route("/v1/services/{service}/deploy", post(deploy))
        .route("/v1/services/{service}/restart", post(restart))
        .route("/v1/services/{service}/rollback", post(rollback))
        .route("/v1/services/{service}/scale", post(scale))
        .route("/v1/services/{service}/pause", post(pause))
        .route("/v1/services/{service}/resume", post(resume))
        .route("/v1/services/{service}/abort", post(abort))
        .route("/v1/services/{service}/history", get(history))
        .route("/v1/services/{service}/logs", get(logs))
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .with_state(Desk { requests, status, patience })
}

/// What a connection beyond the bound is told.
pub(super) fn full(bound: usize) -> Router {
    Router::new().fallback(move || async move {
        let error = format!("{bound} clients are connected, and that is the most: end some 'rollout status --watch' or 'rollout logs -f'");
        ([(header::CONNECTION, "close")], Refused::busy(error))
    })
}

async fn unknown(uri: Uri) -> Refused {
    let error = format!(
        "{} is not a path of this API: it has /v1/status, /v1/stop and /v1/services/SERVICE/ with deploy, restart, rollback, scale, pause, resume, abort, history or logs",
        uri.path()
    );
    Refused::usage(StatusCode::NOT_FOUND, error)
}

async fn wrong_method(method: Method, uri: Uri) -> Refused {
    let path = uri.path();
    let right = if ["/status", "/history", "/logs"].iter().any(|end| path.ends_with(end)) { "GET" } else { "POST" };
    Refused::usage(StatusCode::METHOD_NOT_ALLOWED, format!("{path} does not take {method}: use {right}"))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StatusQuery {
    #[serde(default)]
    watch: bool,
}

async fn status_of_all(
    State(desk): State<Desk>,
    query: Result<Query<StatusQuery>, QueryRejection>,
) -> Result<Response, Refused> {
    if checked(query, "watch=true or nothing")?.watch {
        Ok(lines(WatchStream::new(desk.status).map(|status| line(&*status))))
    } else {
        let status = Arc::clone(&desk.status.borrow());
        Ok(Json(&*status).into_response())
    }
}

async fn stop(State(desk): State<Desk>) -> Result<Json<api::Done>, Refused> {
    desk.ask(|answer| Request::Stop { answer }).await.map(Json)
}

type RollQuestion = (State<Desk>, Extension<Peer>, Path<String>);

async fn deploy(about: RollQuestion, body: Body) -> Result<Response, Refused> {
    roll(about, body, |asked: api::Deploy| {
        if asked.path.starts_with('/') {
            Ok(Roll::Deploy(asked))
        } else {
            let error = format!("path {:?} is not absolute: the agent's working directory is not yours", asked.path);
            Err(Refused::usage(StatusCode::BAD_REQUEST, error))
        }
    })
    .await
}

async fn restart(about: RollQuestion, body: Body) -> Result<Response, Refused> {
    roll(about, body, |asked| Ok(Roll::Restart(asked))).await
}

async fn rollback(about: RollQuestion, body: Body) -> Result<Response, Refused> {
    roll(about, body, |asked| Ok(Roll::Rollback(asked))).await
}

async fn scale(about: RollQuestion, body: Body) -> Result<Response, Refused> {
    roll(about, body, |asked: api::Scale| {
        if asked.workers == 0 {
            let error = "workers is 0: a service has at least 1; 'rollout stop' stops everything";
            Err(Refused::usage(StatusCode::BAD_REQUEST, error))
        } else {
            Ok(Roll::Scale(asked))
        }
    })
    .await
}

async fn roll<Q: Question>(
    (State(desk), Extension(who), Path(service)): RollQuestion,
    body: Body,
    to: impl FnOnce(Q) -> Result<Roll, Refused>,
) -> Result<Response, Refused> {
    let roll = to(question(body, desk.patience).await?)?;
    let steps = desk.ask(|answer| Request::Roll { service, roll, who, answer }).await?;
    Ok(lines(ReceiverStream::new(steps).map(|step| line(&step))))
}

async fn pause(desk: State<Desk>, service: Path<String>) -> Result<Json<api::Done>, Refused> {
    steer(desk, service, Steer::Pause).await
}

async fn resume(desk: State<Desk>, service: Path<String>) -> Result<Json<api::Done>, Refused> {
    steer(desk, service, Steer::Resume).await
}

async fn abort(desk: State<Desk>, service: Path<String>) -> Result<Json<api::Done>, Refused> {
    steer(desk, service, Steer::Abort).await
}

async fn steer(
    State(desk): State<Desk>,
    Path(service): Path<String>,
    steer: Steer,
) -> Result<Json<api::Done>, Refused> {
    desk.ask(|answer| Request::Steer { service, steer, answer }).await.map(Json)
}

async fn history(State(desk): State<Desk>, Path(service): Path<String>) -> Result<Json<api::History>, Refused> {
    desk.ask(|answer| Request::History { service, answer }).await.map(Json)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LogsQuery {
    #[serde(default = "usual_lines")]
    lines: usize,
    slot: Option<Slot>,
    #[serde(default)]
    follow: bool,
}

fn usual_lines() -> usize {
    100
}

async fn logs(
    State(desk): State<Desk>,
    Path(service): Path<String>,
    query: Result<Query<LogsQuery>, QueryRejection>,
) -> Result<Response, Refused> {
    let LogsQuery { lines: wanted, slot, follow } = checked(query, "lines=100&slot=1&follow=true, each optional")?;
    if wanted > MOST_LINES {
        let error = format!(
            "lines={wanted} is too many: at most {MOST_LINES}; the log files in the state directory hold everything"
        );
        return Err(Refused::usage(StatusCode::BAD_REQUEST, error));
    }
    let feed = desk.ask(|answer| Request::Logs { service, lines: wanted, slot, answer }).await?;
    let LogFeed { kept, coming } = feed;
    let kept = tokio_stream::iter(kept);
    Ok(if follow {
        lines(kept.chain(coming_lines(coming, slot)).map(|output| line(&output)))
    } else {
        lines(kept.map(|output| line(&output)))
    })
}

fn coming_lines(
    coming: tokio::sync::broadcast::Receiver<api::LogLine>,
    slot: Option<Slot>,
) -> impl Stream<Item = api::LogLine> {
    let mut at = String::new();
    BroadcastStream::new(coming).filter_map(move |next| match next {
        Ok(line) => {
            at.clone_from(&line.at);
            (slot.is_none() || slot == Some(line.slot)).then_some(line)
        }
        Err(BroadcastStreamRecvError::Lagged(missed)) => {
            let line = format!("({missed} lines were left out here: they came faster than they were read)");
            Some(api::LogLine { at: at.clone(), slot: slot.unwrap_or(Slot(0)), worker: String::new(), line })
        }
    })
}

fn checked<Q>(query: Result<Query<Q>, QueryRejection>, expected: &str) -> Result<Q, Refused> {
    match query {
        Ok(Query(query)) => Ok(query),
        Err(cause) => {
            let error = format!("the query is not understood: {}: expected {expected}", cause.body_text());
            Err(Refused::usage(StatusCode::BAD_REQUEST, error))
        }
    }
}

impl Desk {
    /// Asks the loop. The answer's time is the loop's affair: each of its states has a deadline.
    async fn ask<T>(&self, request: impl FnOnce(Answer<T>) -> Request) -> Result<T, Refused> {
        let (answer, coming) = oneshot::channel();
        match self.requests.send_timeout(request(answer), self.patience).await {
            Ok(()) => {}
            Err(mpsc::error::SendTimeoutError::Closed(_)) => return Err(Refused::leaving()),
            Err(mpsc::error::SendTimeoutError::Timeout(_)) => {
                return Err(Refused::busy("the agent has too many requests before this one: try again"));
            }
        }
        Ok(coming.await.map_err(|_| Refused::leaving())??)
    }
}

/// One JSON value and a newline.
fn line(value: &impl Serialize) -> Bytes {
    let mut line =
        serde_json::to_vec(value).expect("wire types have no maps with strange keys, so they are always JSON");
    line.push(b'\n');
    line.into()
}

/// Lines, each sent as it comes. When the client goes away, the stream is dropped, and with it the receiver that the
/// loop sends to.
fn lines(lines: impl Stream<Item = Bytes> + Send + 'static) -> Response {
    let body = Body::from_stream(lines.map(Ok::<Bytes, Infallible>));
    ([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response()
}
