//! Requests of the control API, each handed to its service.

use tokio::sync::mpsc;

use super::archive::refusal;
use super::book::Trigger;
use super::desk::{Agent, Life, reach};
use super::happening::{Reread, Wish};
use super::request::{Answer, Peer, Request, Roll};
use super::shell::{Reach, in_words, reply};
use crate::units::ServiceName;
use crate::wire::api::{Refusal, Step};

impl Agent {
    pub(super) fn asked(&mut self, request: Request) {
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

    fn roll(&mut self, name: &ServiceName, roll: Roll, who: Peer, answer: Answer<mpsc::Receiver<Step>>) {
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
}
