//! Memory, and how often an idle keeper and agent are woken.

use std::fs;
use std::time::Duration;

use rollout::sys::clock;

use super::agent;
use super::figure::{Figure, Spread, Target};
use crate::support::{Rig, facts};

/// The agent's spare threads end ten seconds after their last work.
const QUIET: Duration = Duration::from_secs(11);
const IDLE: Duration = Duration::from_secs(10);
const MANY: u32 = 500;

pub(crate) fn figures() -> Vec<Figure> {
    let mut figures = Vec::new();
    {
        let rig = agent::start(agent::home(), &agent::trivial(4, ""));
        super::pass(QUIET);
        let wakeups = wakeups(&rig);
        figures.push(Figure::new(
            "memory of keeper and agent (PSS), 4 workers",
            pss(&rig),
            "MiB",
            Target::AtMost(10.0),
        ));
        for (who, per_second) in ["keeper", "agent"].into_iter().zip(wakeups) {
            let what = format!("context switches a second of the idle {who}, 4 workers");
            figures.push(Figure::new(what, Spread::of([per_second]), "", Target::AtMost(1.0)));
        }
    }
    let workers = usize::try_from(MANY).expect("small");
    let rig = agent::start(agent::home(), &agent::trivial(workers, ""));
    super::pass(QUIET);
    let most = 10.0 + f64::from(MANY) * 20.0 / 1024.0;
    let most = (most * 100.0).round() / 100.0;
    figures.push(Figure::new(format!("… {MANY} workers"), pss(&rig), "MiB", Target::AtMost(most)));
    figures
}

fn both(rig: &Rig) -> [i32; 2] {
    [rig.keeper_pid(), rig.agent_pid().expect("an agent")]
}

#[expect(clippy::cast_precision_loss, reason = "kibibytes of a process are far below 2^52")]
fn pss(rig: &Rig) -> Spread {
    let kib: u64 = both(rig).into_iter().map(|pid| facts::of(pid).pss_kib).sum();
    Spread::of([kib as f64 / 1024.0])
}

/// Per second of idleness.
#[expect(clippy::cast_precision_loss, reason = "a few")]
fn wakeups(rig: &Rig) -> [f64; 2] {
    let pids = both(rig);
    let began = clock::now();
    let before = pids.map(switches);
    super::pass(IDLE);
    let after = pids.map(switches);
    let seconds = clock::now().since(began).as_secs_f64();
    [0, 1].map(|who| (after[who] - before[who]) as f64 / seconds)
}

/// How often the process's threads were switched away from, of their own accord or not.
fn switches(pid: i32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("list the threads");
    let statuses = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("status")).ok());
    statuses
        .map(|status| {
            let lines = status.lines().filter(|line| line.contains("ctxt_switches:"));
            lines.filter_map(|line| line.rsplit_once(':')?.1.trim().parse::<u64>().ok()).sum::<u64>()
        })
        .sum()
}
