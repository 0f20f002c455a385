//! First start and recovery (one way for both), and changes of the configuration.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use tokio::sync::Notify;

use super::group::WAITING_ROOM;
use super::listener::{Listener, Sources};
use super::names;
use super::repair::RESERVE;
use super::report::{LanesError, Made};
use super::table::Lanes;
use super::tenant::{Entry, Occupant, Tenure};
use super::watch::Tasks;
use crate::config::settings::{Listen, Mode};
use crate::sys::listener;
use crate::sys::steer::MAX_ADMITTED;
use crate::units::ServiceName;

/// What the sockets of a service are made from.
#[derive(Debug)]
pub struct Opening<'a> {
    /// Whose.
    pub service: &'a ServiceName,
    /// Its listeners.
    pub listen: &'a [Listen],
    /// How many workers may have a lane at once before lanes are added.
    pub workers: u16,
    /// What the keeper holds for an earlier agent, by keeper name. What is used is taken out.
    pub held: &'a mut BTreeMap<String, OwnedFd>,
    /// What the service manager opened, by its name for it. What is used is taken out.
    pub inherited: &'a mut Vec<(String, OwnedFd)>,
    /// Notified when a lane should be looked at ([`Lanes::look`]) at once.
    pub disturbed: Arc<Notify>,
}

impl Lanes {
    /// Takes over or makes the sockets of a service; gives back the new ones. Lanes of an earlier agent wait for
    /// [`Lanes::adopt`] and [`Lanes::adopted_all`], and are steered as that agent left them until then.
    ///
    /// Call it on a tokio runtime: it starts tasks.
    ///
    /// # Errors
    /// A socket cannot be had. Nothing is left behind.
    pub fn open(opening: Opening<'_>) -> Result<(Self, Vec<Made>), LanesError> {
        let Opening { service, listen, workers, held, inherited, disturbed } = opening;
        let mut lanes = Self {
            service: service.clone(),
            entries: vec![],
            occupants: vec![],
            tenants: BTreeMap::new(),
            tasks: Tasks::new(disturbed),
            damage: vec![],
            dropped: vec![],
        };
        let (steered, shared) = names::held(service, held);
        let mut sources = Sources { service, held, inherited };
        let mut made = vec![];
        if let Err(error) = lanes.add(listen, &mut sources, &mut made) {
            lanes.take_back(&made);
            return Err(error);
        }
        for (name, mode) in
            steered.iter().map(|name| (name, Mode::Steered)).chain(shared.iter().map(|name| (name, Mode::Shared)))
        {
            if let Some(listener) = Listener::left_over(name, mode, &mut sources)? {
                lanes.entries.push(Entry { listener, tenure: Tenure::Retired });
            }
        }
        if !steered.is_empty() {
            lanes.claim();
        }
        if let Err(error) = lanes.fill(workers, &mut made) {
            lanes.take_back(&made);
            return Err(error);
        }
        Ok((lanes, made))
    }

    /// Changes the listeners: added ones are opened for workers to come, others are left to the workers that have them
    /// and let go with the last of these (see [`Lanes::take_dropped`]). Gives back new sockets.
    ///
    /// # Errors
    /// A socket cannot be had, or an open listener would have to change its address or mode. Nothing has changed.
    pub fn reconfigure(&mut self, listen: &[Listen], workers: u16) -> Result<Vec<Made>, LanesError> {
        for wanted in listen {
            if let Some(entry) = self.entry(&wanted.name) {
                entry.listener.must_match(wanted)?;
            }
        }
        check_count(workers)?;
        let before = self.entries.len();
        let added: Vec<_> = listen.iter().filter(|wanted| self.entry(&wanted.name).is_none()).cloned().collect();
        let (mut held, mut inherited, mut made) = (BTreeMap::new(), vec![], vec![]);
        let service = self.service.clone();
        let mut sources = Sources { service: &service, held: &mut held, inherited: &mut inherited };
        let opened = self.add(&added, &mut sources, &mut made).and_then(|()| self.fill(workers, &mut made));
        if let Err(error) = opened {
            self.entries.drain(before..).for_each(|entry| entry.listener.remove_file());
            return Err(error);
        }
        self.arrange(listen)?;
        self.let_go();
        self.steer()?;
        Ok(made)
    }

    fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.listener.name() == name)
    }

    fn add(&mut self, listen: &[Listen], sources: &mut Sources<'_>, made: &mut Vec<Made>) -> Result<(), LanesError> {
        for wanted in listen {
            let listener = Listener::open(wanted, sources, made)?;
            self.entries.push(Entry { listener, tenure: Tenure::Configured });
            if let Some(entry) = self.entries.last() {
                entry.listener.must_match(wanted)?;
            }
        }
        Ok(())
    }

    /// The lanes of an earlier agent may have workers: nobody touches them until those are known. No worker can have the
    /// waiting room or the reserve.
    fn claim(&mut self) {
        let held = self.groups().map(|group| group.lanes.len()).max().unwrap_or(0);
        let with_workers = usize::from(WAITING_ROOM.0 + 1)..held.saturating_sub(usize::from(RESERVE));
        self.occupants = vec![Occupant::Vacant(None); held];
        if let Some(lanes) = self.occupants.get_mut(with_workers) {
            lanes.fill(Occupant::Unclaimed);
        }
    }

    /// Makes room for this many workers, and watches what nobody has.
    fn fill(&mut self, workers: u16, made: &mut Vec<Made>) -> Result<(), LanesError> {
        check_count(workers)?;
        if self.groups().next().is_none() {
            return Ok(());
        }
        self.level(usize::from(WAITING_ROOM.0 + 1 + workers + RESERVE), made)?;
        self.watch_what_nobody_has()
    }

    /// Brings entries into the order of the configuration, with its backlogs; the rest is retired.
    fn arrange(&mut self, listen: &[Listen]) -> Result<(), LanesError> {
        let place = |entry: &Entry| listen.iter().position(|wanted| wanted.name == entry.listener.name());
        self.entries.sort_by_key(|entry| place(entry).unwrap_or(usize::MAX));
        for entry in &mut self.entries {
            let Some(wanted) = listen.iter().find(|wanted| wanted.name == entry.listener.name()) else {
                entry.tenure = Tenure::Retired;
                continue;
            };
            entry.tenure = Tenure::Configured;
            match &mut entry.listener {
                Listener::Steered(group) => group.set_backlog(wanted.backlog)?,
                Listener::Shared(shared) => shared.set_backlog(wanted.backlog)?,
            }
        }
        Ok(())
    }

    /// Leaves nothing behind of an opening that failed: files of Unix sockets outlive their sockets.
    fn take_back(&self, made: &[Made]) {
        for entry in &self.entries {
            let names = entry.listener.keeper_names(&self.service);
            if made.iter().any(|made| names.contains(&made.keeper_name)) {
                entry.listener.remove_file();
            }
        }
    }
}

fn check_count(workers: u16) -> Result<(), LanesError> {
    let wanted = usize::from(workers);
    if wanted > MAX_ADMITTED { Err(LanesError::TooMany { wanted, most: MAX_ADMITTED }) } else { Ok(()) }
}

impl super::group::Group {
    fn set_backlog(&mut self, backlog: u32) -> Result<(), LanesError> {
        if self.backlog == backlog {
            return Ok(());
        }
        self.backlog = backlog;
        let set = self.lanes.iter().try_for_each(|lane| listener::listen(&**lane, backlog));
        set.map_err(|error| self.kernel("set the backlog", error))
    }
}
