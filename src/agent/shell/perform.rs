//! Action → effect. No policy here: an `if` about what should happen belongs into the machine.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use tracing::{debug, error, warn};

use super::{Exec, Reach, Shell, Worker};
use crate::agent::book::{Farewell, Post};
use crate::agent::chain;
use crate::agent::handover;
use crate::agent::happening::Happening;
use crate::agent::keeper_link::{open_files_at_start, prepare_spawn};
use crate::agent::lanes::{Assigned, Damage, Lanes, LanesError, Made, What};
use crate::agent::names;
use crate::agent::prober::{Finding, Stage, Subject};
use crate::agent::worker_env;
use crate::config::settings::{Check, Handover};
use crate::keeper::spec::{NotExecuted, Spec};
use crate::machine::event::{Action, Event, Symptom, Target};
use crate::machine::service::Wanted;
use crate::sys::notify_socket::NotifySocket;
use crate::sys::{child, clock, fd, tree};
use crate::units::{Exit, ServiceName, Signal, Slot, WorkerId};

/// From the request to the shim's success: a fork, a dozen system calls and an exec. Far beyond that something hangs
/// (a program on a dead network file system).
const EXEC_DEADLINE: Duration = Duration::from_secs(10);

impl Shell {
    pub(super) fn perform(
        &mut self,
        action: Action,
        hired: &mut BTreeMap<WorkerId, Assigned>,
        reach: &mut Reach<'_>,
    ) -> Option<Event> {
        match action {
            Action::Spawn { worker, slot, target } => {
                let assigned = hired.remove(&worker)?;
                let symptom = self.spawn(worker, slot, target, assigned, reach).err()?;
                return Some(Event::SpawnFailed(worker, Symptom::NotStarted(symptom)));
            }
            Action::Admit(worker) => self.lanes_said(worker, "admit", Lanes::admit),
            Action::Exclude(worker) => self.exclude(worker, reach),
            Action::AwaitEmpty(worker) => self.await_empty(worker, reach),
            Action::Stop(worker) => self.stop_worker(worker),
            Action::Kill(worker) => self.kill_worker(worker),
            Action::Release(worker) => self.release(worker, reach),
            Action::Announce(note) => self.tell(note, reach),
            Action::Over => {}
        }
        None
    }

    /// Gives a worker that will be started its lane and its post. Nothing that a crash could leave half done.
    pub(super) fn hire(
        &mut self,
        worker: WorkerId,
        slot: Slot,
        target: Target,
        reach: &mut Reach<'_>,
    ) -> Result<Assigned, Symptom> {
        let mut assigned = self.lanes.assign(worker).map_err(|error| Symptom::NotStarted(chain(&error)))?;
        for damage in assigned.damage.drain(..) {
            self.name_the_guilty(&damage);
        }
        self.keep(assigned.made.drain(..), reach);
        let listeners = assigned.fds.iter().map(|(name, _)| name.clone()).collect();
        let post = Post {
            slot,
            lane: assigned.lane,
            listeners,
            rollout: target.rollout,
            since: clock::now(),
            farewell: Farewell::Unsaid,
        };
        self.book.posts.insert(worker, post);
        Ok(assigned)
    }

    fn spawn(
        &mut self,
        worker: WorkerId,
        slot: Slot,
        target: Target,
        assigned: Assigned,
        reach: &mut Reach<'_>,
    ) -> Result<(), String> {
        let Some(plan) = self.book.plans.get(&target.rollout) else {
            return Err(format!("the configuration of rollout {} is lost", target.rollout));
        };
        let settings = plan.settings.clone();
        let said = |what: &str, error: &dyn std::error::Error| format!("{what}: {}", chain(error));
        let (pipe, output) = output_pipe().map_err(|error| said("make its output pipe", &error))?;
        put(&self.name, reach, &names::output(&self.name, worker), pipe.as_fd());
        self.files.output.attach(worker, slot, pipe).map_err(|error| said("read its output", &error))?;
        let notify = match settings.health.check {
            Check::Notify => {
                let socket = NotifySocket::at(&self.files.notify_path(worker));
                Some(socket.map_err(|error| said("make its notify socket", &error))?)
            }
            Check::Accept | Check::Http { .. } | Check::Exec { .. } | Check::AliveFor { .. } => None,
        };
        if let Some(socket) = &notify {
            put(&self.name, reach, &names::notify(&self.name, worker), socket.as_fd());
        }
        let who = worker_env::Who { service: &self.name, worker, slot, target };
        let passed = handover::passed(settings.handover, &assigned);
        let managed = handover::managed(&settings, &assigned, &self.lanes, worker);
        let env = worker_env::environment(&settings, &who, passed, self.lanes.port(), notify.as_ref());
        let spec = Spec {
            command: worker_env::command(&settings.program, &self.files.archive, target.release),
            env,
            cwd: settings.cwd.clone(),
            listen_fds: passed.len(),
            open_files: open_files_at_start(),
            filter: handover::filter(settings.handover, &managed),
        };
        let fds: Vec<_> = passed.iter().map(|(_, fd)| fd.as_fd()).collect();
        let (stdin, answer) =
            prepare_spawn(&spec, output.as_fd(), &fds).map_err(|error| said("prepare its start", &error))?;
        let spawned = reach
            .link
            .spawn(&names::child(&self.name, worker), stdin, managed)
            .map_err(|error| said("start its process", &error))?;
        let exec = Exec::Pending { exit: None };
        let (pid, pidfd) = (spawned.pid, spawned.pidfd);
        // No look can say this: here the worker speaks for itself.
        let not_yet = notify.as_ref().map(|_| "it has not said READY=1 on its NOTIFY_SOCKET".to_owned());
        self.workers.insert(worker, Worker { pid, pidfd, exec, notify, not_yet, connections: None });
        let (name, inbox) = (self.name.clone(), reach.inbox.clone());
        reach.tasks.spawn(async move {
            let executed = answer.executed(EXEC_DEADLINE).await;
            // A closed inbox means that the agent is ending: nobody is left to tell.
            let _ = inbox.send(Happening::Executed(name, worker, executed)).await;
        });
        Ok(())
    }

    /// The shim has answered.
    pub(crate) fn executed(&mut self, worker: WorkerId, executed: Result<(), NotExecuted>, reach: &mut Reach<'_>) {
        let Some(hand) = self.workers.get_mut(&worker) else { return };
        let exec = std::mem::replace(&mut hand.exec, Exec::Running);
        match (executed, exec) {
            (Err(error), Exec::Pending { exit: None }) => {
                // The shim ends by itself; whatever hangs there must not stay.
                kill(worker, hand);
                self.step(Event::SpawnFailed(worker, Symptom::NotStarted(chain(&error))), reach);
            }
            (Err(error), Exec::Pending { exit: Some(_) } | Exec::Running) => {
                self.step(Event::SpawnFailed(worker, Symptom::NotStarted(chain(&error))), reach);
            }
            (Ok(()), Exec::Pending { exit: Some(exit) }) => self.step(Event::Exited(worker, exit), reach),
            (Ok(()), Exec::Pending { exit: None } | Exec::Running) => match self.machine.need_of(worker) {
                Wanted::Coming | Wanted::Proving | Wanted::Ready => self.probe(worker, Stage::Starting),
                // Told to go before it had begun.
                Wanted::No => {}
            },
        }
    }

    /// Begins, or after an agent's death goes on, to look at a worker.
    pub(super) fn probe(&mut self, worker: WorkerId, stage: Stage) {
        let (Some(hand), Some(post)) = (self.workers.get_mut(&worker), self.book.posts.get(&worker)) else { return };
        let Some(plan) = self.book.plans.get(&post.rollout) else { return };
        let subject = Subject {
            pid: hand.pid,
            slot: post.slot,
            started: post.since,
            stage,
            notify: hand.notify.take(),
            routes: self.lanes.routes(worker),
            env: worker_env::for_checks(&plan.settings, &self.name),
            cwd: plan.settings.cwd.clone(),
        };
        let (health, min_ready) = (&plan.settings.health, plan.settings.limits.min_ready);
        if let Err(error) = self.watch.prober.watch(worker, subject, health, min_ready) {
            warn!(service = %self.name, %worker, %error, "cannot look at a worker: it will not be ready in time");
        }
    }

    /// The keeper says that a worker is gone.
    pub(crate) fn exited(&mut self, worker: WorkerId, exit: Exit, reach: &mut Reach<'_>) {
        match self.workers.get_mut(&worker) {
            Some(Worker { exec: Exec::Pending { exit: waiting }, .. }) => *waiting = Some(exit),
            Some(Worker { exec: Exec::Running, .. }) => self.step(Event::Exited(worker, exit), reach),
            // Released already, because it could not be started.
            None => self.let_go(worker, reach),
        }
    }

    /// The prober found something out.
    pub(crate) fn found(&mut self, worker: WorkerId, finding: Finding, reach: &mut Reach<'_>) {
        match finding {
            Finding::NotYet(why) => {
                if let Some(hand) = self.workers.get_mut(&worker) {
                    hand.not_yet = Some(why);
                }
            }
            Finding::Passed => self.passed(worker, reach),
            Finding::Sick(symptom) => self.step(Event::Sickened(worker, symptom), reach),
            Finding::Extended(by) => self.step(Event::Extended(worker, by), reach),
            Finding::Status(text) => tracing::info!(service = %self.name, %worker, status = text, "worker says"),
        }
    }

    /// Whoever is ready must serve: a worker that has bound in a way that nobody saw would leave its clients in the queue.
    fn passed(&mut self, worker: WorkerId, reach: &mut Reach<'_>) {
        let Some(missing) = self.not_bound(worker) else { return self.step(Event::Passed(worker), reach) };
        if let Some(hand) = self.workers.get(&worker) {
            kill(worker, hand);
        }
        self.step(Event::SpawnFailed(worker, Symptom::Unhealthy(format!("it is ready, but {missing}"))), reach);
    }

    /// What is to be said about a worker that must bind for itself and does not have what it should have by that.
    pub(super) fn not_bound(&self, worker: WorkerId) -> Option<String> {
        let plan = self.book.posts.get(&worker).and_then(|post| self.book.plans.get(&post.rollout))?;
        if plan.settings.handover != Handover::Intercept {
            return None;
        }
        let pid = self.workers.get(&worker)?.pid;
        let mut missing = self.lanes.not_held(worker, &[pid]);
        if !missing.is_empty() {
            // Only now: it takes a search through /proc.
            let pids: Vec<_> = [pid].into_iter().chain(tree::tree(pid)).collect();
            missing = self.lanes.not_held(worker, &pids);
        }
        (!missing.is_empty()).then(|| handover::missing(&missing))
    }

    fn exclude(&mut self, worker: WorkerId, reach: &mut Reach<'_>) {
        self.lanes_said(worker, "exclude", Lanes::exclude);
        // One that was sick is told to go now, and was looked at already.
        self.watch.vigils.end(worker);
        let Some(hand) = self.workers.get(&worker) else { return };
        let gauges = self.lanes.routes(worker).into_iter().map(|route| route.gauge).collect();
        let stop_signal = self.stop_signal(worker);
        self.watch.vigils.settle(&self.name, worker, hand.pid, stop_signal, gauges, reach.inbox);
        self.watch.vigils.count(&self.name, worker, hand.pid, self.lanes.ports().into(), reach.inbox);
    }

    fn await_empty(&mut self, worker: WorkerId, reach: &mut Reach<'_>) {
        let Some(hand) = self.workers.get(&worker) else { return };
        let gauges = self.lanes.routes(worker).into_iter().map(|route| route.gauge).collect();
        self.watch.vigils.empty(&self.name, worker, hand.pid, self.lanes.ports().into(), gauges, reach.inbox);
    }

    fn stop_worker(&mut self, worker: WorkerId) {
        self.watch.prober.forget(worker);
        self.lanes_said(worker, "watch", Lanes::stopping);
        let signal = self.stop_signal(worker);
        let (Some(hand), Some(post)) = (self.workers.get(&worker), self.book.posts.get_mut(&worker)) else { return };
        if std::mem::replace(&mut post.farewell, Farewell::Said) == Farewell::Said {
            // By the agent before this one.
            return;
        }
        if let Err(error) = child::signal(hand.pidfd.as_fd(), signal) {
            warn!(service = %self.name, %worker, pid = hand.pid, %error, "cannot send {signal}");
        }
    }

    fn kill_worker(&mut self, worker: WorkerId) {
        if let Some(hand) = self.workers.get(&worker) {
            kill(worker, hand);
        }
    }

    fn release(&mut self, worker: WorkerId, reach: &mut Reach<'_>) {
        self.lanes_said(worker, "take back", Lanes::vacate);
        self.let_go_sockets(reach);
        self.watch.prober.forget(worker);
        self.watch.vigils.end(worker);
        self.files.output.detached(worker);
        self.workers.remove(&worker);
        self.let_go(worker, reach);
    }

    /// The keeper need not hold anything of this worker any more.
    pub(super) fn let_go(&mut self, worker: WorkerId, reach: &mut Reach<'_>) {
        let names = [names::output(&self.name, worker), names::notify(&self.name, worker)];
        for name in names {
            drop_fd(&self.name, reach, &name);
        }
        // Most workers have none.
        let _ = std::fs::remove_file(self.files.notify_path(worker));
        if let Err(error) = reach.link.forget(&names::child(&self.name, worker)) {
            warn!(service = %self.name, %worker, %error, "cannot tell the keeper to forget a worker");
        }
    }

    /// The stop signal of the configuration that the worker was started with.
    fn stop_signal(&self, worker: WorkerId) -> Signal {
        let plan = self.book.posts.get(&worker).and_then(|post| self.book.plans.get(&post.rollout));
        plan.map_or(self.book.settings.stop_signal, |plan| plan.settings.stop_signal)
    }

    /// Gives new listening sockets to the keeper.
    pub(super) fn keep(&mut self, made: impl IntoIterator<Item = Made>, reach: &mut Reach<'_>) {
        for Made { keeper_name, fd } in made {
            put(&self.name, reach, &keeper_name, fd.as_fd());
            self.sockets.insert(keeper_name);
        }
    }

    /// The keeper need not hold listening sockets that no worker and no listener has any more.
    pub(super) fn let_go_sockets(&mut self, reach: &mut Reach<'_>) {
        for name in self.lanes.take_dropped() {
            drop_fd(&self.name, reach, &name);
            self.sockets.remove(&name);
        }
    }

    /// A kernel that refuses a lane program leaves the last one in place: said, and tried again at the next change.
    fn lanes_said(
        &mut self,
        worker: WorkerId,
        what: &str,
        deed: impl FnOnce(&mut Lanes, WorkerId) -> Result<(), LanesError>,
    ) {
        if let Err(error) = deed(&mut self.lanes, worker) {
            error!(service = %self.name, %worker, error = chain(&error), "cannot {what} the worker's lane");
        }
    }

    pub(super) fn name_the_guilty(&self, damage: &Damage) {
        let Damage { listener, what, by } = damage;
        let worker = by.map(|worker| worker.to_string());
        match what {
            // Every event loop does it.
            What::NonBlocking => debug!(service = %self.name, listener, worker, "{what}"),
            What::Closed | What::Backlog(_) | What::OrderLost => {
                warn!(service = %self.name, listener, worker, "{what}")
            }
        }
    }
}

fn kill(worker: WorkerId, hand: &Worker) {
    let left = tree::kill_tree(hand.pid, hand.pidfd.as_fd());
    if !left.is_empty() {
        warn!(%worker, pid = hand.pid, ?left, "some processes of a worker's tree are still there after SIGKILL");
    }
}

/// What a worker may write while no agent reads (one is started again within a second): four times the usual 64 KiB.
/// More is counted against every pipe of the user (pipe(7), pipe-user-pages-soft), and then only this much is not granted.
const OUTPUT_PIPE_BYTES: u32 = 256 * 1024;

fn output_pipe() -> std::io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = fd::pipe()?;
    // Refused beyond the user's soft limit: the usual size serves, too.
    let _ = fd::set_pipe_size(&read, OUTPUT_PIPE_BYTES);
    Ok((read, write))
}

pub(super) fn drop_fd(service: &ServiceName, reach: &mut Reach<'_>, name: &str) {
    if let Err(error) = reach.link.drop_fd(name) {
        warn!(%service, name, %error, "the keeper goes on holding this");
    }
}

pub(super) fn put(service: &ServiceName, reach: &mut Reach<'_>, name: &str, fd: BorrowedFd<'_>) {
    if let Err(error) = reach.link.put(name, fd) {
        warn!(%service, name, %error, "the keeper does not hold this: it would not outlive the agent");
    }
}
