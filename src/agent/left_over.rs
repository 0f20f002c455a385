//! What a dead agent had begun to end: services that are not in the configuration any more, and everything at once.

use std::os::fd::AsFd;

use tracing::{error, info, warn};

use super::chain;
use super::desk::{Agent, reach};
use super::keeper_link::KeeperLink;
use super::names;
use super::shell::{Reach, held_settings};
use crate::keeper::protocol::Inventory;
use crate::sys::{memfd, tree};
use crate::units::ServiceName;

/// Lets a successor know that everything was asked to stop.
pub(super) fn hold_stopping(link: &mut KeeperLink) {
    let held = memfd::sealed(names::STOPPING, &[]).and_then(|memfd| link.put(names::STOPPING, memfd.as_fd()));
    if let Err(error) = held {
        warn!(%error, "the keeper does not know that everything is to stop: another agent would go on");
    }
}

impl Agent {
    /// Goes on to stop the services that the keeper holds and the configuration does not name.
    pub(super) fn stop_left_over(&mut self, inventory: &Inventory) {
        let held = inventory.fds.iter().filter_map(|name| names::parse_state(name));
        let left: Vec<ServiceName> = held.filter(|name| !self.shells.contains_key(name)).collect();
        for name in left {
            let opened = held_settings(&name, inventory, reach!(self))
                .ok_or_else(|| "its state cannot be read".to_owned())
                .and_then(|settings| {
                    self.open(name.clone(), settings, inventory, &mut Vec::new()).map_err(|error| chain(&error))
                });
            match opened {
                Ok(mut shell) => {
                    info!(service = %name, "not in the configuration any more: stopping it");
                    shell.resume(inventory, reach!(self));
                    shell.stop(reach!(self));
                    self.shells.insert(name, shell);
                }
                Err(why) => {
                    error!(service = %name, why, "not in the configuration any more: killing its workers");
                    discard(&name, inventory, &mut self.link);
                }
            }
        }
    }
}

/// Takes a service that nobody can look after out of the keeper's hands.
fn discard(service: &ServiceName, inventory: &Inventory, link: &mut KeeperLink) {
    for child in &inventory.children {
        let Some((_, worker)) = names::parse_child(&child.name).filter(|(of, _)| of == service) else { continue };
        if let (None, Ok(Some(pidfd))) = (child.exit, link.take(&format!("pidfd:{}", child.name))) {
            tree::kill_tree(child.pid, pidfd.as_fd());
        }
        // A broken link is found out by the loop.
        let _ = link.drop_fd(&names::output(service, worker));
        let _ = link.drop_fd(&names::notify(service, worker));
        let _ = link.forget(&child.name);
    }
    let sockets = [format!("lane:{service}:"), format!("shared:{service}:")];
    for fd in inventory.fds.iter().filter(|fd| sockets.iter().any(|prefix| fd.starts_with(prefix))) {
        let _ = link.drop_fd(fd);
    }
    let _ = link.drop_fd(&names::state(service));
}
