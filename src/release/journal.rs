//! An append-only journal: one JSON value per line. It survives a crash in the middle of a line and does not grow for ever.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::marker::PhantomData;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::durable::{StoreError, sync_dir};
use super::tail::{LinesFromEnd, is_torn};

/// Beyond this the journal becomes the old one, in place of the one before it: some ten thousand rollouts.
const MOST_BYTES: u64 = 4 * 1024 * 1024;
/// A longer line was not written by [`Journal::append`] of any entry we know.
const LONGEST_LINE: usize = 1024 * 1024;

/// A journal of `T`s, in `<path>` and, older, `<path>.1`.
#[derive(Debug)]
pub struct Journal<T> {
    path: PathBuf,
    most_bytes: u64,
    entries: PhantomData<fn(T) -> T>,
}

impl<T: Serialize + DeserializeOwned> Journal<T> {
    /// The journal at `path`. Nothing is opened or made before it is used.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        Self { path: path.to_owned(), most_bytes: MOST_BYTES, entries: PhantomData }
    }

    /// Adds an entry. It is on disk when this returns.
    ///
    /// # Errors
    /// When the file cannot be written. A piece of the entry that was written is passed over by readers.
    pub fn append(&mut self, entry: &T) -> Result<(), StoreError> {
        let encoded = serde_json::to_vec(entry).map_err(io::Error::from);
        let mut line = encoded.map_err(StoreError::on("write", &self.path))?;
        line.push(b'\n');
        let mut file = self.open()?;
        let len = file.metadata().map_err(StoreError::on("read", &self.path))?.len();
        let is_full = len > 0 && len + line.len() as u64 > self.most_bytes;
        if is_full {
            let old = self.old_path();
            std::fs::rename(&self.path, &old).map_err(StoreError::on("replace", &old))?;
            file = self.open()?;
        } else if is_torn(&file, len).map_err(StoreError::on("read", &self.path))? {
            line.insert(0, b'\n');
        }
        // One write, so that a reader in another process sees all of it or nothing.
        file.write_all(&line).map_err(StoreError::on("write", &self.path))?;
        file.sync_data().map_err(StoreError::on("sync", &self.path))?;
        match self.path.parent() {
            Some(dir) if len == 0 || is_full => sync_dir(dir),
            _ => Ok(()),
        }
    }

    /// The newest `limit` entries, newest first. Lines that are no entries are passed over.
    ///
    /// # Errors
    /// When a file is there and cannot be read.
    pub fn read(&self, limit: usize) -> Result<Vec<T>, StoreError> {
        let mut entries = Vec::new();
        for path in [self.path.clone(), self.old_path()] {
            let file = match File::open(&path) {
                Err(cause) if cause.kind() == io::ErrorKind::NotFound => continue,
                opened => opened.map_err(StoreError::on("open", &path))?,
            };
            let len = file.metadata().map_err(StoreError::on("read", &path))?.len();
            for line in LinesFromEnd::new(file, len, LONGEST_LINE) {
                if entries.len() == limit {
                    return Ok(entries);
                }
                let line = line.map_err(StoreError::on("read", &path))?;
                entries.extend(serde_json::from_slice(&line).ok());
            }
        }
        Ok(entries)
    }

    fn open(&self) -> Result<File, StoreError> {
        let opened = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&self.path);
        opened.map_err(StoreError::on("open", &self.path))
    }

    fn old_path(&self) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(".1");
        name.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn journal(dir: &tempfile::TempDir) -> Journal<String> {
        Journal::at(&dir.path().join("history.jsonl"))
    }

    fn append(journal: &mut Journal<String>, entry: &str) {
        journal.append(&entry.to_owned()).expect("written");
    }

    #[test]
    fn entries_come_back_newest_first_and_no_more_than_asked() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut journal = journal(&dir);
        assert!(journal.read(10).expect("empty").is_empty());
        for entry in ["one", "two\nlines", "three"] {
            append(&mut journal, entry);
        }
        assert_eq!(journal.read(2).expect("read"), ["three", "two\nlines"]);
        assert_eq!(journal.read(0).expect("read"), [""; 0]);
    }

    #[test]
    fn a_torn_line_is_passed_over_and_the_next_entry_is_whole() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut journal = journal(&dir);
        append(&mut journal, "one");
        let mut file = OpenOptions::new().append(true).open(dir.path().join("history.jsonl")).expect("opened");
        file.write_all(b"\"half an en").expect("written");
        assert_eq!(journal.read(10).expect("read"), ["one"]);
        append(&mut journal, "two");
        assert_eq!(journal.read(10).expect("read"), ["two", "one"]);
    }

    #[test]
    fn it_keeps_the_newest_and_stays_within_twice_its_size() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut journal = Journal { most_bytes: 1000, ..journal(&dir) };
        for n in 0..500 {
            append(&mut journal, &format!("entry {n}"));
        }
        let kept = journal.read(usize::MAX).expect("read");
        assert_eq!(kept[0], "entry 499");
        assert!(kept.len() > 50, "the old file is read, too: {}", kept.len());
        assert!(kept.windows(2).all(|pair| pair[0].len() >= pair[1].len()), "in order: {kept:?}");
        let sizes =
            std::fs::read_dir(dir.path()).expect("read").map(|e| e.and_then(|e| e.metadata()).expect("there").len());
        let sizes: Vec<u64> = sizes.collect();
        assert!(sizes.len() == 2 && sizes.iter().all(|size| *size <= 1000), "{sizes:?}");
    }
}
