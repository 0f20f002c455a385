//! Notes → log lines, steps for followers, the journal.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::mpsc;
use tracing::{info, warn};

use super::{Follower, Following, Reach, Shell};
use crate::agent::clock::Wall;
use crate::agent::words;
use crate::machine::event::{Cause, Note, Outcome, Symptom, Target};
use crate::sys::clock;
use crate::units::{Digest, Moment, RolloutId, Slot, WorkerId};
use crate::wire::api::{self, Progress, Report, Step};

impl Shell {
    /// One note: logged once, sent to whoever follows, written down when it is an end.
    pub(super) fn tell(&mut self, note: Note, reach: &mut Reach<'_>) {
        let service = self.name.clone();
        match note {
            Note::Queued { rollout, .. } => {
                info!(%service, %rollout, "rollout waits for the one under way");
                if let Some(behind) = self.machine.view().rollout.map(|rolling| rolling.to.rollout) {
                    self.send_to_those_of(rollout, Progress::Queued { rollout, behind }, reach.wall);
                }
            }
            Note::Began { to, from } => self.began(to, from, reach.wall),
            Note::Starting { slot, worker, target } => {
                info!(%service, %slot, %worker, generation = %target.generation, release = target.release.short(), "starting");
                self.send_to_all(
                    Progress::Starting { slot, worker: worker.to_string(), release: target.release },
                    reach.wall,
                );
            }
            Note::Ready { slot, worker, took } => {
                info!(%service, %slot, %worker, "ready after {}", words::time(took));
                self.send_to_all(
                    Progress::Ready { slot, worker: worker.to_string(), took_ms: millis(took) },
                    reach.wall,
                );
            }
            Note::Draining { slot, worker } => {
                info!(%service, %slot, %worker, "draining");
                self.draining(slot, worker, None, reach.wall);
            }
            Note::Killing { slot, worker, after } => {
                warn!(%service, %slot, %worker, "did not go in time: killed after {}", words::time(after))
            }
            Note::Gone { slot, worker, exit, took } => {
                info!(%service, %slot, %worker, "gone after {}: {exit}", words::time(took));
                let gone =
                    Progress::Gone { slot, worker: worker.to_string(), took_ms: millis(took), how: exit.to_string() };
                self.send_to_all(gone, reach.wall);
            }
            Note::Failed { slot, worker, symptom, retry_in } => {
                self.failed((slot, worker), &symptom, retry_in, reach.wall)
            }
            Note::GaveUp { slot, failures } => self.gave_up(slot, failures, reach.wall),
            Note::RollingBack { rollout, cause } => {
                let why = self.cause(rollout, &cause);
                warn!(%service, %rollout, "rolling back: {why}");
                self.send_to_all(Progress::RollingBack { why }, reach.wall);
            }
            Note::Paused { rollout, cause } => self.paused(rollout, &cause, reach.wall),
            Note::Resumed { rollout } => {
                info!(%service, %rollout, "rollout resumed");
                self.send_to_all(Progress::Resumed, reach.wall);
            }
            Note::Ended { rollout, outcome } => self.ended(rollout, &outcome, reach.wall),
            Note::Scaled { workers } => self.scaled(workers, reach.wall),
        }
    }

    fn began(&mut self, to: Target, from: Option<Target>, wall: Wall) {
        let (rollout, generation, release) = (to.rollout, to.generation, to.release);
        info!(service = %self.name, %rollout, %generation, release = release.short(), "rollout begins");
        self.send_to_those_of(rollout, self.beginning(to, from), wall);
    }

    /// What somebody who begins to follow a rollout now has missed most: that it has begun, or what it waits for.
    pub(super) fn where_it_stands(&self, rollout: RolloutId) -> Option<Progress> {
        let rolling = self.machine.view().rollout?;
        if rolling.to.rollout == rollout {
            Some(self.beginning(rolling.to, rolling.from))
        } else {
            Some(Progress::Queued { rollout, behind: rolling.to.rollout })
        }
    }

    fn beginning(&self, to: Target, from: Option<Target>) -> Progress {
        let (rollout, generation, release) = (to.rollout, to.generation, to.release);
        let slots = self.book.plans.get(&rollout).map_or(0, |plan| plan.settings.limits.workers);
        Progress::Began { rollout, generation, release, from: from.map(|from| from.release), slots }
    }

    /// A draining worker's connections were counted.
    pub(crate) fn counted(&mut self, worker: WorkerId, connections: u32, wall: Wall) {
        let Some(hand) = self.workers.get_mut(&worker) else { return };
        hand.connections = Some(connections);
        if let Some(slot) = self.book.posts.get(&worker).map(|post| post.slot) {
            self.draining(slot, worker, Some(connections), wall);
        }
    }

    fn draining(&mut self, slot: Slot, worker: WorkerId, connections: Option<u32>, wall: Wall) {
        self.send_to_all(Progress::Draining { slot, worker: worker.to_string(), connections }, wall);
    }

    fn failed(&mut self, who: (Slot, WorkerId), symptom: &Symptom, retry_in: Option<Duration>, wall: Wall) {
        let (slot, worker) = who;
        let why = self.why_failed(worker, symptom);
        let next_start_in = retry_in.map(words::time);
        warn!(service = %self.name, %slot, %worker, next_start_in, "{why}");
        let output = self.failure(slot, worker, symptom).output;
        self.send_to_all(Progress::Failed { slot, worker: worker.to_string(), why, output }, wall);
    }

    /// A symptom, with the reason that the last look gave where time alone says little.
    pub(super) fn why_failed(&self, worker: WorkerId, symptom: &Symptom) -> String {
        let said = words::symptom(symptom);
        let last_look = || self.workers.get(&worker).and_then(|hand| hand.not_yet.clone());
        match symptom {
            Symptom::NotReadyInTime(_) => match self.not_bound(worker).or_else(last_look) {
                Some(reason) => format!("{said}: {reason}"),
                None => said,
            },
            Symptom::NotStarted(_)
            | Symptom::DiedStarting(_)
            | Symptom::Died(_)
            | Symptom::Unhealthy(_)
            | Symptom::Hung(_) => said,
        }
    }

    fn gave_up(&mut self, slot: Slot, failures: u32, wall: Wall) {
        warn!(
            service = %self.name, %slot, failures,
            "gave up on this slot: its workers keep dying; the next deploy, restart or scale tries again"
        );
        let said = format!(
            "slot {slot} was given up after {failures} failures: look at 'rollout logs', then deploy or restart"
        );
        self.end_scaling(|_| true, api::Outcome::NeedsPerson, &said, wall);
        if let Some(first) = self.machine.starting() {
            // Nobody would come back to whoever waits for it: it has no old release to go back to.
            self.finish(first, api::Outcome::NeedsPerson, said, wall);
        }
    }

    fn paused(&mut self, rollout: RolloutId, cause: &Cause, wall: Wall) {
        let why = self.cause(rollout, cause);
        warn!(service = %self.name, %rollout, "rollout paused: {why}: 'rollout resume' or 'rollout abort'");
        self.send_to_all(Progress::Paused { why: why.clone() }, wall);
        match cause {
            Cause::Asked => {}
            // Nobody would come back to whoever waits: the rollout stands until a person decides.
            Cause::Worker { .. } => {
                if let Some(release) = self.book.plans.get(&rollout).map(|plan| plan.release) {
                    self.files.archive.reject(release, &why);
                }
                let said =
                    format!("{why}; the rollout is paused: 'rollout resume' tries again, 'rollout abort' goes back");
                self.finish(rollout, api::Outcome::NeedsPerson, said, wall);
            }
        }
    }

    fn ended(&mut self, rollout: RolloutId, outcome: &Outcome, wall: Wall) {
        let Some(plan) = self.book.plans.get(&rollout) else { return };
        let (release, slots) = (plan.release, plan.settings.limits.workers);
        let from = plan.began.and_then(|began| began.from);
        let back = from.map_or_else(|| "the old release".to_owned(), |from| format!("release {}", from.short()));
        let word = words::outcome(outcome);
        let said = match outcome {
            Outcome::Done => {
                let keep = self.book.settings.keep;
                self.files.archive.accept(release, keep, &self.releases_in_use());
                format!("release {} is live on {slots} {}", release.short(), words::slots(slots))
            }
            Outcome::RolledBack(cause) => {
                self.rejected(rollout, release, cause);
                format!("{}; every slot is back on {back}", self.cause(rollout, cause))
            }
            Outcome::Stuck(cause) => {
                self.rejected(rollout, release, cause);
                format!(
                    "{}; the way back to {back} failed, too: look at 'rollout status' and 'rollout logs'",
                    self.cause(rollout, cause)
                )
            }
            Outcome::Superseded { by } => format!("the newer request {by} took its place"),
            Outcome::Stopped => "the service is being stopped".to_owned(),
        };
        match word {
            api::Outcome::RolledBack | api::Outcome::NeedsPerson => warn!(service = %self.name, %rollout, "{said}"),
            api::Outcome::Done | api::Outcome::AlreadyLive | api::Outcome::Superseded | api::Outcome::Stopped => {
                info!(service = %self.name, %rollout, "{said}");
            }
        }
        if let Some(entry) = self.book.endings.iter().find(|entry| entry.rollout == rollout) {
            self.files.archive.record(entry);
        }
        self.finish(rollout, word, said, wall);
    }

    /// Why a rollout does not go forward, with everything that is known about the worker that failed.
    pub(super) fn cause(&self, rollout: RolloutId, cause: &Cause) -> String {
        words::cause(cause, self.book.plans.get(&rollout).and_then(|plan| plan.failure.as_ref()))
    }

    fn rejected(&self, rollout: RolloutId, release: Digest, cause: &Cause) {
        match cause {
            Cause::Worker { .. } => self.files.archive.reject(release, &self.cause(rollout, cause)),
            Cause::Asked => {}
        }
    }

    /// Releases that run, will run, or are the first to go back to.
    fn releases_in_use(&self) -> BTreeSet<Digest> {
        let planned = self.book.plans.values().map(|plan| plan.release);
        let live = self.book.lives.last().copied();
        planned.chain(live).chain(live.and_then(|live| self.book.before(live))).collect()
    }

    /// Sends whoever follows this rollout its end.
    fn finish(&mut self, rollout: RolloutId, outcome: api::Outcome, said: String, wall: Wall) {
        let plan = self.book.plans.get(&rollout);
        let failure = plan.and_then(|plan| plan.failure.clone()).filter(|_| outcome != api::Outcome::Done);
        let began = plan.and_then(|plan| plan.began).map(|began| began.at);
        let report = Report {
            rollout: Some(rollout),
            service: self.name.to_string(),
            outcome,
            release: self.live_release(),
            said,
            failure,
            took_ms: began.map_or(0, |at| millis(clock::now().since(at))),
            exit: words::exit(outcome),
        };
        self.end_following(Following::Rollout(rollout), report, wall);
    }

    fn scaled(&mut self, workers: u32, wall: Wall) {
        info!(service = %self.name, workers, "scaled");
        let said = format!("{workers} {} ready", words::workers(workers));
        self.end_scaling(|asked| asked == workers, api::Outcome::Done, &said, wall);
        let said = format!("a newer request took its place: {said}");
        self.end_scaling(|_| true, api::Outcome::Superseded, &said, wall);
    }

    /// Sends an end to whoever follows a change to such a number of slots.
    pub(super) fn end_scaling(&mut self, whose: impl Fn(u32) -> bool, outcome: api::Outcome, said: &str, wall: Wall) {
        let ended: Vec<(Following, Moment)> = self
            .followers
            .iter()
            .filter(|follower| matches!(follower.what, Following::Scaling(asked) if whose(asked)))
            .map(|follower| (follower.what, follower.since))
            .collect();
        for (what, since) in ended {
            let report = Report {
                rollout: None,
                service: self.name.to_string(),
                outcome,
                release: self.live_release(),
                said: said.to_owned(),
                failure: None,
                took_ms: millis(clock::now().since(since)),
                exit: words::exit(outcome),
            };
            self.end_following(what, report, wall);
        }
    }

    fn end_following(&mut self, what: Following, report: Report, wall: Wall) {
        let step = step(Progress::Ended(report), wall);
        self.followers.retain(|follower| {
            if follower.what == what {
                // One that is too far behind to take even the end will find it in the history.
                let _ = follower.steps.try_send(step.clone());
            }
            follower.what != what
        });
    }

    /// What every serving slot runs, if they agree.
    pub(super) fn live_release(&self) -> Option<Digest> {
        use crate::machine::view::WorkerState;
        let view = self.machine.view();
        let mut serving = view.workers.iter().filter(|worker| worker.state == WorkerState::Ready);
        let first = serving.next()?.target?.release;
        serving.all(|worker| worker.target.is_some_and(|target| target.release == first)).then_some(first)
    }

    pub(super) fn follow(&mut self, what: Following, steps: mpsc::Sender<Step>) {
        self.followers.push(Follower { what, since: clock::now(), steps });
    }

    fn send_to_those_of(&mut self, rollout: RolloutId, progress: Progress, wall: Wall) {
        self.send(step(progress, wall), |what| what == Following::Rollout(rollout));
    }

    /// To whoever follows what has begun; a request that waits is not told of the steps of another.
    fn send_to_all(&mut self, progress: Progress, wall: Wall) {
        if self.followers.is_empty() {
            return;
        }
        let begun: BTreeSet<RolloutId> =
            self.followers.iter().filter_map(|follower| self.begun(follower.what)).collect();
        self.send(step(progress, wall), |what| match what {
            Following::Scaling(_) => true,
            Following::Rollout(rollout) => begun.contains(&rollout),
        });
    }

    fn begun(&self, what: Following) -> Option<RolloutId> {
        match what {
            Following::Rollout(rollout) => self.book.plans.get(&rollout)?.began.map(|_| rollout),
            Following::Scaling(_) => None,
        }
    }

    fn send(&mut self, step: Step, wants: impl Fn(Following) -> bool) {
        self.followers.retain(|follower| !wants(follower.what) || follower.steps.try_send(step.clone()).is_ok());
    }
}

pub(super) fn step(progress: Progress, wall: Wall) -> Step {
    Step { at: wall.text(clock::now()), progress }
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
