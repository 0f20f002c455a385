//! What /proc says about a process of the rig.

use std::fs;

use rollout::sys::proc;

/// What a process holds. Two of them are equal when nothing has leaked in between, memory and `wakeups` aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facts {
    /// What each open fd refers to (`socket:[…]` and `pipe:[…]` without their numbers), sorted.
    pub(crate) fds: Vec<String>,
    pub(crate) threads: u64,
    /// Its fair share of memory. Also changes when another process of the same program begins or ends.
    pub(crate) pss_kib: u64,
    /// The part of it that is no file's: heap and stacks. Its own doing alone.
    pub(crate) heap_kib: u64,
    /// How often its threads went to sleep of their own accord since they began: as often were they woken.
    pub(crate) wakeups: u64,
}

/// The facts about a living process.
pub(crate) fn of(pid: i32) -> Facts {
    let status = read(&format!("/proc/{pid}/status"));
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("list the threads");
    let wakeups = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("status")).ok());
    let memory = read(&format!("/proc/{pid}/smaps_rollup"));
    Facts {
        fds: fds(pid),
        threads: number(&status, "Threads:"),
        pss_kib: number(&memory, "Pss:"),
        heap_kib: number(&memory, "Pss_Anon:"),
        wakeups: wakeups.map(|status| number(&status, "voluntary_ctxt_switches:")).sum(),
    }
}

fn fds(pid: i32) -> Vec<String> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).expect("list the fds");
    let targets = entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    let mut kinds: Vec<_> = targets
        .map(|target| {
            let text = target.to_string_lossy();
            text.split_once(":[").map_or(text.clone(), |(kind, _)| kind.to_owned().into()).into_owned()
        })
        .collect();
    kinds.sort();
    kinds
}

/// The children of a process.
pub(crate) fn children(pid: i32) -> Vec<i32> {
    let entries = fs::read_dir("/proc").expect("list /proc");
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(|&child: &i32| proc::parent(child).is_ok_and(|parent| parent == pid)).collect()
}

/// The command line of a process; empty when it is gone or a zombie.
pub(crate) fn arguments(pid: i32) -> Vec<String> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.split(|&byte| byte == 0).map(|part| String::from_utf8_lossy(part).into_owned()).collect()
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn number(text: &str, field: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_else(|| panic!("no {field} in {text}"));
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}
