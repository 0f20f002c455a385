//! The files that keep worker output: `current.log`, then `1.log`, `2.log` … from newer to older.
//!
//! Writes go to the page cache, inline on the runtime's thread: a hand-over to another thread would need a queue, which
//! is what may not exist here, and costs more than the write. Nothing is synced: a power cut may take the last
//! seconds of output. When the disk is full lines are lost and counted; workers go on.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use tracing::warn;

use crate::config::settings::Logs;
use crate::release::tail::is_torn;

/// Lines are written together up to this many bytes.
const BATCH: usize = 64 * 1024;

/// The newest file, open, and how far it may grow.
#[derive(Debug)]
pub(super) struct Rotated {
    dir: PathBuf,
    logs: Logs,
    /// `None` after it could not be opened; the next write tries again.
    file: Option<File>,
    /// Bytes in it.
    len: u64,
    /// Whether it ends in half a line.
    torn: bool,
    /// Lines that are not written yet; empty between calls.
    batch: Vec<u8>,
    batch_lines: u64,
    /// Lines that could not be written since the last that could.
    lost: u64,
}

impl Rotated {
    pub(super) fn open(dir: &Path, logs: Logs) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let mut rotated = Self {
            dir: dir.to_owned(),
            logs,
            file: None,
            len: 0,
            torn: false,
            batch: Vec::new(),
            batch_lines: 0,
            lost: 0,
        };
        rotated.open_current()?;
        rotated.remove_surplus()?;
        Ok(rotated)
    }

    /// Adds a line; `flush` writes it.
    pub(super) fn push(&mut self, head: &str, line: &str) {
        let length = head.len() + line.len() + 1;
        let before = self.len + self.batch.len() as u64;
        if before > 0 && before + length as u64 > self.logs.max_size {
            self.flush();
            self.rotate();
        } else if self.batch.len() + length > BATCH {
            self.flush();
        }
        self.batch.extend_from_slice(head.as_bytes());
        self.batch.extend_from_slice(line.as_bytes());
        self.batch.push(b'\n');
        self.batch_lines += 1;
    }

    /// Writes what was pushed.
    pub(super) fn flush(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        match self.write() {
            Ok(()) if self.lost > 0 => {
                warn!(dir = %self.dir.display(), lines = self.lost, "worker output is kept again; some was lost");
                self.lost = 0;
            }
            Ok(()) => {}
            Err(cause) => {
                if self.lost == 0 {
                    warn!(dir = %self.dir.display(), %cause, "worker output cannot be kept and is being lost");
                }
                self.lost += self.batch_lines;
            }
        }
        self.batch.clear();
        self.batch_lines = 0;
    }

    /// Opens `current.log` anew, because somebody has moved it away.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        self.open_current()
    }

    /// Takes other limits. Files beyond them are removed.
    pub(super) fn limit(&mut self, logs: Logs) -> io::Result<()> {
        self.logs = logs;
        self.remove_surplus()
    }

    /// Where the files are, newest first.
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        (0..self.logs.files).map(|number| self.path(number)).collect()
    }

    fn write(&mut self) -> io::Result<()> {
        if self.file.is_none() {
            std::fs::create_dir_all(&self.dir)?;
            self.open_current()?;
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        if self.torn {
            self.batch.insert(0, b'\n');
        }
        if let Err(cause) = file.write_all(&self.batch) {
            // Some of it may have been written.
            self.len = file.metadata()?.len();
            self.torn = is_torn(file, self.len).unwrap_or(true);
            return Err(cause);
        }
        self.torn = false;
        self.len += self.batch.len() as u64;
        Ok(())
    }

    fn open_current(&mut self) -> io::Result<()> {
        let path = self.path(0);
        let file = OpenOptions::new().read(true).append(true).create(true).mode(0o640).open(path)?;
        self.len = file.metadata()?.len();
        self.torn = is_torn(&file, self.len)?;
        self.file = Some(file);
        Ok(())
    }

    fn rotate(&mut self) {
        self.file = None;
        self.len = 0;
        self.torn = false;
        if let Err(cause) = self.shift().and_then(|()| self.open_current()) {
            warn!(dir = %self.dir.display(), %cause, "worker output cannot be rotated; the newest file is emptied instead");
            // The bound on the disk comes first. What fails here fails again, and is told, at the next write.
            if let Some(file) = self.open_current().ok().and(self.file.as_ref()) {
                self.len = file.set_len(0).map_or(self.len, |()| 0);
            }
        }
    }

    fn shift(&self) -> io::Result<()> {
        let oldest = self.logs.files.saturating_sub(1);
        if oldest == 0 {
            return unless_missing(std::fs::remove_file(self.path(0)));
        }
        for number in (0..oldest).rev() {
            unless_missing(std::fs::rename(self.path(number), self.path(number + 1)))?;
        }
        Ok(())
    }

    /// Removes files that a larger limit has left.
    fn remove_surplus(&self) -> io::Result<()> {
        for entry in std::fs::read_dir(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name().into_string().unwrap_or_default();
            let number = name.strip_suffix(".log").and_then(|number| number.parse::<u32>().ok());
            if number.is_some_and(|number| number >= self.logs.files) {
                unless_missing(std::fs::remove_file(entry.path()))?;
            }
        }
        Ok(())
    }

    fn path(&self, number: u32) -> PathBuf {
        self.dir.join(if number == 0 { "current.log".to_owned() } else { format!("{number}.log") })
    }
}

fn unless_missing(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGS: Logs = Logs { max_size: 1000, files: 3 };

    fn fill(rotated: &mut Rotated, from: u32, to: u32) {
        for n in from..to {
            rotated.push("head ", &format!("line {n:06}"));
        }
        rotated.flush();
    }

    fn sizes(dir: &Path) -> Vec<(String, u64)> {
        let files = std::fs::read_dir(dir).expect("read").map(|entry| {
            let entry = entry.expect("there");
            (entry.file_name().into_string().expect("plain"), entry.metadata().expect("there").len())
        });
        let mut sizes: Vec<_> = files.collect();
        sizes.sort();
        sizes
    }

    fn text(dir: &Path, name: &str) -> String {
        std::fs::read_to_string(dir.join(name)).expect("read")
    }

    #[test]
    fn the_newest_lines_are_kept_within_the_bound() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut rotated = Rotated::open(dir.path(), LOGS).expect("opened");
        for n in 0..500 {
            fill(&mut rotated, n, n + 1);
            assert!(sizes(dir.path()).iter().all(|(_, size)| *size <= LOGS.max_size), "{:?}", sizes(dir.path()));
        }
        fill(&mut rotated, 500, 1000);
        let names: Vec<String> = sizes(dir.path()).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["1.log", "2.log", "current.log"]);
        let all = ["2.log", "1.log", "current.log"].map(|name| text(dir.path(), name)).concat();
        assert!(all.len() > 2000 && all.len() <= 3000, "{}", all.len());
        let numbers: Vec<u32> = all.lines().map(|line| line[10..].parse().expect("whole lines")).collect();
        assert_eq!(numbers.last(), Some(&999));
        assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "no line is missing or out of order");
    }

    #[test]
    fn one_file_is_enough() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut rotated = Rotated::open(dir.path(), Logs { files: 1, ..LOGS }).expect("opened");
        fill(&mut rotated, 0, 1000);
        let sizes = sizes(dir.path());
        assert!(sizes.len() == 1 && sizes[0].1 <= 1000, "{sizes:?}");
        assert!(text(dir.path(), "current.log").ends_with("line 000999\n"));
    }

    #[test]
    fn files_beyond_a_smaller_limit_are_removed() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut rotated = Rotated::open(dir.path(), Logs { files: 5, ..LOGS }).expect("opened");
        fill(&mut rotated, 0, 1000);
        assert_eq!(sizes(dir.path()).len(), 5);
        rotated.limit(Logs { files: 2, ..LOGS }).expect("removed");
        assert_eq!(sizes(dir.path()).len(), 2);
        Rotated::open(dir.path(), Logs { files: 1, ..LOGS }).expect("opened");
        assert_eq!(sizes(dir.path()).len(), 1);
    }

    #[test]
    fn a_file_that_was_moved_away_is_opened_anew() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut rotated = Rotated::open(dir.path(), LOGS).expect("opened");
        fill(&mut rotated, 0, 1);
        std::fs::rename(dir.path().join("current.log"), dir.path().join("taken")).expect("moved");
        rotated.reopen().expect("opened");
        fill(&mut rotated, 1, 2);
        assert_eq!(text(dir.path(), "current.log"), "head line 000001\n");
    }

    #[test]
    fn half_a_line_of_a_killed_agent_does_not_swallow_the_next() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(dir.path().join("current.log"), "head half").expect("written");
        let mut rotated = Rotated::open(dir.path(), LOGS).expect("opened");
        fill(&mut rotated, 1, 2);
        assert_eq!(text(dir.path(), "current.log"), "head half\nhead line 000001\n");
    }

    #[test]
    fn a_full_disk_loses_lines_counts_them_and_is_over_when_there_is_room() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::os::unix::fs::symlink("/dev/full", dir.path().join("current.log")).expect("linked");
        let mut rotated = Rotated::open(dir.path(), LOGS).expect("opened");
        fill(&mut rotated, 0, 7);
        assert_eq!(rotated.lost, 7);
        std::fs::remove_file(dir.path().join("current.log")).expect("removed");
        rotated.reopen().expect("opened");
        fill(&mut rotated, 7, 8);
        assert_eq!(rotated.lost, 0);
        assert_eq!(text(dir.path(), "current.log").trim_start(), "head line 000007\n");
    }

    #[test]
    fn a_directory_that_was_removed_is_made_again_at_the_next_rotation() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let logs = dir.path().join("logs");
        let mut rotated = Rotated::open(&logs, LOGS).expect("opened");
        std::fs::remove_dir_all(&logs).expect("removed");
        fill(&mut rotated, 0, 200);
        assert!(text(&logs, "current.log").ends_with("line 000199\n"));
    }
}
