//! The one way for a service to come into the agent's hands: recover. A first start is a recovery that finds nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, TryLockError};
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
use crate::agent::state_file::{Found, LONGEST, StateFile, decode};
use crate::agent::vigil::Vigils;
use crate::config::settings::{self, Check};
use crate::keeper::protocol::{Child, Inventory};
use crate::machine::event::Event;
use crate::machine::limits::Limits;
use crate::machine::service::{Service as Machine, Wanted};
use crate::machine::view::ServiceState;
use crate::sys::clock;
use crate::sys::notify_socket::NotifySocket;
use crate::sys::{memfd, tree};
use crate::units::{Exit, ServiceName, Slot, WorkerId};

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
    #[error("another agent runs the service in {}: stop that one, or start this one with another --state-dir", dir.display())]
    InUse { dir: PathBuf },
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
        let lock = lock(&dir)?;
        let state = StateFile::in_dir(&dir);
        let children = children_of(&name, inventory);
        let (mut machine, book) = match held_state(&name, inventory, reach) {
            Some(kept) => alive(kept, settings),
            None => kept(&name, &state, settings, &children),
        };
        children.keys().for_each(|worker| machine.number_on_after(*worker));
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
        let files = Files { state, archive, output, notify, _lock: lock };
        let workers = BTreeMap::new();
        let sockets = sockets_of(&name, inventory).map(str::to_owned).collect();
        let mut shell = Self { name, machine, book, files, lanes, sockets, watch, workers, followers: Vec::new() };
        shell.keep(made, reach);
        shell.catch_up_history();
        Ok(shell)
    }

    /// Adopts the workers that the keeper holds and does again what the last agent may not have done.
    pub(crate) fn resume(&mut self, inventory: &Inventory, reach: &mut Reach<'_>) {
        let children = children_of(&self.name, inventory);
        let known: BTreeSet<WorkerId> = self.machine.workers().into_iter().collect();
        // Of somebody who was released in the last agent's last step.
        self.book.posts.retain(|worker, _| known.contains(worker));
        let mut events = Vec::new();
        for worker in &known {
            let child = children.get(worker);
            match child.map(|child| self.adopt(*worker, child, reach)) {
                Some(Ok(())) => {}
                Some(Err(error)) => warn!(service = %self.name, %worker, %error, "cannot adopt a worker"),
                None => {}
            }
            match (self.workers.contains_key(worker), child.and_then(|child| child.exit)) {
                (true, None) => {}
                (_, Some(exit)) => events.push(Event::Exited(*worker, exit)),
                (false, None) => events.push(self.lost(*worker)),
            }
        }
        if let Err(error) = self.lanes.adopted_all() {
            warn!(service = %self.name, error = chain(&error), "cannot steer the adopted lanes anew");
        }
        for (worker, child) in &children {
            if !self.workers.contains_key(worker) {
                self.stranger(*worker, child, reach);
            }
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
        let need = self.machine.need_of(worker);
        let standing = match need {
            Wanted::Ready => Standing::Admitted,
            Wanted::Coming | Wanted::Proving | Wanted::No => Standing::Excluded,
        };
        self.lanes.adopt(worker, post.lane, standing, &post.listeners).map_err(std::io::Error::other)?;
        let (pid, exec) = (child.pid, Exec::Running);
        self.workers.insert(worker, Worker { pid, pidfd, exec, notify, not_yet: None, connections: None });
        self.adopt_output(worker, post.slot, reach);
        if child.exit.is_none() {
            match need {
                Wanted::Ready => self.probe(worker, Stage::Ready),
                // READY=1 is said once, and was heard by the last agent.
                Wanted::Proving if self.speaks(worker) => self.probe(worker, Stage::Ready),
                Wanted::Coming | Wanted::Proving => self.probe(worker, Stage::Starting),
                Wanted::No => {}
            }
        }
        info!(service = %self.name, %worker, pid = child.pid, slot = %post.slot, "adopted");
        Ok(())
    }

    /// A worker whose output cannot be read serves as well as any other.
    fn adopt_output(&mut self, worker: WorkerId, slot: Slot, reach: &mut Reach<'_>) {
        let adopted = match reach.link.take(&names::output(&self.name, worker)) {
            Ok(Some(pipe)) => self.files.output.attach(worker, slot, pipe).map_err(|error| chain(&error)),
            Ok(None) => Ok(()),
            Err(error) => Err(chain(&error)),
        };
        if let Err(error) = adopted {
            warn!(service = %self.name, %worker, error, "the output of an adopted worker is lost");
        }
    }

    fn speaks(&self, worker: WorkerId) -> bool {
        let plan = self.book.posts.get(&worker).and_then(|post| self.book.plans.get(&post.rollout));
        plan.is_some_and(|plan| plan.settings.health.check == Check::Notify)
    }

    /// What has become of a worker that has no process here. One that served had one.
    fn lost(&self, worker: WorkerId) -> Event {
        match self.machine.need_of(worker) {
            Wanted::Ready => Event::Exited(worker, Exit::Unknown),
            Wanted::Coming | Wanted::Proving | Wanted::No => Event::NeverStarted(worker),
        }
    }

    /// A child that this service does not know, because it was released already, or cannot have.
    fn stranger(&mut self, worker: WorkerId, child: &Child, reach: &mut Reach<'_>) {
        if child.exit.is_none() {
            warn!(service = %self.name, %worker, pid = child.pid, "a worker is not known here: killing it");
            let pidfd = reach.link.take(&format!("pidfd:{}", child.name));
            if let Ok(Some(pidfd)) = pidfd {
                tree::kill_tree(child.pid, pidfd.as_fd());
            }
        }
        self.let_go(worker, reach);
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
        for name in self.sockets.iter().chain([&names::state(&self.name)]) {
            drop_fd(&self.name, reach, name);
        }
        // Answered in order: when this is, the keeper has let go of the sockets, and whoever comes next can bind them.
        if let Err(error) = reach.link.take(&names::state(&self.name)) {
            warn!(service = %self.name, %error, "the keeper does not say that it has let go of a stopped service");
        }
    }
}

/// Lanes beside the waiting room: one for each slot and for each worker above them; more are made when old workers
/// still drain.
/// Takes the directory for this agent alone. The lock goes with its process, however that ends.
fn lock(dir: &Path) -> Result<File, OpenError> {
    let refused = |source| OpenError::Dir { dir: dir.to_owned(), source };
    let path = dir.join("lock");
    let file = File::options().write(true).create(true).truncate(false).open(path).map_err(refused)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse { dir: dir.to_owned() }),
        Err(TryLockError::Error(source)) => Err(refused(source)),
    }
}

pub(super) fn lanes_wanted(limits: &Limits) -> u16 {
    u16::try_from(limits.workers.saturating_add(limits.max_surge)).unwrap_or(u16::MAX)
}

/// The children of a service, by worker.
fn children_of<'a>(name: &ServiceName, inventory: &'a Inventory) -> BTreeMap<WorkerId, &'a Child> {
    let of_this = |child: &'a Child| {
        let (service, worker) = names::parse_child(&child.name)?;
        (service == *name).then_some((worker, child))
    };
    inventory.children.iter().filter_map(of_this).collect()
}

/// The state that the last agent of this keeper gave to it.
fn held_state(name: &ServiceName, inventory: &Inventory, reach: &mut Reach<'_>) -> Option<Kept> {
    let held = names::state(name);
    if !inventory.fds.contains(&held) {
        return None;
    }
    let taken = reach.link.take(&held).and_then(|memfd| memfd.map(|memfd| memfd::read(memfd, LONGEST)).transpose());
    let why = match taken.map(|text| text.map(|text| decode(&text))) {
        Ok(Some(Found::ThisBoot(kept) | Found::EarlierBoot(kept))) => return Some(*kept),
        Ok(Some(Found::Unreadable(why))) => why,
        Ok(Some(Found::Nothing) | None) => "it is not there".to_owned(),
        Err(error) => chain(&error),
    };
    warn!(service = %name, why, "the state that the keeper holds cannot be read: reading the file");
    None
}

/// The configuration of a service that is not configured any more.
pub(crate) fn held_settings(
    name: &ServiceName,
    inventory: &Inventory,
    reach: &mut Reach<'_>,
) -> Option<settings::Service> {
    held_state(name, inventory, reach).map(|kept| kept.book.settings)
}

/// The state of this life, unless the service had come to its end in it.
fn alive(kept: Kept, settings: settings::Service) -> (Machine, Book) {
    if kept.machine.view().state == ServiceState::Stopped { fresh(kept, settings) } else { (kept.machine, kept.book) }
}

/// What the files say. Where the keeper has no state, what ran under another keeper is not its child: only numbers and
/// releases mean something, unless there are children.
fn kept(
    name: &ServiceName,
    state: &StateFile,
    settings: settings::Service,
    children: &BTreeMap<WorkerId, &Child>,
) -> (Machine, Book) {
    match state.read() {
        Found::Nothing => (Machine::new(), Book::new(settings)),
        Found::ThisBoot(kept) if !children.is_empty() => alive(*kept, settings),
        Found::ThisBoot(kept) | Found::EarlierBoot(kept) => fresh(*kept, settings),
        Found::Unreadable(why) => {
            let aside =
                state.put_aside().map(|path| path.display().to_string()).unwrap_or_else(|error| error.to_string());
            let lasting = state.read_lasting();
            let rest = lasting.as_ref().map_or("starting without it", |_| "going on with the last one that was synced");
            warn!(service = %name, why, aside, "the state file cannot be read: {rest}");
            lasting.map_or_else(|| (Machine::new(), Book::new(settings.clone())), |kept| fresh(*kept, settings.clone()))
        }
    }
}

/// What an earlier life leaves: numbers that must not be used again, and releases.
fn fresh(kept: Kept, settings: settings::Service) -> (Machine, Book) {
    let book = Book { settings, plans: BTreeMap::new(), posts: BTreeMap::new(), ..kept.book };
    (kept.machine.reborn(), book)
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
