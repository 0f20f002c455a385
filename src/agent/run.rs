//! The agent's process: recover, then wait, translate, step, perform, publish, until everything is over.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tracing::info;

use super::applied;
use super::chain;
use super::control::{Control, serve};
use super::desk::Agent;
use super::happening::INBOX_BOUND;
use super::keeper_link::KeeperLink;
use super::log_output;
use super::output::Mirror;
use super::start::{Source, Start};
use crate::config::settings::Settings;
use crate::config::{self, flags, paths, problem};
use crate::keeper::protocol::Inventory;
use crate::sys::proc;
use crate::sys::timer::Timer;
use crate::wire::api::Status;

/// Questions that wait for the loop. A client waits with its connection; 64 connections are served at once.
const REQUESTS_BOUND: usize = 64;

/// Findings of the probers: as many as the inbox takes, for the same reason.
pub(super) const FINDINGS_BOUND: usize = INBOX_BOUND;

/// Runs the agent until it has stopped everything. The keeper is the parent and holds whatever must survive.
#[must_use]
pub fn run(start: Start) -> ExitCode {
    let mirror = match Mirror::to_stderr() {
        Ok(mirror) => mirror,
        // Without stderr there is nobody to tell.
        Err(_) => return ExitCode::FAILURE,
    };
    log_output::begin(mirror.clone());
    // One thread: the loop is the only one that decides, and everything else waits for fds.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(4).build() {
        Ok(runtime) => runtime,
        Err(cause) => return fail(&format!("cannot start the agent's runtime: {cause}"), &mirror),
    };
    let code = match runtime.block_on(supervise(start, mirror.clone())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => fail(&message, &mirror),
    };
    // A blocked read of a dead file system must not keep the process.
    runtime.shutdown_background();
    mirror.finish(LAST_WORDS);
    code
}

/// How long the last lines may take when nobody reads stderr.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Says why there is no agent, as the commands say why they fail: whoever has typed `rollout run` reads this. A list of
/// problems begins with the place of each, as `rollout check` prints it.
fn fail(message: &str, mirror: &Mirror) -> ExitCode {
    if message.contains('\n') {
        mirror.say(format!("{}\n", message.trim_end()).as_bytes());
        mirror.say(b"rollout: the configuration has problems: the agent did not start\n");
    } else {
        mirror.say(format!("rollout: {message}\n").as_bytes());
    }
    mirror.finish(LAST_WORDS);
    ExitCode::from(1)
}

async fn supervise(start: Start, mirror: Mirror) -> Result<(), String> {
    let (mut link, inventory) = KeeperLink::from_stdin()
        .map_err(|error| format!("cannot reach the keeper: {}: use 'rollout run'", chain(&error)))?;
    let settings = match applied::take(&mut link) {
        Some(settings) => settings,
        None => load(&start.source)?,
    };
    let socket = paths::socket(start.socket.as_deref(), settings.socket.as_deref(), &paths::environment);
    let state_dir = paths::state_dir(
        start.state_dir.as_deref(),
        settings.state_dir.as_deref(),
        proc::own_uid(),
        &paths::environment,
    )
    .ok_or("no state directory: HOME is not set; name one with --state-dir")?;
    let control = Control::bind(&socket).await.map_err(|error| chain(&error))?;
    let timer = Timer::new().map_err(|error| format!("cannot make a timer: {error}"))?;
    let (requests, asked) = mpsc::channel(REQUESTS_BOUND);
    let (published, status) = watch::channel(Arc::new(Status { services: Vec::new() }));
    let mut servers = JoinSet::new();
    servers.spawn(serve(control, requests, status));
    let mut agent = Agent::new(start.source, state_dir, link, published, mirror);
    agent.recover(settings, &inventory)?;
    info!(socket = %socket.display(), services = agent.names(), "{}", greeting(&inventory));
    agent.work(asked, timer).await;
    servers.shutdown().await;
    Ok(())
}

fn greeting(inventory: &Inventory) -> &'static str {
    if inventory.agents_before == 0 { "agent started" } else { "agent started again: services were adopted" }
}

/// Reads the configuration: blocking, short.
pub(super) fn load(source: &Source) -> Result<Settings, String> {
    let cpus = std::thread::available_parallelism().map_or(1, |cpus| u32::try_from(cpus.get()).unwrap_or(1));
    match source {
        Source::File(path) => {
            let path: PathBuf = match path.clone().or_else(config::find) {
                Some(path) => path,
                None => return Err("no configuration: neither ./rollout.yaml nor /etc/rollout/rollout.yaml exists; make one with 'rollout init', or name it with -c".to_owned()),
            };
            config::load(&path, cpus).map_err(|error| chain(&error))
        }
        Source::Flags(given) => {
            let dir = std::env::current_dir().map_err(|error| format!("cannot tell the current directory: {error}"))?;
            flags::from_flags(given, &dir, cpus).map_err(|problems| problem::list(&problems))
        }
    }
}

/// Kept beside the loop so that it compiles alone: services by name.
pub(super) type ByName<T> = BTreeMap<crate::units::ServiceName, T>;
