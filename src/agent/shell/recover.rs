//! The one way for a service to come into the agent's hands: recover. A first start is a recovery that finds nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::sync::{Notify, mpsc};
use tracing::{info, warn};

use super::perform::drop_fd;
use super::{Exec, Files, Reach, Shell, Watch, Worker};
use crate::agent::archive::Archive;
use crate::agent::book::{Book, Kept, Trigger};
use crate::agent::chain;
use crate::agent::happening::Wish;
use crate::agent::lanes::{self, Lanes, Standing};
use crate::agent::names;
use crate::agent::output::{Mirror, Output};
use crate::agent::prober::{Finding, Prober, Stage};
use crate::agent::state_file::{Found, StateFile};
use crate::agent::vigil::Vigils;
use crate::config::settings;
use crate::keeper::protocol::{Child, Inventory};
use crate::machine::event::Event;
use crate::machine::limits::Limits;
use crate::machine::service::{Service as Machine, Wanted};
use crate::machine::view::ServiceState;
use crate::sys::clock;
use crate::sys::notify_socket::NotifySocket;
use crate::sys::tree;
use crate::units::{ServiceName, WorkerId};

/// What a service is opened with.
pub(crate) struct Opening<'a> {
    pub(crate) name: ServiceName,
    pub(crate) settings: settings::Service,
    pub(crate) state_dir: &'a Path,
    pub(crate) inventory: &'a Inventory,
    pub(crate) inherited: &'a mut Vec<(String, OwnedFd)>,
    pub(crate) disturbed: Arc<Notify>,
    pub(crate) mirror: Mirror,
    pub(crate) findings: mpsc::Sender<(ServiceName, WorkerId, Finding)>,
}

/// Why a service cannot be opened; nothing of it runs.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("make {}: check the permissions of the state directory, or name another with --state-dir", dir.display())]
    Dir { dir: PathBuf, source: std::io::Error },
    #[error("open the release store in {}", dir.display())]
    Store { dir: PathBuf, source: crate::release::store::StoreError },
    #[error("open the output files in {}", dir.display())]
    Output { dir: PathBuf, source: crate::agent::output::OutputError },
    #[error("open the sockets of service {service}")]
    Lanes { service: ServiceName, source: crate::agent::lanes::LanesError },
}

impl Shell {
    /// Takes over what the keeper and the state file know of a service; nothing else has been started by then.
    pub(crate) fn open(opening: Opening<'_>, reach: &mut Reach<'_>) -> Result<Self, OpenError> {
        let Opening { name, settings, state_dir, inventory, inherited, disturbed, mirror, findings } = opening;
        let dir = state_dir.join(name.as_str());
        let notify = dir.join("notify");
        std::fs::create_dir_all(&notify).map_err(|source| OpenError::Dir { dir: dir.clone(), source })?;
        let state = StateFile::in_dir(&dir);
        let (machine, book) = kept(&name, &state, settings, inventory);
        let archive = Archive::open(&dir).map_err(|source| OpenError::Store { dir: dir.clone(), source })?;
        let output = Output::open(&dir.join("logs"), book.settings.logs, name.clone(), mirror)
            .map_err(|source| OpenError::Output { dir: dir.clone(), source })?;
        let mut held = held_sockets(&name, inventory, reach);
        let (lanes, made) = Lanes::open(lanes::Opening {
            service: &name,
            listen: &book.settings.listen,
            workers: lanes_wanted(&book.settings.limits),
            held: &mut held,
            inherited,
            disturbed,
        })
        .map_err(|source| OpenError::Lanes { service: name.clone(), source })?;
        let prober = Prober::new(name.clone(), findings);
        let watch = Watch { prober, vigils: Vigils::default(), look_at: Some(clock::now()) };
        let files = Files { state, archive, output, notify };
        let workers = BTreeMap::new();
        let sockets = sockets_of(&name, inventory).map(str::to_owned).collect();
        let mut shell = Self { name, machine, book, files, lanes, sockets, watch, workers, followers: Vec::new() };
        shell.keep(made, reach);
        shell.catch_up_history();
        Ok(shell)
    }

    /// Adopts the workers that the keeper holds and does again what the last agent may not have done.
    pub(crate) fn resume(&mut self, inventory: &Inventory, reach: &mut Reach<'_>) {
        let children: BTreeMap<WorkerId, &Child> = inventory
            .children
            .iter()
            .filter_map(|child| match names::parse_child(&child.name) {
                Some((service, worker)) if service == self.name => Some((worker, child)),
                Some(_) | None => None,
            })
            .collect();
        let mut events = Vec::new();
        for worker in self.machine.workers() {
            match children.get(&worker) {
                Some(child) => match self.adopt(worker, child, reach) {
                    Ok(()) => events.extend(child.exit.map(|exit| Event::Exited(worker, exit))),
                    Err(error) => {
                        warn!(service = %self.name, %worker, pid = child.pid, %error, "cannot adopt a worker");
                        events.push(Event::NeverStarted(worker));
                    }
                },
                None => events.push(Event::NeverStarted(worker)),
            }
        }
        if let Err(error) = self.lanes.adopted_all() {
            warn!(service = %self.name, error = chain(&error), "cannot steer the adopted lanes anew");
        }
        let known: BTreeSet<WorkerId> = self.machine.workers().into_iter().collect();
        for (worker, child) in children.iter().filter(|(worker, _)| !known.contains(worker)) {
            self.stranger(*worker, child, reach);
        }
        let again = self.machine.again();
        let follow = self.obey(again, reach);
        for event in follow.into_iter().chain(events) {
            self.step(event, reach);
        }
        self.step(Event::DeadlinePassed, reach);
    }

    fn adopt(&mut self, worker: WorkerId, child: &Child, reach: &mut Reach<'_>) -> std::io::Result<()> {
        let pidfd = reach.link.take(&format!("pidfd:{}", child.name))?;
        let pidfd = pidfd.ok_or_else(|| std::io::Error::other("the keeper has no pidfd of it"))?;
        let post = self.book.posts.get(&worker).cloned();
        let post = post.ok_or_else(|| std::io::Error::other("the state file does not say which slot it has"))?;
        let notify = match reach.link.take(&names::notify(&self.name, worker))? {
            Some(socket) => Some(NotifySocket::adopt(socket)?),
            None => None,
        };
        let (pid, exec) = (child.pid, Exec::Running);
        self.workers.insert(worker, Worker { pid, pidfd, exec, notify, not_yet: None, connections: None });
        let standing = match self.machine.need_of(worker) {
            Wanted::Ready => Standing::Admitted,
            Wanted::Coming | Wanted::No => Standing::Excluded,
        };
        self.lanes.adopt(worker, post.lane, standing, &post.listeners).map_err(std::io::Error::other)?;
        if let Some(pipe) = reach.link.take(&names::output(&self.name, worker))? {
            self.files.output.attach(worker, post.slot, pipe).map_err(std::io::Error::other)?;
        }
        if child.exit.is_none() {
            match self.machine.need_of(worker) {
                Wanted::Ready => self.probe(worker, Stage::Ready),
                Wanted::Coming => self.probe(worker, Stage::Starting),
                Wanted::No => {}
            }
        }
        info!(service = %self.name, %worker, pid = child.pid, slot = %post.slot, "adopted");
        Ok(())
    }

    /// A child of this service that the state does not know: it must have been released already.
    fn stranger(&mut self, worker: WorkerId, child: &Child, reach: &mut Reach<'_>) {
        if child.exit.is_none() {
            warn!(service = %self.name, %worker, pid = child.pid, "a worker is not in the state file: stopping it");
            let pidfd = reach.link.take(&format!("pidfd:{}", child.name));
            if let Ok(Some(pidfd)) = pidfd {
                tree::kill_tree(child.pid, pidfd.as_fd());
            }
        }
        self.workers.remove(&worker);
        if let Err(error) = reach.link.forget(&child.name) {
            warn!(service = %self.name, %worker, %error, "cannot tell the keeper to forget a worker");
        }
    }

    /// Whether the service has never been started (or not since the last boot).
    pub(crate) fn is_new(&self) -> bool {
        self.machine.becoming().is_none()
    }

    /// Starts a new service. Blocks while the release is copied and hashed: nothing else goes on yet.
    pub(crate) fn first_start(&mut self, reach: &mut Reach<'_>) -> Result<(), String> {
        let order = self.order(Trigger::Start, Wish::Configured);
        let basis = self.basis(&order, reach.wall);
        let last = self.book.lives.last().copied().filter(|last| basis.store.contains(last));
        let basis = crate::agent::archive::Basis { live: last, ..basis };
        let prepared = match (crate::agent::archive::prepare(&order.wish, &basis), last) {
            (Err(refused), Some(release)) => {
                warn!(service = %self.name, release = release.short(), "{}: starting the last live release", refused.error);
                Ok(crate::agent::happening::Prepared { release, size: None, already: true, seen: None })
            }
            (prepared, _) => prepared,
        };
        if let Err(refused) = &prepared {
            return Err(refused.error.clone());
        }
        self.prepared(order, prepared, reach);
        Ok(())
    }

    /// Takes a service that is over out of the keeper's and the state directory's memory of processes.
    pub(crate) fn close(self, reach: &mut Reach<'_>) {
        self.lanes.remove_files();
        for name in &self.sockets {
            drop_fd(&self.name, reach, name);
        }
    }
}

/// Lanes beside the waiting room: one for each slot and for each worker above them; more are made when old workers
/// still drain.
pub(super) fn lanes_wanted(limits: &Limits) -> u16 {
    u16::try_from(limits.workers + limits.max_surge).unwrap_or(u16::MAX)
}

fn kept(name: &ServiceName, state: &StateFile, settings: settings::Service, inventory: &Inventory) -> (Machine, Book) {
    match state.read() {
        Found::Nothing => (Machine::new(), Book::new(settings)),
        // A keeper that has just begun holds nothing: whatever ran under the last one is not its child.
        Found::ThisBoot(kept) if inventory.agents_before > 0 && kept.machine.view().state != ServiceState::Stopped => {
            (kept.machine, kept.book)
        }
        Found::ThisBoot(kept) | Found::EarlierBoot(kept) => (Machine::new(), fresh(*kept, settings)),
        Found::Unreadable(why) => {
            let aside =
                state.put_aside().map(|path| path.display().to_string()).unwrap_or_else(|error| error.to_string());
            warn!(service = %name, why, aside, "the state file cannot be read: starting without it");
            (Machine::new(), Book::new(settings))
        }
    }
}

/// What an earlier life leaves: numbers that must not be used again, and releases.
fn fresh(kept: Kept, settings: settings::Service) -> Book {
    Book { settings, plans: BTreeMap::new(), posts: BTreeMap::new(), ..kept.book }
}

fn held_sockets(name: &ServiceName, inventory: &Inventory, reach: &mut Reach<'_>) -> BTreeMap<String, OwnedFd> {
    let mut held = BTreeMap::new();
    for fd in sockets_of(name, inventory) {
        match reach.link.take(fd) {
            Ok(Some(socket)) => drop(held.insert(fd.to_owned(), socket)),
            Ok(None) => {}
            Err(error) => {
                warn!(service = %name, fd, error = chain(&error), "cannot take a socket back from the keeper")
            }
        }
    }
    held
}

fn sockets_of<'a>(name: &ServiceName, inventory: &'a Inventory) -> impl Iterator<Item = &'a str> {
    let prefixes = [format!("lane:{name}:"), format!("shared:{name}:")];
    inventory.fds.iter().map(String::as_str).filter(move |fd| prefixes.iter().any(|prefix| fd.starts_with(prefix)))
}
