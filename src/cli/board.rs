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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{Digest, Generation, RolloutId};

    const SLOT: Slot = Slot(2);

    fn board_after(steps: &[Progress]) -> Board {
        let mut board = Board::default();
        for step in steps {
            board.learn("web", step);
        }
        board
    }

    fn starting(worker: &str) -> Progress {
        Progress::Starting { slot: SLOT, worker: worker.to_owned(), release: Digest([2; 32]) }
    }

    fn ready(worker: &str) -> Progress {
        Progress::Ready { slot: SLOT, worker: worker.to_owned(), took_ms: 412 }
    }

    fn leaving(worker: &str, connections: Option<u32>) -> Progress {
        Progress::Draining { slot: SLOT, worker: worker.to_owned(), connections }
    }

    #[test]
    fn a_slots_line_tells_who_comes_and_who_goes() {
        let gone = Progress::Gone { slot: SLOT, worker: "w1".to_owned(), took_ms: 1180, how: "exit code 0".to_owned() };
        let mut steps = Vec::new();
        for (step, text, done) in [
            (starting("w5"), "w5 starting", 0),
            (ready("w5"), "w5 ready after 412 ms", 1),
            (leaving("w1", Some(12)), "w5 ready after 412 ms, w1 draining 12 connections", 1),
            (leaving("w1", Some(1)), "w5 ready after 412 ms, w1 draining 1 connection", 1),
            (leaving("w1", None), "w5 ready after 412 ms, w1 draining", 1),
            (gone, "w5 ready after 412 ms, w1 gone after 1.2 s", 1),
        ] {
            steps.push(step);
            let board = board_after(&steps);
            assert_eq!((board.text(SLOT).as_str(), board.done()), (text, done));
        }
    }

    #[test]
    fn on_the_way_back_the_newcomer_is_the_one_who_goes() {
        let back = Progress::RollingBack { why: "slot 3 was no good".to_owned() };
        let mut steps = vec![starting("w5"), ready("w5"), back];
        assert_eq!(board_after(&steps).head, "web: rolling back: slot 3 was no good");
        assert_eq!(board_after(&steps).done(), 0);
        steps.extend([leaving("w5", None)]);
        assert_eq!(board_after(&steps).text(SLOT), "w5 draining");
        steps.extend([starting("w9"), ready("w9")]);
        let board = board_after(&steps);
        assert_eq!((board.text(SLOT).as_str(), board.done()), ("w9 ready after 412 ms, w5 draining", 1));
    }

    #[test]
    fn the_head_names_rollout_generation_and_releases() {
        let (from, to) = (Some(Digest([1; 32])), Digest([2; 32]));
        let began = Progress::Began { rollout: RolloutId(7), generation: Generation(4), release: to, from, slots: 4 };
        let board = board_after(&[began]);
        assert_eq!(board.head, "web: rollout r7, generation 4: 010101010101 → 020202020202");
        assert_eq!(board.slots, 4);
    }

    #[test]
    fn a_workers_words_cannot_move_the_cursor() {
        let failed =
            Progress::Failed { slot: SLOT, worker: "w5".to_owned(), why: "\x1b[2J".to_owned(), output: vec![] };
        assert_eq!(board_after(std::slice::from_ref(&failed)).text(SLOT), "w5 failed: \\u{1b}[2J");
        assert_eq!(plain(&failed).as_deref(), Some("slot 2: w5 failed: \\u{1b}[2J"));
    }
}
