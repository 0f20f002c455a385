//! What a worker is started with: its command line and its environment.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use super::archive::Archive;
use crate::config::settings::{Program, Service};
use crate::keeper::protocol::{ENV_OPEN_FILES, ENV_WATCHDOG_USEC};
use crate::machine::event::Target;
use crate::sys::notify_socket::NotifySocket;
use crate::units::{Digest, ServiceName, Slot, WorkerId};

/// Meant for the agent itself, by a service manager or a person; a worker that saw them would speak to the wrong one.
const NOT_FOR_WORKERS: [&str; 13] = [
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "LISTEN_PIDFDID",
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "MAINPID",
    "ROLLOUT_SOCKET",
    ENV_WATCHDOG_USEC,
    ENV_OPEN_FILES,
    "STATE_DIRECTORY",
    "RUNTIME_DIRECTORY",
];

/// Which worker.
pub(crate) struct Who<'a> {
    pub(crate) service: &'a ServiceName,
    pub(crate) worker: WorkerId,
    pub(crate) slot: Slot,
    pub(crate) target: Target,
}

/// The command line, with `{release}` replaced by the stored copy.
pub(crate) fn command(program: &Program, archive: &Archive, release: Digest) -> Vec<String> {
    match program {
        Program::Command { command } => command.clone(),
        Program::Binary { command, .. } => {
            let stored = archive.program(&release);
            let stored = stored.to_string_lossy();
            command.iter().map(|word| word.replace("{release}", &stored)).collect()
        }
    }
}

/// The whole environment but for `LISTEN_PID`, which only the shim can know.
pub(crate) fn environment(
    settings: &Service,
    who: &Who<'_>,
    passed: &[(String, OwnedFd)],
    port: Option<u16>,
    notify: Option<&NotifySocket>,
) -> Vec<(String, String)> {
    let mut env = inherited();
    if !passed.is_empty() {
        let names: Vec<&str> = passed.iter().map(|(name, _)| name.as_str()).collect();
        env.insert("LISTEN_FDS".to_owned(), passed.len().to_string());
        env.insert("LISTEN_FDNAMES".to_owned(), names.join(":"));
    }
    if let Some(port) = port {
        env.insert("PORT".to_owned(), port.to_string());
    }
    if let Some(socket) = notify {
        env.insert("NOTIFY_SOCKET".to_owned(), socket.address().to_owned());
    }
    env.insert("ROLLOUT_SERVICE".to_owned(), who.service.to_string());
    env.insert("ROLLOUT_SLOT".to_owned(), who.slot.to_string());
    env.insert("ROLLOUT_WORKER".to_owned(), who.worker.to_string());
    env.insert("ROLLOUT_GENERATION".to_owned(), who.target.generation.to_string());
    env.insert("ROLLOUT_RELEASE".to_owned(), who.target.release.to_string());
    env.extend(settings.env.clone());
    env.into_iter().collect()
}

/// The environment of `exec` checks, but for what the prober adds: which worker is meant and how to reach it.
pub(crate) fn for_checks(settings: &Service, service: &ServiceName) -> Vec<(String, String)> {
    let mut env = inherited();
    env.extend(settings.env.clone());
    env.insert("ROLLOUT_SERVICE".to_owned(), service.to_string());
    env.into_iter().collect()
}

/// The agent's own environment without what is meant for the agent. Variables that are not UTF-8 are left out.
fn inherited() -> BTreeMap<String, String> {
    let readable =
        std::env::vars_os().filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)));
    readable.filter(|(key, _)| !NOT_FOR_WORKERS.contains(&key.as_str())).collect()
}
