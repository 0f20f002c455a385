//! Changes to a directory that survive a crash.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The store or a file in it could not be changed or read.
#[derive(Debug, thiserror::Error)]
#[error("{doing} {}", path.display())]
pub struct StoreError {
    /// What was tried: `create directory`.
    pub doing: &'static str,
    /// On what.
    pub path: PathBuf,
    /// The system's word on it.
    pub source: io::Error,
}

impl StoreError {
    /// For `map_err`.
    pub(super) fn on(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self { doing, path: path.to_owned(), source }
    }

    /// Whether there was no room.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

/// Makes the names in `dir` durable: a rename or a new file is lost by a power cut until its directory is synced.
pub(super) fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    let opened = File::open(dir).map_err(StoreError::on("open directory", dir))?;
    opened.sync_all().map_err(StoreError::on("sync directory", dir))
}

/// Writes a small file whole or not at all. The caller makes sure that nobody else writes the same one.
pub(super) fn write_whole(dir: &Path, name: &str, content: &[u8]) -> Result<(), StoreError> {
    let temporary = dir.join(format!(".{name}.next"));
    write_new(&temporary, content)?;
    let path = dir.join(name);
    std::fs::rename(&temporary, &path).map_err(StoreError::on("replace", &path))?;
    sync_dir(dir)
}

/// Writes a file that only its owner may read, and waits until it is on disk.
pub(super) fn write_new(path: &Path, content: &[u8]) -> Result<(), StoreError> {
    let opened = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path);
    let mut file = opened.map_err(StoreError::on("create", path))?;
    file.write_all(content).map_err(StoreError::on("write", path))?;
    file.sync_all().map_err(StoreError::on("sync", path))
}
