//! The release store of one service: every release that ran lately, named by its SHA-256.
//!
//! ```text
//! <state>/<service>/releases/
//!   <sha256>/program        what workers execute: mode 0555, never written again
//!   <sha256>/release.json   where it came from; its mtime is when the release was last used
//!   rejected.json           releases whose rollout failed
//!   .new-…, .gone-…         unfinished business of an agent that was killed; removed by `open`
//! ```
//!
//! A release appears and disappears by `rename(2)` of its whole directory, so what is here is always complete. One agent
//! uses a store at a time; within it any number of threads may.

use std::collections::BTreeSet;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

pub use super::durable::StoreError;
use super::durable::sync_dir;
pub use super::ingest::{Already, IngestError, Ingested};
use super::rejected::Rejected;
use crate::units::Digest;

/// The releases of one service.
#[derive(Debug)]
pub struct Store {
    pub(super) dir: PathBuf,
    /// Held while the file is rewritten, never across anything else.
    rejected: Mutex<Rejected>,
}

/// Why a release is here, as far as the caller knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    /// Who asked: `uid 1000`.
    pub who: String,
    /// RFC 3339, UTC.
    pub at: String,
    /// What they noted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The configuration with which it was to run, secrets masked.
    pub config: serde_json::Value,
}

/// `release.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The name of the release.
    pub digest: Digest,
    /// Bytes of the program.
    pub size: u64,
    /// The file that was copied.
    pub origin: PathBuf,
    /// The rest.
    #[serde(flatten)]
    pub about: About,
}

/// A release in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Its name.
    pub digest: Digest,
    /// Bytes of the program.
    pub size: u64,
    /// When it came or was last said to be [`Store::used`].
    pub last_used: SystemTime,
    /// `None` if somebody damaged `release.json`.
    pub record: Option<Record>,
}

/// Why a beginning of a digest names no release.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// Nothing begins like this.
    #[error("no kept release begins with {0:?}: `rollout history` lists them")]
    None(String),
    /// More than one does.
    #[error("{prefix:?} is the beginning of {} releases ({}): give more digits", candidates.len(), shorts(candidates))]
    Ambiguous {
        /// What was given.
        prefix: String,
        /// What it may mean, the last used first.
        candidates: Vec<Digest>,
    },
    /// The store could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Store {
    /// Opens the store in `dir`, which is made if need be, and removes what an agent that was killed left half done.
    ///
    /// # Errors
    /// When the directory cannot be made, read or cleaned.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        std::fs::create_dir_all(dir).map_err(StoreError::on("create directory", dir))?;
        open_to_workers(dir)?;
        for name in names(dir)? {
            if name.starts_with(NEW) || name.starts_with(GONE) {
                remove_tree(&dir.join(name))?;
            }
        }
        Ok(Self { dir: dir.to_owned(), rejected: Mutex::new(Rejected::load(dir)) })
    }

    /// Where the program of a release is, or would be.
    #[must_use]
    pub fn program(&self, digest: &Digest) -> PathBuf {
        self.place(digest).join(PROGRAM)
    }

    /// Whether a release is here.
    #[must_use]
    pub fn contains(&self, digest: &Digest) -> bool {
        self.program(digest).is_file()
    }

    /// Every release, the last used first.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn list(&self) -> Result<Vec<Kept>, StoreError> {
        let digests = names(&self.dir)?.into_iter().filter_map(|name| name.parse().ok());
        let mut kept: Vec<Kept> = digests.filter_map(|digest| self.look_at(digest)).collect();
        kept.sort_by(|a, b| b.last_used.cmp(&a.last_used).then(a.digest.cmp(&b.digest)));
        Ok(kept)
    }

    /// The one release whose digest begins with `prefix`.
    ///
    /// # Errors
    /// When none or several do.
    pub fn find(&self, prefix: &str) -> Result<Digest, FindError> {
        let wanted = prefix.to_ascii_lowercase();
        let releases = self.list()?.into_iter().map(|kept| kept.digest);
        let mut candidates: Vec<Digest> = releases.filter(|digest| digest.to_string().starts_with(&wanted)).collect();
        match candidates.len() {
            _ if wanted.is_empty() => Err(FindError::None(prefix.to_owned())),
            0 => Err(FindError::None(prefix.to_owned())),
            1 => Ok(candidates.remove(0)),
            _ => Err(FindError::Ambiguous { prefix: prefix.to_owned(), candidates }),
        }
    }

    /// Notes that a release became live at this time; `collect` keeps the last used.
    ///
    /// # Errors
    /// When the release is not here or its file cannot be touched.
    pub fn used(&self, digest: &Digest, at: SystemTime) -> Result<(), StoreError> {
        let path = self.place(digest).join(RECORD);
        let file = std::fs::File::open(&path).map_err(StoreError::on("open", &path))?;
        file.set_modified(at).map_err(StoreError::on("set the time of", &path))
    }

    /// Removes all but the `keep` last used releases and those `in_use`; says which.
    ///
    /// # Errors
    /// When a release cannot be removed; those before it are gone.
    pub fn collect(&self, keep: usize, in_use: &BTreeSet<Digest>) -> Result<Vec<Digest>, StoreError> {
        let old = self.list()?.into_iter().skip(keep).map(|kept| kept.digest);
        let removable: Vec<Digest> = old.filter(|digest| !in_use.contains(digest)).collect();
        for digest in &removable {
            self.set_aside(digest)?;
        }
        Ok(removable)
    }

    /// Remembers that a rollout of this release failed; survives the agent. Only the last hundred are remembered.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn reject(&self, digest: Digest, why: &str) -> Result<(), StoreError> {
        self.rejected().add(&self.dir, digest, why)
    }

    /// Forgets that a rollout of this release failed.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn forgive(&self, digest: &Digest) -> Result<(), StoreError> {
        self.rejected().remove(&self.dir, digest)
    }

    /// Why a release is rejected, if it is.
    #[must_use]
    pub fn why_rejected(&self, digest: &Digest) -> Option<String> {
        self.rejected().why(digest)
    }

    fn rejected(&self) -> std::sync::MutexGuard<'_, Rejected> {
        // A thread that panicked left the list as it was: `Rejected` changes it in one step, after the file.
        self.rejected.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(super) fn place(&self, digest: &Digest) -> PathBuf {
        self.dir.join(digest.to_string())
    }

    /// Takes a release away in one step, then removes it. A worker that runs it keeps the file it has open.
    pub(super) fn set_aside(&self, digest: &Digest) -> Result<(), StoreError> {
        let (from, to) = (self.place(digest), self.dir.join(unique(GONE)));
        match std::fs::rename(&from, &to) {
            Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(()),
            renamed => renamed.map_err(StoreError::on("remove", &from))?,
        }
        sync_dir(&self.dir)?;
        remove_tree(&to)
    }

    fn look_at(&self, digest: Digest) -> Option<Kept> {
        let program = std::fs::metadata(self.program(&digest)).ok()?;
        let path = self.place(&digest).join(RECORD);
        let last_used = std::fs::metadata(&path).and_then(|record| record.modified());
        let record = std::fs::read(&path).ok().and_then(|text| serde_json::from_slice(&text).ok());
        Some(Kept { digest, size: program.len(), last_used: last_used.unwrap_or(SystemTime::UNIX_EPOCH), record })
    }
}

/// Name of the program in a release's directory.
pub(super) const PROGRAM: &str = "program";
/// Name of the record beside it.
pub(super) const RECORD: &str = "release.json";
/// A release that is being made.
pub(super) const NEW: &str = ".new-";
/// A release that is being removed.
const GONE: &str = ".gone-";

/// A name that no other thread uses. After a crash the same one may come again: `open` has removed its file by then.
pub(super) fn unique(prefix: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("{prefix}{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// Makes a directory through which workers of any user reach the program, whatever the agent's umask is.
pub(super) fn make_dir(dir: &Path) -> Result<(), StoreError> {
    DirBuilder::new().mode(0o755).create(dir).map_err(StoreError::on("create directory", dir))?;
    open_to_workers(dir)
}

fn open_to_workers(dir: &Path) -> Result<(), StoreError> {
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(dir, mode).map_err(StoreError::on("set the mode of", dir))
}

fn names(dir: &Path) -> Result<Vec<String>, StoreError> {
    let entries = std::fs::read_dir(dir).map_err(StoreError::on("read directory", dir))?;
    let named = entries.map(|entry| entry.map(|entry| entry.file_name().into_string()));
    let all: Result<Vec<_>, io::Error> = named.collect();
    Ok(all.map_err(StoreError::on("read directory", dir))?.into_iter().flatten().collect())
}

fn remove_tree(dir: &Path) -> Result<(), StoreError> {
    match std::fs::remove_dir_all(dir) {
        Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(StoreError::on("remove", dir)),
    }
}

fn shorts(digests: &[Digest]) -> String {
    digests.iter().map(Digest::short).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn about() -> About {
        About {
            who: "uid 1000".to_owned(),
            at: "2026-08-01T12:00:00Z".to_owned(),
            note: None,
            config: serde_json::json!({"env": {"KEY": "***"}}),
        }
    }

    fn open(dir: &tempfile::TempDir) -> Store {
        Store::open(&dir.path().join("releases")).expect("opens")
    }

    fn script(dir: &tempfile::TempDir, text: &str) -> PathBuf {
        let path = dir.path().join("offered");
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("made executable");
        path
    }

    /// Releases 0, 1, … of which the last is the one used last.
    fn with_releases(dir: &tempfile::TempDir, count: u64) -> (Store, Vec<Digest>) {
        let store = open(dir);
        let put = |n: u64| {
            let ingested = store.ingest(&script(dir, &format!("echo {n}")), None, &about()).expect("good");
            store.used(&ingested.digest, SystemTime::UNIX_EPOCH + Duration::from_secs(n)).expect("touched");
            ingested.digest
        };
        let digests = (0..count).map(put).collect();
        (store, digests)
    }

    #[test]
    fn releases_are_listed_by_last_use_with_what_is_known_of_them() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (store, digests) = with_releases(&dir, 3);
        store.used(&digests[0], SystemTime::UNIX_EPOCH + Duration::from_secs(9)).expect("touched");
        let kept = store.list().expect("read");
        assert_eq!(kept.iter().map(|kept| kept.digest).collect::<Vec<_>>(), [digests[0], digests[2], digests[1]]);
        let record = kept[0].record.as_ref().expect("written");
        assert_eq!((record.digest, record.size, &record.about), (digests[0], kept[0].size, &about()));
        assert_eq!(record.origin, dir.path().join("offered"));
    }

    #[test]
    fn collecting_keeps_the_last_used_and_those_in_use() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (store, digests) = with_releases(&dir, 5);
        let in_use = BTreeSet::from([digests[0]]);
        assert_eq!(store.collect(2, &in_use).expect("removed"), [digests[2], digests[1]]);
        for (n, digest) in digests.iter().enumerate() {
            assert_eq!(store.contains(digest), matches!(n, 0 | 3 | 4), "release {n}");
        }
        assert!(store.collect(2, &in_use).expect("nothing left to do").is_empty());
        assert_eq!(names(&store.dir).expect("read").len(), 3, "nothing is left over");
    }

    #[test]
    fn a_beginning_finds_one_release_or_says_which_it_may_mean() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (store, digests) = with_releases(&dir, 20);
        let full = digests[3].to_string();
        assert_eq!(store.find(&full).expect("known"), digests[3]);
        assert_eq!(store.find(&full[..16].to_uppercase()).expect("known"), digests[3]);
        assert!(matches!(store.find(""), Err(FindError::None(_))));
        assert!(matches!(store.find("xyz"), Err(FindError::None(_))));
        // Of twenty releases, two begin with the same of sixteen digits.
        let shared = "0123456789abcdef".chars().map(String::from).map(|digit| store.find(&digit));
        let ambiguous = shared.filter_map(Result::err).find(|cause| matches!(cause, FindError::Ambiguous { .. }));
        assert!(ambiguous.expect("two share a digit").to_string().contains("give more digits"));
    }

    #[test]
    fn what_a_killed_agent_left_is_removed_and_the_rest_is_not() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (store, digests) = with_releases(&dir, 1);
        for name in [".new-1-0", ".gone-1-0"] {
            std::fs::create_dir_all(store.dir.join(name)).expect("created");
            std::fs::write(store.dir.join(name).join(PROGRAM), "half").expect("written");
        }
        let store = open(&dir);
        assert_eq!(names(&store.dir).expect("read"), [digests[0].to_string()]);
    }

    #[test]
    fn rejections_outlive_the_store_and_can_be_forgiven() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (good, bad) = (Digest([1; 32]), Digest([2; 32]));
        let store = open(&dir);
        store.reject(bad, "slot 1: exit code 1").expect("written");
        store.reject(bad, "slot 2: exit code 2").expect("written");
        assert_eq!(store.why_rejected(&good), None);
        assert_eq!(open(&dir).why_rejected(&bad).as_deref(), Some("slot 2: exit code 2"));
        store.forgive(&bad).expect("written");
        assert_eq!(open(&dir).why_rejected(&bad), None);
    }

    #[test]
    fn only_the_last_rejections_are_remembered() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let store = open(&dir);
        for n in 0..=100 {
            store.reject(Digest([n; 32]), "bad").expect("written");
        }
        assert_eq!(store.why_rejected(&Digest([0; 32])), None);
        assert!(store.why_rejected(&Digest([1; 32])).is_some() && store.why_rejected(&Digest([100; 32])).is_some());
    }
}
