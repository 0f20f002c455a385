//! The loop: one place where everything arrives, one thing at a time.
//!
//! `select!` only waits and hands over; what arrives is translated into an event or an order for one service.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tracing::{debug, error, info, warn};

use super::applied;
use super::archive::refusal;
use super::book::Trigger;
use super::clock::Wall;
use super::happening::{Happening, INBOX_BOUND, Order, Reread, Wish};
use super::keeper_link::{KeeperEvent, KeeperLink};
use super::left_over;
use super::names;
use super::output::Mirror;
use super::prober::Finding;
use super::request::{Answer, Request, Roll};
use super::run::{ByName, FINDINGS_BOUND};
use super::service_manager::{ReloadWork, ServiceManager};
use super::shell::{Opening, Reach, Shell, in_words, reply};
use super::start::Source;
use crate::config::settings::{Service, Settings};
use crate::keeper::protocol::Inventory;
use crate::machine::event::Event;
use crate::sys::clock;
use crate::sys::timer::Timer;
use crate::units::{Moment, ServiceName, Signal, WorkerId};
use crate::wire::api::{Done, Refusal, Status};

/// The agent.
pub(super) struct Agent {
    pub(super) source: Source,
    state_dir: PathBuf,
    pub(super) link: KeeperLink,
    pub(super) shells: ByName<Shell>,
    pub(super) watchers: ByName<AbortHandle>,
    pub(super) channels: Channels,
    pub(super) manager: ServiceManager,
    /// Orders of SIGHUP whose releases are being prepared.
    pub(super) preparing: usize,
    /// Configured services that wait until those that are being stopped are gone.
    pub(super) to_come: ByName<Service>,
    pub(super) life: Life,
}

/// Ways into the loop and out of it.
pub(super) struct Channels {
    pub(super) wall: Wall,
    mirror: Mirror,
    pub(super) tasks: JoinSet<()>,
    pub(super) inbox: mpsc::Sender<Happening>,
    happenings: mpsc::Receiver<Happening>,
    findings_in: mpsc::Sender<(ServiceName, WorkerId, Finding)>,
    findings: mpsc::Receiver<(ServiceName, WorkerId, Finding)>,
    disturbed: Arc<Notify>,
    published: watch::Sender<Arc<Status>>,
}

/// What the agent as a whole does.
pub(super) enum Life {
    Going {
        reload: Reload,
    },
    /// Everything drains; these wait for the end.
    Stopping {
        waiting: Vec<Answer<Done>>,
    },
}

/// Whether the configuration is being read because of SIGHUP. A storm of signals becomes one more reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reload {
    Idle,
    Reading,
    ReadingAndAgain,
}

/// What the loop waited for.
enum Arrival {
    Keeper(KeeperEvent),
    Request(Request),
    Happening(Happening),
    Finding(ServiceName, WorkerId, Finding),
    /// Some lane wants to be looked at.
    Disturbed,
    Time,
}

const HUP: Signal = Signal(1);
const INT: Signal = Signal(2);
const USR1: Signal = Signal(10);

/// What a shell may use for the time of one call.
macro_rules! reach {
    ($agent:ident) => {
        &mut Reach {
            link: &mut $agent.link,
            tasks: &mut $agent.channels.tasks,
            inbox: &$agent.channels.inbox,
            wall: $agent.channels.wall,
        }
    };
}

pub(super) use reach;

impl Agent {
    pub(super) fn new(
        source: Source,
        state_dir: PathBuf,
        link: KeeperLink,
        published: watch::Sender<Arc<Status>>,
        mirror: Mirror,
    ) -> Self {
        let (inbox, happenings) = mpsc::channel(INBOX_BOUND);
        let (findings_in, findings) = mpsc::channel(FINDINGS_BOUND);
        let (wall, tasks) = (Wall::now(), JoinSet::new());
        Self {
            source,
            state_dir,
            link,
            shells: ByName::new(),
            watchers: ByName::new(),
            channels: Channels {
                wall,
                mirror,
                tasks,
                inbox,
                happenings,
                findings_in,
                findings,
                disturbed: Arc::default(),
                published,
            },
            manager: ServiceManager::new(),
            preparing: 0,
            to_come: ByName::new(),
            life: Life::Going { reload: Reload::Idle },
        }
    }

    pub(super) fn names(&self) -> String {
        self.shells.keys().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }

    /// Opens every service, takes charge, and lets each go on from where the last agent left it.
    pub(super) fn recover(&mut self, settings: Settings, inventory: &Inventory) -> Result<(), String> {
        applied::hold(&settings, &mut self.link);
        let mut inherited = super::inherited::take(&mut self.link, inventory);
        for (name, service) in settings.services {
            let shell = self
                .open(name.clone(), service.clone(), inventory, &mut inherited)
                .map_err(|error| super::chain(&error))?;
            if shell.is_ending() {
                self.to_come.insert(name.clone(), service);
            }
            self.shells.insert(name, shell);
        }
        self.shells.values_mut().for_each(|shell| shell.resume(inventory, reach!(self)));
        self.stop_left_over(inventory);
        if inventory.fds.iter().any(|name| name == names::STOPPING) {
            self.stop(None);
        } else {
            self.start_new(inventory)?;
        }
        self.link
            .in_charge()
            .map_err(|error| format!("cannot tell the keeper that the agent is in charge: {error}"))?;
        for name in self.shells.keys().cloned().collect::<Vec<_>>() {
            self.watch_binary(&name);
        }
        Ok(())
    }

    fn start_new(&mut self, inventory: &Inventory) -> Result<(), String> {
        for (name, shell) in self.shells.iter_mut().filter(|(_, shell)| shell.is_new() && !shell.is_ending()) {
            match shell.first_start(reach!(self)) {
                Ok(()) => {}
                // Nobody serves yet: whoever starts this wants to know at once.
                Err(why) if inventory.agents_before == 0 => return Err(format!("{name}: {why}")),
                // One that was added and never came up must not keep the others from being looked after.
                Err(why) => error!(service = %name, "cannot start: {why}"),
            }
        }
        Ok(())
    }

    pub(super) fn open(
        &mut self,
        name: ServiceName,
        settings: Service,
        inventory: &Inventory,
        inherited: &mut Vec<(String, OwnedFd)>,
    ) -> Result<Shell, super::shell::OpenError> {
        let opening = Opening {
            name,
            settings,
            state_dir: &self.state_dir,
            inventory,
            inherited,
            disturbed: Arc::clone(&self.channels.disturbed),
            mirror: self.channels.mirror.clone(),
            findings: self.channels.findings_in.clone(),
        };
        Shell::open(opening, reach!(self))
    }

    /// Until everything is over.
    pub(super) async fn work(&mut self, mut asked: mpsc::Receiver<Request>, mut timer: Timer) {
        loop {
            let is_over = self.is_over();
            self.publish();
            if is_over {
                return self.end();
            }
            let arrival = self.wait(&mut asked, &mut timer).await;
            self.take(arrival);
            while self.channels.tasks.try_join_next().is_some() {}
        }
    }

    async fn wait(&mut self, asked: &mut mpsc::Receiver<Request>, timer: &mut Timer) -> Arrival {
        let due = self.next_deadline();
        tokio::select! {
            biased;
            event = self.link.next_event() => Arrival::Keeper(event),
            // Before the rest: whoever talks without a pause must not put off what is due.
            () = until(timer, due), if due.is_some() => Arrival::Time,
            Some(request) = asked.recv() => Arrival::Request(request),
            Some(happening) = self.channels.happenings.recv() => Arrival::Happening(happening),
            Some((service, worker, finding)) = self.channels.findings.recv() => Arrival::Finding(service, worker, finding),
            () = self.channels.disturbed.notified() => Arrival::Disturbed,
        }
    }

    fn take(&mut self, arrival: Arrival) {
        match arrival {
            Arrival::Keeper(event) => self.keeper_says(event),
            Arrival::Request(request) => self.asked(request),
            Arrival::Happening(happening) => self.happened(happening),
            Arrival::Finding(service, worker, finding) => {
                if let Some(shell) = self.shells.get_mut(&service) {
                    shell.found(worker, finding, reach!(self));
                }
            }
            Arrival::Disturbed => {
                self.shells.values_mut().for_each(Shell::disturbed);
            }
            Arrival::Time => {
                for shell in self.shells.values_mut() {
                    shell.wake(reach!(self));
                }
                self.manager.wake(&mut self.link);
            }
        }
    }

    fn next_deadline(&self) -> Option<Moment> {
        let shells = self.shells.values().filter_map(Shell::next_deadline);
        shells.chain(self.manager.next_deadline()).min()
    }

    // ---- the keeper ---------------------------------------------------------------------------------------------

    fn keeper_says(&mut self, event: KeeperEvent) {
        match event {
            KeeperEvent::Exited { child, exit } => match names::parse_child(&child) {
                Some((service, worker)) => {
                    if let Some(shell) = self.shells.get_mut(&service) {
                        shell.exited(worker, exit, reach!(self));
                    }
                }
                None => warn!(child, %exit, "the keeper reports the end of somebody unknown"),
            },
            KeeperEvent::Signalled(HUP) => self.reload(),
            KeeperEvent::Signalled(INT | Signal::TERM) => {
                info!("asked to stop: draining every worker");
                self.stop(None);
            }
            KeeperEvent::Signalled(USR1) => {
                info!("opening the output files anew");
                self.shells.values_mut().for_each(Shell::reopen_logs);
            }
            KeeperEvent::Signalled(other) => warn!("{other} means nothing here"),
            KeeperEvent::Gone => {
                // Without its keeper nobody would learn of exits or hold the sockets: go on is a lie.
                error!("the keeper is gone: ending; workers go on with the sockets they have");
                self.life = Life::Stopping { waiting: Vec::new() };
                self.shells.clear();
            }
        }
    }

    // ---- requests -----------------------------------------------------------------------------------------------

    fn asked(&mut self, request: Request) {
        match request {
            Request::Roll { service, roll, who, answer } => match self.find(&service) {
                Ok(name) => self.roll(&name, roll, who, answer),
                Err(refused) => reply(Some(answer), Err(refused)),
            },
            Request::Steer { service, steer, answer } => match self.find(&service) {
                Ok(name) => {
                    if let Some(shell) = self.shells.get_mut(&name) {
                        shell.steer(steer, answer, reach!(self));
                    }
                }
                Err(refused) => reply(Some(answer), Err(refused)),
            },
            Request::History { service, answer } => {
                let history = self.find(&service).and_then(|name| self.shells[&name].history());
                reply(Some(answer), history);
            }
            Request::Logs { service, lines, slot, answer } => match self.find(&service) {
                Ok(name) => self.shells[&name].logs(lines, slot, answer, reach!(self)),
                Err(refused) => reply(Some(answer), Err(refused)),
            },
            Request::Stop { answer } => self.stop(Some(answer)),
        }
    }

    fn find(&self, service: &str) -> Result<ServiceName, Refusal> {
        let known = self.shells.keys().find(|name| name.as_str() == service);
        known
            .cloned()
            .ok_or_else(|| refusal(1, format!("service {service:?} does not exist: this agent runs {}", self.names())))
    }

    fn roll(
        &mut self,
        name: &ServiceName,
        roll: Roll,
        who: super::request::Peer,
        answer: Answer<mpsc::Receiver<crate::wire::api::Step>>,
    ) {
        if matches!(self.life, Life::Stopping { .. }) {
            return reply(Some(answer), Err(refusal(5, "the agent is stopping".to_owned())));
        }
        let Some(shell) = self.shells.get_mut(name) else { return };
        match roll {
            Roll::Deploy(deploy) => {
                let note = deploy.note.clone();
                let mut order = shell.order(Trigger::Deploy, Wish::File(deploy));
                (order.who, order.note, order.answer) = (Some(in_words(who)), note, Some(answer));
                shell.prepare(order, reach!(self));
            }
            Roll::Restart(restart) => {
                let mut order = shell.order(Trigger::Restart, Wish::Configured);
                (order.who, order.note, order.answer) = (Some(in_words(who)), restart.note, Some(answer));
                self.reread(Reread::Restart(Box::new(order)));
            }
            Roll::Rollback(rollback) => shell.rollback(&rollback, who, answer, reach!(self)),
            Roll::Scale(scale) => shell.scale(scale.workers, answer, reach!(self)),
        }
    }

    // ---- happenings ---------------------------------------------------------------------------------------------

    fn happened(&mut self, happening: Happening) {
        let (name, deed) = match happening {
            Happening::Reread(why, read) => return self.reread_done(why, read),
            Happening::Prepared(order, prepared) => return self.prepared(*order, prepared),
            Happening::Event(name, event) => (name, Deed::Event(event)),
            Happening::Executed(name, worker, executed) => (name, Deed::Executed(worker, executed)),
            Happening::Connections(name, worker, count) => (name, Deed::Counted(worker, count)),
            Happening::NewContent(name, digest) => (name, Deed::NewContent(digest)),
            Happening::Freed => return self.add_those_to_come(),
        };
        // A service that was stopped meanwhile has nothing to hear.
        let Some(shell) = self.shells.get_mut(&name) else { return };
        match deed {
            Deed::Event(event) => shell.step(event, reach!(self)),
            Deed::Executed(worker, executed) => shell.executed(worker, executed, reach!(self)),
            Deed::Counted(worker, count) => shell.counted(worker, count, self.channels.wall),
            Deed::NewContent(digest) => shell.new_content(digest, reach!(self)),
        }
    }

    fn prepared(&mut self, order: Order, prepared: Result<super::happening::Prepared, Refusal>) {
        let (name, trigger) = (order.service.clone(), order.trigger);
        self.follow_order(&name, order, prepared);
        if trigger == Trigger::Sighup {
            self.preparing = self.preparing.saturating_sub(1);
            self.reload_read();
        }
    }

    fn follow_order(
        &mut self,
        name: &ServiceName,
        order: Order,
        prepared: Result<super::happening::Prepared, Refusal>,
    ) {
        let Some(shell) = self.shells.get_mut(name) else {
            return reply(order.answer, Err(refusal(5, format!("service {name} was stopped meanwhile"))));
        };
        let before = shell.program().clone();
        shell.prepared(order, prepared, reach!(self));
        if *shell.program() != before {
            self.watch_binary(name);
        }
    }

    // ---- the end ------------------------------------------------------------------------------------------------

    fn stop(&mut self, answer: Option<Answer<Done>>) {
        if let Life::Going { .. } = self.life {
            self.life = Life::Stopping { waiting: Vec::new() };
            left_over::hold_stopping(&mut self.link);
            self.manager.stopping(&mut self.link);
            self.watchers.values().for_each(AbortHandle::abort);
            self.to_come.clear();
            for shell in self.shells.values_mut() {
                shell.stop(reach!(self));
            }
        }
        if let Life::Stopping { waiting } = &mut self.life {
            waiting.extend(answer);
        }
    }

    /// Drops services that are over. Whether the agent is over, too.
    fn is_over(&mut self) -> bool {
        let over: Vec<ServiceName> =
            self.shells.iter().filter(|(_, shell)| shell.is_over()).map(|(name, _)| name.clone()).collect();
        if !over.is_empty() && !self.to_come.is_empty() {
            self.say_freed();
        }
        for name in over {
            if let Some(shell) = self.shells.remove(&name) {
                info!(service = %name, "stopped");
                shell.close(reach!(self));
            }
            if let Some(watcher) = self.watchers.remove(&name) {
                watcher.abort();
            }
        }
        matches!(self.life, Life::Stopping { .. }) && self.shells.is_empty()
    }

    fn end(&mut self) {
        if let Life::Stopping { waiting } = &mut self.life {
            for answer in waiting.drain(..) {
                reply(Some(answer), Ok(Done { said: "everything is stopped".to_owned() }));
            }
        }
        if let Err(error) = self.link.done(0) {
            debug!(%error, "the keeper does not hear that everything is stopped");
        }
    }

    /// A reload is done when its configuration was read and every rollout that it began has ended.
    fn reload_work(&self, status: &Status) -> ReloadWork {
        let idle = matches!(self.life, Life::Going { reload: Reload::Idle });
        let rolling = status.services.iter().any(|service| service.rollout.is_some());
        if idle && self.preparing == 0 && !rolling { ReloadWork::Done } else { ReloadWork::Going }
    }

    fn publish(&mut self) {
        let services = self.shells.values().map(|shell| shell.status(self.channels.wall)).collect();
        let status = Status { services };
        let reload = self.reload_work(&status);
        self.manager.see(&status, &mut self.link, reload);
        self.channels.published.send_if_modified(|published| {
            let changed = **published != status;
            if changed {
                *published = Arc::new(status);
            }
            changed
        });
    }
}

/// What happened to one service.
enum Deed {
    Event(Event),
    Executed(WorkerId, Result<(), crate::keeper::spec::NotExecuted>),
    Counted(WorkerId, u32),
    NewContent(crate::units::Digest),
}

async fn until(timer: &mut Timer, moment: Option<Moment>) {
    let Some(moment) = moment else { return std::future::pending().await };
    // What is due already must not wait for the runtime to hear of it: somebody else is always heard first then.
    if clock::until(moment).is_zero() {
        return;
    }
    if let Err(error) = timer.until(moment).await {
        // Never seen; a look too early is harmless, and one that never comes is not.
        warn!(%error, "the timer does not work");
        tokio::time::sleep(clock::until(moment)).await;
    }
}
