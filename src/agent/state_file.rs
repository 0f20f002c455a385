//! The state file of one service: written before each step that cannot be taken back, never in place.
//!
//! `state.json` is the newest state and is not synced: a crash of the agent loses nothing that was written, and after a
//! crash of the machine no process is left that it could describe. What a reboot must find is also in
//! `state.lasting.json`, which is synced and is read where the newest did not survive.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::book::Kept;

/// Both the newest format and the only one so far.
const FORMAT: u32 = 1;

/// Where one service's state is kept.
#[derive(Debug)]
pub(crate) struct StateFile {
    path: PathBuf,
}

#[derive(Serialize)]
struct Writing<'a> {
    format: u32,
    boot: &'a str,
    #[serde(flatten)]
    kept: KeptRef<'a>,
}

#[derive(Serialize)]
struct KeptRef<'a> {
    machine: &'a crate::machine::service::Service,
    book: &'a super::book::Book,
}

#[derive(Deserialize)]
struct Format {
    format: u32,
    boot: String,
}

/// What was found.
pub(crate) enum Found {
    /// Nothing: a first start.
    Nothing,
    /// State of this boot: its processes and moments mean something.
    ThisBoot(Box<Kept>),
    /// State of an earlier boot: its releases and requests mean something.
    EarlierBoot(Box<Kept>),
    /// Something that cannot be read; the text says why.
    Unreadable(String),
}

impl StateFile {
    pub(crate) fn in_dir(dir: &Path) -> Self {
        Self { path: dir.join("state.json") }
    }

    pub(crate) fn read(&self) -> Found {
        let newest = match read(&self.path) {
            // The agent was killed between the two steps of `replace`: the next one is whole.
            Found::Nothing => match read(&self.next()) {
                Found::Unreadable(_) => Found::Nothing,
                found @ (Found::Nothing | Found::ThisBoot(_) | Found::EarlierBoot(_)) => found,
            },
            found @ (Found::ThisBoot(_) | Found::EarlierBoot(_) | Found::Unreadable(_)) => found,
        };
        match newest {
            Found::Nothing | Found::Unreadable(_) => match read(&self.lasting()) {
                lasting @ Found::EarlierBoot(_) => lasting,
                // Of this boot, it could describe processes that are long gone.
                Found::Nothing | Found::ThisBoot(_) | Found::Unreadable(_) => newest,
            },
            Found::ThisBoot(_) | Found::EarlierBoot(_) => newest,
        }
    }

    /// Puts an unreadable file aside, so that a person can look at it and it is not read again.
    pub(crate) fn put_aside(&self) -> io::Result<PathBuf> {
        let aside = self.path.with_extension("json.unreadable");
        fs::rename(&self.path, &aside)?;
        Ok(aside)
    }

    /// Writes the newest state, and the lasting one if it must survive the machine.
    pub(crate) fn write(
        &self,
        kept: (&crate::machine::service::Service, &super::book::Book),
        last: Last,
    ) -> io::Result<()> {
        let boot = boot_id();
        let writing = Writing { format: FORMAT, boot: &boot, kept: KeptRef { machine: kept.0, book: kept.1 } };
        let text = serde_json::to_vec(&writing)?;
        if last == Last::Reboot {
            let temporary = self.path.with_extension("lasting.json.new");
            let mut file = File::create(&temporary)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&temporary, self.lasting())?;
        }
        self.replace(&text)
    }

    /// Puts a new text in the place of the newest, of which one is whole at any moment.
    ///
    /// Not by a rename onto it: then ext4 begins to write the file out and everybody waits for the disk, for
    /// milliseconds (ext4(5), `auto_da_alloc`). Whoever reads knows what it means when only the next one is there.
    fn replace(&self, text: &[u8]) -> io::Result<()> {
        let next = self.next();
        if !fs::exists(&self.path)? && fs::exists(&next)? {
            // A death between the two steps: without this the only whole text would be written over.
            fs::rename(&next, &self.path)?;
        }
        fs::write(&next, text)?;
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        fs::rename(&next, &self.path)
    }

    fn next(&self) -> PathBuf {
        self.path.with_extension("json.new")
    }

    fn lasting(&self) -> PathBuf {
        self.path.with_extension("lasting.json")
    }
}

fn read(path: &Path) -> Found {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Found::Nothing,
        Err(error) => return Found::Unreadable(error.to_string()),
    };
    match serde_json::from_slice::<Format>(&text) {
        Ok(Format { format: FORMAT, boot }) => match serde_json::from_slice(&text) {
            Ok(kept) if boot == boot_id() => Found::ThisBoot(kept),
            Ok(kept) => Found::EarlierBoot(kept),
            Err(error) => Found::Unreadable(error.to_string()),
        },
        Ok(Format { format, .. }) => Found::Unreadable(format!("its format is {format}, this program knows {FORMAT}")),
        Err(error) => Found::Unreadable(error.to_string()),
    }
}

/// What a written state must survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Last {
    /// The death of this process.
    Process,
    /// The death of the machine.
    Reboot,
}

/// Names this boot (proc_sys_kernel(5)); empty where /proc does not say.
fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::book::Book;
    use crate::machine::service::Service as Machine;

    /// A state whose mark is `last_rollout`.
    fn write(state: &StateFile, dir: &Path, mark: u64, last: Last) {
        let config = dir.join("rollout.yaml");
        fs::write(&config, "services: {web: {command: [/bin/true], readiness: {alive_for: 1s}}}").expect("write");
        let settings = crate::config::load(&config, 1).expect("a configuration").services;
        let mut book = Book::new(settings.into_values().next().expect("one service"));
        book.last_rollout = mark;
        state.write((&Machine::new(), &book), last).expect("write the state");
    }

    fn mark(found: Found) -> (&'static str, u64) {
        match found {
            Found::Nothing => ("nothing", 0),
            Found::Unreadable(_) => ("unreadable", 0),
            Found::ThisBoot(kept) => ("this boot", kept.book.last_rollout),
            Found::EarlierBoot(kept) => ("earlier boot", kept.book.last_rollout),
        }
    }

    /// What a reboot does to a file.
    fn age(path: &Path) {
        let text = fs::read_to_string(path).expect("read").replace(&boot_id(), "another-boot");
        fs::write(path, text).expect("write");
    }

    #[test]
    fn one_state_is_whole_at_every_moment_of_a_write() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let state = StateFile::in_dir(dir.path());
        assert_eq!(mark(state.read()), ("nothing", 0));
        fs::write(state.next(), "{\"form").expect("write");
        assert_eq!(mark(state.read()), ("nothing", 0), "killed while it wrote the first");
        write(&state, dir.path(), 1, Last::Process);
        fs::write(state.next(), "{\"form").expect("write");
        assert_eq!(mark(state.read()), ("this boot", 1), "killed while it wrote the next");
        write(&state, dir.path(), 2, Last::Process);
        fs::rename(&state.path, state.next()).expect("rename");
        assert_eq!(mark(state.read()), ("this boot", 2), "killed before the rename");
        write(&state, dir.path(), 3, Last::Process);
        assert_eq!(mark(state.read()), ("this boot", 3));
        assert!(!state.next().exists());
    }

    #[test]
    fn a_lasting_state_is_there_when_the_newest_did_not_survive_the_machine() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let state = StateFile::in_dir(dir.path());
        write(&state, dir.path(), 1, Last::Reboot);
        write(&state, dir.path(), 2, Last::Process);
        assert_eq!(mark(state.read()), ("this boot", 2));
        fs::write(&state.path, "").expect("write");
        assert_eq!(
            mark(state.read()),
            ("unreadable", 0),
            "an old state of this boot describes processes that are gone"
        );
        age(&state.lasting());
        assert_eq!(mark(state.read()), ("earlier boot", 1));
        write(&state, dir.path(), 3, Last::Process);
        age(&state.path);
        assert_eq!(mark(state.read()), ("earlier boot", 3), "a clean end leaves the newest");
    }
}
