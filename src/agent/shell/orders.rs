//! Orders: from a request to an event for the machine.

use tokio::sync::{mpsc, oneshot};
use tracing::{info, warn};

use super::tell::step;
use super::{Following, Reach, Shell};
use crate::agent::archive::{Basis, prepare, refusal};
use crate::agent::book::{Plan, Trigger};
use crate::agent::clock::Wall;
use crate::agent::happening::{Happening, Order, Prepared, STEPS_BOUND, Wish};
use crate::agent::request::{Answer, LogFeed, Peer, Steer};
use crate::agent::state_file::Last;
use crate::agent::{chain, words};
use crate::config::settings::{self, Program};
use crate::machine::event::Event;
use crate::machine::limits::MOST_WORKERS;
use crate::machine::view::RolloutPhase;
use crate::sys::clock;
use crate::units::{Digest, Slot};
use crate::wire::api::{self, Done, History, Progress, Refusal, Report, Step};

/// How a request that leads to a rollout is followed.
type Steps = Answer<mpsc::Receiver<Step>>;

impl Shell {
    /// Numbers a wish. The number is its place in time: a later one wins, whichever is prepared first.
    pub(crate) fn order(&mut self, trigger: Trigger, wish: Wish) -> Order {
        Order {
            service: self.name.clone(),
            rollout: self.book.next_rollout(),
            trigger,
            wish,
            settings: None,
            who: None,
            note: None,
            answer: None,
        }
    }

    /// Makes the order's release, off the loop; it comes back as [`Happening::Prepared`].
    pub(crate) fn prepare(&self, order: Order, reach: &mut Reach<'_>) {
        let basis = self.basis(&order, reach.wall);
        let inbox = reach.inbox.clone();
        let wish = order.wish.clone();
        reach.tasks.spawn(async move {
            let prepared = tokio::task::spawn_blocking(move || prepare(&wish, &basis)).await;
            // It panicked, or the runtime ends. Whoever counts orders counts this one, too.
            let prepared = prepared.unwrap_or_else(|error| Err(refusal(1, format!("prepare the release: {error}"))));
            let _ = inbox.send(Happening::Prepared(Box::new(order), prepared)).await;
        });
    }

    pub(crate) fn basis(&self, order: &Order, wall: Wall) -> Basis {
        Basis {
            store: self.files.archive.store(),
            settings: order.settings.clone().unwrap_or_else(|| self.book.settings.clone()),
            who: order.who.clone().unwrap_or_else(|| order.trigger.name().to_owned()),
            at: wall.text(clock::now()),
            note: order.note.clone(),
            seen: self.book.seen,
            live: self.machine.becoming(),
        }
    }

    /// An order has its release: the machine hears of it, unless there is nothing to do.
    pub(crate) fn prepared(&mut self, mut order: Order, prepared: Result<Prepared, Refusal>, reach: &mut Reach<'_>) {
        let answer = order.answer.take();
        let there = prepared.and_then(|prepared| self.still_there(&order, prepared));
        let ready = there.and_then(|prepared| self.take_settings(&mut order, reach).map(|()| prepared));
        let prepared = match ready {
            Ok(prepared) => prepared,
            Err(refused) => {
                warn!(service = %self.name, trigger = order.trigger.name(), "nothing changed: {}", refused.error);
                return reply(answer, Err(refused));
            }
        };
        self.remember_seen(&order, prepared, reach);
        let forced = matches!(&order.wish, Wish::File(deploy) if deploy.force);
        let may_be_live = matches!(order.trigger, Trigger::Deploy | Trigger::Watch) && !forced;
        if may_be_live && self.machine.is_live(prepared.release) {
            return self.already_live(prepared, answer, reach.wall);
        }
        if order.trigger == Trigger::Watch
            && let Some(why) = self.files.archive.why_rejected(&prepared.release)
        {
            warn!(service = %self.name, release = prepared.release.short(), why, "the watched file holds a rejected release: not tried again");
            return;
        }
        let under_way = self.machine.bringing(prepared.release).filter(|_| may_be_live);
        let rollout = under_way.unwrap_or(order.rollout);
        let steps = answer.map(|answer| self.open_steps(answer, Following::Rollout(rollout)));
        if let Some(steps) = steps {
            let (release, already) = (prepared.release, prepared.already);
            let stored = prepared.size.map(|size| Progress::Stored { release, size, already });
            let where_it_stands = under_way.and_then(|rollout| self.where_it_stands(rollout));
            for progress in stored.into_iter().chain(where_it_stands) {
                // The channel is new and empty.
                let _ = steps.try_send(step(progress, reach.wall));
            }
        }
        if under_way.is_none() {
            self.begin(order, prepared.release, reach);
        }
    }

    fn begin(&mut self, order: Order, release: Digest, reach: &mut Reach<'_>) {
        let (rollout, now) = (order.rollout, clock::now());
        let plan = Plan {
            settings: self.book.current_settings(),
            release,
            trigger: order.trigger,
            who: order.who,
            note: order.note,
            asked: now,
            asked_at: reach.wall.text(now),
            began: None,
            failure: None,
        };
        let limits = plan.settings.limits.clone();
        self.book.plans.insert(rollout, plan);
        self.step(Event::Roll { rollout, release, limits }, reach);
    }

    /// A rollout that ended while this order was prepared may have removed the release as one of the oldest.
    fn still_there(&self, order: &Order, prepared: Prepared) -> Result<Prepared, Refusal> {
        match &order.settings.as_ref().unwrap_or(&self.book.settings).program {
            Program::Binary { .. } if !self.files.archive.store().contains(&prepared.release) => {
                let release = prepared.release.short();
                Err(refusal(
                    1,
                    format!("release {release} was removed from the store meanwhile: deploy its file again"),
                ))
            }
            Program::Binary { .. } | Program::Command { .. } => Ok(prepared),
        }
    }

    /// A new configuration takes hold of what a rollout cannot bring: sockets, rotation.
    fn take_settings(&mut self, order: &mut Order, reach: &mut Reach<'_>) -> Result<(), Refusal> {
        let Some(settings) = order.settings.take() else { return Ok(()) };
        if self.machine.newest().is_some_and(|newest| newest > order.rollout) {
            // It was read before that of the newer request.
            return Ok(());
        }
        if settings.listen != self.book.settings.listen {
            self.relisten(&settings, reach)?;
        }
        if let Err(error) = self.files.output.limit(settings.logs) {
            warn!(service = %self.name, error = chain(&error), "old output files stay");
        }
        self.book.reread(settings);
        Ok(())
    }

    fn relisten(&mut self, settings: &settings::Service, reach: &mut Reach<'_>) -> Result<(), Refusal> {
        let want = super::recover::lanes_wanted(&settings.limits);
        let made = self.lanes.reconfigure(&settings.listen, want).map_err(|error| refusal(1, chain(&error)))?;
        self.keep(made, reach);
        self.let_go_sockets(reach);
        // There may have been none to look at.
        self.watch.look_at = Some(clock::now());
        Ok(())
    }

    fn remember_seen(&mut self, order: &Order, prepared: Prepared, reach: &mut Reach<'_>) {
        let from_path = match (&order.wish, &self.book.settings.program) {
            (Wish::File(deploy), Program::Binary { path, .. }) if std::path::Path::new(&deploy.path) == path => {
                Some(prepared.release)
            }
            (Wish::File(_) | Wish::Configured | Wish::Stored(_), Program::Binary { .. } | Program::Command { .. }) => {
                None
            }
        };
        let seen = from_path.or(prepared.seen).or(self.book.seen);
        if seen != self.book.seen {
            self.book.seen = seen;
            // There may be no rollout that would write it.
            self.save(Last::Process, reach);
        }
    }

    fn already_live(&mut self, prepared: Prepared, answer: Option<Steps>, wall: Wall) {
        let said = format!("release {} is live already: nothing to do", prepared.release.short());
        info!(service = %self.name, "{said}");
        let Some(answer) = answer else { return };
        let report = Report {
            rollout: None,
            service: self.name.to_string(),
            outcome: api::Outcome::AlreadyLive,
            release: Some(prepared.release),
            said,
            failure: None,
            took_ms: 0,
            exit: words::exit(api::Outcome::AlreadyLive),
        };
        let (sender, steps) = mpsc::channel(1);
        // One message into a channel of one.
        let _ = sender.try_send(step(Progress::Ended(report), wall));
        reply(Some(answer), Ok(steps));
    }

    /// Opens the stream of steps for whoever asked.
    fn open_steps(&mut self, answer: Steps, what: Following) -> mpsc::Sender<Step> {
        let (sender, steps) = mpsc::channel(STEPS_BOUND);
        reply(Some(answer), Ok(steps));
        self.follow(what, sender.clone());
        sender
    }

    /// The watched file settled with something new.
    pub(crate) fn new_content(&mut self, content: Digest, reach: &mut Reach<'_>) {
        if self.book.seen == Some(content) {
            return;
        }
        let order = self.order(Trigger::Watch, Wish::Configured);
        self.prepare(order, reach);
    }

    pub(crate) fn rollback(&mut self, asked: &api::Rollback, who: Peer, answer: Steps, reach: &mut Reach<'_>) {
        match self.earlier_release(asked.release.as_deref()) {
            Ok(release) => {
                let mut order = self.order(Trigger::Rollback, Wish::Stored(release));
                order.who = Some(in_words(who));
                order.note.clone_from(&asked.note);
                order.answer = Some(answer);
                self.prepare(order, reach);
            }
            Err(refused) => reply(Some(answer), Err(refused)),
        }
    }

    fn earlier_release(&self, named: Option<&str>) -> Result<Digest, Refusal> {
        match &self.book.settings.program {
            Program::Command { .. } => {
                return Err(refusal(
                    1,
                    format!("{} runs a command in place and has no stored releases to go back to", self.name),
                ));
            }
            Program::Binary { .. } => {}
        }
        let store = self.files.archive.store();
        match named {
            Some(prefix) => store.find(prefix).map_err(|error| refusal(1, chain(&error))),
            None if matches!(self.phase(), Some(RolloutPhase::Back(_))) => {
                Err(refusal(5, format!("{} is going back already: wait for it, or name a release", self.name)))
            }
            None => {
                let live = self.machine.becoming();
                let before = live.and_then(|live| self.book.before(live)).filter(|before| store.contains(before));
                before.ok_or_else(|| {
                    refusal(
                        1,
                        format!(
                            "{} has had no other live release: name one of 'rollout history' or deploy a file",
                            self.name
                        ),
                    )
                })
            }
        }
    }

    pub(crate) fn scale(&mut self, workers: u32, answer: Steps, reach: &mut Reach<'_>) {
        if let Err(refused) = self.may_scale(workers) {
            return reply(Some(answer), Err(refused));
        }
        let mut settings = self.book.settings.clone();
        settings.limits.workers = workers;
        if let Err(refused) = self.relisten(&settings, reach) {
            return reply(Some(answer), Err(refused));
        }
        let overtaken = format!("the newer request for {workers} {} took its place", words::workers(workers));
        self.end_scaling(|asked| asked != workers, api::Outcome::Superseded, &overtaken, reach.wall);
        self.book.scaled = Some(workers);
        for plan in self.book.plans.values_mut() {
            plan.settings.limits.workers = workers;
        }
        self.open_steps(answer, Following::Scaling(workers));
        self.step(Event::Scale(workers), reach);
    }

    fn may_scale(&self, workers: u32) -> Result<(), Refusal> {
        let unavailable = self.book.settings.limits.max_unavailable;
        if workers == 0 {
            return Err(refusal(
                1,
                "a service needs at least 1 worker: use 'rollout stop' to stop everything".to_owned(),
            ));
        }
        if workers > MOST_WORKERS {
            return Err(refusal(1, format!("{workers} workers are too many: at most {MOST_WORKERS}")));
        }
        if unavailable >= workers {
            let why = format!("{workers} workers with max_unavailable {unavailable} could leave nobody serving");
            return Err(refusal(1, why));
        }
        if self.is_ending() {
            return Err(refusal(5, format!("{} is being stopped", self.name)));
        }
        if self.is_new() {
            return Err(refusal(5, format!("{} has not been started yet", self.name)));
        }
        Ok(())
    }

    pub(crate) fn steer(&mut self, steer: Steer, answer: Answer<Done>, reach: &mut Reach<'_>) {
        let name = self.name.clone();
        let phase = self.phase();
        let refused = |why: &str| Err(refusal(1, format!("{name}: {why}")));
        let nothing = |verb: &str| refused(&format!("no rollout is under way: there is nothing to {verb}"));
        let (event, now) = match (steer, phase) {
            (Steer::Pause, None) => return reply(Some(answer), nothing("pause")),
            (Steer::Resume, None) => return reply(Some(answer), nothing("resume")),
            (Steer::Abort, None) => return reply(Some(answer), nothing("abort")),
            (Steer::Pause, Some(RolloutPhase::Forward)) => {
                (Event::Pause, "is paused: go on with 'rollout resume', or back with 'rollout abort'")
            }
            (Steer::Pause, Some(RolloutPhase::Paused(_))) => {
                return reply(Some(answer), Ok(said(&name, "is paused already")));
            }
            (Steer::Resume, Some(RolloutPhase::Paused(_))) => (Event::Resume, "goes on"),
            (Steer::Resume, Some(RolloutPhase::Forward)) => {
                return reply(Some(answer), Ok(said(&name, "goes on already")));
            }
            (Steer::Abort, Some(RolloutPhase::Forward | RolloutPhase::Paused(_))) => {
                (Event::Abort, "goes back to the old release")
            }
            (Steer::Abort, Some(RolloutPhase::Back(_))) => {
                return reply(Some(answer), Ok(said(&name, "is going back already")));
            }
            (Steer::Pause | Steer::Resume, Some(RolloutPhase::Back(_))) => {
                return reply(Some(answer), refused("the rollout is being taken back and cannot be steered"));
            }
        };
        self.step(event, reach);
        reply(Some(answer), Ok(said(&name, now)));
    }

    fn phase(&self) -> Option<RolloutPhase> {
        self.machine.view().rollout.map(|rollout| rollout.phase)
    }

    pub(crate) fn history(&self) -> Result<History, Refusal> {
        let entries = self.files.archive.history().map_err(|error| refusal(1, chain(&error)))?;
        Ok(History { entries })
    }

    /// The kept lines are read off the loop: there may be many.
    pub(crate) fn logs(&self, lines: usize, slot: Option<Slot>, answer: Answer<LogFeed>, reach: &mut Reach<'_>) {
        let name = self.name.clone();
        let unreadable = move |why: String| refusal(1, format!("the kept output of {name} cannot be read: {why}"));
        let (kept, coming) = match self.files.output.follow() {
            Ok(feed) => feed,
            Err(error) => return reply(Some(answer), Err(unreadable(chain(&error)))),
        };
        reach.tasks.spawn(async move {
            let feed = match tokio::task::spawn_blocking(move || kept.read(lines, slot)).await {
                Ok(Ok(kept)) => Ok(LogFeed { kept, coming }),
                Ok(Err(error)) => Err(unreadable(error.to_string())),
                Err(error) => Err(unreadable(error.to_string())),
            };
            reply(Some(answer), feed);
        });
    }
}

fn said(name: &crate::units::ServiceName, what: &str) -> Done {
    Done { said: format!("{name}: the rollout {what}") }
}

/// `uid 1000`.
pub(crate) fn in_words(who: Peer) -> String {
    match who.pid {
        Some(pid) => format!("uid {} (pid {pid})", who.uid),
        None => format!("uid {}", who.uid),
    }
}

/// Answers, if somebody asked. One that has gone away meanwhile does not need it.
pub(crate) fn reply<T>(answer: Option<oneshot::Sender<T>>, what: T) {
    if let Some(answer) = answer {
        let _ = answer.send(what);
    }
}
