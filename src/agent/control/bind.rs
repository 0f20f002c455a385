//! The socket file: one agent per path, and nobody else can ever connect to it.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::time::sleep;

use crate::sys::clock;

/// The longest path of a socket: `sun_path` less its closing NUL (unix(7)).
const LONGEST: usize = 107;

/// The bound control socket. Dropping it removes the socket file.
#[derive(Debug)]
pub struct Control {
    pub(super) listener: UnixListener,
    /// The user that the agent runs as: who may connect, besides root.
    pub(super) owner: u32,
    path: PathBuf,
    /// Locked for as long as this lives: a socket file alone cannot tell two agents that start at once apart.
    _lock: File,
}

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody answers there.
    #[error("an agent already answers at {path}: stop it with 'rollout stop --socket {path}', or start this one with another --socket", path = .0.display())]
    Answered(PathBuf),
    /// Something that is not a socket is there.
    #[error("control socket {path}: a file that is not a socket is in the way: remove it, or name another path with --socket", path = .0.display())]
    InTheWay(PathBuf),
    /// The path does not fit into a socket address.
    #[error("control socket {path}: the path is {length} bytes long and a socket's may be {LONGEST}: name a shorter one with --socket", path = .0.display(), length = .0.as_os_str().len())]
    TooLong(PathBuf),
    /// The system refused.
    #[error("control socket {path}: {step}: name another path with --socket, or make this one usable", path = path.display())]
    System {
        /// The socket.
        path: PathBuf,
        /// What was tried.
        step: &'static str,
        /// The system's word on it.
        source: io::Error,
    },
}

impl Control {
    /// Binds the socket with mode 0600, in place of one that nobody answers on. Missing directories are made, mode 0700.
    ///
    /// # Errors
    /// When another agent answers there, or the system refuses.
    pub async fn bind(path: &Path) -> Result<Self, BindError> {
        let refused = |step| move |source| BindError::System { path: path.to_owned(), step, source };
        let path = &std::path::absolute(path).map_err(refused("make its path absolute"))?;
        if path.as_os_str().as_bytes().len() > LONGEST {
            return Err(BindError::TooLong(path.clone()));
        }
        let parent = path.parent().unwrap_or(Path::new("/"));
        DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(refused("make its directory"))?;
        let lock = lock(path).await?;
        make_way(path).await?;
        let listener = bind_unreachably(parent, path).map_err(refused("bind it"))?;
        let owner = fs::symlink_metadata(path).map_err(refused("look at it"))?.uid();
        Ok(Self { listener, owner, path: path.clone(), _lock: lock })
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // The lock is still held, so the file is this agent's own. A failure leaves a dead file, which the next agent removes.
        drop(fs::remove_file(&self.path));
    }
}

/// A process that the last holder has just forked holds its lock, too, until it executes its own program (flock(2): the
/// lock belongs to the open file, not to the process). A second agent holds it for longer.
const UNTIL_EXECUTED: Duration = Duration::from_millis(500);

async fn lock(path: &Path) -> Result<File, BindError> {
    let refused = |step| move |source| BindError::System { path: path.to_owned(), step, source };
    let mut beside = path.as_os_str().to_owned();
    beside.push(".lock");
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(beside);
    let file = file.map_err(refused("open its lock file"))?;
    let too_late = clock::now().after(UNTIL_EXECUTED);
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if clock::now() < too_late => sleep(LOOK_AGAIN).await,
            Err(TryLockError::WouldBlock) => return Err(BindError::Answered(path.to_owned())),
            Err(TryLockError::Error(source)) => return Err(refused("lock its lock file")(source)),
        }
    }
}

/// Between two looks at the lock: nobody says when it is free without blocking the thread.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Removes a socket file that nobody answers on.
async fn make_way(path: &Path) -> Result<(), BindError> {
    let refused = |step| move |source| BindError::System { path: path.to_owned(), step, source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(refused("look at it")(error)),
        Ok(found) if !found.file_type().is_socket() => return Err(BindError::InTheWay(path.to_owned())),
        Ok(_) => {}
    }
    match UnixStream::connect(path).await {
        // EAGAIN is a full queue: somebody has it open (unix(7)).
        Ok(_) => Err(BindError::Answered(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(BindError::Answered(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(refused("remove the dead one"))
        }
        Err(error) => Err(refused("ask whether somebody answers there")(error)),
    }
}

/// Binds inside a private directory and moves the socket out once its mode is right: the umask belongs to the whole
/// process and cannot be changed safely, and a socket must not be open to everybody even for a moment.
fn bind_unreachably(parent: &Path, path: &Path) -> io::Result<UnixListener> {
    // Not longer than "rollout.sock", so that what fits there fits here.
    let private = parent.join(format!(".{}", std::process::id()));
    drop(fs::remove_dir_all(&private));
    DirBuilder::new().mode(0o700).create(&private)?;
    let bound = bind_in(&private, path);
    drop(fs::remove_dir_all(&private));
    bound
}

fn bind_in(private: &Path, path: &Path) -> io::Result<UnixListener> {
    let inside = private.join("s");
    let listener = UnixListener::bind(&inside)?;
    fs::set_permissions(&inside, Permissions::from_mode(0o600))?;
    fs::rename(&inside, path)?;
    Ok(listener)
}
