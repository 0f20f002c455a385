//! The names under which the keeper holds what belongs to a worker.

use crate::units::{ServiceName, WorkerId};

/// A worker as the keeper's child: `web/w17`.
pub(crate) fn child(service: &ServiceName, worker: WorkerId) -> String {
    format!("{service}/{worker}")
}

/// Whose child that is.
pub(crate) fn parse_child(name: &str) -> Option<(ServiceName, WorkerId)> {
    let (service, worker) = name.split_once('/')?;
    let number = worker.strip_prefix('w')?.parse().ok()?;
    Some((service.parse().ok()?, WorkerId(number)))
}

/// The read end of a worker's output.
pub(crate) fn output(service: &ServiceName, worker: WorkerId) -> String {
    format!("output:{service}/{worker}")
}

/// The socket on which a worker says READY=1.
pub(crate) fn notify(service: &ServiceName, worker: WorkerId) -> String {
    format!("notify:{service}/{worker}")
}

/// The state of a service, as it was last written.
pub(crate) fn state(service: &ServiceName) -> String {
    format!("state:{service}")
}

/// Whose state that is.
pub(crate) fn parse_state(name: &str) -> Option<ServiceName> {
    name.strip_prefix("state:")?.parse().ok()
}

/// Held once everything was asked to stop.
pub(crate) const STOPPING: &str = "stopping";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_found_by_its_name() {
        let service: ServiceName = "web-1".parse().expect("a name");
        assert_eq!(parse_child(&child(&service, WorkerId(17))), Some((service, WorkerId(17))));
        for foreign in ["", "web", "web/17", "web/wx", "/w1"] {
            assert_eq!(parse_child(foreign), None, "{foreign:?}");
        }
    }

    #[test]
    fn a_service_is_found_by_the_name_of_its_state() {
        let service: ServiceName = "web-1".parse().expect("a name");
        assert_eq!(parse_state(&state(&service)), Some(service));
        for foreign in ["", "state:", "web-1", "lane:web-1:0", STOPPING, "state:a/b"] {
            assert_eq!(parse_state(foreign), None, "{foreign:?}");
        }
    }
}
