//! A rollout's steps as they come: live lines on a terminal, a line per step in a pipe, JSON for programs.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::board::{Board, plain};
use super::exit::Failure;
use super::{host, render};
use crate::units::Slot;
use crate::wire::api::{Progress, Step};

/// More slots than this do not fit a screen: lines of slots that are through are taken away.
const FITS: u32 = 16;

/// Where steps are shown.
pub(super) enum Screen {
    /// Every step as a line of JSON on stdout, as long as somebody reads it.
    Json(Reader),
    /// A line per step on stderr. Holds the workers whose draining was told: its count changes often.
    Plain(BTreeSet<String>),
    /// A live line per slot on stderr.
    Live(Live),
}

/// Whether somebody reads stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reader {
    There,
    Gone,
}

/// How the caller wants to see steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

impl Screen {
    /// A screen that fits what the process writes to.
    pub(super) fn new(format: Format) -> Self {
        match format {
            Format::Json => Self::Json(Reader::There),
            Format::Text if host::stderr_is_terminal() => Self::Live(Live::new()),
            Format::Text => Self::Plain(BTreeSet::new()),
        }
    }

    /// Shows a step. The rollout's end is told by `follow.rs`, not here, except as JSON.
    pub(super) fn show(&mut self, service: &str, step: &Step) -> Result<(), Failure> {
        match self {
            Self::Json(Reader::Gone) => Ok(()),
            Self::Json(reader @ Reader::There) => match render::print_json_line(step) {
                // The exit code is still awaited: a reader that left is no reason not to know how it ended.
                Err(Failure::StdoutClosed) => {
                    *reader = Reader::Gone;
                    Ok(())
                }
                other => other,
            },
            Self::Plain(told) => {
                if is_news(told, &step.progress)
                    && let Some(text) = plain(&step.progress)
                {
                    drop(writeln!(io::stderr(), "{service}: {text}"));
                }
                Ok(())
            }
            Self::Live(live) => {
                live.show(service, &step.progress);
                Ok(())
            }
        }
    }

    /// Something that is no step: above the live lines, on stderr.
    pub(super) fn remark(&self, text: &str) {
        match self {
            Self::Live(live) => drop(live.all.println(text)),
            Self::Json(_) | Self::Plain(_) => drop(writeln!(io::stderr(), "{text}")),
        }
    }

    /// Leaves the live lines as they are, for good.
    pub(super) fn finish(&self) {
        if let Self::Live(live) = self {
            live.finish();
        }
    }
}

/// Only the first word about a worker's draining is news in a pipe.
fn is_news(told: &mut BTreeSet<String>, step: &Progress) -> bool {
    if let Progress::Draining { worker, .. } = step { told.insert(worker.clone()) } else { true }
}

/// The live lines.
pub(super) struct Live {
    all: MultiProgress,
    head: ProgressBar,
    slots: BTreeMap<Slot, ProgressBar>,
    board: Board,
}

impl Live {
    fn new() -> Self {
        let all = MultiProgress::new();
        let head = all.add(ProgressBar::new_spinner().with_style(style("{spinner} {wide_msg}")));
        head.enable_steady_tick(Duration::from_millis(120));
        Self { all, head, slots: BTreeMap::new(), board: Board::default() }
    }

    fn show(&mut self, service: &str, step: &Progress) {
        let changed = self.board.learn(service, step);
        let (done, slots) = (self.board.done(), self.board.slots);
        let tally = if slots == 0 { String::new() } else { format!(" [{done}/{slots}]") };
        self.head.set_message(format!("{}{tally}", self.board.head));
        let Some(slot) = changed else { return };
        let text = self.board.text(slot);
        self.line(slot).set_message(text);
        let is_through = matches!(step, Progress::Gone { .. });
        if is_through
            && slots > FITS
            && let Some(line) = self.slots.remove(&slot)
        {
            line.finish_and_clear();
            self.all.remove(&line);
        }
    }

    fn line(&mut self, slot: Slot) -> &ProgressBar {
        self.slots.entry(slot).or_insert_with(|| {
            let line = ProgressBar::new_spinner().with_style(style("  {prefix:>3}  {wide_msg}"));
            self.all.add(line).with_prefix(slot.to_string())
        })
    }

    fn finish(&self) {
        self.head.set_style(style("{wide_msg}"));
        for line in [&self.head].into_iter().chain(self.slots.values()) {
            line.abandon();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the templates here are constants that parse")
}
