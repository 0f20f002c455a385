//! A polite worker: an HTTP/1.1 server that `rollout` can replace without losing a request.
//!
//! What makes it polite, and what to copy into a program of your own:
//!
//! 1. It serves the listening sockets it is given (`LISTEN_FDS`, systemd's protocol) instead of binding its own.
//! 2. It says `READY=1` on `NOTIFY_SOCKET` when it can serve (not needed where readiness is an HTTP check).
//! 3. On SIGTERM it stops accepting, finishes every request that is in flight and answers the next request on each idle
//!    keep-alive connection with `Connection: close`. A connection that stays idle is closed only after `--grace`, which is
//!    longer than a round trip: a client that is just sending its next request must not find the connection closed.
//! 4. Then it exits with code 0.
//!
//! `worker/serve.rs` has the third point; the rest is short. Without `LISTEN_FDS` it listens on `--listen`.
//!
//! Different versions for trying deploys out: copy the built file and append a line to it,
//! `printf '\nROLLOUT-EXAMPLE-VERSION=v2\n' >> copy`. The program finds that line at the end of its own file.

#[path = "worker/mod.rs"]
mod worker;

use std::error::Error;
use std::io::{Write, stderr, stdout};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use worker::identity::Identity;
use worker::lanes::Lanes;
use worker::{Options, routes, serve, signals, trailer};

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _nobody_left_to_tell = writeln!(stderr(), "worker: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    // Before anything else runs: it takes LISTEN_FDS out of the environment.
    let lanes = Lanes::take(&options.listen)?;
    let address = lanes.address();
    let version = options.version_name.clone().or_else(|| trailer::value("VERSION")).unwrap_or_else(|| "v1".to_owned());
    let identity = Arc::new(Identity::of_this_process(version));

    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let stop = signals::stop_signal()?;
        let lanes = lanes.listen()?;
        sd_notify::notify(&[sd_notify::NotifyState::Ready])?;
        if let Some(address) = address {
            writeln!(stdout(), "listening on {address}")?;
        }
        let app = serve::app(move |request| routes::answer(Arc::clone(&identity), request));
        serve::serve(lanes, app, options.grace.into(), stop).await;
        Ok(())
    })
}
