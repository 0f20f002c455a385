//! What the steps of a rollout mean for each slot, as text. Pure: `progress.rs` draws it.

use std::collections::BTreeMap;

use super::words::{count, release, size, tame, took};
use crate::units::Slot;
use crate::wire::api::Progress;

/// The picture that a rollout's steps have drawn so far.
#[derive(Debug, Default)]
pub(super) struct Board {
    /// One line about the whole rollout.
    pub(super) head: String,
    /// How many slots there are, once that is known.
    pub(super) slots: u32,
    lines: BTreeMap<Slot, Line>,
}

/// One slot: who comes and who goes.
#[derive(Debug, Default)]
struct Line {
    comes: Option<(String, String)>,
    goes: Option<(String, String)>,
    serves: Serves,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Serves {
    #[default]
    NotYet,
    Fresh,
}

impl Board {
    /// Takes a step in. `Some`: the slot whose line changed.
    pub(super) fn learn(&mut self, service: &str, step: &Progress) -> Option<Slot> {
        match step {
            Progress::Began { rollout, generation, release: to, from, slots } => {
                self.slots = *slots;
                let (from, to) = (release(*from), to.short());
                self.head = format!("{service}: rollout {rollout}, generation {generation}: {from} → {to}");
                None
            }
            Progress::Starting { slot, worker, .. } => {
                Some(self.line(*slot).come(worker, "starting".to_owned(), Serves::NotYet, *slot))
            }
            Progress::Ready { slot, worker, took_ms } => {
                let text = format!("ready after {}", took(*took_ms));
                Some(self.line(*slot).come(worker, text, Serves::Fresh, *slot))
            }
            Progress::Failed { slot, worker, why, .. } => {
                let text = format!("failed: {}", tame(why));
                Some(self.line(*slot).come(worker, text, Serves::NotYet, *slot))
            }
            Progress::Draining { slot, worker, connections } => {
                Some(self.line(*slot).go(worker, draining(*connections), *slot))
            }
            Progress::Gone { slot, worker, took_ms, .. } => {
                Some(self.line(*slot).go(worker, format!("gone after {}", took(*took_ms)), *slot))
            }
            Progress::RollingBack { why } => {
                self.head = format!("{service}: rolling back: {}", tame(why));
                for line in self.lines.values_mut() {
                    line.serves = Serves::NotYet;
                }
                None
            }
            Progress::Paused { .. }
            | Progress::Resumed
            | Progress::Stored { .. }
            | Progress::Queued { .. }
            | Progress::Ended(_) => {
                self.head = format!("{service}: {}", plain(step)?);
                None
            }
        }
    }

    /// Slots whose newcomer serves.
    pub(super) fn done(&self) -> u64 {
        self.lines.values().map(|line| u64::from(line.serves == Serves::Fresh)).sum()
    }

    /// A slot's line.
    pub(super) fn text(&self, slot: Slot) -> String {
        let Some(line) = self.lines.get(&slot) else { return String::new() };
        let both = [&line.comes, &line.goes];
        let said = both.into_iter().flatten().map(|(worker, text)| format!("{worker} {text}"));
        said.collect::<Vec<_>>().join(", ")
    }

    fn line(&mut self, slot: Slot) -> &mut Line {
        self.lines.entry(slot).or_default()
    }
}

impl Line {
    fn come(&mut self, worker: &str, text: String, serves: Serves, slot: Slot) -> Slot {
        self.comes = Some((worker.to_owned(), text));
        self.serves = serves;
        slot
    }

    fn go(&mut self, worker: &str, text: String, slot: Slot) -> Slot {
        // One that came with this rollout can be told to go by its way back.
        if self.comes.as_ref().is_some_and(|(comes, _)| comes == worker) {
            self.comes = None;
        }
        self.goes = Some((worker.to_owned(), text));
        slot
    }
}

fn draining(connections: Option<u32>) -> String {
    match connections {
        Some(number) => format!("draining {}", count(number, "connection")),
        None => "draining".to_owned(),
    }
}

/// A step as one line for a pipe. `None`: nothing that a line is due for.
pub(super) fn plain(step: &Progress) -> Option<String> {
    Some(match step {
        Progress::Stored { release, already: true, .. } => {
            format!("release {} is in the store already", release.short())
        }
        Progress::Stored { release, size: bytes, already: false } => {
            format!("release {} stored, {}", release.short(), size(*bytes))
        }
        Progress::Queued { rollout, behind } => format!("rollout {rollout} waits for rollout {behind} to end"),
        Progress::Began { rollout, generation, release: to, from, slots } => {
            let (from, to, slots) = (release(*from), to.short(), count(*slots, "slot"));
            format!("rollout {rollout} began: generation {generation}, {slots}, {from} → {to}")
        }
        Progress::Starting { slot, worker, .. } => format!("slot {slot}: {worker} starting"),
        Progress::Ready { slot, worker, took_ms } => format!("slot {slot}: {worker} ready after {}", took(*took_ms)),
        Progress::Draining { slot, worker, connections } => format!("slot {slot}: {worker} {}", draining(*connections)),
        Progress::Gone { slot, worker, took_ms, how } => {
            format!("slot {slot}: {worker} gone after {} ({})", took(*took_ms), tame(how))
        }
        Progress::Failed { slot, worker, why, .. } => format!("slot {slot}: {worker} failed: {}", tame(why)),
        Progress::RollingBack { why } => format!("rolling back: {}", tame(why)),
        Progress::Paused { why } => format!("paused: {}", tame(why)),
        Progress::Resumed => "resumed".to_owned(),
        Progress::Ended(_) => return None,
    })
}
