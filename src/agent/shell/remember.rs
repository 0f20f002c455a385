//! What notes put into the book. Done before the state is written, so that a successor knows it although the notes
//! themselves are told afterwards; and what a successor finds was decided and not told.

use std::time::Duration;

use super::Shell;
use super::tell::millis;
use crate::agent::book::Began;
use crate::agent::words;
use crate::machine::event::{Note, Outcome, Symptom, Target};
use crate::sys::clock;
use crate::units::{RolloutId, Slot, WorkerId};
use crate::wire::api::{self, Entry, Failure};

/// Output lines that a failure report quotes.
const QUOTED_LINES: usize = 20;

impl Shell {
    /// Takes one note into the book.
    pub(super) fn remember(&mut self, note: &Note) {
        match note {
            Note::Began { to, from } => self.remember_beginning(*to, *from),
            Note::Failed { slot, worker, symptom, .. } => self.remember_failure(*slot, *worker, symptom),
            Note::Ended { rollout, outcome } => self.remember_end(*rollout, outcome),
            Note::Queued { .. }
            | Note::Starting { .. }
            | Note::Ready { .. }
            | Note::Draining { .. }
            | Note::Killing { .. }
            | Note::Gone { .. }
            | Note::GaveUp { .. }
            | Note::RollingBack { .. }
            | Note::Paused { .. }
            | Note::Resumed { .. }
            | Note::Scaled { .. } => {}
        }
    }

    /// Writes down what the last agent decided and may not have written down.
    pub(super) fn catch_up_history(&mut self) {
        if self.book.endings.is_empty() {
            return;
        }
        // A history that cannot be read does not take anything in, either.
        let known = self.files.archive.history().unwrap_or_default();
        for entry in std::mem::take(&mut self.book.endings) {
            if known.iter().any(|written| written.rollout == entry.rollout) {
                continue;
            }
            if let Some(failure) = &entry.failure {
                self.files.archive.reject(entry.release, &failure.why);
            }
            self.files.archive.record(&entry);
        }
    }

    fn remember_beginning(&mut self, to: Target, from: Option<Target>) {
        if let Some(plan) = self.book.plans.get_mut(&to.rollout) {
            let from = from.map(|from| from.release);
            plan.began = Some(Began { at: clock::now(), generation: to.generation, from });
        }
    }

    fn remember_failure(&mut self, slot: Slot, worker: WorkerId, symptom: &Symptom) {
        let failure = self.failure(slot, worker, symptom);
        let rollout = self.book.posts.get(&worker).map(|post| post.rollout);
        if let Some(plan) = rollout.and_then(|rollout| self.book.plans.get_mut(&rollout)) {
            plan.failure.get_or_insert(failure);
        }
    }

    /// Why a worker was no good, with its last words.
    pub(super) fn failure(&self, slot: Slot, worker: WorkerId, symptom: &Symptom) -> Failure {
        let output = self.files.output.last_lines(worker, QUOTED_LINES);
        Failure { slot, worker: worker.to_string(), why: self.why_failed(worker, symptom), output }
    }

    fn remember_end(&mut self, rollout: RolloutId, outcome: &Outcome) {
        let outcome = words::outcome(outcome);
        self.book.endings.extend(self.entry(rollout, outcome));
        if let (api::Outcome::Done, Some(plan)) = (outcome, self.book.plans.get(&rollout)) {
            self.book.lived(plan.release);
        }
    }

    fn entry(&self, rollout: RolloutId, outcome: api::Outcome) -> Option<Entry> {
        let plan = self.book.plans.get(&rollout)?;
        Some(Entry {
            rollout,
            generation: plan.began.map(|began| began.generation),
            at: plan.asked_at.clone(),
            trigger: plan.trigger.name().to_owned(),
            release: plan.release,
            from: plan.began.and_then(|began| began.from),
            outcome,
            took_ms: millis(plan.began.map_or(Duration::ZERO, |began| clock::now().since(began.at))),
            who: plan.who.clone(),
            note: plan.note.clone(),
            failure: plan.failure.clone().filter(|_| outcome != api::Outcome::Done),
        })
    }
}
