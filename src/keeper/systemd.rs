//! The service manager's side: sockets and settings inherited from it, and notices to it (sd_listen_fds(3), sd_notify(3)).
//!
//! Its variables stop here. A worker that found them would take the service's sockets for its own, or speak to the
//! service manager in the keeper's name.

use std::env;
use std::io;
use std::os::fd::OwnedFd;
use std::process::Command;

use sd_notify::NotifyState;

use super::log::log;
use super::protocol::Notice;
use crate::sys::{child, fd};

const VARIABLES: [&str; 7] =
    ["NOTIFY_SOCKET", "LISTEN_FDS", "LISTEN_PID", "LISTEN_PIDFDID", "LISTEN_FDNAMES", "WATCHDOG_USEC", "WATCHDOG_PID"];

/// Starts the command without the service manager's variables.
pub(super) fn hide_variables(command: &mut Command) {
    for name in VARIABLES {
        command.env_remove(name);
    }
}

/// No service manager passes more (`FileDescriptorStoreMax=` aside); a nonsense number must not keep us busy.
const SOCKETS_BOUND: u64 = 4096;

/// The sockets that were passed to this process, each with the name under which the keeper holds it. To be called once.
pub(super) fn inherited_sockets() -> Vec<(String, OwnedFd)> {
    let count = if is_for_us("LISTEN_PID") { number("LISTEN_FDS").unwrap_or(0).min(SOCKETS_BOUND) } else { 0 };
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut sockets = Vec::new();
    for (name, (index, number)) in names_for(count, &names).into_iter().zip((0..count).zip(3..)) {
        match fd::adopt_inherited(number) {
            Ok(socket) => sockets.push((format!("inherited:{index}:{name}"), socket)),
            Err(error) => log(format_args!("cannot take inherited socket {index} ({name}, fd {number}): {error}")),
        }
    }
    sockets
}

/// One name for each socket, as sd_listen_fds_with_names(3): those without one are called `unknown`.
fn names_for(count: u64, names: &str) -> Vec<String> {
    let mut names = names.split(':');
    let mut next = || names.next().filter(|name| !name.is_empty()).unwrap_or("unknown").to_owned();
    (0..count).map(|_| next()).collect()
}

/// How often the service manager wants to hear from this process.
pub(super) fn watchdog_usec() -> Option<u64> {
    let for_us = env::var_os("WATCHDOG_PID").is_none() || is_for_us("WATCHDOG_PID");
    number("WATCHDOG_USEC").filter(|usec| for_us && *usec > 0)
}

fn is_for_us(pid_variable: &str) -> bool {
    number(pid_variable) == u64::try_from(child::own_pid()).ok()
}

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok()?.parse().ok()
}

/// Passes a notice on. Without a service manager nothing happens.
pub(super) fn notify(notice: &Notice) {
    if let Err(error) = try_notify(notice) {
        log(format_args!("cannot tell the service manager {notice:?}: {error}"));
    }
}

fn try_notify(notice: &Notice) -> io::Result<()> {
    match notice {
        Notice::Ready => sd_notify::notify(&[NotifyState::Ready]),
        Notice::Status(text) => sd_notify::notify(&[NotifyState::Status(&one_line(text))]),
        // Both in one datagram, or systemd 253 and later waits for the second until the reload times out.
        Notice::Reloading => sd_notify::notify(&[NotifyState::Reloading, NotifyState::monotonic_usec_now()?]),
        Notice::ExtendTimeout { usec } => {
            sd_notify::notify(&[NotifyState::Custom(&format!("EXTEND_TIMEOUT_USEC={usec}"))])
        }
        Notice::Stopping => sd_notify::notify(&[NotifyState::Stopping]),
        Notice::Watchdog => sd_notify::notify(&[NotifyState::Watchdog]),
    }
}

/// A line break would begin another assignment of the protocol.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_socket_has_a_name() {
        assert_eq!(names_for(4, "http::https"), ["http", "unknown", "https", "unknown"]);
        assert_eq!(names_for(1, "http:https"), ["http"]);
        assert_eq!(names_for(1, ""), ["unknown"]);
    }

    #[test]
    fn a_status_cannot_smuggle_in_another_assignment() {
        assert_eq!(one_line("3 of 4\nMAINPID=1"), "3 of 4 MAINPID=1");
    }
}
