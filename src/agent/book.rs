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
    /// change its own and leaves somebody serving with it.
    pub(crate) fn reread(&mut self, settings: settings::Service) {
        let limits = &settings.limits;
        if limits.workers != self.settings.limits.workers {
            self.scaled = None;
        }
        self.scaled = self.scaled.filter(|workers| limits.max_unavailable < *workers);
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
    #[serde(default)]
    pub(crate) farewell: Farewell,
}

/// Whether the stop signal was sent. Many programs take a second one for "at once", and cut what they are doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Farewell {
    #[default]
    Unsaid,
    Said,
}

#[cfg(test)]
pub(crate) mod tests {
    use std::path::Path;

    use super::*;

    /// A service `web` with these further keys, one a line.
    pub(crate) fn sample(keys: &str) -> settings::Service {
        let keys: String = keys.lines().map(|line| format!("    {line}\n")).collect();
        let text = format!("services:\n  web:\n    binary: ./web\n    readiness: {{alive_for: 1s}}\n{keys}");
        let settings = crate::config::parse(&text, "rollout.yaml", Path::new("/srv"), 1);
        settings.expect("good").services.into_values().next().expect("one service")
    }

    fn release(number: u8) -> Digest {
        format!("{number:02x}").repeat(32).parse().expect("a digest")
    }

    fn four() -> Book {
        Book::new(sample("workers: 4"))
    }

    #[test]
    fn the_release_before_is_the_last_other_one() {
        let mut book = four();
        assert_eq!(book.before(release(1)), None);
        [1, 2, 2, 3].into_iter().for_each(|number| book.lived(release(number)));
        assert_eq!(book.lives, [1, 2, 3].map(release));
        assert_eq!(book.before(release(3)), Some(release(2)));
        // Back and forth.
        book.lived(release(2));
        assert_eq!(book.before(release(2)), Some(release(3)));
        // One that never was live, as a rollout under way may bring.
        assert_eq!(book.before(release(9)), Some(release(2)));
    }

    #[test]
    fn only_so_many_former_releases_are_remembered() {
        let mut book = four();
        (0..100).for_each(|number| book.lived(release(number)));
        assert_eq!(book.lives.len(), LIVES_BOUND);
        assert_eq!(book.lives.last(), Some(&release(99)));
    }

    #[test]
    fn a_scaled_number_holds_until_the_file_says_another() {
        let mut book = Book { scaled: Some(2), ..four() };
        book.reread(sample("workers: 4\nenv: {A: b}"));
        assert_eq!(book.current_settings().limits.workers, 2);
        book.reread(sample("workers: 5"));
        assert_eq!((book.scaled, book.current_settings().limits.workers), (None, 5));
    }

    #[test]
    fn a_scaled_number_that_could_leave_nobody_serving_is_given_up() {
        let mut book = Book { scaled: Some(2), ..four() };
        book.reread(sample("workers: 4\nrollout: {max_unavailable: 1}"));
        assert_eq!(book.scaled, Some(2));
        book.reread(sample("workers: 4\nrollout: {max_unavailable: 2}"));
        assert_eq!(book.scaled, None);
    }
}
