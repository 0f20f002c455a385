//! Process groups of the agent's own children.

use std::io;

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

/// SIGKILL to every process of the group that `leader` leads. The caller has not reaped the leader yet, so the number
/// cannot mean anybody else. An empty group is fine.
///
/// # Errors
/// As kill(2): not allowed.
pub fn kill_group(leader: u32) -> io::Result<()> {
    // 0 would be our own group and 1 is not ours.
    let leader = i32::try_from(leader).ok().filter(|&pid| pid > 1).ok_or(io::ErrorKind::InvalidInput)?;
    match killpg(Pid::from_raw(leader), Signal::SIGKILL) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
