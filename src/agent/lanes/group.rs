//! One steered listener: a `SO_REUSEPORT` group and its program.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::report::LanesError;
use super::watch::{Take, Taken, Tasks, take_one};
use crate::agent::relay::Ready;
use crate::agent::route::Route;
use crate::sys::fd::{Blocking, duplicate, set_blocking};
use crate::sys::listener::{self, Family, ListenerError, Place, Sharing};
use crate::sys::steer::{self, Admitted, Mark, Table};
use crate::sys::tcp_info::{Gauge, Listening, listening};
use crate::units::LaneIndex;

/// The lane that takes clients while nobody is admitted.
pub(super) const WAITING_ROOM: LaneIndex = LaneIndex(0);

/// One steered listener.
#[derive(Debug)]
pub(super) struct Group {
    pub name: String,
    pub backlog: u32,
    at: SocketAddr,
    family: Family,
    pub(super) lanes: Vec<Arc<OwnedFd>>,
    /// Who is ready, for relays.
    ready: watch::Sender<Ready>,
    /// The lanes that the attached program chooses from; `None` if that is not known.
    chosen: Option<Vec<LaneIndex>>,
    watches: BTreeMap<LaneIndex, (Take, AbortHandle)>,
}

impl Group {
    /// A group of one lane, the waiting room, at an address that nobody else has.
    pub(super) fn found(name: &str, at: SocketAddr, family: Family, backlog: u32) -> Result<Self, LanesError> {
        let refused = |cause| LanesError::Listener { listener: name.to_owned(), cause };
        let first = listener::bind_tcp(at, family, Sharing::Founds).map_err(refused)?;
        Self::around(name, first, backlog)
    }

    /// A group around its first socket, which is bound and may be listening. The program comes first, so that no
    /// connection meets the kernel's own choice.
    pub(super) fn around(name: &str, first: OwnedFd, backlog: u32) -> Result<Self, LanesError> {
        let mut group = Self::held(name, vec![first], backlog)?;
        group.steer(&[])?;
        let opened = listener::listen(&*group.lanes[0], backlog);
        opened.map_err(|error| group.refused_to_listen(error))?;
        Ok(group)
    }

    /// A group as an earlier agent left it: its program goes on as it is.
    pub(super) fn held(name: &str, lanes: Vec<OwnedFd>, backlog: u32) -> Result<Self, LanesError> {
        let kernel = |source| LanesError::Kernel { step: "look at the sockets", listener: name.to_owned(), source };
        let foreign = || kernel(io::Error::new(io::ErrorKind::InvalidData, "not a TCP socket"));
        let first = lanes.first().ok_or_else(foreign)?;
        let at = match listener::place_of(first).map_err(kernel)? {
            Place::Tcp(at) => at,
            Place::Unix(_) | Place::Abstract(_) => return Err(foreign()),
        };
        let family = listener::family_of(first).map_err(kernel)?;
        let lanes = lanes.into_iter().map(Arc::new).collect();
        let ready = watch::Sender::new(Ready::from([]));
        Ok(Self { name: name.to_owned(), backlog, at, family, lanes, ready, chosen: None, watches: BTreeMap::new() })
    }

    /// Adds a lane at the end.
    pub(super) fn append(&mut self) -> Result<(), LanesError> {
        let wanted = self.lanes.len() + 1;
        if wanted > usize::from(steer::MAX_LANES) {
            return Err(LanesError::TooMany { wanted, most: usize::from(steer::MAX_LANES) });
        }
        let next = listener::bind_tcp(self.at, self.family, Sharing::Joins)
            .map_err(|cause| LanesError::Listener { listener: self.name.clone(), cause })?;
        listener::listen(&next, self.backlog).map_err(|error| self.refused_to_listen(error))?;
        self.lanes.push(Arc::new(next));
        // A mark for the new lane is no mark until the program knows of it.
        self.chosen = None;
        Ok(())
    }

    fn refused_to_listen(&self, error: io::Error) -> LanesError {
        if error.kind() == io::ErrorKind::AddrInUse {
            let cause = ListenerError::InUse { place: Place::Tcp(self.at) };
            return LanesError::Listener { listener: self.name.clone(), cause };
        }
        self.kernel("listen on a socket", error)
    }

    pub(super) fn kernel(&self, step: &'static str, source: io::Error) -> LanesError {
        LanesError::Kernel { step, listener: self.name.clone(), source }
    }

    /// Lets new connections go to these lanes alone; to the waiting room if there are none.
    pub(super) fn steer(&mut self, to: &[LaneIndex]) -> Result<(), LanesError> {
        if self.chosen.as_deref() == Some(to) {
            return Ok(());
        }
        let places: Vec<u16> = (0..self.count()).collect();
        let admitted: Vec<_> = to.iter().map(|lane| Admitted { place: lane.0, weight: 1 }).collect();
        let table = Table { mark: self.mark(), places: &places, admitted: &admitted, waiting_room: WAITING_ROOM.0 };
        let attached = steer::attach(&*self.lanes[0], &steer::selector(&table));
        attached.map_err(|error| self.kernel("attach the lane program", error))?;
        self.chosen = Some(to.to_vec());
        Ok(())
    }

    /// Tells relays who is ready.
    pub(super) fn announce(&self, ready: &[LaneIndex]) {
        let routes: Ready = ready.iter().filter_map(|lane| self.route(*lane)).collect();
        self.ready.send_replace(routes);
    }

    /// The way to one lane.
    pub(super) fn route(&self, lane: LaneIndex) -> Option<Route> {
        let socket = self.lane(lane)?;
        let to = listener::reached_at(self.at, self.family);
        Some(Route { from: self.mark().source(lane), to, gauge: Gauge::new(Arc::clone(socket)) })
    }

    /// The mark that reaches this listener from this host.
    pub(super) fn mark(&self) -> Mark {
        if listener::reached_at(self.at, self.family).is_ipv4() { Mark::Ipv4 } else { Mark::Ipv6 }
    }

    pub(super) fn at(&self) -> SocketAddr {
        self.at
    }

    pub(super) fn family(&self) -> Family {
        self.family
    }

    pub(super) fn count(&self) -> u16 {
        u16::try_from(self.lanes.len()).unwrap_or(u16::MAX)
    }

    pub(super) fn lane(&self, lane: LaneIndex) -> Option<&Arc<OwnedFd>> {
        self.lanes.get(usize::from(lane.0))
    }

    /// The accept queue of a lane.
    pub(super) fn look(&self, lane: LaneIndex) -> Listening {
        // A lane that cannot be asked is not there: nothing waits in it.
        let absent = Listening { queued: 0, backlog: 0, open: true };
        self.lane(lane).and_then(|socket| listening(&**socket).ok()).unwrap_or(absent)
    }

    /// A second fd for a lane.
    pub(super) fn duplicate(&self, lane: LaneIndex) -> Result<OwnedFd, LanesError> {
        let missing = || self.kernel("find a socket", io::ErrorKind::NotFound.into());
        let socket = self.lane(lane).ok_or_else(missing)?;
        duplicate(socket).map_err(|error| self.kernel("duplicate a socket", error))
    }

    /// Watches a lane from now on, instead of how it was watched before.
    pub(super) fn watch(&mut self, lane: LaneIndex, take: Take, tasks: &mut Tasks) -> Result<(), LanesError> {
        self.end_watch(lane);
        let socket = self.duplicate(lane)?;
        if take == Take::AtOnce {
            set_blocking(&socket, Blocking::Fail).map_err(|error| self.kernel("unblock a socket", error))?;
        }
        self.watches.insert(lane, (take, tasks.watch(socket, take, self.ready.subscribe())));
        Ok(())
    }

    /// Watches a lane, if it is not watched already.
    pub(super) fn watch_unless_watched(
        &mut self,
        lane: LaneIndex,
        take: Take,
        tasks: &mut Tasks,
    ) -> Result<(), LanesError> {
        if self.watches.contains_key(&lane) { Ok(()) } else { self.watch(lane, take, tasks) }
    }

    /// Nothing is accepted from the lane any more when this returns.
    pub(super) fn end_watch(&mut self, lane: LaneIndex) {
        if let Some((_, watch)) = self.watches.remove(&lane) {
            watch.abort();
        }
    }

    /// Watches lanes anew that were watched and have been closed in between, which no watch survives.
    pub(super) fn watch_again(&mut self, lanes: &[LaneIndex], tasks: &mut Tasks) -> Result<(), LanesError> {
        for lane in lanes {
            if let Some(&(take, _)) = self.watches.get(lane) {
                self.watch(*lane, take, tasks)?;
            }
        }
        Ok(())
    }

    /// Takes what waits in a vacant lane, if somebody is ready to have it.
    pub(super) fn clear(&self, lane: LaneIndex, tasks: &Tasks) {
        let (Some(socket), false) = (self.lane(lane), self.ready.borrow().is_empty()) else { return };
        while let Some(room) = tasks.desk.room_now() {
            match take_one(socket.as_fd(), &tasks.desk, &self.ready.subscribe(), room) {
                Ok(Taken::One) => {}
                // What cannot be taken now is the next worker's.
                Ok(Taken::None) | Err(_) => return,
            }
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.watches.values().for_each(|(_, watch)| watch.abort());
    }
}
