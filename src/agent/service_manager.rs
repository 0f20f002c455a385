//! The agent's duties towards systemd, said through the keeper, which is the main process (sd_notify(3)).

use std::time::Duration;

use tracing::debug;

use super::keeper_link::{KeeperLink, watchdog_period};
use crate::keeper::protocol::Notice;
use crate::sys::clock;
use crate::units::Moment;
use crate::wire::api::{ServiceStatus, Status};

/// While something goes on, the service manager is asked for this much more time …
const EXTENSION: Duration = Duration::from_secs(30);
/// … this often.
const EXTEND_EVERY: Duration = Duration::from_secs(10);

/// What has been said and what is due.
pub(super) struct ServiceManager {
    phase: Phase,
    said: String,
    configuration: Configuration,
    watchdog: Option<Beat>,
    extend: Beat,
}

/// What the service manager believes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Starting,
    Ready,
    Reloading,
    Stopping,
}

/// How the last reading of the configuration went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Configuration {
    InForce,
    /// What the file says now is not what holds.
    NotTaken,
}

/// Something that is said again and again.
struct Beat {
    every: Duration,
    next: Moment,
}

impl ServiceManager {
    pub(super) fn new() -> Self {
        // Half the time, as sd_watchdog_enabled(3) advises.
        let watchdog = watchdog_period().map(|period| Beat { every: period / 2, next: clock::now() });
        let extend = Beat { every: EXTEND_EVERY, next: clock::now() };
        Self { phase: Phase::Starting, said: String::new(), configuration: Configuration::InForce, watchdog, extend }
    }

    pub(super) fn next_deadline(&self) -> Option<Moment> {
        let extend = (self.phase != Phase::Ready).then_some(self.extend.next);
        self.watchdog.as_ref().map(|beat| beat.next).into_iter().chain(extend).min()
    }

    pub(super) fn wake(&mut self, link: &mut KeeperLink) {
        let now = clock::now();
        if let Some(beat) = &mut self.watchdog
            && beat.next <= now
        {
            beat.next = now.after(beat.every);
            say(link, Notice::Watchdog);
        }
        if self.phase != Phase::Ready && self.extend.next <= now {
            self.extend.next = now.after(self.extend.every);
            let usec = u64::try_from(EXTENSION.as_micros()).unwrap_or(u64::MAX);
            say(link, Notice::ExtendTimeout { usec });
        }
    }

    pub(super) fn reloading(&mut self, link: &mut KeeperLink) {
        if self.phase == Phase::Ready {
            self.phase = Phase::Reloading;
            self.extend.next = clock::now();
            say(link, Notice::Reloading);
        }
    }

    pub(super) fn stopping(&mut self, link: &mut KeeperLink) {
        self.phase = Phase::Stopping;
        self.extend.next = clock::now();
        say(link, Notice::Stopping);
    }

    /// The configuration was read and holds.
    pub(super) fn taken(&mut self) {
        self.configuration = Configuration::InForce;
    }

    /// The configuration was read and is bad. The status says so until it is mended.
    pub(super) fn not_taken(&mut self) {
        self.configuration = Configuration::NotTaken;
    }

    fn status(&mut self, link: &mut KeeperLink, text: &str) {
        if self.said != text {
            text.clone_into(&mut self.said);
            say(link, Notice::Status(text.to_owned()));
        }
    }

    /// Says what has become true.
    pub(super) fn see(&mut self, status: &Status, link: &mut KeeperLink, reload: ReloadWork) {
        let has_ready = |service: &ServiceStatus| service.workers.iter().any(|worker| worker.state == "ready");
        let all_ready = status.services.iter().all(has_ready);
        match self.phase {
            Phase::Starting if all_ready => self.ready(link),
            Phase::Reloading if reload == ReloadWork::Done => self.ready(link),
            Phase::Starting | Phase::Reloading | Phase::Ready | Phase::Stopping => {}
        }
        let remark = match self.configuration {
            Configuration::InForce => "",
            Configuration::NotTaken => "; the new configuration was not taken: see the log",
        };
        self.status(link, &format!("{}{remark}", sentence(status)));
    }

    fn ready(&mut self, link: &mut KeeperLink) {
        self.phase = Phase::Ready;
        say(link, Notice::Ready);
    }
}

/// Whether anything that a reload began is still going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReloadWork {
    Going,
    Done,
}

/// `web: 4/4 ready, api: rolling 2/8`.
fn sentence(status: &Status) -> String {
    let one = |service: &ServiceStatus| match &service.rollout {
        Some(rollout) => format!("{}: rolling {} of {}", service.name, rollout.done, rollout.slots),
        None => {
            let ready = service.workers.iter().filter(|worker| worker.state == "ready").count();
            format!("{}: {ready} ready", service.name)
        }
    };
    status.services.iter().map(one).collect::<Vec<_>>().join(", ")
}

fn say(link: &mut KeeperLink, notice: Notice) {
    if let Err(error) = link.notice(notice) {
        debug!(%error, "cannot reach the keeper with a notice for the service manager");
    }
}
