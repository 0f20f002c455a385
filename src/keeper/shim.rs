//! `rollout __exec`: an ordinary single-threaded process that the keeper starts, and that becomes a worker.
//!
//! Its standard input is a socket with one packet in it ([`Spec`], output, fds). What goes wrong is answered there as
//! [`NotExecuted`]; the socket is close-on-exec, so its end without an answer means that the worker's program runs.

use std::convert::Infallible;
use std::env;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

use super::diagnosis;
use super::log::log;
use super::spec::{Filter, NotExecuted, Spec};
use crate::sys::intercept::filter;
use crate::sys::{child, exec, fd, fd_pass, memfd, tree};

/// The kernel does not take more than a quarter of the stack, 2 MiB by default, as arguments and environment
/// (execve(2)); as JSON that is at most six times longer.
const SPEC_BOUND: usize = 16 * 1024 * 1024;

/// What a shell says about a program that it cannot run.
const CANNOT_EXECUTE: u8 = 127;

/// Becomes the worker. Comes back only when that failed and has been reported.
#[must_use]
pub fn run() -> ExitCode {
    let link = match fd::take_stdin() {
        Ok(link) => link,
        Err(error) => {
            log(format_args!("cannot read what to execute: {error}"));
            return ExitCode::from(CANNOT_EXECUTE);
        }
    };
    let mut link = Link(link);
    let Err(failure) = become_worker(&mut link);
    link.report(&failure);
    ExitCode::from(CANNOT_EXECUTE)
}

/// The way back, which moves out of the way of the worker's fds.
struct Link(OwnedFd);

impl Link {
    fn report(&self, failure: &NotExecuted) {
        let sent = serde_json::to_vec(failure)
            .map_err(io::Error::from)
            .and_then(|bytes| fd_pass::send(self.0.as_fd(), &bytes, &[]));
        if let Err(error) = sent {
            log(format_args!("failed to {failure}; nobody could be told: {error}"));
        }
    }
}

fn become_worker(link: &mut Link) -> Result<Infallible, NotExecuted> {
    let (spec, output, passed) = receive(link)?;
    let program = exec::Program::new(&spec.command, &environment(&spec)).map_err(|error| {
        failed("start the program", format!("a NUL character in its command or environment: {error}"))
    })?;
    // Before the output takes the place of the door.
    install_filter(spec.filter)?;
    exec::new_session().map_err(|error| failed("make a session", error))?;
    link.0 = exec::out_of_the_way(link.0.as_fd(), passed.len()).map_err(|error| failed("make room for fds", error))?;
    exec::lay_out(output, passed).map_err(|error| failed("lay out fds", error))?;
    if let Some(soft) = spec.open_files {
        fd::set_open_files(soft).map_err(|error| failed("limit open files", error))?;
    }
    env::set_current_dir(&spec.cwd).map_err(|error| failed(format!("enter {}", spec.cwd.display()), error))?;
    exec::reset_signals().map_err(|error| failed("reset signals", error))?;
    let Err((file, error)) = program.execute();
    Err(failed(format!("start {file}"), diagnosis::cause(&file, &error)))
}

/// Lets the keeper answer this process' calls of `bind`, and those of all that it starts. The way to the keeper is its door:
/// standard output, until the worker's own comes there. What it says on the door is the fd on which the calls arrive, or why
/// there is none.
fn install_filter(wanted: Filter) -> Result<(), NotExecuted> {
    if wanted == Filter::None {
        return Ok(());
    }
    let door = io::stdout();
    let said = match (filter::install(), wanted) {
        (Ok(calls), _) => fd_pass::send(door.as_fd(), b"calls", &[calls.as_fd()]),
        (Err(error), Filter::Required) => return Err(failed("answer its bind() (handover: intercept)", error)),
        (Err(error), Filter::IfPossible | Filter::None) => {
            fd_pass::send(door.as_fd(), error.to_string().as_bytes(), &[])
        }
    };
    said.map_err(|error| failed("give the answering of its bind() to the keeper", error))
}

/// The specification, the output, and the fds from 3 on.
fn receive(link: &Link) -> Result<(Spec, OwnedFd, Vec<OwnedFd>), NotExecuted> {
    let step = "receive what to execute";
    let packet = fd_pass::receive(link.0.as_fd()).map_err(|error| failed(step, error))?;
    let mut fds = packet.map(|packet| packet.fds).unwrap_or_default().into_iter();
    let (Some(memfd), Some(output)) = (fds.next(), fds.next()) else {
        return Err(failed(step, "no specification and output came"));
    };
    let json = memfd::read(memfd, SPEC_BOUND).map_err(|error| failed(step, error))?;
    let spec: Spec = serde_json::from_slice(&json).map_err(|error| failed(step, error))?;
    let passed: Vec<_> = fds.collect();
    if passed.len() != spec.listen_fds || spec.command.is_empty() {
        return Err(failed(step, format!("{} fds came for {:?}, not {}", passed.len(), spec.command, spec.listen_fds)));
    }
    Ok((spec, output, passed))
}

/// What only this process knows is its pid: for the protocol of sd_listen_fds(3), and as the mark of the worker's tree.
fn environment(spec: &Spec) -> Vec<(String, String)> {
    let pid = child::own_pid().to_string();
    let replaced = |name: &str| name == "LISTEN_PID" || name == tree::MARK;
    let mut env: Vec<_> = spec.env.iter().filter(|(name, _)| !replaced(name)).cloned().collect();
    if env.iter().any(|(name, _)| name == "LISTEN_FDS") {
        env.push(("LISTEN_PID".to_owned(), pid.clone()));
    }
    env.push((tree::MARK.to_owned(), pid));
    env
}

fn failed(step: impl Into<String>, cause: impl ToString) -> NotExecuted {
    // The texts end up in one packet, and the longest thing in them is a path.
    NotExecuted { step: step.into(), cause: cause.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_env(env: &[(&str, &str)]) -> Vec<(String, String)> {
        let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        environment(&Spec {
            command: vec![],
            env,
            cwd: "/".into(),
            listen_fds: 0,
            open_files: None,
            filter: Filter::None,
        })
    }

    #[test]
    fn the_pid_is_told_to_a_worker_that_gets_sockets_and_to_no_other() {
        let pid = child::own_pid().to_string();
        let mark = (tree::MARK.to_owned(), pid.clone());
        assert_eq!(with_env(&[("LISTEN_PID", "1")]), std::slice::from_ref(&mark));
        let env = with_env(&[("LISTEN_PID", "1"), ("LISTEN_FDS", "2")]);
        assert_eq!(env, [("LISTEN_FDS".to_owned(), "2".to_owned()), ("LISTEN_PID".to_owned(), pid), mark]);
    }
}
