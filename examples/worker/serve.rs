//! Serving, and leaving without losing a request.
//!
//! A server that closes its idle keep-alive connections as soon as it is told to stop loses requests: a client that sent
//! its next request less than a round trip ago finds the connection closed, and cannot know whether the request was
//! carried out. So a connection ends in one of two ways here: the client was told so in the answer (`Connection: close`)
//! and sends nothing more on it, or it has been idle for so long that nothing can be under way.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::combinators::BoxBody;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{CONNECTION, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::AsyncReadExt;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::lanes::{Listening, Stream};

/// What a request is answered with.
pub(crate) type Answer = Response<BoxBody<Bytes, Infallible>>;

/// Answers requests.
pub(crate) type App = Arc<dyn Fn(Request<Incoming>) -> Pin<Box<dyn Future<Output = Answer> + Send>> + Send + Sync>;

/// Makes an [`App`] of an async function.
pub(crate) fn app<F, A>(answer: F) -> App
where
    F: Fn(Request<Incoming>) -> A + Send + Sync + 'static,
    A: Future<Output = Answer> + Send + 'static,
{
    Arc::new(move |request| Box::pin(answer(request)))
}

/// Whether the worker stays.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    Serving,
    Leaving { since: Instant },
}

/// What a connection is doing. HTTP/1 has one request at a time.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Use {
    InFlight,
    Idle { since: Instant },
}

/// How long to wait for the client's end of a connection after our last word.
const LINGER: Duration = Duration::from_secs(2);

/// Serves until `stop` ends, then leaves: returns when the last connection is over.
pub(crate) async fn serve(lanes: Listening, app: App, grace: Duration, stop: impl Future<Output = ()>) {
    let (phase, _) = watch::channel(Phase::Serving);
    let mut connections = JoinSet::new();
    tokio::pin!(stop);
    loop {
        tokio::select! {
            biased;
            () = &mut stop => break,
            Some(_) = connections.join_next() => {}
            accepted = lanes.accept() => match accepted {
                Ok(stream) => drop(connections.spawn(connection(stream, Arc::clone(&app), grace, phase.subscribe()))),
                // The client gave up, or this process is out of fds: then one of its connections must end first.
                Err(_) => drop(timeout(Duration::from_millis(10), connections.join_next()).await),
            },
        }
    }
    phase.send_replace(Phase::Leaving { since: Instant::now() });
    // Only our share of the listening sockets: the agent has its own and keeps them open. It stopped sending new
    // connections here before it sent the signal.
    drop(lanes);
    while connections.join_next().await.is_some() {}
}

async fn connection(stream: Box<dyn Stream>, app: App, grace: Duration, mut phase: watch::Receiver<Phase>) {
    let (in_use, uses) = watch::channel(Use::Idle { since: Instant::now() });
    let in_use = Arc::new(in_use);
    let phase_at_answer = phase.clone();
    let service = service_fn(move |request| {
        in_use.send_replace(Use::InFlight);
        let until_sent = InFlight(Arc::clone(&in_use));
        let answer = app(request);
        let phase = phase_at_answer.clone();
        async move {
            let mut answer = answer.await;
            if matches!(*phase.borrow(), Phase::Leaving { .. }) {
                answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            Ok::<_, Infallible>(answer.map(|body| Watched { body, _until_sent: until_sent }))
        }
    });
    let mut connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);

    let ended = tokio::select! {
        biased;
        ended = &mut connection => ended,
        () = long_idle(&mut phase, uses, grace) => {
            // hyper closes the connection if it is idle. If a request came in this very moment it is answered first.
            Pin::new(&mut connection).graceful_shutdown();
            (&mut connection).await
        }
    };
    if ended.is_ok() {
        // We have said our last word, and hyper has shut our direction down. If the client is still sending (a body that
        // nobody read), closing now would answer it with a reset, and a reset destroys the response on its way.
        let mut stream = connection.into_parts().io.into_inner();
        let rest = async { while stream.read(&mut [0; 4096]).await.is_ok_and(|length| length > 0) {} };
        let _in_time = timeout(LINGER, rest).await;
    }
}

/// Ends when the worker is leaving and the connection has been idle for all of `grace` since then.
async fn long_idle(phase: &mut watch::Receiver<Phase>, mut uses: watch::Receiver<Use>, grace: Duration) {
    let told = loop {
        if let Phase::Leaving { since } = *phase.borrow_and_update() {
            break since;
        }
        if phase.changed().await.is_err() {
            return;
        }
    };
    loop {
        let now = *uses.borrow_and_update();
        let open_until = match now {
            // An answer that began before the signal did not say `Connection: close`: its client has the grace, too.
            Use::Idle { since } => Some(since.max(told) + grace),
            Use::InFlight => None,
        };
        tokio::select! {
            biased;
            changed = uses.changed() => if changed.is_err() { return },
            () = async { sleep_until(open_until.expect("guarded")).await }, if open_until.is_some() => return,
        }
    }
}

/// Marks its connection idle again when the response is written or given up.
struct InFlight(Arc<watch::Sender<Use>>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.send_replace(Use::Idle { since: Instant::now() });
    }
}

/// A body that holds an [`InFlight`].
struct Watched {
    body: BoxBody<Bytes, Infallible>,
    _until_sent: InFlight,
}

impl Body for Watched {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
