//! Which worker has which lane, and how it stands with new connections.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use super::group::WAITING_ROOM;
use super::listener::{Listener, add_made};
use super::names;
use super::repair::RESERVE;
use super::report::{Assigned, Damage, LanesError, Made, Standing, What};
use super::tenant::{Entry, Occupant, Tenant, Tenure};
use super::watch::{Take, Tasks};
use crate::agent::route::Route;
use crate::sys::connections::is_held;
use crate::sys::listener;
use crate::sys::steer::MAX_ADMITTED;
use crate::units::{LaneIndex, ServiceName, WorkerId};

/// The sockets of one service.
#[derive(Debug)]
pub struct Lanes {
    pub(super) service: ServiceName,
    /// In the order of the configuration; those that are in use and no longer configured at the end.
    pub(super) entries: Vec<Entry>,
    /// By lane, the same for all groups. Empty if there never was a steered listener.
    pub(super) occupants: Vec<Occupant>,
    pub(super) tenants: BTreeMap<WorkerId, Tenant>,
    pub(super) tasks: Tasks,
    pub(super) damage: Vec<Damage>,
    pub(super) dropped: Vec<String>,
}

impl Lanes {
    /// Where the service listens, with the real port where port 0 was asked for.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        self.configured().map(|listener| listener.place().to_string()).collect()
    }

    /// The port of the first TCP listener.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        self.configured().find_map(Listener::port)
    }

    /// All TCP ports that workers may have connections on, those of retired listeners included.
    #[must_use]
    pub fn ports(&self) -> Vec<u16> {
        self.entries.iter().filter_map(|entry| entry.listener.port()).collect()
    }

    /// Under which name the keeper holds what this worker has of a listener.
    #[must_use]
    pub fn keeper_name(&self, worker: WorkerId, listener: &str) -> Option<String> {
        let tenant = self.tenants.get(&worker).filter(|tenant| tenant.has(listener))?;
        let entry = self.entries.iter().find(|entry| entry.listener.name() == listener)?;
        match (&entry.listener, tenant.lane) {
            (Listener::Steered(_), Some(lane)) => Some(names::lane(&self.service, listener, lane)),
            (Listener::Steered(_), None) => None,
            (Listener::Shared(_), _) => Some(names::shared(&self.service, listener)),
        }
    }

    /// The addresses of those listeners of a worker of which none of these processes holds the worker's socket. One that
    /// cannot be looked at counts as held.
    #[must_use]
    pub fn not_held(&self, worker: WorkerId, pids: &[i32]) -> Vec<String> {
        let Some(tenant) = self.tenants.get(&worker) else { return vec![] };
        let is_missing = |listener: &&Listener| {
            let held = match (listener, tenant.lane) {
                (Listener::Steered(group), Some(lane)) => {
                    group.lane(lane).is_none_or(|lane| is_held(&**lane, pids).unwrap_or(true))
                }
                (Listener::Steered(_), None) => true,
                (Listener::Shared(shared), _) => is_held(&shared.socket, pids).unwrap_or(true),
            };
            tenant.has(listener.name()) && !held
        };
        self.configured().filter(is_missing).map(|listener| listener.place().to_string()).collect()
    }

    pub(super) fn configured(&self) -> impl Iterator<Item = &Listener> {
        self.entries.iter().filter(|entry| entry.tenure == Tenure::Configured).map(|entry| &entry.listener)
    }

    /// Gives a new worker a vacant lane (a new one if there is none) and every shared socket.
    ///
    /// # Errors
    /// The kernel refused a socket. Nothing was assigned.
    pub fn assign(&mut self, worker: WorkerId) -> Result<Assigned, LanesError> {
        self.repair()?;
        let mut made = vec![];
        let steered = self.configured().filter(|listener| listener.group().is_some()).count();
        let lane = if steered > 0 { Some(self.vacant_lane(&mut made)?) } else { None };
        let fds = self.duplicates(lane)?;
        if let Some(lane) = lane {
            self.clear(lane)?;
            self.occupants[usize::from(lane.0)] = Occupant::Worker(worker);
        }
        self.check_shared()?;
        let listeners = fds.iter().map(|(name, _)| name.clone()).collect();
        let tenant = Tenant { lane, standing: Standing::Excluded, listeners, waiting_since: None };
        self.tenants.insert(worker, tenant);
        // A lane that was added is marked from now on.
        self.steer()?;
        Ok(Assigned { lane, fds, made, damage: std::mem::take(&mut self.damage) })
    }

    /// Takes over a worker that an earlier agent started, with the listeners that it was given then.
    ///
    /// # Errors
    /// There is no such lane.
    pub fn adopt(
        &mut self,
        worker: WorkerId,
        lane: Option<LaneIndex>,
        standing: Standing,
        listeners: &[String],
    ) -> Result<(), LanesError> {
        if let Some(lane) = lane {
            match self.occupants.get_mut(usize::from(lane.0)) {
                Some(occupant @ Occupant::Unclaimed) => *occupant = Occupant::Worker(worker),
                Some(Occupant::Vacant(_) | Occupant::Worker(_)) | None => {
                    return Err(LanesError::NoSuchLane { lane, worker });
                }
            }
        }
        let tenant = Tenant { lane, standing, listeners: listeners.to_vec(), waiting_since: None };
        self.tenants.insert(worker, tenant);
        Ok(())
    }

    /// All workers that an earlier agent started are adopted: every other lane is vacant, and steering begins.
    ///
    /// # Errors
    /// The kernel refused the lane program.
    pub fn adopted_all(&mut self) -> Result<(), LanesError> {
        self.repair()?;
        for index in (0..self.occupants.len()).filter_map(|index| u16::try_from(index).ok()) {
            match self.occupants[usize::from(index)] {
                Occupant::Unclaimed => self.make_vacant(LaneIndex(index), None, Standing::Excluded)?,
                Occupant::Vacant(_) | Occupant::Worker(_) => {}
            }
        }
        self.watch_what_nobody_has()?;
        let stopping = self.tenants.iter().filter(|(_, tenant)| tenant.standing == Standing::Stopping);
        let stopping: Vec<_> = stopping.map(|(worker, _)| *worker).collect();
        stopping.into_iter().try_for_each(|worker| self.stopping(worker))?;
        self.let_go();
        self.steer()
    }

    /// New connections reach this worker, too.
    ///
    /// # Errors
    /// The kernel refused the lane program; the old one goes on.
    pub fn admit(&mut self, worker: WorkerId) -> Result<(), LanesError> {
        self.set_standing(worker, Standing::Admitted)
    }

    /// No new connection reaches this worker any more, but for those whose handshake has begun.
    ///
    /// # Errors
    /// The kernel refused the lane program; the old one goes on.
    pub fn exclude(&mut self, worker: WorkerId) -> Result<(), LanesError> {
        self.set_standing(worker, Standing::Excluded)
    }

    /// The stop signal was sent: what waits in its lane and is not accepted soon is relayed.
    ///
    /// # Errors
    /// The kernel refused something.
    pub fn stopping(&mut self, worker: WorkerId) -> Result<(), LanesError> {
        self.set_standing(worker, Standing::Stopping)?;
        let Some(Tenant { lane: Some(lane), listeners, .. }) = self.tenants.get(&worker) else { return Ok(()) };
        for group in self.entries.iter_mut().filter_map(|entry| entry.listener.group_mut()) {
            if listeners.contains(&group.name) {
                group.watch(*lane, Take::Stragglers, &mut self.tasks)?;
            }
        }
        Ok(())
    }

    /// The worker's processes are gone: its lane is repaired, and what waits there is relayed.
    ///
    /// # Errors
    /// The kernel refused something.
    pub fn vacate(&mut self, worker: WorkerId) -> Result<(), LanesError> {
        let Some(tenant) = self.tenants.remove(&worker) else { return Ok(()) };
        let steered = self.steer();
        self.repair()?;
        if let Some(lane) = tenant.lane {
            self.make_vacant(lane, Some(worker), tenant.standing)?;
        }
        self.check_shared()?;
        self.let_go();
        steered
    }

    /// How many connections wait in the worker's lane, over all listeners.
    #[must_use]
    pub fn queued(&self, worker: WorkerId) -> u32 {
        let Some(Tenant { lane: Some(lane), listeners, .. }) = self.tenants.get(&worker) else { return 0 };
        let groups = self.groups().filter(|group| listeners.contains(&group.name));
        groups.map(|group| group.look(*lane).queued).sum()
    }

    /// Whether nothing waits in the worker's lane. Later stragglers are relayed when it has been told to stop.
    #[must_use]
    pub fn is_settled(&self, worker: WorkerId) -> bool {
        self.queued(worker) == 0
    }

    /// The ways to the worker, one per steered listener, in the order of the configuration.
    #[must_use]
    pub fn routes(&self, worker: WorkerId) -> Vec<Route> {
        let Some(Tenant { lane: Some(lane), listeners, .. }) = self.tenants.get(&worker) else { return vec![] };
        let groups = self.groups().filter(|group| listeners.contains(&group.name));
        groups.filter_map(|group| group.route(*lane)).collect()
    }

    /// How many connections were relayed.
    #[must_use]
    pub fn relayed(&self) -> u64 {
        self.tasks.desk.relayed()
    }

    /// Names of sockets that the keeper may let go; each is said once.
    #[must_use]
    pub fn take_dropped(&mut self) -> Vec<String> {
        std::mem::take(&mut self.dropped)
    }

    /// Removes the files of Unix sockets: the service is over.
    pub fn remove_files(&self) {
        self.entries.iter().for_each(|entry| entry.listener.remove_file());
    }

    pub(super) fn groups(&self) -> impl Iterator<Item = &super::group::Group> {
        self.entries.iter().filter_map(|entry| entry.listener.group())
    }

    fn set_standing(&mut self, worker: WorkerId, standing: Standing) -> Result<(), LanesError> {
        let Some(tenant) = self.tenants.get_mut(&worker) else { return Ok(()) };
        tenant.standing = standing;
        tenant.waiting_since = None;
        self.steer()
    }

    /// The lanes of a listener that take clients, in order.
    pub(super) fn admitted(&self, listener: &str) -> Vec<LaneIndex> {
        let admitted = self.tenants.values().filter(|tenant| tenant.standing == Standing::Admitted);
        let mut lanes: Vec<_> =
            admitted.filter(|tenant| tenant.has(listener)).filter_map(|tenant| tenant.lane).collect();
        lanes.sort_unstable();
        lanes.truncate(MAX_ADMITTED);
        lanes
    }

    /// Brings every group's program in line with who is admitted.
    pub(super) fn steer(&mut self) -> Result<(), LanesError> {
        let admitted: Vec<_> = self.entries.iter().map(|entry| self.admitted(entry.listener.name())).collect();
        for (entry, admitted) in self.entries.iter_mut().zip(admitted) {
            if let Some(group) = entry.listener.group_mut() {
                group.steer(&admitted)?;
                group.announce(&admitted);
            }
        }
        Ok(())
    }

    /// A lane for a worker: the one where least waits.
    fn vacant_lane(&mut self, made: &mut Vec<Made>) -> Result<LaneIndex, LanesError> {
        let end = self.occupants.len().saturating_sub(usize::from(RESERVE));
        let vacant = self.occupants[..end].iter().enumerate().skip(usize::from(WAITING_ROOM.0) + 1);
        let vacant = vacant.filter(|(_, occupant)| matches!(occupant, Occupant::Vacant(_)));
        let lanes = vacant.filter_map(|(index, _)| u16::try_from(index).ok()).map(LaneIndex);
        let waiting = |lane: &LaneIndex| self.groups().map(|group| group.look(*lane).queued).sum::<u32>();
        if let Some(lane) = lanes.min_by_key(waiting) {
            return Ok(lane);
        }
        self.level(self.occupants.len() + 1, made)?;
        // The new ones, too: one that nobody watches keeps what arrives there.
        self.watch_what_nobody_has()?;
        // What was the first of the reserve; the new last one has taken over from it.
        let lane = self.occupants.len() - usize::from(RESERVE) - 1;
        Ok(LaneIndex(u16::try_from(lane).unwrap_or(u16::MAX)))
    }

    /// Adds lanes until every group has at least this many, and as many as every other.
    pub(super) fn level(&mut self, count: usize, made: &mut Vec<Made>) -> Result<(), LanesError> {
        let most = self.groups().map(|group| group.lanes.len()).max().unwrap_or(0);
        let count = count.max(most).max(self.occupants.len());
        for group in self.entries.iter_mut().filter_map(|entry| entry.listener.group_mut()) {
            let before = LaneIndex(group.count());
            while group.lanes.len() < count {
                group.append()?;
            }
            add_made(group, &self.service, before, made)?;
        }
        self.occupants.resize(count, Occupant::Vacant(None));
        Ok(())
    }

    /// Fds of everything that a new worker gets.
    fn duplicates(&self, lane: Option<LaneIndex>) -> Result<Vec<(String, OwnedFd)>, LanesError> {
        let mut fds = vec![];
        for listener in self.configured() {
            let fd = match (listener, lane) {
                (Listener::Steered(group), Some(lane)) => group.duplicate(lane)?,
                (Listener::Steered(_), None) => continue,
                (Listener::Shared(shared), _) => shared.duplicate()?,
            };
            fds.push((listener.name().to_owned(), fd));
        }
        Ok(fds)
    }

    /// Ends the watch of a vacant lane and leaves it empty (if somebody is ready to have what waits there) and blocking.
    fn clear(&mut self, lane: LaneIndex) -> Result<(), LanesError> {
        for entry in self.entries.iter_mut().filter(|entry| entry.tenure == Tenure::Configured) {
            let Some(group) = entry.listener.group_mut() else { continue };
            group.clear(lane, &self.tasks);
            group.end_watch(lane);
            // Whatever is found here was done by this agent: the last worker's damage was undone when it went.
            let Some(socket) = group.lane(lane) else { continue };
            listener::mend(&**socket, group.backlog).map_err(|error| group.kernel("repair a socket", error))?;
        }
        Ok(())
    }

    /// Repairs a lane that its worker has left, and watches it.
    fn make_vacant(&mut self, lane: LaneIndex, last: Option<WorkerId>, stood: Standing) -> Result<(), LanesError> {
        self.occupants[usize::from(lane.0)] = Occupant::Vacant(last);
        for group in self.entries.iter_mut().filter_map(|entry| entry.listener.group_mut()) {
            let Some(socket) = group.lane(lane) else { continue };
            let found = listener::mend(&**socket, group.backlog);
            let found = found.map_err(|error| group.kernel("repair a socket", error))?;
            // On the lane of a worker that was told to stop, O_NONBLOCK may be this agent's.
            let own = |what: &What| *what == What::NonBlocking && stood == Standing::Stopping;
            let found = found.into_iter().map(What::from).filter(|what| !own(what) && last.is_some());
            self.damage.extend(found.map(|what| Damage { listener: group.name.clone(), what, by: last }));
            group.watch(lane, Take::AtOnce, &mut self.tasks)?;
        }
        Ok(())
    }

    /// Watches every lane that no worker has and that is not watched yet: vacant ones, and a worker's on a listener that
    /// was added after its start.
    pub(super) fn watch_what_nobody_has(&mut self) -> Result<(), LanesError> {
        for (lane, occupant) in (0..).map(LaneIndex).zip(&self.occupants) {
            let tenant = match occupant {
                Occupant::Unclaimed => continue,
                Occupant::Vacant(_) => None,
                Occupant::Worker(worker) => self.tenants.get(worker),
            };
            for group in self.entries.iter_mut().filter_map(|entry| entry.listener.group_mut()) {
                if !tenant.is_some_and(|tenant| tenant.has(&group.name)) {
                    group.watch_unless_watched(lane, Take::AtOnce, &mut self.tasks)?;
                }
            }
        }
        Ok(())
    }

    /// Brings back every lane that somebody shut down, and the length of every queue that somebody shortened.
    pub(super) fn repair(&mut self) -> Result<(), LanesError> {
        for group in self.entries.iter_mut().filter_map(|entry| entry.listener.group_mut()) {
            let (closed, lengthened) = (group.closed(), group.lengthen()?);
            if closed.is_empty() && lengthened.is_empty() {
                continue;
            }
            let order = if closed.is_empty() { None } else { group.bring_back(&closed, &mut self.tasks)? };
            let holder = |lane: &LaneIndex| match self.occupants.get(usize::from(lane.0)) {
                Some(Occupant::Worker(worker)) => Some(*worker),
                Some(Occupant::Vacant(last)) => *last,
                Some(Occupant::Unclaimed) | None => None,
            };
            let mut report = |what, by| self.damage.push(Damage { listener: group.name.clone(), what, by });
            closed.iter().for_each(|lane| report(What::Closed, holder(lane)));
            lengthened.iter().for_each(|(lane, found)| report(What::Backlog(*found), holder(lane)));
            order.into_iter().for_each(|what| report(what, None));
        }
        Ok(())
    }

    /// Reopens what is shared, if a worker closed it for all. `O_NONBLOCK` stays: it is every worker's.
    pub(super) fn check_shared(&mut self) -> Result<(), LanesError> {
        for entry in &self.entries {
            let Listener::Shared(shared) = &entry.listener else { continue };
            let found = shared.reopen()?.into_iter().map(What::from);
            self.damage.extend(found.map(|what| Damage { listener: shared.name.clone(), what, by: None }));
        }
        Ok(())
    }

    /// Lets go of retired listeners that no worker has.
    pub(super) fn let_go(&mut self) {
        let in_use = |entry: &Entry| {
            let name = entry.listener.name();
            entry.tenure == Tenure::Configured || self.tenants.values().any(|tenant| tenant.has(name))
        };
        let (kept, gone): (Vec<_>, Vec<_>) = std::mem::take(&mut self.entries).into_iter().partition(in_use);
        self.entries = kept;
        for entry in gone {
            entry.listener.remove_file();
            self.dropped.extend(entry.listener.keeper_names(&self.service));
        }
    }
}
