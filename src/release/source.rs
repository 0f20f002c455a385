//! A program file that somebody offers: opened once, and everything is then asked of what was opened.

use std::fs::{File, FileType, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// `O_NONBLOCK` of x86-64 and aarch64 (asm-generic/fcntl.h): opening a fifo that took the file's place must not wait.
const O_NONBLOCK: i32 = 0o4000;

/// Why a path cannot be a release.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Nothing has this name.
    #[error("{} does not exist: build it first, or give the path of the program", path.display())]
    Missing {
        /// What was given.
        path: PathBuf,
    },
    /// A symbolic link that leads nowhere.
    #[error("{} is a symbolic link to {}, which does not exist: point it at a program", path.display(), target.display())]
    Dangling {
        /// What was given.
        path: PathBuf,
        /// What the link says.
        target: PathBuf,
    },
    /// Something else has this name.
    #[error("{} is {kind}, not a file: give the path of the program itself", path.display())]
    NotAFile {
        /// What was given.
        path: PathBuf,
        /// `a directory`.
        kind: &'static str,
    },
    /// Nobody may execute it.
    #[error("{} is not executable: run `chmod +x` on it", path.display())]
    NotExecutable {
        /// What was given.
        path: PathBuf,
    },
    /// It has no content.
    #[error("{} is empty: it may still be being written, or the build or copy failed", path.display())]
    Empty {
        /// What was given.
        path: PathBuf,
    },
    /// It could not be opened or read.
    #[error("{} cannot be read by the agent's user", path.display())]
    Unreadable {
        /// What was given.
        path: PathBuf,
        /// The system's word on it.
        source: io::Error,
    },
    /// It changed while it was read.
    #[error("{} changed while it was read: wait until it is completely written, or move it into place", path.display())]
    Changing {
        /// What was given.
        path: PathBuf,
    },
}

/// An open, regular, executable, non-empty file.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    file: File,
    before: Metadata,
}

impl Source {
    /// Opens it and looks at it.
    ///
    /// # Errors
    /// Every [`SourceError`] but `Changing`.
    pub fn open(path: &Path) -> Result<Self, SourceError> {
        // A look before the open: opening a device can have effects, and a socket cannot be opened at all.
        let seen = std::fs::metadata(path).map_err(|source| missing(path, source))?;
        fit(path, &seen)?;
        let opened = OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(path);
        let file = opened.map_err(|source| missing(path, source))?;
        let before = file.metadata().map_err(|source| unreadable(path, source))?;
        fit(path, &before)?;
        Ok(Self { path: path.to_owned(), file, before })
    }

    /// The open file.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// How many bytes it had when it was opened.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.before.len()
    }

    /// Wraps an error of reading it.
    pub fn unreadable(&self, source: io::Error) -> SourceError {
        unreadable(&self.path, source)
    }

    /// Checks that the `read` bytes were all of it and that nobody wrote to it meanwhile.
    ///
    /// # Errors
    /// [`SourceError::Changing`] if so.
    pub fn check_unchanged(&self, read: u64) -> Result<(), SourceError> {
        let after = self.file.metadata().map_err(|source| self.unreadable(source))?;
        let face = |of: &Metadata| (of.len(), of.mtime(), of.mtime_nsec());
        if read == self.size() && face(&after) == face(&self.before) {
            Ok(())
        } else {
            Err(SourceError::Changing { path: self.path.clone() })
        }
    }
}

fn fit(path: &Path, metadata: &Metadata) -> Result<(), SourceError> {
    let path = || path.to_owned();
    if !metadata.is_file() {
        return Err(SourceError::NotAFile { path: path(), kind: kind_of(metadata.file_type()) });
    }
    if metadata.permissions().mode() & 0o111 == 0 {
        return Err(SourceError::NotExecutable { path: path() });
    }
    if metadata.len() == 0 {
        return Err(SourceError::Empty { path: path() });
    }
    Ok(())
}

fn kind_of(file_type: FileType) -> &'static str {
    match file_type {
        t if t.is_dir() => "a directory",
        t if t.is_fifo() => "a named pipe",
        t if t.is_socket() => "a socket",
        t if t.is_char_device() || t.is_block_device() => "a device",
        _ => "something special",
    }
}

fn missing(path: &Path, source: io::Error) -> SourceError {
    if source.kind() != io::ErrorKind::NotFound {
        return unreadable(path, source);
    }
    match std::fs::read_link(path) {
        Ok(target) => SourceError::Dangling { path: path.to_owned(), target },
        Err(_) => SourceError::Missing { path: path.to_owned() },
    }
}

fn unreadable(path: &Path, source: io::Error) -> SourceError {
    SourceError::Unreadable { path: path.to_owned(), source }
}
