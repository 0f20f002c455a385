//! Hears one worker: its notify socket, and its silence.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::UnixDatagram;
use tokio::time::{Instant, sleep_until};

use super::notify::{Statement, statements};
use super::seconds;
use super::watches::{Finding, Reporter, Stage, watchdog_allowance};
use crate::config::settings::{Check, Health};
use crate::machine::event::Symptom;
use crate::sys::notify_socket::{Datagram, NotifySocket, receive};
use crate::sys::proc::belongs_to;

/// Messages that are taken without letting anybody else run; a worker that floods its socket slows down itself alone.
const BATCH: usize = 32;

/// The task that hears one worker.
pub(super) struct Hearing {
    socket: UnixDatagram,
    pid: i32,
    ready: Ready,
    watchdog: Watchdog,
    status: String,
    strangers: u64,
    reporter: Reporter,
}

/// What `READY=1` means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ready {
    /// Nothing: another check decides, or it was said before.
    Known,
    /// That the worker passed.
    Awaited,
}

/// Whether and until when the worker may be silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Watchdog {
    /// For ever.
    Off,
    /// So far for ever; from `READY=1` (or, once missed, the next sign of life) on, this long at a time.
    Waiting(Duration),
    /// This long at a time, now until then.
    Running(Duration, Instant),
}

impl Hearing {
    pub(super) fn new(
        socket: NotifySocket,
        pid: i32,
        stage: Stage,
        health: &Health,
        reporter: Reporter,
    ) -> io::Result<Self> {
        let socket = UnixDatagram::from_std(OwnedFd::from(socket).into())?;
        let watchdog = match (watchdog_allowance(health), stage) {
            (None, _) => Watchdog::Off,
            (Some(allowance), Stage::Starting) => Watchdog::Waiting(allowance),
            // What an earlier agent heard, and when, is unknown: a whole allowance from now.
            (Some(allowance), Stage::Ready) => Watchdog::Running(allowance, Instant::now() + allowance),
        };
        let ready =
            if health.check == Check::Notify && stage == Stage::Starting { Ready::Awaited } else { Ready::Known };
        Ok(Self { socket, pid, ready, watchdog, status: String::new(), strangers: 0, reporter })
    }

    /// Hears until it is aborted. Sleeps without a timer where silence is allowed.
    pub(super) async fn run(mut self) {
        loop {
            let deadline = match self.watchdog {
                Watchdog::Running(_, deadline) => Some(deadline),
                Watchdog::Off | Watchdog::Waiting(_) => None,
            };
            let silence = async {
                match deadline {
                    Some(deadline) => sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            // What was said comes before the silence after it: an agent that was late must not blame the worker.
            let heard = tokio::select! {
                biased;
                heard = next_batch(&self.socket, self.pid) => Some(heard),
                () = silence => None,
            };
            match heard {
                Some(Ok(batch)) => self.hear_all(batch).await,
                Some(Err(error)) => {
                    tracing::error!(service = %self.reporter.service, worker = %self.reporter.worker, %error,
                        "cannot read the worker's notify socket any more");
                    return;
                }
                None => self.miss().await,
            }
        }
    }

    async fn hear_all(&mut self, batch: Vec<(Sender, Datagram)>) {
        for (sender, datagram) in batch {
            match sender {
                Sender::Worker => {
                    for statement in statements(&datagram.bytes) {
                        self.hear(statement).await;
                    }
                }
                Sender::Stranger => self.refuse(&datagram),
            }
        }
        // The next batch may be there already; others want to run, too.
        tokio::task::yield_now().await;
    }

    async fn hear(&mut self, statement: Statement) {
        match statement {
            Statement::Ready => self.hear_ready().await,
            Statement::Alive => self.hear_life(),
            Statement::Trigger => self.sick("it said WATCHDOG=trigger".to_owned()).await,
            Statement::Extend(time) => self.reporter.report(Finding::Extended(time)).await,
            Statement::Status(text) if text == self.status => {}
            Statement::Status(text) => {
                self.status.clone_from(&text);
                self.reporter.report(Finding::Status(text)).await;
            }
            // The exit, or a READY=1, says what these announce.
            Statement::Stopping | Statement::Reloading => {}
        }
    }

    async fn hear_ready(&mut self) {
        if self.ready == Ready::Awaited {
            self.ready = Ready::Known;
            if let Watchdog::Waiting(allowance) = self.watchdog {
                self.watchdog = Watchdog::Running(allowance, Instant::now() + allowance);
            }
            self.reporter.report(Finding::Passed).await;
        }
    }

    fn hear_life(&mut self) {
        match self.watchdog {
            Watchdog::Waiting(allowance) | Watchdog::Running(allowance, _) if self.ready == Ready::Known => {
                self.watchdog = Watchdog::Running(allowance, Instant::now() + allowance);
            }
            Watchdog::Off | Watchdog::Waiting(_) | Watchdog::Running(..) => {}
        }
    }

    async fn miss(&mut self) {
        if let Watchdog::Running(allowance, _) = self.watchdog {
            self.watchdog = Watchdog::Waiting(allowance);
            self.sick(format!("no WATCHDOG=1 for {}", seconds(allowance))).await;
        }
    }

    async fn sick(&self, how: String) {
        self.reporter.report(Finding::Sick(Symptom::Unhealthy(how))).await;
    }

    /// Anybody on this host can send to an abstract name. Logged at 1, 2, 4, 8 … messages: a flood must not fill the log.
    fn refuse(&mut self, datagram: &Datagram) {
        self.strangers += 1;
        if self.strangers.is_power_of_two() {
            tracing::warn!(service = %self.reporter.service, worker = %self.reporter.worker,
                pid = datagram.pid, uid = datagram.uid, so_far = self.strangers,
                "ignored a notify message that did not come from the worker's processes, or whose sender was gone");
        }
    }
}

/// Whose word it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sender {
    Worker,
    Stranger,
}

/// Waits for messages and takes up to [`BATCH`]; at least one. Nothing is lost when it is dropped while it waits.
///
/// The sender is looked up before the next message is taken: `systemd-notify` sends `BARRIER=1` after `READY=1` and lives
/// only until that is taken.
async fn next_batch(socket: &UnixDatagram, worker: i32) -> io::Result<Vec<(Sender, Datagram)>> {
    loop {
        socket.readable().await?;
        let mut batch = Vec::new();
        while batch.len() < BATCH {
            match socket.try_io(Interest::READABLE, || receive(socket.as_fd())) {
                Ok(datagram) if belongs_to(datagram.pid, worker) => batch.push((Sender::Worker, datagram)),
                Ok(datagram) => batch.push((Sender::Stranger, datagram)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        if !batch.is_empty() {
            return Ok(batch);
        }
    }
}
