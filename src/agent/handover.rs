//! How a worker gets its sockets: passed to it, or put in the place of what it binds.

use std::os::fd::{AsFd, OwnedFd};

use super::lanes::{Assigned, Lanes};
use crate::config::settings::{Alias, Handover, Listen, Service};
use crate::keeper::protocol::{Managed, ManagedAt};
use crate::keeper::spec::Filter;
use crate::sys::listener::{self, Place};
use crate::units::WorkerId;

/// The sockets that are passed as fds, with their listeners' names.
pub(crate) fn passed(handover: Handover, assigned: &Assigned) -> &[(String, OwnedFd)] {
    match handover {
        Handover::ListenFds | Handover::Auto => &assigned.fds,
        Handover::Intercept => &[],
    }
}

/// What the worker gets for its own `bind`. A listener's own port counts as well as what it is called by (`as:`): a program
/// that looks at `PORT` binds that.
pub(crate) fn managed(settings: &Service, assigned: &Assigned, lanes: &Lanes, worker: WorkerId) -> Vec<Managed> {
    if settings.handover == Handover::ListenFds {
        return Vec::new();
    }
    let mut managed = Vec::new();
    for (listener, fd) in &assigned.fds {
        let Some(socket) = lanes.keeper_name(worker, listener) else { continue };
        let alias = settings.listen.iter().find(|listen| listen.name == *listener).and_then(alias);
        let own = listener::place_of(fd.as_fd()).ok().and_then(at);
        let both = alias.into_iter().chain(own);
        managed.extend(both.map(|at| Managed { at, socket: socket.clone() }));
    }
    managed.dedup();
    managed
}

/// Whether the worker's calls are to be answered.
pub(crate) fn filter(handover: Handover, managed: &[Managed]) -> Filter {
    match handover {
        _ if managed.is_empty() => Filter::None,
        Handover::ListenFds => Filter::None,
        Handover::Intercept => Filter::Required,
        Handover::Auto => Filter::IfPossible,
    }
}

/// What is wrong with a worker that has none of the sockets for these addresses.
pub(crate) fn missing(addresses: &[String]) -> String {
    format!(
        "it has not bound {} by bind(2): if it binds another port, write that as `as:`; if it uses io_uring for it, or is a \
         setuid program, it cannot be helped so, and must take its sockets by `handover: listen_fds`",
        addresses.join(" or ")
    )
}

fn alias(listen: &Listen) -> Option<ManagedAt> {
    Some(match listen.alias.as_ref()? {
        Alias::Port(port) => ManagedAt::Port(*port),
        Alias::Path(path) => ManagedAt::Path(path.clone()),
    })
}

fn at(place: Place) -> Option<ManagedAt> {
    match place {
        Place::Tcp(at) => Some(ManagedAt::Port(at.port())),
        Place::Unix(path) => Some(ManagedAt::Path(path)),
        // Names that are not text are nobody's configuration.
        Place::Abstract(name) => String::from_utf8(name).ok().map(ManagedAt::Abstract),
    }
}
