//! The load client: traffic at a steady rate, every failure named.
//!
//! It is an open loop: a request is sent when its time has come, whether or not the ones before it are answered, so a
//! server that stands still is seen as late answers and not as silence. Nothing is tried twice, so no failure is hidden.
//! It talks HTTP itself, because an HTTP library retries, pools and renames errors as it likes.
//!
//! Loopback only: it is made to hammer a test, not a host.
//!
//! ```text
//! let load = Load::start(address, Mix::all(200.0))?;
//! …                                       // a rollout
//! let report = load.stop();
//! assert_eq!(report.failures(), 0, "{report}");
//! ```

mod histogram;
pub(crate) mod mix;
pub(crate) mod report;
mod traffic;
pub(crate) mod wire;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::sync::watch;

use mix::Mix;
use report::{Recorder, Report};

/// The door to the client.
pub(crate) struct Load;

/// A client at work. Dropping it ends it without waiting; [`Running::stop`] is the end that counts.
pub(crate) struct Running {
    recorder: Arc<Recorder>,
    stop: watch::Sender<Wanted>,
    thread: JoinHandle<io::Result<()>>,
}

/// Whether new requests are to be sent.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Wanted {
    Traffic,
    End,
}

/// Why the client did not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotStarted {
    /// Another host could be meant.
    #[error("{0} is not a loopback address, and the load client sends to no other")]
    NotLoopback(SocketAddr),
    /// The system had no thread for it.
    #[error("start the load client's thread")]
    Thread(#[source] io::Error),
}

impl Load {
    /// Starts sending at once, from a thread of its own.
    pub(crate) fn start(address: SocketAddr, mix: Mix) -> Result<Running, NotStarted> {
        if !address.ip().is_loopback() {
            return Err(NotStarted::NotLoopback(address));
        }
        let recorder = Arc::new(Recorder::default());
        let (stop, wanted) = watch::channel(Wanted::Traffic);
        let record = Arc::clone(&recorder);
        let thread = thread::Builder::new()
            .name("load".to_owned())
            .spawn(move || traffic::run(address, mix, record, wanted))
            .map_err(NotStarted::Thread)?;
        Ok(Running { recorder, stop, thread })
    }
}

impl Running {
    /// What happened until now. Requests under way are sent and neither ok nor failed.
    pub(crate) fn so_far(&self) -> Report {
        self.recorder.report()
    }

    /// Waits until `enough` says so of [`Running::so_far`]; false when it did not within `limit`.
    pub(crate) fn wait_until(&self, limit: Duration, enough: impl FnMut(&Report) -> bool) -> bool {
        self.recorder.wait_until(limit, enough)
    }

    /// Sends no new request, waits for those under way (each has its deadline) and tells what happened.
    ///
    /// # Panics
    /// If the client's thread did: then nothing it counted is worth anything.
    pub(crate) fn stop(self) -> Report {
        self.stop.send_replace(Wanted::End);
        self.thread.join().expect("the load client does not panic").expect("the load client has a runtime");
        self.recorder.report()
    }
}
