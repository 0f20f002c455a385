//! From an entry of `listen:` to sockets.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use super::group::{Group, WAITING_ROOM};
use super::names;
use super::report::{LanesError, Made};
use super::shared::Shared;
use crate::config::settings::{Address, Listen, Mode};
use crate::sys::fd::duplicate;
use crate::sys::listener::{self, Access, Family, ListenerError, Place, Sharing};
use crate::units::{LaneIndex, ServiceName};

/// One listener of a service.
#[derive(Debug)]
pub(super) enum Listener {
    /// A lane for each worker.
    Steered(Group),
    /// One socket for all workers.
    Shared(Shared),
}

/// Where sockets come from before they are made.
pub(super) struct Sources<'a> {
    pub service: &'a ServiceName,
    /// From an earlier agent, by keeper name.
    pub held: &'a mut BTreeMap<String, OwnedFd>,
    /// From the service manager, by listener name.
    pub inherited: &'a mut Vec<(String, OwnedFd)>,
}

impl Sources<'_> {
    fn lanes_of(&mut self, name: &str) -> Vec<OwnedFd> {
        let mut next = |lane| self.held.remove(&names::lane(self.service, name, LaneIndex(lane)));
        (0..=u16::MAX).map_while(&mut next).collect()
    }

    fn inherited(&mut self, listen: &Listen) -> Option<OwnedFd> {
        let same = |(name, fd): &(String, OwnedFd)| {
            *name == listen.name || listener::place_of(fd).is_ok_and(|place| is_at(&place, &listen.address))
        };
        let at = self.inherited.iter().position(same)?;
        Some(self.inherited.swap_remove(at).1)
    }
}

impl Listener {
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Steered(group) => &group.name,
            Self::Shared(shared) => &shared.name,
        }
    }

    pub(super) fn place(&self) -> Place {
        match self {
            Self::Steered(group) => Place::Tcp(group.at()),
            Self::Shared(shared) => shared.place.clone(),
        }
    }

    pub(super) fn port(&self) -> Option<u16> {
        match self.place() {
            Place::Tcp(at) => Some(at.port()),
            Place::Unix(_) | Place::Abstract(_) => None,
        }
    }

    pub(super) fn group(&self) -> Option<&Group> {
        match self {
            Self::Steered(group) => Some(group),
            Self::Shared(_) => None,
        }
    }

    pub(super) fn group_mut(&mut self) -> Option<&mut Group> {
        match self {
            Self::Steered(group) => Some(group),
            Self::Shared(_) => None,
        }
    }

    /// What an entry asks for: taken from where it is, or made. New sockets are added to `made`.
    pub(super) fn open(listen: &Listen, sources: &mut Sources<'_>, made: &mut Vec<Made>) -> Result<Self, LanesError> {
        match listen.mode {
            Mode::Steered => open_steered(listen, sources, made).map(Self::Steered),
            Mode::Shared => open_shared(listen, sources, made).map(Self::Shared),
        }
    }

    /// A listener that is in use and no longer configured.
    pub(super) fn left_over(name: &str, mode: Mode, sources: &mut Sources<'_>) -> Result<Option<Self>, LanesError> {
        match mode {
            Mode::Steered => {
                let lanes = sources.lanes_of(name);
                let group = (!lanes.is_empty()).then(|| Group::held(name, lanes, DEFAULT_BACKLOG));
                Ok(group.transpose()?.map(Self::Steered))
            }
            Mode::Shared => {
                let socket = sources.held.remove(&names::shared(sources.service, name));
                Ok(socket.map(|socket| shared(name, socket, DEFAULT_BACKLOG)).transpose()?.map(Self::Shared))
            }
        }
    }

    /// Whether the listener is what the entry asks for.
    pub(super) fn must_match(&self, listen: &Listen) -> Result<(), LanesError> {
        let same_mode =
            matches!((self, listen.mode), (Self::Steered(_), Mode::Steered) | (Self::Shared(_), Mode::Shared));
        if !same_mode {
            return Err(LanesError::ModeChanged { listener: listen.name.clone() });
        }
        let held = self.place();
        if is_at(&held, &listen.address) {
            return Ok(());
        }
        let wanted = place_wanted(&listen.address).to_string();
        Err(LanesError::AddressChanged { listener: listen.name.clone(), held: held.to_string(), wanted })
    }

    /// The names under which the keeper holds its sockets.
    pub(super) fn keeper_names(&self, service: &ServiceName) -> Vec<String> {
        match self {
            Self::Steered(group) => {
                (0..group.count()).map(|lane| names::lane(service, &group.name, LaneIndex(lane))).collect()
            }
            Self::Shared(shared) => vec![names::shared(service, &shared.name)],
        }
    }

    /// Removes the file of a Unix socket: nobody will listen there any more.
    pub(super) fn remove_file(&self) {
        if let Place::Unix(path) = self.place() {
            // Somebody may have been faster; the next listener replaces a dead file anyway.
            fs::remove_file(path).ok();
        }
    }
}

/// What `settings` gives when nothing is asked for; only for listeners that are about to go.
const DEFAULT_BACKLOG: u32 = 4096;

fn open_steered(listen: &Listen, sources: &mut Sources<'_>, made: &mut Vec<Made>) -> Result<Group, LanesError> {
    let lanes = sources.lanes_of(&listen.name);
    let inherited = sources.inherited(listen);
    if !lanes.is_empty() {
        return Group::held(&listen.name, lanes, listen.backlog);
    }
    let group = match (inherited, &listen.address) {
        (Some(first), _) => {
            let kernel =
                |source| LanesError::Kernel { step: "look at the socket", listener: listen.name.clone(), source };
            if listener::can_share(&first).map_err(kernel)? == Sharing::Alone {
                return Err(LanesError::InheritedAlone { listener: listen.name.clone() });
            }
            let mut group = Group::around(&listen.name, first, listen.backlog)?;
            group.append().map_err(|error| foreign(error, &listen.name))?;
            group
        }
        (None, Address::Tcp { at, only_v6 }) => {
            let family = if *only_v6 { Family::OnlyV6 } else { Family::Both };
            Group::found(&listen.name, *at, family, listen.backlog)?
        }
        // The configuration refuses this; a Unix socket has no lanes.
        (None, Address::Unix { .. } | Address::Abstract { .. }) => {
            return Err(LanesError::ModeChanged { listener: listen.name.clone() });
        }
    };
    add_made(&group, sources.service, WAITING_ROOM, made)?;
    Ok(group)
}

/// An inherited socket that may be shared, and that no lane can join, was made by another user (socket(7)).
fn foreign(error: LanesError, listener: &str) -> LanesError {
    match error {
        LanesError::Listener { cause: ListenerError::InUse { .. }, .. } => {
            LanesError::InheritedForeign { listener: listener.to_owned() }
        }
        other @ (LanesError::Listener { .. }
        | LanesError::InheritedAlone { .. }
        | LanesError::InheritedForeign { .. }
        | LanesError::AddressChanged { .. }
        | LanesError::ModeChanged { .. }
        | LanesError::TooMany { .. }
        | LanesError::NoSuchLane { .. }
        | LanesError::Kernel { .. }) => other,
    }
}

/// Reports the lanes of a group from `first` on.
pub(super) fn add_made(
    group: &Group,
    service: &ServiceName,
    first: LaneIndex,
    made: &mut Vec<Made>,
) -> Result<(), LanesError> {
    for lane in (first.0..group.count()).map(LaneIndex) {
        made.push(Made { keeper_name: names::lane(service, &group.name, lane), fd: group.duplicate(lane)? });
    }
    Ok(())
}

fn open_shared(listen: &Listen, sources: &mut Sources<'_>, made: &mut Vec<Made>) -> Result<Shared, LanesError> {
    let keeper_name = names::shared(sources.service, &listen.name);
    let inherited = sources.inherited(listen);
    if let Some(socket) = sources.held.remove(&keeper_name) {
        return shared(&listen.name, socket, listen.backlog);
    }
    let refused = |cause| LanesError::Listener { listener: listen.name.clone(), cause };
    let socket = match (inherited, &listen.address) {
        (Some(socket), _) => socket,
        (None, Address::Tcp { at, only_v6 }) => {
            let family = if *only_v6 { Family::OnlyV6 } else { Family::Both };
            listener::bind_tcp(*at, family, Sharing::Alone).map_err(refused)?
        }
        (None, Address::Unix { path, mode, owner }) => {
            listener::bind_unix(path, &Access { mode: *mode, owner: owner.clone() }).map_err(refused)?
        }
        (None, Address::Abstract { name }) => listener::bind_abstract(name.as_bytes()).map_err(refused)?,
    };
    let kernel = |step| move |source| LanesError::Kernel { step, listener: listen.name.clone(), source };
    listener::listen(&socket, listen.backlog).map_err(kernel("listen on the socket"))?;
    let fd = duplicate(&socket).map_err(kernel("duplicate the socket"))?;
    let shared = shared(&listen.name, socket, listen.backlog)?;
    made.push(Made { keeper_name, fd });
    Ok(shared)
}

fn shared(name: &str, socket: OwnedFd, backlog: u32) -> Result<Shared, LanesError> {
    let place = listener::place_of(&socket).map_err(|source| LanesError::Kernel {
        step: "look at the socket",
        listener: name.to_owned(),
        source,
    })?;
    Ok(Shared { name: name.to_owned(), backlog, place, socket })
}

/// Whether a bound place is what an entry asks for. Any port will do for port 0.
fn is_at(place: &Place, wanted: &Address) -> bool {
    match (place, place_wanted(wanted)) {
        (Place::Tcp(at), Place::Tcp(wanted)) => at.ip() == wanted.ip() && [0, at.port()].contains(&wanted.port()),
        (at, wanted) => *at == wanted,
    }
}

fn place_wanted(address: &Address) -> Place {
    match address {
        Address::Tcp { at, .. } => Place::Tcp(SocketAddr::new(at.ip(), at.port())),
        Address::Unix { path, .. } => Place::Unix(path.clone()),
        Address::Abstract { name } => Place::Abstract(name.clone().into_bytes()),
    }
}
