//! Who is watched: starting and ending the tasks of each worker.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::task::{AbortHandle, JoinSet};

use super::course::{Course, Glance};
use super::hearing::Hearing;
use crate::agent::route::Route;
use crate::config::settings::{Check, Health};
use crate::machine::event::Symptom;
use crate::sys::notify_socket::NotifySocket;
use crate::units::{Moment, ServiceName, Slot, WorkerId};

/// What the prober needs to know about a worker.
#[derive(Debug)]
pub struct Subject {
    /// Its main process, the leader of its session.
    pub pid: i32,
    /// Its place.
    pub slot: Slot,
    /// When it was started.
    pub started: Moment,
    /// Whether it has to pass first.
    pub stage: Stage,
    /// The ways to its lanes: one per steered listener, in order.
    pub routes: Vec<Route>,
    /// Where it says `READY=1`; must be there for [`Check::Notify`].
    pub notify: Option<NotifySocket>,
    /// Its environment, for commands that look at it.
    pub env: Vec<(String, String)>,
    /// Its working directory, for commands that look at it.
    pub cwd: PathBuf,
}

/// How far a worker is when its watch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It has not passed.
    Starting,
    /// It passed and stayed so for `min_ready` under an earlier agent: only liveness is left.
    Ready,
}

/// What was found out about a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// A starting worker is not ready; the text says what is missing. Said again only when the text changes.
    NotYet(String),
    /// It passed its check. Said once.
    Passed,
    /// It passed and is no good any more. Said again only after it was good in between.
    Sick(Symptom),
    /// It asks for this much more time, from now.
    Extended(Duration),
    /// What it says it is doing. Said again only when the text changes.
    Status(String),
}

/// Watches the workers of one service.
#[derive(Debug)]
pub struct Prober {
    service: ServiceName,
    events: mpsc::Sender<(ServiceName, WorkerId, Finding)>,
    watches: HashMap<WorkerId, Watch>,
    tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Watch {
    tasks: Vec<AbortHandle>,
    suspicion: Arc<Notify>,
}

/// Where a task of one worker reports to.
#[derive(Debug, Clone)]
pub(super) struct Reporter {
    pub(super) worker: WorkerId,
    pub(super) service: ServiceName,
    events: mpsc::Sender<(ServiceName, WorkerId, Finding)>,
}

impl Reporter {
    /// Waits while the inbox is full. An inbox that is gone belongs to an agent that ends.
    pub(super) async fn report(&self, finding: Finding) {
        let _ = self.events.send((self.service.clone(), self.worker, finding)).await;
    }
}

impl Prober {
    /// A prober that watches nobody yet. Findings wait where `events` is full: nothing is lost, looks just come later.
    #[must_use]
    pub fn new(service: ServiceName, events: mpsc::Sender<(ServiceName, WorkerId, Finding)>) -> Self {
        Self { service, events, watches: HashMap::new(), tasks: JoinSet::new() }
    }

    /// Begins to watch a worker, in the runtime of the caller. A worker that was watched already is watched anew.
    ///
    /// `min_ready` is how long the machine waits between `Passed` and admission: for so long, the worker is looked at as
    /// often as before it passed.
    ///
    /// # Errors
    /// The notify socket is missing where the check needs it, or cannot be waited for (epoll_ctl(2)).
    pub fn watch(
        &mut self,
        worker: WorkerId,
        subject: Subject,
        health: &Health,
        min_ready: Duration,
    ) -> io::Result<()> {
        self.forget(worker);
        let reporter = Reporter { worker, service: self.service.clone(), events: self.events.clone() };
        let suspicion = Arc::new(Notify::new());
        let Subject { pid, slot, started, stage, routes, notify, env, cwd } = subject;
        if notify.is_none() && health.check == Check::Notify {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a notify check needs a notify socket"));
        }
        let mut tasks = Vec::new();
        if let Some(socket) = notify {
            let hearing = Hearing::new(socket, pid, stage, health, reporter.clone())?;
            tasks.push(self.tasks.spawn(hearing.run()));
        }
        let course = Course {
            glance: Glance::new(&health.check, facts(env, worker, pid, slot, routes.first())),
            routes,
            cwd,
            readiness: health.readiness,
            liveness: health.liveness,
            min_ready,
            hung_after: health.hung_after,
            started,
            stage,
            suspicion: suspicion.clone(),
            reporter,
        };
        tasks.push(self.tasks.spawn(course.run()));
        self.watches.insert(worker, Watch { tasks, suspicion });
        Ok(())
    }

    /// Stops watching a worker; a look that is under way is given up. Unknown workers are fine.
    pub fn forget(&mut self, worker: WorkerId) {
        if let Some(watch) = self.watches.remove(&worker) {
            watch.tasks.iter().for_each(AbortHandle::abort);
        }
        while let Some(end) = self.tasks.try_join_next() {
            if let Err(error) = end
                && error.is_panic()
            {
                tracing::error!(service = %self.service, %error, "a health check broke off: a bug in rollout");
            }
        }
    }

    /// The worker's lane has not been emptied for `hung_after`: looks at once, and reports it `Sick` if the look is bad.
    /// Unknown workers are fine; a suspicion while another one is looked into is the same one.
    pub fn suspect(&self, worker: WorkerId) {
        if let Some(watch) = self.watches.get(&worker) {
            watch.suspicion.notify_one();
        }
    }
}

/// How long a worker may be silent on its notify socket (`WATCHDOG_USEC` in its environment); `None`: as long as it likes.
#[must_use]
pub fn watchdog_allowance(health: &Health) -> Option<Duration> {
    let pace = health.liveness.as_ref().filter(|_| health.check == Check::Notify)?;
    Some(pace.interval.saturating_mul(pace.failures.max(1)))
}

/// The environment of a command that looks at a worker.
fn facts(
    mut env: Vec<(String, String)>,
    worker: WorkerId,
    pid: i32,
    slot: Slot,
    route: Option<&Route>,
) -> Vec<(String, String)> {
    // The command is not the worker: it gets no sockets, and its READY=1 would not count.
    env.retain(|(name, _)| !name.starts_with("LISTEN_") && !name.starts_with("WATCHDOG_") && name != "NOTIFY_SOCKET");
    env.push(("ROLLOUT_WORKER".to_owned(), worker.to_string()));
    env.push(("ROLLOUT_PID".to_owned(), pid.to_string()));
    env.push(("ROLLOUT_SLOT".to_owned(), slot.to_string()));
    if let Some(Route { from, to, .. }) = route {
        // `curl --interface $ROLLOUT_PROBE_FROM http://$ROLLOUT_PROBE_TO/`; a port only where the port is the mark.
        let from = if from.port() == 0 { from.ip().to_string() } else { from.to_string() };
        env.push(("ROLLOUT_PROBE_FROM".to_owned(), from));
        env.push(("ROLLOUT_PROBE_TO".to_owned(), to.to_string()));
    }
    env
}
