//! Takes a program file into the store: copied, judged and named by what the *copy* holds, then put in place by one rename.
//!
//! The file that the copy was written through is closed before the release has a name, so no worker can meet `ETXTBSY`
//! (execve(2) of a file that is open for writing). That holds only as long as no fork of the agent that happens
//! meanwhile lives on without `execve`: the file is close-on-exec.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::digest::{self, CopyError};
use super::durable::{StoreError, sync_dir, write_new};
use super::executable::{Fault, Format, Host, Trouble, examine};
use super::source::{Source, SourceError};
use super::store::{About, NEW, PROGRAM, RECORD, Record, Store, make_dir, unique};
use crate::units::Digest;

/// A release that is in the store now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ingested {
    /// Its name.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    /// Whether it was new.
    pub already: Already,
}

/// Whether a release was in the store before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Already {
    /// It was not: this copy was stored.
    Stored,
    /// It was: this copy was dropped.
    Known,
}

/// Why a file did not become a release. Nothing is left behind.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// The file itself is of no use.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Its content is not a program for this host.
    #[error("{} {fault}", path.display())]
    Unfit {
        /// What was given.
        path: PathBuf,
        /// What is wrong with it.
        fault: Fault,
    },
    /// What should run it is not here.
    #[error("{} needs {}, which {why}: install it, or build without it", path.display(), needs.display())]
    NoInterpreter {
        /// What was given.
        path: PathBuf,
        /// The dynamic loader or the script's interpreter.
        needs: PathBuf,
        /// `does not exist on this host`.
        why: &'static str,
    },
    /// It is not the file that was meant.
    #[error("{} has the SHA-256 {actual}, not {expected} as demanded: nothing was changed", path.display())]
    Mismatch {
        /// What was given.
        path: PathBuf,
        /// What it should have been.
        expected: Digest,
        /// What it is.
        actual: Digest,
    },
    /// No room for the copy.
    #[error("{} has no room for a copy of {} ({size} bytes): free some, or keep fewer releases", dir.display(), path.display())]
    DiskFull {
        /// What was given.
        path: PathBuf,
        /// Where the copy should go.
        dir: PathBuf,
        /// How long it is.
        size: u64,
        /// The system's word on it.
        source: StoreError,
    },
    /// The store could not be changed.
    #[error("{} cannot be stored: check the state directory", path.display())]
    Store {
        /// What was given.
        path: PathBuf,
        /// What was tried.
        source: StoreError,
    },
}

impl Store {
    /// Copies the program at `path` into the store unless its content is there already. With `expected`, only that
    /// content is taken.
    ///
    /// # Errors
    /// When the file is no program that this host can run, is another one than expected, or cannot be copied.
    pub fn ingest(&self, path: &Path, expected: Option<Digest>, about: &About) -> Result<Ingested, IngestError> {
        let source = Source::open(path)?;
        let stored = |cause| self.in_words(path, &source, cause);
        let staging = Staging::new(self).map_err(stored)?;
        let (digest, size) = staging.fill(&source).map_err(|cause| match cause {
            Fill::Source(cause) => cause.into(),
            Fill::Store(cause) => stored(cause),
        })?;
        if let Some(expected) = expected.filter(|expected| *expected != digest) {
            return Err(IngestError::Mismatch { path: path.to_owned(), expected, actual: digest });
        }
        staging.judge(path, size)?;
        if self.holds_whole(&digest) {
            return Ok(Ingested { digest, size, already: Already::Known });
        }
        let record = Record { digest, size, origin: path.to_owned(), about: about.clone() };
        let already = staging.publish(self, &record).map_err(stored)?;
        Ok(Ingested { digest, size, already })
    }

    /// Whether the stored copy is still what its name says: a release that rotted or was edited is stored anew.
    #[must_use]
    pub fn holds_whole(&self, digest: &Digest) -> bool {
        self.contains(digest) && digest::digest_of(&self.program(digest)).is_ok_and(|actual| actual == *digest)
    }

    fn in_words(&self, path: &Path, of: &Source, source: StoreError) -> IngestError {
        let path = path.to_owned();
        if source.is_full() {
            return IngestError::DiskFull { path, dir: self.dir.clone(), size: of.size(), source };
        }
        IngestError::Store { path, source }
    }
}

enum Fill {
    Source(SourceError),
    Store(StoreError),
}

/// A release in the making. Removes itself unless it was published.
struct Staging {
    dir: PathBuf,
}

impl Drop for Staging {
    fn drop(&mut self) {
        // After `publish` there is nothing of this name. What cannot be removed now is removed by `Store::open`.
        let _gone = std::fs::remove_dir_all(&self.dir);
    }
}

impl Staging {
    fn new(store: &Store) -> Result<Self, StoreError> {
        let dir = store.dir.join(unique(NEW));
        make_dir(&dir)?;
        Ok(Self { dir })
    }

    /// Copies the source; the copy is on disk and closed when this returns.
    fn fill(&self, source: &Source) -> Result<(Digest, u64), Fill> {
        let path = self.dir.join(PROGRAM);
        let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let mut copy = opened.map_err(StoreError::on("create", &path)).map_err(Fill::Store)?;
        let (digest, size) = digest::copy(source.file(), &mut copy).map_err(|cause| match cause {
            CopyError::Read(cause) => Fill::Source(source.unreadable(cause)),
            CopyError::Write(cause) => Fill::Store(StoreError::on("write", &path)(cause)),
        })?;
        source.check_unchanged(size).map_err(Fill::Source)?;
        copy.set_permissions(std::fs::Permissions::from_mode(0o555))
            .and_then(|()| copy.sync_all())
            .map_err(StoreError::on("sync", &path))
            .map_err(Fill::Store)?;
        Ok((digest, size))
    }

    fn judge(&self, path: &Path, size: u64) -> Result<(), IngestError> {
        let stored = |source| IngestError::Store { path: path.to_owned(), source };
        let copy_path = self.dir.join(PROGRAM);
        let copy = File::open(&copy_path).map_err(StoreError::on("open", &copy_path)).map_err(stored)?;
        let read = |offset, length| {
            let mut bytes = vec![0; length];
            copy.read_exact_at(&mut bytes, offset).map(|()| bytes)
        };
        match examine(size, Host::this(), read) {
            Ok(Format::Elf { loader: None }) => Ok(()),
            Ok(Format::Elf { loader: Some(needs) } | Format::Script { interpreter: needs }) => exists(path, needs),
            Err(Trouble::Fault(fault)) => Err(IngestError::Unfit { path: path.to_owned(), fault }),
            Err(Trouble::Read(cause)) => Err(stored(StoreError::on("read", &copy_path)(cause))),
        }
    }

    fn publish(self, store: &Store, record: &Record) -> Result<Already, StoreError> {
        let path = self.dir.join(RECORD);
        let text = serde_json::to_vec_pretty(record).map_err(io::Error::from);
        write_new(&path, &text.map_err(StoreError::on("write", &path))?)?;
        sync_dir(&self.dir)?;
        let place = store.place(&record.digest);
        loop {
            match std::fs::rename(&self.dir, &place) {
                Ok(()) => break,
                Err(cause) if !is_taken(&cause) => return Err(StoreError::on("create", &place)(cause)),
                // Another ingest of the same content was faster, or the one that is there is damaged.
                Err(_) if store.holds_whole(&record.digest) => return Ok(Already::Known),
                Err(_) => store.set_aside(&record.digest)?,
            }
        }
        sync_dir(&store.dir)?;
        Ok(Already::Stored)
    }
}

/// rename(2) over a directory that is not empty: the file system may say either.
fn is_taken(cause: &io::Error) -> bool {
    matches!(cause.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists)
}

/// A relative name is found from the worker's working directory, which is not known here.
fn exists(path: &Path, needs: PathBuf) -> Result<(), IngestError> {
    let why = match std::fs::metadata(&needs) {
        _ if needs.is_relative() => return Ok(()),
        Ok(found) if !found.is_file() => "is not a file",
        Ok(found) if found.permissions().mode() & 0o111 == 0 => "is not executable",
        Ok(_) => return Ok(()),
        Err(_) => "does not exist on this host",
    };
    Err(IngestError::NoInterpreter { path: path.to_owned(), needs, why })
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::process::Command;

    use super::*;

    struct Rig {
        dir: tempfile::TempDir,
        store: Store,
    }

    impl Rig {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("a temporary directory");
            let store = Store::open(&dir.path().join("releases")).expect("opens");
            Self { dir, store }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        fn file(&self, content: &[u8], mode: u32) -> PathBuf {
            let path = self.path("offered");
            std::fs::write(&path, content).expect("written");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("mode set");
            path
        }

        fn ingest(&self, path: &Path) -> Result<Ingested, IngestError> {
            self.store.ingest(path, None, &about())
        }

        /// Offers a bad file; gives the message after checking that it names the file and that nothing is left behind.
        fn refusal(&self, path: &Path) -> String {
            let said = self.ingest(path).expect_err("must be refused").to_string();
            assert!(said.starts_with(&path.display().to_string()), "{said}");
            assert_eq!(self.left(), 0, "after: {said}");
            said
        }

        fn left(&self) -> usize {
            std::fs::read_dir(&self.store.dir).expect("read").count()
        }
    }

    fn about() -> About {
        About { who: "uid 0".to_owned(), at: String::new(), note: None, config: serde_json::Value::Null }
    }

    fn this_test() -> Vec<u8> {
        std::fs::read(std::env::current_exe().expect("this runs")).expect("and can be read")
    }

    #[test]
    fn a_program_is_stored_once_and_the_copy_runs() {
        let rig = Rig::new();
        let path = rig.file(b"#!/bin/sh\necho hello\n", 0o700);
        let first = rig.ingest(&path).expect("good");
        assert_eq!(first.already, Already::Stored);
        assert_eq!(first.size, 21);
        assert_eq!(rig.ingest(&path).expect("good"), Ingested { already: Already::Known, ..first });
        assert_eq!(rig.left(), 1);
        let stored = rig.store.program(&first.digest);
        assert_eq!(std::fs::metadata(&stored).expect("there").permissions().mode() & 0o777, 0o555);
        // The copy is what runs, whatever becomes of the original.
        rig.file(b"#!/bin/sh\necho changed\n", 0o700);
        // A test beside this one may be between fork and exec with the copy still open; an agent does not fork.
        let said = loop {
            match Command::new(&stored).output() {
                Err(cause) if cause.kind() == io::ErrorKind::ExecutableFileBusy => {}
                said => break said.expect("runs"),
            }
        };
        assert_eq!(said.stdout, b"hello\n");
    }

    #[test]
    fn an_elf_program_is_stored_under_the_digest_of_its_bytes() {
        let rig = Rig::new();
        let path = rig.file(&this_test(), 0o755);
        let ingested = rig.ingest(&path).expect("good");
        assert_eq!(ingested.digest, digest::digest_of(&path).expect("good"));
        assert!(rig.store.holds_whole(&ingested.digest));
    }

    #[test]
    fn what_is_not_a_file_is_refused_by_its_kind() {
        let rig = Rig::new();
        assert!(rig.refusal(&rig.path("nothing")).contains("does not exist"));
        std::os::unix::fs::symlink("nowhere", rig.path("link")).expect("linked");
        assert!(rig.refusal(&rig.path("link")).contains("is a symbolic link to nowhere"));
        assert!(rig.refusal(rig.dir.path()).contains("is a directory"));
        assert!(rig.refusal(Path::new("/dev/null")).contains("is a device"));
        let _socket = UnixListener::bind(rig.path("socket")).expect("bound");
        assert!(rig.refusal(&rig.path("socket")).contains("is a socket"));
        let made = Command::new("mkfifo").arg(rig.path("fifo")).status().expect("mkfifo runs");
        assert!(made.success());
        assert!(rig.refusal(&rig.path("fifo")).contains("is a named pipe"));
    }

    #[test]
    fn what_no_host_or_not_this_host_can_run_is_refused() {
        let rig = Rig::new();
        assert!(rig.refusal(&rig.file(b"", 0o755)).contains("is empty"));
        assert!(rig.refusal(&rig.file(b"#!/bin/sh\n", 0o644)).contains("chmod +x"));
        assert!(rig.refusal(&rig.file(b"just text\n", 0o755)).contains("neither an ELF program nor a script"));
        assert!(rig.refusal(&rig.file(b"#!/no/such/shell\n", 0o755)).contains("needs /no/such/shell"));
        let mut program = this_test();
        assert!(rig.refusal(&rig.file(&program[..program.len() - 1], 0o755)).contains("is truncated"));
        program[18..20].copy_from_slice(&[40, 0]);
        assert!(rig.refusal(&rig.file(&program, 0o755)).contains("32-bit ARM"));
    }

    #[test]
    fn another_file_than_expected_is_refused() {
        let rig = Rig::new();
        let path = rig.file(b"#!/bin/sh\n", 0o755);
        let refused = rig.store.ingest(&path, Some(Digest([7; 32])), &about());
        assert!(matches!(refused, Err(IngestError::Mismatch { .. })), "{refused:?}");
        assert_eq!(rig.left(), 0);
        let actual = digest::digest_of(&path).expect("good");
        assert!(rig.store.ingest(&path, Some(actual), &about()).is_ok());
    }

    #[test]
    fn a_damaged_release_is_stored_anew() {
        let rig = Rig::new();
        let path = rig.file(b"#!/bin/sh\necho hello\n", 0o755);
        let digest = rig.ingest(&path).expect("good").digest;
        let stored = rig.store.program(&digest);
        std::fs::remove_file(&stored).expect("removed");
        std::fs::write(&stored, "#!/bin/sh\necho something else\n").expect("written");
        assert_eq!(rig.ingest(&path).expect("good").already, Already::Stored);
        assert!(rig.store.holds_whole(&digest));
        assert_eq!(rig.left(), 1);
    }

    #[test]
    fn many_at_once_store_one_release() {
        let rig = Rig::new();
        let path = rig.file(&this_test(), 0o755);
        let results: Vec<Ingested> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| rig.ingest(&path).expect("good"))).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        let stored = results.iter().filter(|one| one.already == Already::Stored).count();
        assert_eq!((stored, rig.left()), (1, 1), "{results:?}");
    }

    #[test]
    fn a_file_that_is_written_while_it_is_read_is_refused() {
        let rig = Rig::new();
        let path = rig.file(b"#!/bin/sh\n", 0o755);
        let source = Source::open(&path).expect("good");
        std::fs::write(&path, b"#!/bin/sh\necho more\n").expect("written");
        let staging = Staging::new(&rig.store).expect("made");
        assert!(matches!(staging.fill(&source), Err(Fill::Source(SourceError::Changing { .. }))));
    }

    #[test]
    fn a_full_disk_leaves_nothing_and_says_where() {
        let full = Path::new("/dev/full");
        let cause = std::fs::write(full, "x").expect_err("it is always full");
        let rig = Rig::new();
        let path = rig.file(b"#!/bin/sh\n", 0o755);
        let source = Source::open(&path).expect("good");
        let said = rig.store.in_words(&path, &source, StoreError::on("write", full)(cause)).to_string();
        assert!(said.starts_with(&rig.store.dir.display().to_string()) && said.contains("(10 bytes)"), "{said}");
    }
}
