//! The end: of a service that is over, and of the agent when the last one is.

use tokio::task::AbortHandle;
use tracing::{debug, info};

use super::desk::{Agent, Life, reach};
use super::left_over;
use super::request::Answer;
use super::shell::{Reach, reply};
use crate::units::ServiceName;
use crate::wire::api::Done;

impl Agent {
    pub(super) fn stop(&mut self, answer: Option<Answer<Done>>) {
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
    pub(super) fn is_over(&mut self) -> bool {
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

    pub(super) fn end(&mut self) {
        if let Life::Stopping { waiting } = &mut self.life {
            for answer in waiting.drain(..) {
                reply(Some(answer), Ok(Done { said: "everything is stopped".to_owned() }));
            }
        }
        if let Err(error) = self.link.done(0) {
            debug!(%error, "the keeper does not hear that everything is stopped");
        }
    }
}
