//! Sockets that a service manager gave to the keeper.

use std::os::fd::OwnedFd;

use tracing::warn;

use super::keeper_link::KeeperLink;
use crate::keeper::protocol::Inventory;

/// Every inherited socket with the service manager's name for it. Listeners take theirs, by name or by address.
pub(super) fn take(link: &mut KeeperLink, inventory: &Inventory) -> Vec<(String, OwnedFd)> {
    let inherited = inventory.fds.iter().filter_map(|name| {
        // `inherited:<index>:<name>`
        let (_, own_name) = name.strip_prefix("inherited:")?.split_once(':')?;
        match link.take(name) {
            Ok(socket) => Some((own_name.to_owned(), socket?)),
            Err(error) => {
                warn!(name, %error, "cannot take an inherited socket from the keeper");
                None
            }
        }
    });
    inherited.collect()
}
