//! Killing a whole process tree.
//!
//! A tree is found by what its processes cannot easily lose: the chain of parents, the session that a worker leads, and
//! the mark in the environment ([`MARK`]) that every worker is started with, which survives a double fork and a
//! `setsid` of a daemon. A process that has shed all three is out of reach; only a cgroup would hold it.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use super::{child, clock, poll};
use crate::units::Signal;

/// The environment variable that carries the pid of a worker's main process to all of its descendants.
pub const MARK: &str = "ROLLOUT_MAIN_PID";

/// How often a tree that goes on forking is looked at again before we give up.
const ROUNDS: usize = 20;

/// How long the killed may take to be gone before the next look. A process in an uninterruptible wait takes longer.
const PATIENCE: Duration = Duration::from_millis(100);

/// The living descendants of this process, itself not among them, in no order.
///
/// True at one moment only, and only while the process is not reaped: see [`kill_tree`].
#[must_use]
pub fn tree(pid: i32) -> Vec<i32> {
    members(pid).into_keys().collect()
}

/// The living descendants of this process as far as the kernel lists them by parent (proc_tid_children(5)): found in
/// microseconds, where [`tree`] reads all of `/proc`, but without those that have left their parent. None where the
/// kernel keeps no such lists.
#[must_use]
pub fn offspring(pid: i32) -> Vec<i32> {
    let mut found = children(pid);
    let mut looked_at = 0;
    while let Some(&next) = found.get(looked_at) {
        found.extend(children(next));
        looked_at += 1;
    }
    found
}

/// The children of each thread of a process.
fn children(pid: i32) -> Vec<i32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let lists = threads.flatten().filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// Kills a worker's main process and everything that descends from it. `pidfd` is that of the main process: when it has
/// been reaped nothing is done, as its number may be somebody else's by now (whoever reaps it kills its group).
///
/// Gives back the pids that are still there: not ours to signal, or in an uninterruptible wait. Takes some milliseconds,
/// and at most two seconds for a tree that resists.
pub fn kill_tree(pid: i32, pidfd: BorrowedFd<'_>) -> Vec<i32> {
    // Stopped, not killed: the dead are reaped, and then the tree could not be found by this number any more. It must not
    // run either, or a main process that replaces its dead children would do so.
    let _ = child::signal(pidfd, Signal(libc::SIGSTOP));
    let mut left = Vec::new();
    for _ in 0..ROUNDS {
        let found = members(pid);
        // The order matters: what was found belongs to this tree if the number was still held after the search.
        if !child::holds_its_number(pidfd) {
            return Vec::new();
        }
        left = found.keys().copied().collect();
        if found.is_empty() {
            break;
        }
        let pidfds: Vec<_> = found.into_iter().filter_map(|(pid, seen)| kill_if_same(pid, &seen)).collect();
        let deadline = clock::now().after(PATIENCE);
        for pidfd in &pidfds {
            // An error or a timeout is found out by the next search.
            let _ = poll::wait_one(pidfd.as_fd(), poll::For::Reading, deadline);
        }
    }
    // ESRCH: it was quicker.
    let _ = child::signal(pidfd, Signal::KILL);
    left
}

/// The children of the calling thread, zombies among them. Orphans of its descendants, too, when it is a subreaper: at the
/// latest when their parent can be waited for.
///
/// One file where the kernel has it (`CONFIG_PROC_CHILDREN`, proc_pid_tid_children(5)), else a look at every process.
#[must_use]
pub fn own_children() -> Vec<i32> {
    match fs::read_to_string("/proc/thread-self/children") {
        Ok(list) => list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect(),
        Err(_) => {
            let own = child::own_pid();
            everybody().into_iter().filter(|(_, seen)| seen.parent == own).map(|(pid, _)| pid).collect()
        }
    }
}

/// Kills the process if the number still belongs to the one that was seen. Gives back its pidfd.
fn kill_if_same(pid: i32, seen: &Seen) -> Option<OwnedFd> {
    let pidfd = child::pidfd_open(pid).ok()?;
    // The number may have changed hands between the search and pidfd_open, but not since: compare now.
    if look(pid)?.start != seen.start {
        return None;
    }
    child::signal(pidfd.as_fd(), Signal::KILL).ok()?;
    Some(pidfd)
}

/// What `/proc/PID/stat` says (proc_pid_stat(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    parent: i32,
    session: i32,
    /// In clock ticks since boot.
    start: u64,
}

/// The living processes of the tree of `root`, without itself and without the caller.
fn members(root: i32) -> BTreeMap<i32, Seen> {
    let mut others = everybody();
    others.remove(&root);
    others.remove(&child::own_pid());
    let mut found = BTreeMap::new();
    let mut heads = vec![root];
    let by_session = |(pid, seen): (&i32, &Seen)| (seen.session == root).then_some(*pid);
    let mut newly: Vec<i32> = others.iter().filter_map(by_session).collect();
    newly.extend(others.keys().filter(|pid| is_marked(**pid, root)));
    loop {
        for pid in newly.drain(..) {
            if let Some(seen) = others.remove(&pid) {
                found.insert(pid, seen);
                heads.push(pid);
            }
        }
        if heads.is_empty() {
            return found;
        }
        newly.extend(others.iter().filter(|(_, seen)| heads.contains(&seen.parent)).map(|(pid, _)| *pid));
        heads.clear();
    }
}

/// Every living process that can be seen. Zombies are dead.
fn everybody() -> BTreeMap<i32, Seen> {
    let Ok(entries) = fs::read_dir("/proc") else { return BTreeMap::new() };
    let pid_of = |entry: fs::DirEntry| entry.file_name().to_str()?.parse::<i32>().ok();
    entries.flatten().filter_map(pid_of).filter_map(|pid| Some((pid, look(pid)?))).collect()
}

/// `None`: gone, or a zombie.
fn look(pid: i32) -> Option<Seen> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn parse_stat(line: &str) -> Option<Seen> {
    // The name may contain anything, also spaces and parentheses: count from the last one.
    let (_, after_name) = line.rsplit_once(')')?;
    let fields: Vec<&str> = after_name.split_ascii_whitespace().collect();
    let number = |place: usize| fields.get(place).and_then(|field| field.parse::<i64>().ok());
    if matches!(fields.first(), Some(&"Z" | &"X") | None) {
        return None;
    }
    Some(Seen {
        parent: i32::try_from(number(1)?).ok()?,
        session: i32::try_from(number(3)?).ok()?,
        start: u64::try_from(number(19)?).ok()?,
    })
}

/// Whether the process was started with the mark of this main process. Not for us to see is no.
#[must_use]
pub fn is_marked(pid: i32, root: i32) -> bool {
    let wanted = format!("{MARK}={root}");
    fs::read(format!("/proc/{pid}/environ"))
        .is_ok_and(|environment| environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes()))
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_does_not_confuse_the_fields() {
        let line = "7 (a) b) c) S 1 7 5 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987 4096 1";
        assert_eq!(parse_stat(line), Some(Seen { parent: 1, session: 5, start: 987 }));
        assert_eq!(parse_stat(&line.replace(" S ", " Z ")), None);
        assert_eq!(parse_stat("7 (cut"), None);
    }

    #[test]
    fn the_whole_tree_dies_also_what_left_the_session() {
        // A child, a grandchild in a session of its own, and a daemon whose parent is gone.
        let script = "sleep 60 & setsid sleep 60 & (setsid sleep 60 &) ; echo ready; wait";
        // The mark is the pid, which nobody knows before: here the shell marks itself, as the shim does.
        let marked = format!("export {MARK}=$$; exec sh -c '{script}'");
        let mut command = Command::new("sh");
        command.args(["-c", &marked]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut main = command.spawn().expect("spawn");
        let mut line = String::new();
        BufReader::new(main.stdout.take().expect("stdout")).read_line(&mut line).expect("read");
        let pid = i32::try_from(main.id()).expect("pid");
        // One that is just executing its program has no environment to be known by, for a moment.
        let too_late = clock::now().after(std::time::Duration::from_secs(30));
        let mut members = tree(pid);
        while members.len() < 3 && clock::now() < too_late {
            std::thread::yield_now();
            members = tree(pid);
        }
        assert!(members.len() >= 3, "{members:?}");
        // The daemon has another parent by now.
        let offspring = offspring(pid);
        assert!(
            offspring.len() >= 2 && offspring.iter().all(|pid| members.contains(pid)),
            "{offspring:?}, {members:?}"
        );
        let pidfd = child::pidfd_open(pid).expect("pidfd");
        assert_eq!(kill_tree(pid, pidfd.as_fd()), Vec::<i32>::new());
        main.wait().expect("reap");
        assert!(members.iter().all(|pid| look(*pid).is_none()), "{members:?}");
        assert!(kill_tree(pid, pidfd.as_fd()).is_empty(), "reaped: nothing to do");
    }
}
