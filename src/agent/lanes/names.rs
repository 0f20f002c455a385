//! Under which names the keeper holds the sockets.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;

use crate::units::{LaneIndex, ServiceName};

pub(super) fn lane(service: &ServiceName, listener: &str, lane: LaneIndex) -> String {
    format!("lane:{service}:{listener}:{lane}")
}

pub(super) fn shared(service: &ServiceName, listener: &str) -> String {
    format!("shared:{service}:{listener}")
}

/// The listeners of which the keeper holds something: names of steered and of shared ones.
pub(super) fn held(service: &ServiceName, held: &BTreeMap<String, OwnedFd>) -> (BTreeSet<String>, BTreeSet<String>) {
    let (lanes, shared) = (format!("lane:{service}:"), format!("shared:{service}:"));
    // A listener's name may contain ':', a lane's number does not.
    let of_lane = |key: &String| Some(key.strip_prefix(&lanes)?.rsplit_once(':')?.0.to_owned());
    let of_shared = |key: &String| Some(key.strip_prefix(&shared)?.to_owned());
    (held.keys().filter_map(of_lane).collect(), held.keys().filter_map(of_shared).collect())
}
