//! What commands print: the only file that writes to stdout.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::time::SystemTime;

use comfy_table::{Cell, Color, Table, presets};
use serde::Serialize;

use super::exit::{Exit, Failure};
use super::words::{ago, release, tame, took};
use crate::wire::api;

/// Prints a text and a newline.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.write_all(b"\n"));
    match written.and_then(|()| stdout.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure::StdoutClosed),
        Err(error) => Err(Failure::told(Exit::Unchanged, format!("write to stdout: {error}"))),
    }
}

/// Prints a value as one line of JSON.
pub(super) fn print_json_line(value: &impl Serialize) -> Result<(), Failure> {
    print(&serde_json::to_string(value).map_err(not_json)?)
}

/// Prints a value as JSON for people and programs.
pub(super) fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    print(&serde_json::to_string_pretty(value).map_err(not_json)?)
}

fn not_json(error: serde_json::Error) -> Failure {
    Failure::told(Exit::Unchanged, format!("write JSON: {error}"))
}

/// Prints over what the terminal shows.
pub(super) fn redraw(text: &str) -> Result<(), Failure> {
    // To the upper left corner, the text with the rest of each line erased, and the rest of the screen erased.
    let text = text.replace('\n', "\x1b[K\n");
    print(&format!("\x1b[H{text}\x1b[K\x1b[J"))
}

/// Whether a text may have colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Colour {
    /// Plain text.
    Off,
    /// A person looks.
    On,
}

/// `rollout status`.
pub(super) fn status(status: &api::Status, now: SystemTime, colour: Colour) -> String {
    let services: Vec<String> = status.services.iter().map(|service| service_block(service, now, colour)).collect();
    if services.is_empty() { "no services".to_owned() } else { services.join("\n\n") }
}

fn service_block(service: &api::ServiceStatus, now: SystemTime, colour: Colour) -> String {
    let mut facts = vec![service.name.clone(), paint(&service.state, colour)];
    facts.extend(service.generation.map(|generation| format!("generation {generation}")));
    facts.extend(service.release.map(|digest| format!("release {}", digest.short())));
    facts.push(if service.listen.is_empty() { "no listener".to_owned() } else { service.listen.join(" ") });
    let mut text = facts.join("  ");
    if let Some(rollout) = &service.rollout {
        let (from, to) = (release(rollout.from), rollout.to.short());
        let phase = match rollout.phase.as_str() {
            "back" => "rolling back",
            "forward" => "rolling",
            other => other,
        };
        let (id, done, slots, since) = (rollout.id, rollout.done, rollout.slots, ago(&rollout.since, now));
        write!(text, "\n{phase}: rollout {id} from {from} to {to}: {done} of {slots} slots after {since}")
            .expect("a String takes everything");
        if let Some(cause) = &rollout.cause {
            write!(text, ": {}", tame(cause)).expect("a String takes everything");
        }
    }
    let mut table = plain_table(&["SLOT", "STATE", "PID", "GENERATION", "RELEASE", "SINCE", "RESTARTS", "CONNECTIONS"]);
    for worker in &service.workers {
        table.add_row([
            Cell::new(worker.slot),
            state_cell(&worker.state, colour),
            Cell::new(or_dash(worker.pid)),
            Cell::new(or_dash(worker.generation)),
            Cell::new(release(worker.release)),
            Cell::new(ago(&worker.since, now)),
            Cell::new(worker.restarts),
            Cell::new(or_dash(worker.connections)),
        ]);
    }
    format!("{text}\n{}", drawn(table, colour))
}

/// `rollout history`; on a terminal so wide, where a line that does not fit is cut, because a wrapped table is none.
pub(super) fn history(history: &api::History, now: SystemTime, width: Option<usize>) -> String {
    if history.entries.is_empty() {
        return "no rollouts yet".to_owned();
    }
    let mut table = plain_table(&["ROLLOUT", "AGO", "TRIGGER", "RELEASE", "FROM", "OUTCOME", "TOOK", "WHO", "NOTE"]);
    for entry in &history.entries {
        let failure = entry.failure.as_ref().map(|failure| format!("slot {}: {}", failure.slot, failure.why));
        let note = [entry.note.clone(), failure].into_iter().flatten().collect::<Vec<_>>().join("; ");
        table.add_row([
            entry.rollout.to_string(),
            ago(&entry.at, now),
            entry.trigger.clone(),
            entry.release.short(),
            release(entry.from),
            outcome(entry.outcome).to_owned(),
            took(entry.took_ms),
            entry.who.clone().unwrap_or_else(|| "-".to_owned()),
            tame(&note).into_owned(),
        ]);
    }
    let text = drawn(table, Colour::Off);
    match width {
        Some(width) => text.lines().map(|line| cut(line, width)).collect::<Vec<_>>().join("\n"),
        None => text,
    }
}

/// How wide the terminal on stdout is; `None`: there is none.
pub(super) fn terminal_width() -> Option<usize> {
    Table::new().width().map(usize::from)
}

fn cut(line: &str, width: usize) -> String {
    if line.chars().count() <= width {
        return line.to_owned();
    }
    line.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

/// A line of `rollout logs`.
pub(super) fn log_line(service: &str, line: &api::LogLine, show: Show) -> String {
    let text = match show {
        Show::Raw => line.line.as_str().into(),
        Show::Tamed => tame(&line.line),
    };
    // Slot 0 is nobody's: the agent speaks about the log itself.
    if line.slot.0 == 0 { format!("{service} | {text}") } else { format!("{service}.{} | {text}", line.slot) }
}

/// How text from elsewhere is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Show {
    /// As it is, for a file or a program.
    Raw,
    /// With control characters written out, for a terminal.
    Tamed,
}

/// An outcome in words.
pub(super) fn outcome(outcome: api::Outcome) -> &'static str {
    match outcome {
        api::Outcome::Done => "done",
        api::Outcome::AlreadyLive => "already live",
        api::Outcome::RolledBack => "rolled back",
        api::Outcome::NeedsPerson => "needs a person",
        api::Outcome::Superseded => "superseded",
        api::Outcome::Stopped => "stopped",
    }
}

fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn plain_table(head: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(head);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
}

fn drawn(mut table: Table, colour: Colour) -> String {
    match colour {
        Colour::On => table.enforce_styling(),
        Colour::Off => table.force_no_tty(),
    };
    let text = table.to_string();
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

fn colour_of(state: &str) -> Option<Color> {
    match state {
        "ready" | "serving" => Some(Color::Green),
        "failed" | "backoff" | "degraded" => Some(Color::Red),
        "starting" | "draining" | "rolling" | "stopping" => Some(Color::Yellow),
        _ => None,
    }
}

fn state_cell(state: &str, colour: Colour) -> Cell {
    let cell = Cell::new(state);
    match colour_of(state).filter(|_| colour == Colour::On) {
        Some(colour) => cell.fg(colour),
        None => cell,
    }
}

fn paint(state: &str, colour: Colour) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).add_row([state_cell(state, colour)]);
    if let Some(column) = table.column_mut(0) {
        column.set_padding((0, 0));
    }
    drawn(table, colour)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{Digest, Generation, RolloutId, Slot};

    fn rolling() -> api::Status {
        let worker = |slot, pid, state: &str, connections| api::WorkerStatus {
            slot: Slot(slot),
            pid,
            state: state.to_owned(),
            generation: Some(Generation(3)),
            release: Some(Digest([0x11; 32])),
            since: "2026-02-03T04:05:00Z".to_owned(),
            restarts: 2,
            connections,
        };
        let rollout = api::RolloutStatus {
            id: RolloutId(7),
            phase: "back".to_owned(),
            from: None,
            to: Digest([0x22; 32]),
            done: 1,
            slots: 2,
            since: "2026-02-03T04:05:00Z".to_owned(),
            cause: Some("slot 2 was no good".to_owned()),
        };
        let service = api::ServiceStatus {
            name: "web".to_owned(),
            state: "rolling".to_owned(),
            generation: Some(Generation(3)),
            release: Some(Digest([0x11; 32])),
            listen: vec![],
            workers: vec![worker(1, Some(4121), "draining", Some(12)), worker(2, None, "backoff", None)],
            rollout: Some(rollout),
        };
        api::Status { services: vec![service] }
    }

    fn now() -> SystemTime {
        humantime::parse_rfc3339("2026-02-03T04:06:05Z").unwrap()
    }

    #[test]
    fn status_is_a_line_per_service_one_for_its_rollout_and_a_table_of_its_workers() {
        assert_eq!(
            status(&rolling(), now(), Colour::Off),
            "\
web  rolling  generation 3  release 111111111111  no listener
rolling back: rollout r7 from - to 222222222222: 1 of 2 slots after 1m 5s: slot 2 was no good
SLOT  STATE     PID   GENERATION  RELEASE       SINCE  RESTARTS  CONNECTIONS
1     draining  4121  3           111111111111  1m 5s  2         12
2     backoff   -     3           111111111111  1m 5s  2         -"
        );
        assert_eq!(status(&api::Status { services: vec![] }, now(), Colour::Off), "no services");
    }

    #[test]
    fn a_history_that_is_wider_than_the_terminal_is_cut_and_a_pipe_gets_all_of_it() {
        let entry = api::Entry {
            rollout: RolloutId(3),
            generation: None,
            at: "2026-02-03T04:05:00Z".to_owned(),
            trigger: "deploy".to_owned(),
            release: Digest([0x22; 32]),
            from: None,
            outcome: api::Outcome::RolledBack,
            took_ms: 12,
            who: None,
            note: Some("é".repeat(50)),
            failure: None,
        };
        let entries = api::History { entries: vec![entry] };
        assert!(history(&entries, now(), None).ends_with(&"é".repeat(50)));
        let narrow = history(&entries, now(), Some(60));
        assert!(narrow.lines().all(|line| line.chars().count() <= 60), "{narrow}");
        assert!(narrow.ends_with('…'), "{narrow}");
    }

    #[test]
    fn colours_are_there_only_when_asked_for() {
        assert!(!status(&rolling(), now(), Colour::Off).contains('\x1b'));
        assert!(status(&rolling(), now(), Colour::On).contains("\x1b["));
    }

    #[test]
    fn log_lines_name_their_slot_and_obey_nothing_on_a_terminal() {
        let mut line =
            api::LogLine { at: String::new(), slot: Slot(1), worker: "w1".to_owned(), line: "\x1b[31mred".to_owned() };
        assert_eq!(log_line("web", &line, Show::Raw), "web.1 | \x1b[31mred");
        assert_eq!(log_line("web", &line, Show::Tamed), "web.1 | \\u{1b}[31mred");
        line.slot = Slot(0);
        assert_eq!(log_line("web", &line, Show::Tamed), "web | \\u{1b}[31mred");
    }
}
