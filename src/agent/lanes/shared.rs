//! One socket that all workers of a service accept from.

use std::io;
use std::os::fd::OwnedFd;

use super::report::LanesError;
use crate::sys::fd::duplicate;
use crate::sys::listener::{self, Place};

/// One socket for all workers.
#[derive(Debug)]
pub(super) struct Shared {
    pub name: String,
    pub backlog: u32,
    pub place: Place,
    pub socket: OwnedFd,
}

impl Shared {
    pub(super) fn duplicate(&self) -> Result<OwnedFd, LanesError> {
        let duplicated = duplicate(&self.socket);
        duplicated.map_err(|source| self.kernel("duplicate the socket", source))
    }

    pub(super) fn reopen(&self) -> Result<Vec<listener::Damage>, LanesError> {
        match self.place {
            Place::Tcp(_) => {
                listener::reopen(&self.socket, self.backlog).map_err(|source| self.kernel("repair the socket", source))
            }
            // A Unix socket cannot be shut down for others in a way that listen(2) would undo.
            Place::Unix(_) | Place::Abstract(_) => Ok(vec![]),
        }
    }

    pub(super) fn set_backlog(&mut self, backlog: u32) -> Result<(), LanesError> {
        if self.backlog == backlog {
            return Ok(());
        }
        self.backlog = backlog;
        listener::listen(&self.socket, backlog).map_err(|source| self.kernel("set the backlog", source))
    }

    fn kernel(&self, step: &'static str, source: io::Error) -> LanesError {
        LanesError::Kernel { step, listener: self.name.clone(), source }
    }
}
