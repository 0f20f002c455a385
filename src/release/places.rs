//! The directories in which a path can change its meaning: that of the file, and that of each symbolic link on the way.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsString;
use std::io;
use std::path::{Component, Path, PathBuf};

/// The kernel follows no more (path_resolution(7)).
const MOST_LINKS: usize = 40;

/// A path as it is resolved now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Places {
    /// Real directories, each with a name in it that matters.
    pub(super) entries: BTreeSet<(PathBuf, OsString)>,
    /// The first directory on the way that does not exist; `entries` then has the place where it would appear.
    pub(super) missing: Option<PathBuf>,
}

impl Places {
    /// Walks an absolute path as the kernel would.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let mut entries = BTreeSet::new();
        let mut at = PathBuf::from("/");
        let mut ahead = names(path);
        let mut links = 0;
        while let Some(name) = ahead.pop_front() {
            if name == ".." {
                // `at` has no links in it, so its parent is what the kernel means.
                at.pop();
                continue;
            }
            let next = at.join(&name);
            let found = match std::fs::symlink_metadata(&next) {
                Ok(found) => Some(found.file_type()),
                Err(cause) if cause.kind() == io::ErrorKind::NotFound => None,
                Err(cause) => return Err(cause),
            };
            let is_last = ahead.is_empty();
            match found {
                Some(kind) if kind.is_symlink() => {
                    entries.insert((at.clone(), name));
                    links += 1;
                    if links > MOST_LINKS {
                        return Err(io::Error::other("too many symbolic links"));
                    }
                    let target = std::fs::read_link(&next)?;
                    if target.is_absolute() {
                        at = PathBuf::from("/");
                    }
                    let mut names = names(&target);
                    names.append(&mut ahead);
                    ahead = names;
                }
                Some(kind) if kind.is_dir() && !is_last => at = next,
                _ => {
                    entries.insert((at, name));
                    return Ok(Self { entries, missing: (!is_last).then_some(next) });
                }
            }
        }
        Ok(Self { entries, missing: None })
    }

    pub(super) fn directories(&self) -> BTreeSet<PathBuf> {
        self.entries.iter().map(|(dir, _)| dir.clone()).collect()
    }

    pub(super) fn paths(&self) -> BTreeSet<PathBuf> {
        self.entries.iter().map(|(dir, name)| dir.join(name)).collect()
    }
}

fn names(path: &Path) -> VecDeque<OsString> {
    let named = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    });
    named.collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn here() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let real = dir.path().canonicalize().expect("it exists");
        (dir, real)
    }

    fn entries_below(root: &Path, places: &Places) -> Vec<String> {
        let below =
            places.paths().into_iter().filter_map(|path| Some(path.strip_prefix(root).ok()?.display().to_string()));
        below.collect()
    }

    #[test]
    fn a_plain_file_has_one_place() {
        let (_guard, root) = here();
        let places = Places::of(&root.join("program")).expect("can be walked");
        assert_eq!(entries_below(&root, &places), ["program"]);
        assert_eq!(places.missing, None);
    }

    #[test]
    fn every_link_on_the_way_is_a_place_directories_included() {
        let (_guard, root) = here();
        std::fs::create_dir_all(root.join("releases/42/bin")).expect("created");
        symlink("releases/42", root.join("current")).expect("linked");
        symlink("../../../current/bin/web-42", root.join("releases/42/bin/web")).expect("linked");
        let places = Places::of(&root.join("current/bin/web")).expect("can be walked");
        assert_eq!(entries_below(&root, &places), ["current", "releases/42/bin/web", "releases/42/bin/web-42"]);
    }

    #[test]
    fn a_missing_directory_is_awaited_in_the_nearest_one_that_exists() {
        let (_guard, root) = here();
        let places = Places::of(&root.join("target/release/web")).expect("can be walked");
        assert_eq!(entries_below(&root, &places), ["target"]);
        assert_eq!(places.missing, Some(root.join("target")));
    }

    #[test]
    fn a_circle_of_links_is_an_error() {
        let (_guard, root) = here();
        symlink("b", root.join("a")).expect("linked");
        symlink("a", root.join("b")).expect("linked");
        assert!(Places::of(&root.join("a")).is_err());
    }
}
