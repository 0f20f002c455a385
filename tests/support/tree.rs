//! Every process that a rig has caused, found by a mark in its environment: it is inherited, and stays when a process
//! leaves its parent, its session and its group.

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{fs, process};

use rollout::sys::clock;

use super::{GENEROUS, pause};

/// The variable that bears the mark.
pub(crate) const VARIABLE: &str = "ROLLOUT_TEST_RIG";

/// A mark that nobody else on this host has.
pub(crate) struct Mark(String);

impl Mark {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // The time since boot, because pids come round.
        Self(format!("{}-{number}-{}", process::id(), clock::now().0))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// The living processes that bear it.
    pub(crate) fn bearers(&self) -> Vec<i32> {
        let entry = format!("{VARIABLE}={}", self.0);
        let bears = |pid: &i32| {
            // Gone, a zombie, or somebody else's: no environment.
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|&byte| byte == 0).any(|variable| variable == entry.as_bytes())
        };
        pids().into_iter().filter(bears).collect()
    }

    /// SIGKILL to every bearer until there is none; returns those that would not go.
    pub(crate) fn kill_all(&self) -> Vec<i32> {
        let deadline = clock::now().after(GENEROUS);
        let mut empty_looks = 0;
        loop {
            let left = self.bearers();
            if left.is_empty() {
                // One may have been between fork and exec, when it has no environment to read.
                empty_looks += 1;
                if empty_looks == 2 {
                    return left;
                }
            } else {
                empty_looks = 0;
                signal("KILL", &left);
                if clock::until(deadline).is_zero() {
                    return left;
                }
            }
            pause();
        }
    }
}

/// Every process of this host.
fn pids() -> Vec<i32> {
    let entries = fs::read_dir("/proc").expect("list /proc");
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// Sends a signal by its name; processes that are gone are fine.
pub(crate) fn signal(name: &str, pids: &[i32]) {
    let pids: Vec<_> = pids.iter().map(ToString::to_string).collect();
    let script = format!("kill -{name} {} 2>/dev/null; :", pids.join(" "));
    assert!(Command::new("/bin/sh").args(["-c", &script]).status().expect("run kill").success());
}
