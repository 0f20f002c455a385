//! The configuration that was last applied, held by the keeper: a successor agent goes on with that, whatever has become
//! of the file meanwhile. What changed in the file is for SIGHUP to bring.

use std::os::fd::AsFd;

use tracing::warn;

use super::chain;
use super::keeper_link::KeeperLink;
use crate::config::settings::Settings;
use crate::sys::memfd;

/// The keeper's name for it.
const NAME: &str = "settings";

/// A configuration file has at most 1 MiB; as JSON, with every default written out, 4096 services of it take less than this.
const LIMIT: usize = 64 << 20;

/// Gives it to the keeper instead of the one before.
pub(super) fn hold(settings: &Settings, link: &mut KeeperLink) {
    let held = serde_json::to_vec(settings)
        .map_err(std::io::Error::from)
        .and_then(|text| memfd::sealed(NAME, &text))
        .and_then(|memfd| link.put(NAME, memfd.as_fd()));
    if let Err(error) = held {
        warn!(%error, "the keeper does not hold the configuration: the next agent will read the file");
    }
}

/// What the last agent gave to the keeper; `None` at a first start.
pub(super) fn take(link: &mut KeeperLink) -> Option<Settings> {
    let read = link.take(NAME).and_then(|memfd| memfd.map(|memfd| memfd::read(memfd, LIMIT)).transpose());
    let parsed = read.and_then(|text| Ok(text.map(|text| serde_json::from_slice(&text)).transpose()?));
    parsed.unwrap_or_else(|error| {
        warn!(error = chain(&error), "the configuration that the keeper holds cannot be read: reading the file");
        None
    })
}
