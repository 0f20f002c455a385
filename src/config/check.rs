//! The rules: from what was written to what will be done. Every problem is added; nothing stops at the first.
//!
//! A value that is bad or missing is replaced by its default so that the rules after it can still be checked; the
//! result is only used when there were no problems.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::settings::{Logs, Program, Service, Settings, Watch};
use crate::units::{ServiceName, Signal};

use super::problem::{At, Place, Problems};
use super::raw;
use super::read::{Count, Entry, Field, List, Named, Switchable, Text, Time};

mod health;
mod limits;
mod listen;

/// What a check depends on besides the text.
pub(super) struct Surroundings<'a> {
    /// What relative paths are relative to. Absolute.
    pub(super) dir: &'a Path,
    /// What `workers: auto` means.
    pub(super) cpus: u32,
}

/// Applies every rule.
pub(super) fn check(root: &raw::Root, around: &Surroundings<'_>, problems: &mut Problems<'_>) -> Settings {
    let mut settings = Settings {
        services: BTreeMap::new(),
        state_dir: path(&root.state_dir, around, problems),
        socket: path(&root.socket, around, problems),
    };
    let mut taken = listen::Taken::default();
    for entry in services(root, problems) {
        let at = At { place: entry.key_at.place, path: entry.key_at.path.clone() };
        let name = entry.key.parse::<ServiceName>().map_err(|error| problems.add(&at, error.to_string()));
        let Some(raw) = entry.value.value() else { continue };
        let service = service(raw, &at, around, &mut taken, problems);
        if let Ok(name) = name {
            settings.services.insert(name, service);
        }
    }
    settings
}

fn services<'r>(root: &'r raw::Root, problems: &mut Problems<'_>) -> &'r [Entry<raw::Service>] {
    const ADVICE: &str = "no service: write `services:` and below it a name with `binary:` or `command:` \
                          (`rollout init` writes an example)";
    match &root.services {
        Field::Given(Named(entries), at) if entries.is_empty() => problems.add(at, ADVICE),
        Field::Given(Named(entries), _) => return entries,
        Field::Absent => problems.add(&At { place: Place::Whole, path: String::new() }, ADVICE),
        Field::Bad => {}
    }
    &[]
}

fn service(
    raw: &raw::Service,
    at: &At,
    around: &Surroundings<'_>,
    taken: &mut listen::Taken,
    problems: &mut Problems<'_>,
) -> Service {
    let handover = raw.handover.value().copied().unwrap_or_default();
    let listen = listen::check(&raw.listen, handover, around, taken, problems);
    Service {
        program: program(raw, at, around, problems),
        cwd: path(&raw.cwd, around, problems).unwrap_or_else(|| around.dir.to_owned()),
        env: env(&raw.env, problems),
        handover,
        health: health::check(raw, at, &listen, problems),
        listen,
        limits: limits::check(raw, at, around, problems),
        stop_signal: stop_signal(&raw.drain, problems),
        logs: logs(&raw.logs, problems),
        keep: at_least_one(&raw.keep, 5, problems) as usize,
    }
}

/// Stands for the stored copy of the binary.
const RELEASE: &str = "{release}";

fn program(raw: &raw::Service, at: &At, around: &Surroundings<'_>, problems: &mut Problems<'_>) -> Program {
    let words = words(&raw.command, problems);
    let has_release = words.iter().flatten().any(|word| word.contains(RELEASE));
    if raw.binary.is_absent() {
        match raw.command.given() {
            None if raw.command.is_absent() => {
                problems.add(at, "nothing to run: write binary (a file that is deployed) or command (run in place)");
            }
            Some((_, at)) if has_release => {
                problems.add(at, "{release} is the stored copy of binary, and there is no binary: add it");
            }
            _ => {}
        }
        if let Some((Switchable::On(_), at)) = raw.watch.given() {
            problems.add(at, "there is nothing to watch without binary: add it, or remove watch");
        }
        return Program::Command { command: words.unwrap_or_default() };
    }
    if let (Some((_, at)), false) = (raw.command.given(), has_release) {
        problems.add(at, "does not run the release: write {release} where the program belongs, or remove binary");
    }
    Program::Binary {
        path: path(&raw.binary, around, problems).unwrap_or_default(),
        command: words.unwrap_or_else(|| vec![RELEASE.to_owned()]),
        watch: watch(&raw.watch, problems),
    }
}

fn watch(field: &Field<Switchable<raw::Watch>>, problems: &mut Problems<'_>) -> Watch {
    const SETTLE: Duration = Duration::from_secs(1);
    match field.value() {
        Some(Switchable::Off) => Watch::Off,
        Some(Switchable::On(raw)) => Watch::On { settle: positive(&raw.settle, SETTLE, problems) },
        None => Watch::On { settle: SETTLE },
    }
}

/// Program and arguments.
fn words(field: &Field<List<Text>>, problems: &mut Problems<'_>) -> Option<Vec<String>> {
    let (words, at) = field.given()?;
    let program = words.good.first().filter(|_| words.good.len() == words.written);
    if words.written == 0 || program.is_some_and(|(Text(program), _)| program.is_empty()) {
        problems.add(at, "names no program: the first word must be one");
    }
    Some(words.good.iter().map(|(Text(word), _)| word.clone()).collect())
}

/// An absolute path; one that is relative begins at the directory of the file.
fn path(field: &Field<Text>, around: &Surroundings<'_>, problems: &mut Problems<'_>) -> Option<PathBuf> {
    let (Text(text), at) = field.given()?;
    if text.is_empty() {
        problems.add(at, "is empty: write a path, or remove the key");
        return None;
    }
    Some(absolute(text, around))
}

fn absolute(text: &str, around: &Surroundings<'_>) -> PathBuf {
    let joined = around.dir.join(text);
    // Takes the "." out of "/etc/./web", as a person would. Fails for the empty path only.
    std::path::absolute(&joined).unwrap_or(joined)
}

fn env(field: &Field<Named<Text>>, problems: &mut Problems<'_>) -> BTreeMap<String, String> {
    let mut env = BTreeMap::new();
    for Entry { key, key_at, value } in field.value().map_or(&[][..], |Named(entries)| entries) {
        if key.is_empty() || key.contains(['=', '\0']) {
            problems.add(key_at, "not the name of a variable: it cannot be empty or contain '='");
        }
        if matches!(key.as_str(), "LISTEN_FDS" | "LISTEN_PID" | "LISTEN_FDNAMES" | "NOTIFY_SOCKET" | "ROLLOUT_SLOT") {
            problems.add(key_at, "is set for each worker by rollout: remove it");
        }
        if let Some(Text(value)) = value.value() {
            env.insert(key.clone(), value.clone());
        }
    }
    env
}

fn stop_signal(drain: &Field<raw::Drain>, problems: &mut Problems<'_>) -> Signal {
    const STOP: Signal = Signal(19);
    let Some((signal, at)) = drain.value().and_then(|drain| drain.signal.given()) else {
        return Signal::TERM;
    };
    if matches!(*signal, Signal::KILL | STOP) {
        problems.add(at, format!("{signal} cannot ask a worker to finish its work: write a signal that it can catch"));
    }
    *signal
}

fn logs(field: &Field<raw::Logs>, problems: &mut Problems<'_>) -> Logs {
    /// Less would rotate at almost every line.
    const LEAST: u64 = 4096;
    let usual = raw::Logs::default();
    let raw::Logs { max_size, files } = field.value().unwrap_or(&usual);
    if let Some((size, at)) = max_size.given()
        && size.0 < LEAST
    {
        problems.add(at, format!("{} bytes hold almost nothing: write at least 4KiB", size.0));
    }
    Logs { max_size: max_size.value().map_or(10 << 20, |size| size.0), files: at_least_one(files, 5, problems) }
}

fn time(field: &Field<Time>, default: Duration) -> Duration {
    field.value().map_or(default, |time| time.0)
}

/// A time that cannot be zero.
fn positive(field: &Field<Time>, default: Duration, problems: &mut Problems<'_>) -> Duration {
    if let Some((Time(Duration::ZERO), at)) = field.given() {
        problems.add(at, "must be more than 0");
    }
    time(field, default)
}

fn at_least_one(field: &Field<Count>, default: u32, problems: &mut Problems<'_>) -> u32 {
    if let Some((Count(0), at)) = field.given() {
        problems.add(at, "must be at least 1");
    }
    field.value().map_or(default, |count| count.0)
}
