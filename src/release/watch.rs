//! Notices that something changed near a path. The only file that names `notify`.
//!
//! It watches directories rather than the file: a file that is moved into place is another file than the one that was
//! watched, and so is a link that is pointed elsewhere (inotify(7)). What the change means is for
//! [`super::settle::Settle`] and the digest to say.
//!
//! **Not everything is seen.** Changes made by other hosts on a network file system, some overlays, and a directory
//! further up that was moved away give no event: look at the file every 10 seconds as well.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify::{Config, INotifyWatcher, RecursiveMode, Watcher as _};

use super::places::Places;

/// How often a path may change its meaning while it is being armed before that is left to the next event.
const ROUNDS: usize = 8;

/// What the watcher says, from a thread of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchEvent {
    /// Something changed near the path: call [`Watcher::refresh`] and look at the file.
    Changed,
    /// Events may have been missed; the text says why. To be treated like `Changed`, and logged.
    Blind(String),
}

/// Why a path cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The directory of the file is not there.
    #[error("{} cannot be watched: the directory {} does not exist; create it, or correct `binary:`", path.display(), missing.display())]
    NoDirectory {
        /// What should be watched.
        path: PathBuf,
        /// The first directory on the way that is not there.
        missing: PathBuf,
    },
    /// A directory on the way cannot be looked at.
    #[error("{} cannot be watched: its directories cannot be read", path.display())]
    Unreadable {
        /// What should be watched.
        path: PathBuf,
        /// The system's word on it.
        source: io::Error,
    },
    /// The kernel refused.
    #[error("{} cannot be watched: raise fs.inotify.max_user_watches and max_user_instances if they are used up", path.display())]
    Refused {
        /// The directory, or the path if no watcher could be made at all.
        path: PathBuf,
        /// The system's word on it.
        source: notify::Error,
    },
}

/// Watches one path until it is dropped.
pub struct Watcher {
    path: PathBuf,
    inner: INotifyWatcher,
    shared: Arc<Mutex<Shared>>,
    /// Directories with their device and inode: one that was replaced must be armed again.
    armed: BTreeMap<PathBuf, (u64, u64)>,
}

/// What the thread of the watcher compares events with. Locked for a few look-ups, never while calling `notify`, which
/// waits for that thread.
#[derive(Debug, Default)]
struct Shared {
    paths: BTreeSet<PathBuf>,
    directories: BTreeSet<PathBuf>,
    /// Watched directories that were removed or moved.
    lost: BTreeSet<PathBuf>,
}

impl fmt::Debug for Watcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watcher").field("path", &self.path).field("armed", &self.armed).finish_non_exhaustive()
    }
}

impl Watcher {
    /// Begins to watch an absolute path, which need not exist, in a directory which must. `tell` is called once for each
    /// event, from another thread: it must neither block nor queue without a bound (a build writes a file in
    /// thousands of steps); waking somebody up, as `tokio::sync::Notify` does, is enough.
    ///
    /// # Errors
    /// When the directory does not exist or the kernel refuses.
    pub fn open(path: &Path, tell: impl Fn(WatchEvent) + Send + 'static) -> Result<Self, WatchError> {
        Self::telling_paths(path, move |event, _| tell(event))
    }

    /// As `open`; tells the paths of the event, too.
    fn telling_paths(path: &Path, tell: impl Fn(WatchEvent, &[PathBuf]) + Send + 'static) -> Result<Self, WatchError> {
        let shared = Arc::new(Mutex::new(Shared::default()));
        let seen = Arc::clone(&shared);
        let on_event = move |event: notify::Result<notify::Event>| {
            let meaning = lock(&seen).meaning_of(&event);
            if let Some(meaning) = meaning {
                tell(meaning, event.as_ref().map_or(&[], |event| &event.paths));
            }
        };
        let refused = |source| WatchError::Refused { path: path.to_owned(), source };
        let inner = INotifyWatcher::new(on_event, Config::default()).map_err(refused)?;
        let mut watcher = Self { path: path.to_owned(), inner, shared, armed: BTreeMap::new() };
        match watcher.refresh()?.missing {
            Some(missing) => Err(WatchError::NoDirectory { path: path.to_owned(), missing }),
            None => Ok(watcher),
        }
    }

    /// Follows the path to where it leads now. Cheap; to be called after each event and with each regular look, before the
    /// look: what changes after it gives an event. Directories that are gone are awaited.
    ///
    /// # Errors
    /// When a directory cannot be read or the kernel refuses; the next call tries again.
    pub fn refresh(&mut self) -> Result<Reach, WatchError> {
        let mut places = self.places()?;
        for _ in 0..ROUNDS {
            self.arm(&places)?;
            let again = self.places()?;
            if again == places && lock(&self.shared).lost.is_empty() {
                break;
            }
            places = again;
        }
        Ok(Reach { missing: places.missing })
    }

    fn places(&self) -> Result<Places, WatchError> {
        Places::of(&self.path).map_err(|source| WatchError::Unreadable { path: self.path.clone(), source })
    }

    fn arm(&mut self, places: &Places) -> Result<(), WatchError> {
        let wanted = places.directories();
        let lost = {
            let mut shared = lock(&self.shared);
            shared.paths = places.paths();
            shared.directories.clone_from(&wanted);
            std::mem::take(&mut shared.lost)
        };
        let stale =
            |dir: &PathBuf, id: &(u64, u64)| !wanted.contains(dir) || lost.contains(dir) || identity(dir) != Some(*id);
        let dropped: Vec<PathBuf> =
            self.armed.iter().filter(|(dir, id)| stale(dir, id)).map(|(dir, _)| dir.clone()).collect();
        for dir in dropped {
            self.armed.remove(&dir);
            // The kernel drops the watch of a removed directory by itself; then there is nothing to remove.
            let _gone = self.inner.unwatch(&dir);
        }
        for dir in wanted {
            if self.armed.contains_key(&dir) {
                continue;
            }
            // Gone again: the next round finds out what is there now.
            let Some(id) = identity(&dir) else { continue };
            match self.inner.watch(&dir, RecursiveMode::NonRecursive) {
                Ok(()) => _ = self.armed.insert(dir, id),
                Err(cause) if matches!(cause.kind, notify::ErrorKind::PathNotFound) => {}
                Err(source) => return Err(WatchError::Refused { path: dir, source }),
            }
        }
        Ok(())
    }
}

/// How far a path leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    /// The first directory on the way that does not exist now; the watcher waits for it.
    pub missing: Option<PathBuf>,
}

impl Shared {
    fn meaning_of(&mut self, event: &notify::Result<notify::Event>) -> Option<WatchEvent> {
        let event = match event {
            Ok(event) if event.need_rescan() => return Some(WatchEvent::Blind("too many changes at once".to_owned())),
            Ok(event) => event,
            Err(cause) => return Some(WatchEvent::Blind(cause.to_string())),
        };
        // Opening and reading are no changes; the agent itself does both to each candidate.
        if matches!(event.kind, EventKind::Access(access) if access != AccessKind::Close(AccessMode::Write)) {
            return None;
        }
        let moves_itself = matches!(event.kind, EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(_)));
        let mut matters = false;
        for path in &event.paths {
            matters |= self.paths.contains(path);
            if moves_itself && self.directories.contains(path) {
                self.lost.insert(path.clone());
                matters = true;
            }
        }
        matters.then_some(WatchEvent::Changed)
    }
}

fn identity(dir: &Path) -> Option<(u64, u64)> {
    std::fs::symlink_metadata(dir).ok().filter(std::fs::Metadata::is_dir).map(|found| (found.dev(), found.ino()))
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    // Nothing in here is ever half changed.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::sync::mpsc::{Receiver, channel};
    use std::time::Duration;

    use super::*;

    struct Rig {
        _dir: tempfile::TempDir,
        root: PathBuf,
        events: Receiver<Vec<PathBuf>>,
        watcher: Watcher,
        markers: u32,
    }

    impl Rig {
        fn new(path: &str, prepare: impl FnOnce(&Path)) -> Self {
            let dir = tempfile::tempdir().expect("a temporary directory");
            let root = dir.path().canonicalize().expect("it exists");
            prepare(&root);
            let (tell, events) = channel();
            let send = move |event, paths: &[PathBuf]| {
                assert_eq!(event, WatchEvent::Changed);
                let _received = tell.send(paths.to_vec());
            };
            let watcher = Watcher::telling_paths(&root.join(path), send).expect("watched");
            Self { _dir: dir, root, events, watcher, markers: 0 }
        }

        /// The paths of all events so far. Events come in order, so those of a marker made now are the last.
        fn events(&mut self) -> Vec<PathBuf> {
            let mut seen = Vec::new();
            let armed: Vec<PathBuf> = self.watcher.armed.keys().cloned().collect();
            for dir in armed {
                self.markers += 1;
                let marker = dir.join(format!("marker-{}", self.markers));
                lock(&self.watcher.shared).paths.insert(marker.clone());
                std::fs::create_dir(&marker).expect("created");
                loop {
                    let paths = self.events.recv_timeout(Duration::from_secs(30)).expect("the marker is seen");
                    if paths.contains(&marker) {
                        break;
                    }
                    seen.extend(paths);
                }
            }
            self.watcher.refresh().expect("followed");
            seen
        }

        fn expect_event(&mut self, cause: &str) {
            let first = self.events.recv_timeout(Duration::from_secs(30));
            assert!(first.is_ok(), "no event after: {cause}");
            self.watcher.refresh().expect("followed");
            self.events();
        }

        fn write(&self, path: &str) {
            std::fs::write(self.root.join(path), "content").expect("written");
        }
    }

    #[test]
    fn every_way_to_replace_a_file_is_seen() {
        let mut rig = Rig::new("web", |_| {});
        let path = rig.root.join("web");
        rig.write("web");
        rig.expect_event("created");
        rig.write("web");
        rig.expect_event("written over");
        rig.write("web.new");
        std::fs::rename(rig.root.join("web.new"), &path).expect("moved");
        rig.expect_event("moved into place");
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("set");
        rig.expect_event("made executable");
        std::fs::remove_file(&path).expect("removed");
        rig.expect_event("removed");
    }

    #[test]
    fn reading_it_and_neighbours_give_no_event() {
        let mut rig = Rig::new("web", |root| std::fs::write(root.join("web"), "content").expect("written"));
        std::fs::read(rig.root.join("web")).expect("read");
        rig.write("web2");
        assert_eq!(rig.events(), Vec::<PathBuf>::new());
    }

    #[test]
    fn a_link_is_followed_wherever_it_is_on_the_way() {
        let mut rig = Rig::new("current/web", |root| {
            for release in ["one", "two"] {
                std::fs::create_dir(root.join(release)).expect("created");
                std::fs::write(root.join(release).join("web"), "content").expect("written");
            }
            symlink("one", root.join("current")).expect("linked");
        });
        rig.write("one/web");
        rig.expect_event("the target was written");
        symlink("two", rig.root.join("next")).expect("linked");
        std::fs::rename(rig.root.join("next"), rig.root.join("current")).expect("moved");
        rig.expect_event("the link was pointed elsewhere");
        rig.write("two/web");
        rig.expect_event("the new target was written");
        rig.write("one/web");
        assert_eq!(rig.events(), Vec::<PathBuf>::new(), "the old target is of no interest");
    }

    #[test]
    fn a_directory_that_is_removed_and_made_again_is_watched_again() {
        let mut rig = Rig::new("target/release/web", |root| {
            std::fs::create_dir_all(root.join("target/release")).expect("created");
            std::fs::write(root.join("target/release/web"), "content").expect("written");
        });
        std::fs::remove_dir_all(rig.root.join("target")).expect("removed");
        rig.expect_event("removed");
        assert_eq!(rig.watcher.refresh().expect("followed").missing, Some(rig.root.join("target")));
        std::fs::create_dir(rig.root.join("target")).expect("created");
        rig.expect_event("the first directory is back");
        std::fs::create_dir(rig.root.join("target/release")).expect("created");
        rig.expect_event("the second directory is back");
        rig.write("target/release/web");
        rig.expect_event("the file is back");
    }

    #[test]
    fn a_directory_that_is_replaced_by_another_is_watched_there() {
        let mut rig = Rig::new("release/web", |root| std::fs::create_dir(root.join("release")).expect("created"));
        std::fs::create_dir(rig.root.join("next")).expect("created");
        std::fs::rename(rig.root.join("release"), rig.root.join("old")).expect("moved");
        std::fs::rename(rig.root.join("next"), rig.root.join("release")).expect("moved");
        rig.expect_event("replaced");
        rig.write("release/web");
        rig.expect_event("written in the new directory");
    }

    #[test]
    fn a_directory_that_does_not_exist_is_named() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let cause = Watcher::open(&dir.path().join("no/such/web"), |_| {}).expect_err("refused").to_string();
        let missing = dir.path().canonicalize().expect("it exists").join("no");
        assert!(cause.contains(&format!("the directory {} does not exist", missing.display())), "{cause}");
    }
}
