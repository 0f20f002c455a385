//! What the agent remembers about a service beside the machine's state: the requests, and who was hired with what.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::config::settings;
use crate::machine::service::Service as Machine;
use crate::units::{Digest, Generation, LaneIndex, Moment, RolloutId, Slot, WorkerId};
use crate::wire::api::{Entry, Failure};

/// The whole state file of one service.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Kept {
    pub(crate) machine: Machine,
    pub(crate) book: Book,
}

/// The shell's own memory. Changed only by the loop.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Book {
    /// The configuration as it was last read.
    pub(crate) settings: settings::Service,
    /// What `rollout scale` said; holds until the configuration says another number of workers.
    pub(crate) scaled: Option<u32>,
    /// Requests that some worker, the base or the queue still refers to.
    pub(crate) plans: BTreeMap<RolloutId, Plan>,
    pub(crate) last_rollout: u64,
    /// What the watched path held when it was last looked at. Its content is news only when it is not this: a release
    /// that was deployed from elsewhere is not undone by a restart.
    pub(crate) seen: Option<Digest>,
    /// Releases that were live, oldest first, the live one last.
    pub(crate) lives: Vec<Digest>,
    /// Rollouts that ended in the step that this state is written for: a successor cannot know whether they are in the
    /// history.
    #[serde(default)]
    pub(crate) endings: Vec<Entry>,
    /// Workers that were, or were about to be, started.
    pub(crate) posts: BTreeMap<WorkerId, Post>,
}

/// How many former releases can be rolled back to without naming them.
const LIVES_BOUND: usize = 32;

impl Book {
    pub(crate) fn new(settings: settings::Service) -> Self {
        Self {
            settings,
            scaled: None,
            plans: BTreeMap::new(),
            last_rollout: 0,
            seen: None,
            lives: Vec::new(),
            endings: Vec::new(),
            posts: BTreeMap::new(),
        }
    }

    pub(crate) fn next_rollout(&mut self) -> RolloutId {
        self.last_rollout += 1;
        RolloutId(self.last_rollout)
    }

    pub(crate) fn lived(&mut self, release: Digest) {
        if self.lives.last() != Some(&release) {
            self.lives.push(release);
        }
        let excess = self.lives.len().saturating_sub(LIVES_BOUND);
        self.lives.drain(..excess);
    }

    /// The release that was live before this one.
    pub(crate) fn before(&self, release: Digest) -> Option<Digest> {
        self.lives.iter().rev().copied().find(|lived| *lived != release)
    }

    /// Takes a new configuration. A number of workers that somebody asked for holds as long as the file does not
    /// change its own.
    pub(crate) fn reread(&mut self, settings: settings::Service) {
        if settings.limits.workers != self.settings.limits.workers {
            self.scaled = None;
        }
        self.settings = settings;
    }

    /// The configuration with the number of workers that holds now.
    pub(crate) fn current_settings(&self) -> settings::Service {
        let mut settings = self.settings.clone();
        settings.limits.workers = self.scaled.unwrap_or(settings.limits.workers);
        settings
    }
}

/// One accepted request to roll.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// What its workers are started with.
    pub(crate) settings: settings::Service,
    pub(crate) release: Digest,
    pub(crate) trigger: Trigger,
    pub(crate) who: Option<String>,
    pub(crate) note: Option<String>,
    pub(crate) asked: Moment,
    /// RFC 3339.
    pub(crate) asked_at: String,
    pub(crate) began: Option<Began>,
    /// The first worker that was no good.
    pub(crate) failure: Option<Failure>,
}

/// What is known of a request that began.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Began {
    pub(crate) at: Moment,
    pub(crate) generation: Generation,
    pub(crate) from: Option<Digest>,
}

/// What asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Trigger {
    Start,
    Deploy,
    Restart,
    Sighup,
    Watch,
    Rollback,
}

impl Trigger {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Deploy => "deploy",
            Self::Restart => "restart",
            Self::Sighup => "sighup",
            Self::Watch => "watch",
            Self::Rollback => "rollback",
        }
    }
}

/// What a worker was given when it was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Post {
    pub(crate) slot: Slot,
    pub(crate) lane: Option<LaneIndex>,
    /// Names of the listeners whose sockets it got.
    pub(crate) listeners: Vec<String>,
    pub(crate) rollout: RolloutId,
    pub(crate) since: Moment,
}
