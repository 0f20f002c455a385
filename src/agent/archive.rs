//! A service's releases and history on disk, and how a wish becomes a release that may be rolled out.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tracing::warn;

use super::happening::{Prepared, Wish};
use crate::config::settings::{Program, Service};
use crate::release::digest::digest_of;
use crate::release::journal::Journal;
use crate::release::store::{About, Already, IngestError, Store, StoreError};
use crate::units::Digest;
use crate::wire::api::{Entry, Refusal};

/// Entries of the journal that `history` shows.
const HISTORY_BOUND: usize = 200;

/// Store and journal of one service.
pub(crate) struct Archive {
    store: Arc<Store>,
    journal: Journal<Entry>,
}

impl Archive {
    pub(crate) fn open(dir: &Path) -> Result<Self, StoreError> {
        Ok(Self {
            store: Arc::new(Store::open(&dir.join("releases"))?),
            journal: Journal::at(&dir.join("history.jsonl")),
        })
    }

    pub(crate) fn store(&self) -> Arc<Store> {
        Arc::clone(&self.store)
    }

    pub(crate) fn program(&self, release: &Digest) -> PathBuf {
        self.store.program(release)
    }

    pub(crate) fn record(&mut self, entry: &Entry) {
        if let Err(error) = self.journal.append(entry) {
            warn!(error = super::chain(&error), "cannot write the history");
        }
    }

    /// Newest first.
    pub(crate) fn history(&self) -> Result<Vec<Entry>, StoreError> {
        self.journal.read(HISTORY_BOUND)
    }

    /// The release is live: it is not rejected (any more), and what nobody needs may go.
    pub(crate) fn accept(&self, release: Digest, keep: usize, in_use: &BTreeSet<Digest>) {
        let store = &self.store;
        let done = store
            .forgive(&release)
            .and_then(|()| {
                if store.contains(&release) { store.used(&release, crate::sys::clock::time_of_day()) } else { Ok(()) }
            })
            .and_then(|()| store.collect(keep, in_use));
        if let Err(error) = done {
            warn!(error = super::chain(&error), "cannot clean the release store");
        }
    }

    pub(crate) fn reject(&self, release: Digest, why: &str) {
        if let Err(error) = self.store.reject(release, why) {
            warn!(error = super::chain(&error), "cannot remember that a release is bad");
        }
    }

    pub(crate) fn why_rejected(&self, release: &Digest) -> Option<String> {
        self.store.why_rejected(release)
    }
}

/// What is known when a wish is prepared.
pub(crate) struct Basis {
    pub(crate) store: Arc<Store>,
    pub(crate) settings: Service,
    pub(crate) who: String,
    pub(crate) at: String,
    pub(crate) note: Option<String>,
    /// What the watched path held when it was last looked at.
    pub(crate) seen: Option<Digest>,
    /// What is live or becoming live.
    pub(crate) live: Option<Digest>,
}

/// Makes a release out of a wish. Reads, hashes and copies: not for the loop's thread.
pub(crate) fn prepare(wish: &Wish, basis: &Basis) -> Result<Prepared, Refusal> {
    match (wish, &basis.settings.program) {
        (Wish::Stored(release), _) => Ok(Prepared { release: *release, size: None, already: true, seen: None }),
        (Wish::File(deploy), Program::Binary { .. }) => ingest(Path::new(&deploy.path), deploy.sha256, basis),
        (Wish::File(_), Program::Command { command }) => Err(refusal(
            1,
            format!(
                "this service runs the command {:?} in place and takes no releases: give it `binary:` in the \
                 configuration, or use 'rollout restart'",
                command.join(" ")
            ),
        )),
        (Wish::Configured, Program::Binary { path, .. }) => {
            let found = ingest(path, None, basis)?;
            let prepared = match basis.live {
                // The path holds what it held: what was deployed since then stays.
                Some(live) if basis.seen == Some(found.release) => {
                    Prepared { release: live, size: None, already: true, seen: None }
                }
                Some(_) | None => found,
            };
            Ok(Prepared { seen: Some(found.release), ..prepared })
        }
        (Wish::Configured, Program::Command { command }) => {
            let path = find_program(&command[0], &basis.settings).ok_or_else(|| {
                refusal(1, format!("the program {:?} is not found in PATH: name it with its path", command[0]))
            })?;
            let release = digest_of(&path).map_err(|error| refusal(1, super::chain(&error)))?;
            Ok(Prepared { release, size: None, already: true, seen: None })
        }
    }
}

fn ingest(path: &Path, expected: Option<Digest>, basis: &Basis) -> Result<Prepared, Refusal> {
    let config = serde_json::to_value(basis.settings.masked()).unwrap_or(serde_json::Value::Null);
    let about = About { who: basis.who.clone(), at: basis.at.clone(), note: basis.note.clone(), config };
    match basis.store.ingest(path, expected, &about) {
        Ok(ingested) => Ok(Prepared {
            release: ingested.digest,
            size: Some(ingested.size),
            already: ingested.already == Already::Known,
            seen: None,
        }),
        Err(error @ IngestError::Mismatch { .. }) => Err(refusal(5, super::chain(&error))),
        Err(
            error @ (IngestError::Source(_)
            | IngestError::Unfit { .. }
            | IngestError::NoInterpreter { .. }
            | IngestError::DiskFull { .. }
            | IngestError::Store { .. }),
        ) => Err(refusal(1, super::chain(&error))),
    }
}

/// Where execvp(3) would find it.
fn find_program(program: &str, settings: &Service) -> Option<PathBuf> {
    if program.contains('/') {
        return Some(settings.cwd.join(program));
    }
    let path = settings.env.get("PATH").cloned().or_else(|| std::env::var("PATH").ok())?;
    std::env::split_paths(&path).map(|dir| settings.cwd.join(dir).join(program)).find(|candidate| candidate.is_file())
}

pub(crate) fn refusal(exit: u8, error: String) -> Refusal {
    Refusal { error, exit }
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, set_permissions, write};
    use std::os::unix::fs::PermissionsExt;

    use super::super::book::tests::sample;
    use super::*;
    use crate::config::settings::Watch;

    /// A store and the path of a configured binary.
    struct Shelf {
        dir: tempfile::TempDir,
        store: Arc<Store>,
    }

    impl Shelf {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("a temporary directory");
            let store = Arc::new(Store::open(&dir.path().join("releases")).expect("opens"));
            Self { dir, store }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        fn put(&self, name: &str, text: &str) -> PathBuf {
            let path = self.path(name);
            write(&path, format!("#!/bin/sh\n{text}\n")).expect("written");
            set_permissions(&path, Permissions::from_mode(0o755)).expect("made executable");
            path
        }

        fn basis(&self, program: Program, seen: Option<Digest>, live: Option<Digest>) -> Basis {
            let settings = Service { program, cwd: self.dir.path().to_owned(), ..sample("workers: 1") };
            let (who, at) = ("uid 1".to_owned(), "2026-08-01T12:00:00Z".to_owned());
            Basis { store: Arc::clone(&self.store), settings, who, at, note: None, seen, live }
        }

        fn configured(&self, seen: Option<Digest>, live: Option<Digest>) -> Result<Prepared, Refusal> {
            let command = vec!["{release}".to_owned()];
            let program = Program::Binary { path: self.path("web"), command, watch: Watch::Off };
            prepare(&Wish::Configured, &self.basis(program, seen, live))
        }
    }

    #[test]
    fn what_was_deployed_from_elsewhere_stays_until_the_path_holds_something_else() {
        let shelf = Shelf::new();
        shelf.put("web", "echo 1");
        let first = shelf.configured(None, None).expect("good");
        assert_eq!((first.seen, first.already), (Some(first.release), false));
        let elsewhere = digest_of(&shelf.put("elsewhere", "echo 2")).expect("read");
        let kept = shelf.configured(first.seen, Some(elsewhere)).expect("good");
        assert_eq!((kept.release, kept.seen), (elsewhere, Some(first.release)));
        shelf.put("web", "echo 3");
        let third = shelf.configured(first.seen, Some(elsewhere)).expect("good");
        assert!(third.release != elsewhere && third.seen == Some(third.release), "{third:?}");
        // Nothing is live: what the path holds is better than nothing, seen or not.
        assert_eq!(shelf.configured(third.seen, None).expect("good").release, third.release);
        std::fs::remove_file(shelf.path("web")).expect("removed");
        assert_eq!(shelf.configured(third.seen, Some(elsewhere)).expect_err("gone").exit, 1);
    }

    #[test]
    fn a_file_must_have_the_digest_that_was_given() {
        let shelf = Shelf::new();
        let path = shelf.put("web", "echo 1").display().to_string();
        let deploy = crate::wire::api::Deploy { path, sha256: Some(Digest([7; 32])), ..Default::default() };
        let program = Program::Binary { path: shelf.path("web"), command: Vec::new(), watch: Watch::Off };
        let refused = prepare(&Wish::File(deploy), &shelf.basis(program, None, None)).expect_err("another digest");
        assert_eq!(refused.exit, 5, "{refused:?}");
        assert!(shelf.store.list().expect("read").is_empty());
    }

    #[test]
    fn a_command_is_known_by_the_program_that_path_finds_and_takes_no_file() {
        let shelf = Shelf::new();
        shelf.put("tool", "echo tool");
        let program = Program::Command { command: vec!["tool".to_owned(), "-x".to_owned()] };
        let mut basis = shelf.basis(program, None, None);
        basis.settings.env.insert("PATH".to_owned(), "/nowhere:.".to_owned());
        let prepared = prepare(&Wish::Configured, &basis).expect("found");
        assert_eq!(prepared.release, digest_of(&shelf.path("tool")).expect("read"));
        let deploy = crate::wire::api::Deploy { path: "/x".to_owned(), ..Default::default() };
        assert_eq!(prepare(&Wish::File(deploy), &basis).expect_err("in place").exit, 1);
        basis.settings.env.insert("PATH".to_owned(), "/nowhere".to_owned());
        let refused = prepare(&Wish::Configured, &basis).expect_err("not found");
        assert!(refused.error.contains("not found in PATH"), "{refused:?}");
    }
}
