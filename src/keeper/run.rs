//! The keeper's loop: wait, take signals, bury the dead, answer the agent.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use super::agent_process::{Backoff, OWN_BINARY, Recipe, Running};
use super::intercept::Interceptors;
use super::link::Heard;
use super::log::log;
use super::protocol::{Ask, Managed, Tell, VERSION};
use super::systemd;
use super::table::{PIDFD_PREFIX, Table};
use crate::sys::child::{self, Leftovers};
use crate::sys::signals::Signals;
use crate::sys::{clock, fd, fd_pass, memfd, poll, tree};
use crate::units::{Exit, Moment, Signal};

/// SIGHUP, SIGINT, SIGUSR1, SIGUSR2, SIGTERM: meant for the agent.
const FOR_THE_AGENT: [Signal; 5] = [Signal(1), Signal(2), Signal(10), Signal(12), Signal::TERM];
const SIGINT: Signal = Signal(2);
const SIGCHLD: Signal = Signal(17);

/// Questions answered before the loop looks at signals and the dead again.
const ASKS_PER_TURN: usize = 64;

/// How long killed children may take to be gone when the keeper ends.
const LAST_PATIENCE: Duration = Duration::from_secs(2);

/// Becomes the keeper: starts this binary with `agent_args` as the agent, and holds everything for it until it is done.
/// Must be called in a process of its own that has no other threads and no children.
#[must_use]
pub fn run(agent_args: Vec<OsString>) -> ExitCode {
    match Keeper::new(agent_args) {
        Ok(keeper) => keeper.run(),
        Err(error) => {
            log(format_args!("cannot start: {error}"));
            ExitCode::FAILURE
        }
    }
}

struct Keeper {
    table: Table,
    interceptors: Interceptors,
    signals: Signals,
    /// Came and not told yet. A set: one of each is enough, so it is bounded.
    pending: BTreeSet<Signal>,
    /// Children of whoever became the keeper (a shell that did `exec`): none of ours.
    foreign: BTreeSet<i32>,
    recipe: Recipe,
    agent: Agent,
    backoff: Backoff,
    agents_before: u32,
    phase: Phase,
    /// The last request to end. It holds until the agent is done, so it is repeated to a successor.
    asked_to_end: Option<Signal>,
}

enum Agent {
    Running(Running),
    StartAt(Moment),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nobody serves yet: the agent's exit is final.
    Starting,
    /// The agent is started again whenever it exits.
    InCharge,
    /// The agent has stopped everything: when it exits, so does the keeper, with this code.
    Done(u8),
    /// The keeper exits with this code now.
    Over(u8),
}

impl Keeper {
    fn new(args: Vec<OsString>) -> io::Result<Self> {
        let mut table = Table::default();
        for (name, socket) in systemd::inherited_sockets() {
            table.put(name, socket);
        }
        // What else a parent forgot to close is nobody's business below.
        fd::close_on_exec_from(3)?;
        let mut caught = FOR_THE_AGENT.to_vec();
        caught.push(SIGCHLD);
        let signals = Signals::catch(&caught)?;
        child::become_subreaper()?;
        let open_files = fd::raise_open_files()?;
        Ok(Self {
            table,
            interceptors: Interceptors::default(),
            signals,
            pending: BTreeSet::new(),
            foreign: tree::own_children().into_iter().collect(),
            recipe: Recipe { args, open_files, watchdog_usec: systemd::watchdog_usec() },
            agent: Agent::StartAt(clock::now()),
            backoff: Backoff::new(),
            agents_before: 0,
            phase: Phase::Starting,
            asked_to_end: None,
        })
    }

    fn run(mut self) -> ExitCode {
        loop {
            self.take_signals();
            self.bury_the_dead();
            self.start_agent_if_due();
            self.answer_agent();
            if let Phase::Over(code) = self.phase {
                self.kill_everybody();
                return ExitCode::from(code);
            }
            self.wait();
        }
    }

    fn wait(&mut self) {
        let mut awaited = vec![(self.signals.as_fd(), poll::For::Reading)];
        let (callers, calls): (Vec<_>, Vec<_>) =
            self.interceptors.fds().map(|(child, fd)| (child.to_owned(), fd)).unzip();
        awaited.extend(calls.into_iter().map(|fd| (fd, poll::For::Reading)));
        let until = match &self.agent {
            Agent::StartAt(moment) => Some(*moment),
            Agent::Running(agent) => {
                awaited.extend(agent.link.as_ref().map(|link| (link.as_fd(), link.awaits())));
                agent.deadline()
            }
        };
        let ready = poll::wait(&awaited, until).unwrap_or_else(|error| {
            // ENOMEM is the only one possible: nothing better to do than to try again.
            log(format_args!("cannot wait: {error}"));
            Vec::new()
        });
        for (child, _) in callers.iter().zip(ready.iter().skip(1)).filter(|(_, ready)| ready.reading) {
            self.interceptors.tend(child, &self.table);
        }
        if let Agent::Running(agent) = &mut self.agent {
            agent.kill_if_late();
        }
    }

    fn take_signals(&mut self) {
        for signal in self.signals.take_pending() {
            if signal == Signal::TERM || signal == SIGINT {
                self.asked_to_end = Some(signal);
            }
            // SIGCHLD only wakes the loop up.
            if signal != SIGCHLD {
                self.pending.insert(signal);
            }
        }
    }

    fn bury_the_dead(&mut self) {
        loop {
            let dead = match child::next_dead() {
                Ok(Some(dead)) => dead,
                Ok(None) => return,
                Err(error) => return log(format_args!("cannot look for exited children: {error}")),
            };
            self.foreign.remove(&dead.pid);
            let is_agent = matches!(&self.agent, Agent::Running(agent) if agent.pid == dead.pid);
            let child = self.table.living_child(dead.pid).map(str::to_owned);
            // An orphan that came to us leads a group only by its own choice; that is not ours to end.
            if let Some(child) = &child {
                self.kill_strays(child, dead.pid);
            }
            let leftovers = if is_agent || child.is_some() { Leftovers::Kill } else { Leftovers::Leave };
            if let Err(error) = child::bury(&dead, leftovers) {
                log(format_args!("cannot reap process {}: {error}", dead.pid));
            }
            if let Some(child) = child {
                self.table.exited(&child, dead.exit);
                self.interceptors.exited(&child);
            } else if is_agent {
                self.agent_exited(dead.exit);
            }
        }
    }

    /// Ends what a dead worker has started and what has left its group. Must be called while its zombie keeps its number.
    fn kill_strays(&self, child: &str, pid: i32) {
        let known: BTreeSet<i32> = self.table.living().map(|(pid, _)| pid).collect();
        // Whatever it left is ours now, or descends from what is ours: usually that is nothing.
        let mut orphans = tree::own_children().into_iter().filter(|orphan| !known.contains(orphan));
        if orphans.any(|orphan| tree::is_marked(orphan, pid))
            && let Some(pidfd) = self.table.named(&format!("{PIDFD_PREFIX}{child}"))
        {
            kill(pid, pidfd);
        }
    }

    fn agent_exited(&mut self, exit: Exit) {
        let again = Agent::StartAt(clock::now());
        let Agent::Running(agent) = std::mem::replace(&mut self.agent, again) else { return };
        self.agents_before = self.agents_before.saturating_add(1);
        let age = agent.age();
        if let Some(link) = &agent.link {
            // What it said before its death still holds.
            while let Heard::Ask(ask, fds) = link.hear_last_words() {
                if self.obey(ask, fds).is_err() {
                    break;
                }
            }
        }
        match self.phase {
            Phase::Starting => {
                if let Exit::Signal(signal) = exit {
                    log(format_args!("the agent was killed by {signal} before it was in charge"));
                }
                self.phase = Phase::Over(exit_code(exit));
            }
            Phase::InCharge => self.start_again(age, format_args!("the agent is gone ({exit})")),
            Phase::Done(code) => self.phase = Phase::Over(code),
            Phase::Over(_) => {}
        }
    }

    /// Plans the next start of an agent.
    fn start_again(&mut self, age: Duration, why: std::fmt::Arguments<'_>) {
        let wait = self.backoff.after(age);
        log(format_args!("{why}; starting it again in {} ms", wait.as_millis()));
        self.agent = Agent::StartAt(clock::now().after(wait));
        self.table.nobody_knows();
        self.pending.extend(self.asked_to_end);
    }

    fn start_agent_if_due(&mut self) {
        let due = matches!(self.agent, Agent::StartAt(moment) if moment <= clock::now());
        if !due || matches!(self.phase, Phase::Over(_)) {
            return;
        }
        match self.recipe.start() {
            Ok(running) => self.agent = Agent::Running(running),
            Err(error) if self.phase == Phase::Starting => {
                log(format_args!("cannot start the agent: {error}"));
                self.phase = Phase::Over(1);
            }
            Err(error) => self.start_again(Duration::ZERO, format_args!("cannot start the agent: {error}")),
        }
    }

    fn answer_agent(&mut self) {
        for _ in 0..ASKS_PER_TURN {
            let Agent::Running(agent) = &mut self.agent else { return };
            let Some(link) = &agent.link else { return };
            match link.hear() {
                Heard::Nothing => break,
                Heard::End => {
                    agent.link = None;
                    return agent.expect_to_leave();
                }
                Heard::Garbage(reason) => return self.cut_off(&format!("does not speak the protocol: {reason}")),
                Heard::Ask(ask, fds) => match self.obey(ask, fds) {
                    Ok(answer) => self.answer(answer),
                    Err(reason) => return self.cut_off(&format!("cannot be obeyed: {reason}")),
                },
            }
        }
        // If more is waiting, poll finds the socket readable and the loop comes back here.
        if let Agent::Running(Running { link: Some(link), .. }) = &mut self.agent
            && let Err(error) = link.send(&mut self.table, &mut self.pending)
        {
            self.cut_off(&format!("cannot be answered: {error}"));
        }
    }

    fn answer(&mut self, answer: Option<(Tell, Option<OwnedFd>)>) {
        if let (Agent::Running(Running { link: Some(link), .. }), Some((tell, fd))) = (&mut self.agent, answer) {
            if tell == Tell::Welcome {
                link.greet();
            }
            link.answer(tell, fd);
        }
    }

    /// Kills an agent that makes no sense. Its successor is started when it is buried.
    fn cut_off(&mut self, reason: &str) {
        if let Agent::Running(agent) = &mut self.agent {
            log(format_args!("the agent (pid {}) {reason}; killing it", agent.pid));
            agent.link = None;
            agent.kill();
        }
    }

    /// Does what the agent asks; gives back the answer, if the question has one.
    fn obey(&mut self, ask: Ask, mut fds: Vec<OwnedFd>) -> Result<Option<(Tell, Option<OwnedFd>)>, String> {
        let expected = usize::from(matches!(ask, Ask::Put { .. } | Ask::Spawn { .. }));
        if fds.len() != expected {
            return Err(format!("{} fds came with {ask:?}, not {expected}", fds.len()));
        }
        Ok(match (ask, fds.pop()) {
            (Ask::Hello { version: VERSION }, _) => Some((Tell::Welcome, Some(self.inventory()?))),
            (Ask::Hello { .. }, _) => Some((Tell::Foreign { version: VERSION }, None)),
            (Ask::Put { name }, Some(fd)) => {
                self.table.put(name, fd);
                None
            }
            (Ask::Take { name }, _) => Some(self.take(name)?),
            (Ask::Drop { name }, _) => {
                self.table.drop_fd(&name);
                None
            }
            (Ask::Spawn { child, managed }, Some(stdin)) => Some(match self.spawn(&child, stdin, managed) {
                Ok((pid, pidfd)) => (Tell::Spawned { child, pid }, Some(pidfd)),
                Err(error) => (Tell::NotSpawned { child, error }, None),
            }),
            // Counted above.
            (Ask::Put { .. } | Ask::Spawn { .. }, None) => None,
            (Ask::Forget { child }, _) => {
                self.table.forget(&child);
                None
            }
            (Ask::Notice(notice), _) => {
                systemd::notify(&notice);
                None
            }
            (Ask::InCharge, _) => {
                if self.phase == Phase::Starting {
                    self.phase = Phase::InCharge;
                }
                None
            }
            (Ask::Done { code }, _) => {
                self.phase = Phase::Done(code);
                if let Agent::Running(agent) = &mut self.agent {
                    agent.expect_to_leave();
                }
                None
            }
        })
    }

    fn inventory(&self) -> Result<OwnedFd, String> {
        let inventory = self.table.inventory(self.agents_before);
        let bytes = serde_json::to_vec(&inventory).map_err(|error| error.to_string())?;
        memfd::sealed("rollout-inventory", &bytes).map_err(|error| format!("cannot write the inventory: {error}"))
    }

    fn take(&self, name: String) -> Result<(Tell, Option<OwnedFd>), String> {
        let Some(held) = self.table.named(&name) else { return Ok((Tell::Missing { name }, None)) };
        let copy = fd::duplicate(held).map_err(|error| format!("cannot duplicate {name}: {error}"))?;
        Ok((Tell::Fd { name }, Some(copy)))
    }

    /// Starts the shim, which becomes the child's program.
    fn spawn(&mut self, child: &str, stdin: OwnedFd, managed: Vec<Managed>) -> Result<(i32, OwnedFd), String> {
        if self.table.has_child(child) {
            return Err(format!("a child called {child} is alive or not forgotten"));
        }
        let mut command = Command::new(OWN_BINARY);
        systemd::hide_variables(&mut command);
        command.arg("__exec").stdin(Stdio::from(stdin));
        if !managed.is_empty() {
            let (ours, theirs) = fd_pass::pair().map_err(|error| format!("cannot make its door: {error}"))?;
            command.stdout(Stdio::from(theirs));
            self.interceptors.add(child.to_owned(), ours, managed);
        }
        let mut process = command.spawn().map_err(|error| format!("cannot start a process: {error}"))?;
        // Our copy of the shim's socket goes with it: its end tells the agent that the program runs.
        drop(command);
        let pid = process.id().cast_signed();
        // The number is its own until we reap it.
        match child::pidfd_open(pid).and_then(|pidfd| Ok((fd::duplicate(&pidfd)?, pidfd))) {
            Ok((copy, pidfd)) => {
                self.table.add_child(child.to_owned(), pid, pidfd);
                Ok((pid, copy))
            }
            Err(error) => {
                // Unnamed, it would be nobody's. It is reaped as an orphan.
                let _ = process.kill();
                Err(format!("cannot open a pidfd of process {pid}: {error}"))
            }
        }
    }

    fn own_children(&self) -> Vec<i32> {
        tree::own_children().into_iter().filter(|pid| !self.foreign.contains(pid)).collect()
    }

    /// Kills what is left of the children and waits until it is gone.
    fn kill_everybody(&mut self) {
        for (pid, pidfd) in self.table.living() {
            log(format_args!("killing process {pid}, which is still there"));
            kill(pid, pidfd);
        }
        // Orphans of former workers that have shed every mark. Nobody would end them after us.
        self.bury_the_dead();
        for pid in self.own_children() {
            // ESRCH: gone by itself.
            if let Ok(pidfd) = child::pidfd_open(pid) {
                log(format_args!("killing process {pid}, which a worker left behind"));
                kill(pid, pidfd.as_fd());
            }
        }
        let deadline = clock::now().after(LAST_PATIENCE);
        loop {
            self.take_signals();
            self.bury_the_dead();
            if self.own_children().is_empty() || clock::until(deadline).is_zero() {
                return;
            }
            if let Err(error) = poll::wait(&[(self.signals.as_fd(), poll::For::Reading)], Some(deadline)) {
                return log(format_args!("cannot wait: {error}"));
            }
        }
    }
}

fn kill(pid: i32, pidfd: BorrowedFd<'_>) {
    for left in tree::kill_tree(pid, pidfd) {
        log(format_args!("process {left} cannot be killed"));
    }
}

/// The keeper's exit code for an agent that never was in charge.
fn exit_code(exit: Exit) -> u8 {
    match exit {
        Exit::Code(code) => u8::try_from(code).unwrap_or(1),
        Exit::Signal(_) | Exit::Unknown => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agents_code_is_the_keepers_and_a_signal_is_a_failure() {
        assert_eq!(exit_code(Exit::Code(2)), 2);
        assert_eq!(exit_code(Exit::Signal(Signal::KILL)), 1);
    }
}
