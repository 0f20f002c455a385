//! The state of one service, written before each step that cannot be taken back: to the keeper, where a successor of this
//! agent finds it whatever becomes of the disk, and to a file, for those who come after the keeper.
//!
//! ```text
//! <state>/<service>/
//!   state.json     the newest state; put in place by rename, never written in place
//!   lasting.json   the newest state that was synced: what a power cut leaves when it takes the other one
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::book::{Book, Kept};
use super::chain;
use crate::machine::service::Service as Machine;

/// Both the newest format and the only one so far.
const FORMAT: u32 = 1;

/// Far more than the state of 4096 workers.
pub(crate) const LONGEST: usize = 256 << 20;

/// Where one service's state is kept.
#[derive(Debug)]
pub(crate) struct StateFile {
    dir: PathBuf,
}

#[derive(Serialize)]
struct Writing<'a> {
    format: u32,
    boot: &'a str,
    machine: &'a Machine,
    book: &'a Book,
}

#[derive(Deserialize)]
struct Format {
    format: u32,
    boot: String,
}

/// What was found.
#[derive(Debug)]
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

/// What a written state must survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Last {
    /// The death of this process.
    Process,
    /// The death of the machine.
    Reboot,
}

/// A state as it is written.
pub(crate) fn encode(machine: &Machine, book: &Book) -> io::Result<Vec<u8>> {
    Ok(serde_json::to_vec(&Writing { format: FORMAT, boot: &boot_id(), machine, book })?)
}

/// What was written there.
pub(crate) fn decode(text: &[u8]) -> Found {
    match serde_json::from_slice::<Format>(text) {
        Ok(Format { format: FORMAT, boot }) => match serde_json::from_slice(text) {
            Ok(kept) if boot == boot_id() => Found::ThisBoot(kept),
            Ok(kept) => Found::EarlierBoot(kept),
            Err(error) => Found::Unreadable(error.to_string()),
        },
        Ok(Format { format, .. }) => Found::Unreadable(format!("its format is {format}, this program knows {FORMAT}")),
        Err(error) => Found::Unreadable(error.to_string()),
    }
}

impl StateFile {
    pub(crate) fn in_dir(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    pub(crate) fn read(&self) -> Found {
        match read(&self.newest()) {
            // A death between the two halves of `put_in_place`.
            Found::Nothing => read(&self.temporary()),
            found @ (Found::ThisBoot(_) | Found::EarlierBoot(_) | Found::Unreadable(_)) => found,
        }
    }

    /// What was last synced: of an earlier life, whichever it says.
    pub(crate) fn read_lasting(&self) -> Option<Box<Kept>> {
        match read(&self.lasting()) {
            Found::ThisBoot(kept) | Found::EarlierBoot(kept) => Some(kept),
            Found::Nothing | Found::Unreadable(_) => None,
        }
    }

    /// Puts an unreadable file aside, so that a person can look at it and it is not read again.
    pub(crate) fn put_aside(&self) -> io::Result<PathBuf> {
        let aside = self.dir.join("state.json.unreadable");
        fs::rename(self.newest(), &aside)?;
        Ok(aside)
    }

    /// Writes by rename. Most states are not synced: after a crash of the machine no process is left that they could
    /// describe. But some file systems then show an empty file under the new name (rename(2) promises nothing); what must
    /// last until then has a name of its own, which is replaced by synced files only.
    pub(crate) fn write(&self, text: &[u8], last: Last) -> io::Result<()> {
        match last {
            Last::Process => {}
            Last::Reboot => {
                self.write_temporary(text)?.sync_all()?;
                fs::rename(self.temporary(), self.lasting())?;
                File::open(&self.dir)?.sync_all()?;
            }
        }
        self.write_temporary(text)?;
        self.put_in_place()
    }

    fn write_temporary(&self, text: &[u8]) -> io::Result<File> {
        // The environment of the workers is in it.
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(self.temporary())?;
        file.write_all(text)?;
        Ok(file)
    }

    /// In two halves: a rename *onto* a file makes ext4 write the new one out at once (its `auto_da_alloc`, ext4(5)):
    /// milliseconds, in each step of a rollout. Nobody misses the file meanwhile: the keeper has the state.
    fn put_in_place(&self) -> io::Result<()> {
        match fs::remove_file(self.newest()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        fs::rename(self.temporary(), self.newest())
    }

    fn temporary(&self) -> PathBuf {
        self.dir.join("state.json.new")
    }

    fn newest(&self) -> PathBuf {
        self.dir.join("state.json")
    }

    fn lasting(&self) -> PathBuf {
        self.dir.join("lasting.json")
    }
}

fn read(path: &Path) -> Found {
    match fs::read(path) {
        Ok(text) => decode(&text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Found::Nothing,
        Err(error) => Found::Unreadable(chain(&error)),
    }
}

/// Names this boot (proc_sys_kernel(5)); empty where /proc does not say.
fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::book::tests::sample;
    use super::*;
    use crate::units::{Digest, RolloutId};

    fn book() -> Book {
        Book::new(sample("workers: 4"))
    }

    fn text(book: &Book) -> Vec<u8> {
        encode(&Machine::new(), book).expect("encodes")
    }

    fn numbered(last_rollout: u64) -> Vec<u8> {
        text(&Book { last_rollout, ..book() })
    }

    fn written(dir: &Path, last_rollout: u64, last: Last) -> StateFile {
        let file = StateFile::in_dir(dir);
        file.write(&numbered(last_rollout), last).expect("written");
        file
    }

    fn number_in(found: Found) -> u64 {
        let Found::ThisBoot(kept) = found else { panic!("{found:?}") };
        kept.book.last_rollout
    }

    #[test]
    fn what_was_written_is_read() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = StateFile::in_dir(dir.path());
        assert!(matches!(file.read(), Found::Nothing));
        let digest: Digest = "ab".repeat(32).parse().expect("a digest");
        let mut book = Book { scaled: Some(3), seen: Some(digest), lives: vec![digest], ..book() };
        assert_eq!(book.next_rollout(), RolloutId(1));
        file.write(&text(&book), Last::Process).expect("written");
        let Found::ThisBoot(kept) = file.read() else { panic!("{:?}", file.read()) };
        assert_eq!(kept.machine, Machine::new());
        assert_eq!(text(&kept.book), text(&book));
    }

    #[test]
    fn the_state_of_an_earlier_boot_is_told_apart() {
        let theirs = String::from_utf8(numbered(7)).expect("JSON").replace(&boot_id(), "another");
        let Found::EarlierBoot(kept) = decode(theirs.as_bytes()) else { panic!("not of an earlier boot") };
        assert_eq!(kept.book.last_rollout, 7);
    }

    #[test]
    fn a_foreign_format_and_a_torn_file_say_why() {
        let foreign = String::from_utf8(numbered(1)).expect("JSON").replacen("\"format\":1", "\"format\":99", 1);
        let whole = numbered(1);
        for (text, why) in [
            (foreign.as_bytes(), "its format is 99, this program knows 1"),
            (&whole[..whole.len() / 2], "EOF"),
            (b"".as_slice(), "EOF"),
            (b"\0\0\0\0", "expected value"),
            (br#"{"format":1,"boot":"x"}"#, "missing field"),
        ] {
            let Found::Unreadable(said) = decode(text) else { panic!("read {why}") };
            assert!(said.contains(why), "{said}");
        }
    }

    #[test]
    fn what_was_synced_outlives_a_newer_file_that_a_power_cut_emptied() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        written(dir.path(), 1, Last::Reboot);
        let file = written(dir.path(), 2, Last::Process);
        assert_eq!(number_in(file.read()), 2);
        fs::write(dir.path().join("state.json"), "").expect("emptied");
        assert!(matches!(file.read(), Found::Unreadable(_)));
        assert_eq!(file.read_lasting().expect("synced").book.last_rollout, 1);
        assert!(file.put_aside().expect("moved").exists());
        assert!(matches!(file.read(), Found::Nothing));
    }

    #[test]
    fn a_file_that_cannot_be_replaced_is_as_it_was() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = written(dir.path(), 1, Last::Reboot);
        fs::create_dir(dir.path().join("state.json.new")).expect("in the way");
        file.write(&numbered(2), Last::Reboot).expect_err("no room");
        assert_eq!(number_in(file.read()), 1);
    }

    #[test]
    fn nobody_else_reads_the_environment_in_it() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        written(dir.path(), 1, Last::Reboot);
        for name in ["state.json", "lasting.json"] {
            let mode = fs::metadata(dir.path().join(name)).expect("there").permissions().mode();
            assert_eq!(mode & 0o077, 0, "{name} {mode:o}");
        }
    }
}
