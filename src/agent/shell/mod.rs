//! One service in the agent's hands: its machine, and everything that the machine's actions reach.
//!
//! The machine decides; this folder performs ([`perform`]), tells ([`tell`]), takes orders ([`orders`]), brings a
//! service back after the agent's death ([`recover`]), keeps what it will then need ([`remember`]) and draws the picture for `status` ([`picture`]).

mod orders;
mod perform;
mod picture;
mod recover;
mod remember;
mod tell;

pub(crate) use orders::{in_words, reply};
pub(crate) use recover::{OpenError, Opening, held_settings};

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::error;

use super::archive::Archive;
use super::book::Book;
use super::chain;
use super::clock::Wall;
use super::happening::Happening;
use super::keeper_link::KeeperLink;
use super::lanes::Lanes;
use super::names;
use super::output::Output;
use super::prober::Prober;
use super::state_file::{Last, StateFile, encode};
use super::vigil::Vigils;
use crate::machine::event::{Action, Event, Note, Outcome};
use crate::machine::service::Service as Machine;
use crate::sys::notify_socket::NotifySocket;
use crate::sys::{clock, memfd};
use crate::units::{Exit, Moment, RolloutId, ServiceName, WorkerId};
use crate::wire::api::Step;

/// What a shell may use beside its own: lent by the loop for the time of one call.
pub(crate) struct Reach<'a> {
    pub(crate) link: &'a mut KeeperLink,
    pub(crate) tasks: &'a mut JoinSet<()>,
    pub(crate) inbox: &'a mpsc::Sender<Happening>,
    pub(crate) wall: Wall,
}

/// One service.
pub(crate) struct Shell {
    name: ServiceName,
    machine: Machine,
    book: Book,
    files: Files,
    lanes: Lanes,
    /// Names under which the keeper holds the listening sockets.
    sockets: BTreeSet<String>,
    watch: Watch,
    workers: BTreeMap<WorkerId, Worker>,
    followers: Vec<Follower>,
}

/// What a service has on disk.
struct Files {
    state: StateFile,
    archive: Archive,
    output: Output,
    /// Where workers say `READY=1`.
    notify: PathBuf,
    /// Locked for as long as this lives: two agents would write over each other.
    _lock: File,
}

impl Files {
    fn notify_path(&self, worker: WorkerId) -> PathBuf {
        self.notify.join(worker.to_string())
    }
}

/// Whoever looks at workers for this service.
struct Watch {
    prober: Prober,
    vigils: Vigils,
    /// When the lanes' queues are looked at next; `None` where there are no lanes.
    look_at: Option<Moment>,
}

/// A worker's process.
struct Worker {
    /// For people and for /proc; signals go through the pidfd.
    pid: i32,
    pidfd: OwnedFd,
    exec: Exec,
    /// Where it says `READY=1`, until somebody listens there.
    notify: Option<NotifySocket>,
    /// Why it is not ready yet, as far as the prober knows.
    not_yet: Option<String>,
    /// Established connections, when they were last counted.
    connections: Option<u32>,
}

/// Whether the program has taken the shim's place.
enum Exec {
    /// Not known yet. An exit that is reported meanwhile waits for the reason.
    Pending {
        exit: Option<Exit>,
    },
    Running,
}

/// A client that follows something to its end.
struct Follower {
    what: Following,
    since: Moment,
    steps: mpsc::Sender<Step>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Following {
    Rollout(RolloutId),
    /// To this many slots.
    Scaling(u32),
}

impl Shell {
    /// Gives the machine an event, and performs what it says, and gives it what that led to, until nothing follows.
    pub(crate) fn step(&mut self, event: Event, reach: &mut Reach<'_>) {
        let mut pending = VecDeque::from([event]);
        while let Some(event) = pending.pop_front() {
            let before = self.machine.clone();
            let actions = self.machine.step(clock::now(), event);
            if actions.is_empty() && self.machine != before {
                // What was heard is not said again: READY=1, a deadline put off, another number of workers.
                self.save(Last::Process, reach);
            }
            pending.extend(self.obey(actions, reach));
        }
    }

    /// Performs actions in order. The state that led to them is written first.
    fn obey(&mut self, actions: Vec<Action>, reach: &mut Reach<'_>) -> Vec<Event> {
        if actions.is_empty() {
            return Vec::new();
        }
        let mut follow = Vec::new();
        let mut hired = BTreeMap::new();
        for action in &actions {
            if let Action::Spawn { worker, slot, target } = action {
                match self.hire(*worker, *slot, *target, reach) {
                    Ok(assigned) => drop(hired.insert(*worker, assigned)),
                    Err(symptom) => follow.push(Event::SpawnFailed(*worker, symptom)),
                }
            }
        }
        // Those of the step before are in the history.
        self.book.endings.clear();
        for action in &actions {
            if let Action::Announce(note) = action {
                self.remember(note);
            }
        }
        self.save(last_of(&actions), reach);
        let released: Vec<WorkerId> = actions.iter().filter_map(released).collect();
        let some_stop = actions.iter().any(|action| matches!(action, Action::Stop(_)));
        for action in actions {
            follow.extend(self.perform(action, &mut hired, reach));
        }
        // Only now: what was said of a worker names its post.
        for worker in released {
            self.book.posts.remove(&worker);
        }
        self.forget_old_plans();
        if some_stop {
            // Who has heard the stop signal must not hear it again.
            self.save(Last::Process, reach);
        }
        follow
    }

    /// When time alone may change something here.
    pub(crate) fn next_deadline(&self) -> Option<Moment> {
        self.machine.next_deadline().into_iter().chain(self.watch.look_at).min()
    }

    /// A lane wants to be looked at before its time.
    pub(crate) fn disturbed(&mut self) {
        if let Some(at) = &mut self.watch.look_at {
            *at = clock::now();
        }
    }

    /// Does what is due by time.
    pub(crate) fn wake(&mut self, reach: &mut Reach<'_>) {
        let now = clock::now();
        if self.watch.look_at.is_some_and(|at| at <= now) {
            let look = self.lanes.look(now, self.book.settings.health.hung_after);
            self.watch.look_at = look.next;
            for damage in look.damage {
                self.name_the_guilty(&damage);
            }
            for (worker, _) in look.suspects {
                self.watch.prober.suspect(worker);
            }
        }
        if self.machine.next_deadline().is_some_and(|at| at <= now) {
            self.step(Event::DeadlinePassed, reach);
        }
    }

    /// What runs here, by the configuration as it was last read.
    pub(crate) fn program(&self) -> &crate::config::settings::Program {
        &self.book.settings.program
    }

    /// Whether the service is stopped and nothing of it is left.
    pub(crate) fn is_over(&self) -> bool {
        use crate::machine::view::ServiceState;
        self.machine.view().state == ServiceState::Stopped
    }

    /// Whether the service is stopped, or being stopped: it takes nothing new.
    pub(crate) fn is_ending(&self) -> bool {
        use crate::machine::view::ServiceState;
        matches!(self.machine.view().state, ServiceState::Stopping | ServiceState::Stopped)
    }

    /// Drains every worker; then the service is over.
    pub(crate) fn stop(&mut self, reach: &mut Reach<'_>) {
        self.step(Event::Stop, reach);
        self.end_scaling(|_| true, crate::wire::api::Outcome::Stopped, "the service is being stopped", reach.wall);
    }

    /// Ready for SIGUSR1: the kept output is written to fresh files.
    pub(crate) fn reopen_logs(&mut self) {
        if let Err(error) = self.files.output.reopen() {
            error!(service = %self.name, error = chain(&error), "cannot open the output file anew: the old one stays in use");
        }
    }

    /// Writes what was decided, before it is done.
    fn save(&self, last: Last, reach: &mut Reach<'_>) {
        let text = match encode(&self.machine, &self.book) {
            Ok(text) => text,
            Err(error) => return error!(service = %self.name, %error, "cannot write down what was decided"),
        };
        match memfd::sealed("rollout-state", &text) {
            Ok(memfd) => perform::put(&self.name, reach, &names::state(&self.name), memfd.as_fd()),
            Err(error) => error!(service = %self.name, %error, "cannot give the state to the keeper"),
        }
        if let Err(error) = self.files.state.write(&text, last) {
            error!(service = %self.name, %error, "cannot write the state file: whoever comes after the keeper reads the one before");
        }
    }

    fn forget_old_plans(&mut self) {
        let needed = self.machine.rollouts();
        let followed = |rollout: &RolloutId| self.book.posts.values().any(|post| post.rollout == *rollout);
        let old: Vec<RolloutId> =
            self.book.plans.keys().filter(|rollout| !needed.contains(rollout) && !followed(rollout)).copied().collect();
        for rollout in old {
            self.book.plans.remove(&rollout);
        }
    }
}

fn released(action: &Action) -> Option<WorkerId> {
    if let Action::Release(worker) = action { Some(*worker) } else { None }
}

/// What was decided about releases must survive a reboot; what was decided about processes need not.
fn last_of(actions: &[Action]) -> Last {
    let decides = |action: &Action| {
        matches!(action, Action::Announce(Note::Began { .. } | Note::Ended { outcome: Outcome::Done, .. }))
    };
    if actions.iter().any(decides) { Last::Reboot } else { Last::Process }
}
