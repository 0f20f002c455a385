//! The configuration, read again: for every service on SIGHUP, for one on `rollout restart`.

use tracing::{error, info, warn};

use super::applied;
use super::archive::refusal;
use super::book::Trigger;
use super::desk::{Agent, Life, Reload, reach};
use super::happening::{Happening, Order, Reread, Wish};
use super::run::load;
use super::shell::{Reach, Shell, reply};
use super::watching;
use crate::config::settings::{Program, Service, Settings, Watch};
use crate::keeper::protocol::Inventory;
use crate::units::ServiceName;

impl Agent {
    pub(super) fn reload(&mut self) {
        let Life::Going { reload } = &mut self.life else { return };
        match reload {
            Reload::Idle => {
                *reload = Reload::Reading;
                self.manager.reloading(&mut self.link);
                self.reread(Reread::Sighup);
            }
            Reload::Reading | Reload::ReadingAndAgain => *reload = Reload::ReadingAndAgain,
        }
    }

    pub(super) fn reread(&mut self, why: Reread) {
        let (source, inbox) = (self.source.clone(), self.channels.inbox.clone());
        self.channels.tasks.spawn(async move {
            let read = tokio::task::spawn_blocking(move || load(&source)).await;
            let read = read.unwrap_or_else(|_| Err("reading the configuration was interrupted".to_owned()));
            let _ = inbox.send(Happening::Reread(why, read.map(Box::new))).await;
        });
    }

    pub(super) fn reread_done(&mut self, why: Reread, read: Result<Box<Settings>, String>) {
        match (why, read) {
            (Reread::Restart(order), Ok(settings)) => self.restart(*order, *settings),
            (Reread::Restart(order), Err(problems)) => reply(order.answer, Err(refusal(1, problems))),
            (Reread::Sighup, Ok(settings)) => {
                self.manager.taken();
                self.apply(*settings);
                self.reload_read();
            }
            (Reread::Sighup, Err(problems)) => {
                for line in problems.lines() {
                    error!("{line}");
                }
                error!(
                    "the new configuration was not taken: mend it and send SIGHUP again; until then the old one holds"
                );
                self.manager.not_taken();
                self.reload_read();
            }
        }
    }

    /// Goes on to the next reading, if one was asked for and the orders of this one are prepared: a storm of signals must
    /// not pile up files that are hashed at the same time.
    pub(super) fn reload_read(&mut self) {
        if self.preparing > 0 {
            return;
        }
        let again = matches!(self.life, Life::Going { reload: Reload::ReadingAndAgain });
        if let Life::Going { reload } = &mut self.life {
            *reload = Reload::Idle;
        }
        if again {
            self.reload();
        }
    }

    pub(super) fn restart(&mut self, mut order: Order, mut settings: Settings) {
        match (settings.services.remove(&order.service), self.shells.get(&order.service)) {
            (Some(service), Some(shell)) => {
                order.settings = Some(service);
                shell.prepare(order, reach!(self));
            }
            (None, _) | (_, None) => {
                let gone = format!(
                    "service {} is not in the configuration any more: 'kill -HUP' the agent to drop it",
                    order.service
                );
                reply(order.answer, Err(refusal(1, gone)));
            }
        }
    }

    /// Brings every service to a configuration: known ones roll, new ones start, missing ones stop.
    pub(super) fn apply(&mut self, settings: Settings) {
        if matches!(self.life, Life::Stopping { .. }) {
            return;
        }
        applied::hold(&settings, &mut self.link);
        let missing: Vec<ServiceName> =
            self.shells.keys().filter(|name| !settings.services.contains_key(*name)).cloned().collect();
        for name in missing {
            if let Some(watcher) = self.watchers.remove(&name) {
                watcher.abort();
            }
            if let Some(shell) = self.shells.get_mut(&name).filter(|shell| !shell.is_ending()) {
                info!(service = %name, "not in the configuration any more: stopping it");
                shell.stop(reach!(self));
            }
        }
        self.to_come.clear();
        for (name, service) in settings.services {
            match self.shells.get_mut(&name) {
                Some(shell) if shell.is_ending() => self.wait_with(name, service),
                Some(shell) => {
                    let mut order = shell.order(Trigger::Sighup, Wish::Configured);
                    order.settings = Some(service);
                    self.preparing += 1;
                    shell.prepare(order, reach!(self));
                }
                None => self.add(name, service),
            }
        }
    }

    pub(super) fn add(&mut self, name: ServiceName, service: Service) {
        match self.open(name.clone(), service.clone(), &Inventory::default(), &mut Vec::new()) {
            Ok(mut shell) => {
                let order = shell.order(Trigger::Start, Wish::Configured);
                shell.prepare(order, reach!(self));
                self.shells.insert(name.clone(), shell);
                self.watch_binary(&name);
            }
            Err(error) if self.shells.values().any(Shell::is_ending) => {
                // Another name for a service that is being stopped, for instance: it has the sockets still.
                warn!(service = %name, "cannot start yet: {}", super::chain(&error));
                self.wait_with(name, service);
            }
            Err(error) => error!(service = %name, "cannot start: {}", super::chain(&error)),
        }
    }

    fn wait_with(&mut self, name: ServiceName, service: Service) {
        info!(service = %name, "starts when those that are being stopped are gone");
        self.to_come.insert(name, service);
    }

    /// Says so through the inbox: the tasks of a service that is over end after this turn of the loop, and its sockets with
    /// them.
    pub(super) fn say_freed(&mut self) {
        let inbox = self.channels.inbox.clone();
        self.channels.tasks.spawn(async move {
            tokio::task::yield_now().await;
            let _ = inbox.send(Happening::Freed).await;
        });
    }

    pub(super) fn add_those_to_come(&mut self) {
        for (name, service) in std::mem::take(&mut self.to_come) {
            if self.shells.contains_key(&name) {
                self.to_come.insert(name, service);
            } else {
                self.add(name, service);
            }
        }
    }

    pub(super) fn watch_binary(&mut self, name: &ServiceName) {
        if let Some(old) = self.watchers.remove(name) {
            old.abort();
        }
        let Some(Program::Binary { path, watch: Watch::On { settle }, .. }) =
            self.shells.get(name).filter(|shell| !shell.is_ending()).map(|shell| shell.program().clone())
        else {
            return;
        };
        let watching = watching::watch(name.clone(), path, settle, self.channels.inbox.clone());
        self.watchers.insert(name.clone(), self.channels.tasks.spawn(watching));
    }
}
