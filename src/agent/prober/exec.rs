//! The `exec` look: a command that exits 0.

use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::seconds;
use crate::machine::verdict::Look;
use crate::sys::group::kill_group;

/// How much of the end of the output is kept, to find its last line in.
const KEPT: usize = 4096;

/// What is run.
#[derive(Debug)]
pub(super) struct Errand {
    pub(super) command: Vec<String>,
    pub(super) env: Vec<(String, String)>,
}

/// After SIGKILL a process is gone at once, unless the kernel itself is stuck in a call for it.
const LAST_WAIT: Duration = Duration::from_secs(1);

/// Good when the command exits 0 before `limit` is over. It runs in a process group of its own; if it is late, or the look
/// is given up, the whole group is killed. (What a command that exits in time leaves behind is its own business.)
pub(super) async fn look(errand: &Errand, cwd: &Path, limit: Duration) -> Look {
    let name = errand.command.first().map_or("", String::as_str);
    let (mut group, output) = match start(errand, cwd) {
        Ok(started) => started,
        Err(error) => return Look::Bad(format!("start {name} in {}: {error}", cwd.display())),
    };
    let mut tail = Tail { output, kept: Vec::new() };
    let ended = timeout(limit, run(&mut group, &mut tail)).await;
    if ended.is_err() {
        group.kill();
        // Reaped here, by whoever started it. A leader that even SIGKILL cannot end is left to the runtime.
        let _ = timeout(LAST_WAIT, group.0.wait()).await;
        tail.read_rest();
    }
    let how = match ended {
        Ok(Ok(status)) if status.success() => return Look::Good,
        Ok(Ok(status)) => format!("{name}: {status}"),
        Ok(Err(error)) => format!("{name}: {error}"),
        Err(_) => format!("{name} did not end within {}", seconds(limit)),
    };
    Look::Bad(match tail.last_line() {
        Some(line) => format!("{how}: {line}"),
        None => how,
    })
}

/// A child that leads a process group; the group is killed when this is dropped.
struct Group(Child);

impl Group {
    fn kill(&self) {
        // No id means that the leader was reaped: its number may be somebody else's by now.
        if let Some(leader) = self.0.id()
            && let Err(error) = kill_group(leader)
        {
            tracing::warn!(pid = leader, %error, "cannot kill a health check that took too long");
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

fn start(errand: &Errand, cwd: &Path) -> io::Result<(Group, pipe::Receiver)> {
    let (program, arguments) = errand.command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let (read, write) = io::pipe()?;
    let child = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(errand.env.iter().map(|(name, value)| (name, value)))
        .current_dir(cwd)
        .stdin(Stdio::null())
        .stdout(write.try_clone()?)
        .stderr(write)
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    Ok((Group(child), pipe::Receiver::from_owned_fd(read.into())?))
}

async fn run(group: &mut Group, tail: &mut Tail) -> io::Result<ExitStatus> {
    let ended = tokio::select! {
        biased;
        ended = group.0.wait() => ended,
        // The output may end first (closed by the program) but not last: a background process may hold it open.
        () = tail.read_on() => group.0.wait().await,
    };
    tail.read_rest();
    ended
}

/// The end of a command's output.
struct Tail {
    output: pipe::Receiver,
    kept: Vec<u8>,
}

impl Tail {
    /// Reads until the output ends, so that the command is never stopped by a full pipe.
    async fn read_on(&mut self) {
        let mut piece = [0; KEPT];
        while let Ok(length @ 1..) = self.output.read(&mut piece).await {
            self.keep(&piece[..length]);
        }
    }

    /// Takes what is there, without waiting: at most what a pipe holds (pipe(7)), in case somebody goes on writing.
    fn read_rest(&mut self) {
        let mut piece = [0; KEPT];
        for _ in 0..16 {
            match self.output.try_read(&mut piece) {
                Ok(length @ 1..) => self.keep(&piece[..length]),
                Ok(0) | Err(_) => return,
            }
        }
    }

    fn keep(&mut self, piece: &[u8]) {
        self.kept.extend_from_slice(piece);
        let surplus = self.kept.len().saturating_sub(KEPT);
        self.kept.drain(..surplus);
    }

    /// The last line that is not blank, cut to what fits into a message.
    fn last_line(&self) -> Option<String> {
        let text = String::from_utf8_lossy(&self.kept);
        let line = text.lines().rev().map(str::trim).find(|line| !line.is_empty())?;
        Some(line.chars().filter(|c| !c.is_control()).take(256).collect())
    }
}
