//! Everything else that replaces workers, under the same load: restart, SIGHUP, the watched binary, rollback, scale, and
//! workers that are killed.

#[expect(dead_code, reason = "no test uses all of it")]
mod deploy;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use deploy::load::mix::Mix;
use deploy::load::report::{Class, Kind};
use deploy::support::{Rig, pause, tree};
use deploy::{BRISK, Language, Scene, say};
use rollout::sys::connections::established;
use rollout::wire::api::{History, Outcome};

const FOUR: &str = "workers: 4";
const LISTEN: &str = "listen: [127.0.0.1:0]";
const NOTIFY: &str = "readiness: notify";

/// Each kind of traffic is under way at every moment.
fn mix() -> Mix {
    Mix::all(120.0)
}

/// The rollouts so far, newest first: what started them and how they ended.
fn history(rig: &Rig) -> Vec<(String, Outcome)> {
    let said = rig.cli(&["history", "--json"]);
    let history: History = serde_json::from_str(&said.stdout).unwrap_or_else(|error| panic!("{error}: {said:?}"));
    history.entries.into_iter().map(|entry| (entry.trigger, entry.outcome)).collect()
}

/// Waits until this many rollouts have ended and nothing is under way.
fn wait_for_rollouts(scene: &mut Scene, count: usize) {
    scene.rig.wait_until("the rollout has ended", |rig| history(rig).len() >= count);
    scene.wait_until_at_rest(4);
}

/// Writes a file over another, as `cp` does, in pieces that take their time.
fn copy_slowly(from: &Path, to: &Path) {
    let whole = fs::read(from).expect("read the new release");
    let mut file = File::create(to).expect("open the watched file");
    for piece in whole.chunks(whole.len().div_ceil(25)) {
        file.write_all(piece).expect("write a piece");
        pause();
    }
}

#[test]
fn every_trigger_replaces_workers_without_a_failure() {
    let mut scene = Scene::start("triggers", Language::Rust, &[FOUR, LISTEN, NOTIFY, BRISK], mix());
    let watched = scene.rig.home().join("web");
    let before = history(&scene.rig).len();

    scene.cli(&["restart"]);
    assert!(scene.next_phase("restart").least_ready >= 4);

    scene.rig.signal("HUP");
    wait_for_rollouts(&mut scene, before + 2);
    assert!(scene.next_phase("SIGHUP").least_ready >= 4);

    copy_slowly(&scene.rig.home().join("v2"), &watched);
    wait_for_rollouts(&mut scene, before + 3);
    assert!(scene.next_phase("the watched binary is copied").least_ready >= 4);

    Language::Rust.release(&watched, "v3");
    wait_for_rollouts(&mut scene, before + 4);
    assert!(scene.next_phase("the watched binary is renamed").least_ready >= 4);

    scene.cli(&["rollback"]);
    wait_for_rollouts(&mut scene, before + 5);
    assert!(scene.next_phase("rollback").least_ready >= 4);

    let triggers: Vec<_> = history(&scene.rig).into_iter().rev().skip(before).collect();
    let expected = ["restart", "sighup", "watch", "watch", "rollback"].map(|name| (name.to_owned(), Outcome::Done));
    assert_eq!(triggers, expected, "no more, no less");
    // v3 is still in the watched place, and v2 is what was asked for last.
    scene.end(4, "v2");
}

#[test]
fn scaling_up_and_down_costs_no_request() {
    let mut scene = Scene::start("scale", Language::Rust, &[FOUR, LISTEN, NOTIFY, BRISK], mix());
    for (workers, fewest) in [(7, 4), (2, 2), (4, 2)] {
        scene.cli(&["scale", &workers.to_string()]);
        scene.rig.wait_until("so many are ready and nobody else is there", |rig| {
            rig.service("web").workers.len() == workers && rig.pids("web", "ready").len() == workers
        });
        let seen = scene.next_phase(&format!("scale to {workers}"));
        assert!(seen.least_ready >= fewest, "{seen:?}");
    }
    scene.end(4, "v1");
}

#[test]
fn the_death_of_a_worker_costs_only_what_it_had_accepted() {
    let mut scene = Scene::start("kill -9", Language::Rust, &[FOUR, LISTEN, NOTIFY, BRISK], mix());
    let port = scene.rig.address("web", 0).port();
    let victims = scene.rig.pids("web", "ready");
    let mut accepted = 0;
    for victim in &victims {
        // Stopped, it accepts nothing more: what it has now is all that it ever will have.
        tree::signal("STOP", &[*victim]);
        scene.rig.wait_until("it stands still", |_| state_of(*victim) == Some('T'));
        // Those that wait in its lane were not accepted: they must not fail.
        scene.rig.wait_until("somebody waits for it", |_| waiting_for(*victim, port) > 0);
        accepted += u64::from(established(|| vec![*victim], &[port]).expect("count its connections"));
        tree::signal("KILL", &[*victim]);
        scene.rig.wait_until("it is replaced", |rig| {
            let ready = rig.pids("web", "ready");
            ready.len() == 4 && !ready.contains(victim)
        });
    }
    let (report, _) = scene.stop_load();
    say(&format!("kill -9: {accepted} accepted, {} failed", report.failures()));
    let cut_off: u64 = [Class::Reset, Class::Eof, Class::Cut].into_iter().map(|class| report.failures_of(class)).sum();
    assert_eq!(cut_off, report.failures(), "{report}\n--- log\n{}", scene.rig.log());
    assert!(report.failures() <= accepted, "{accepted} accepted:\n{report}\n--- log\n{}", scene.rig.log());
    // Slow ones are under way everywhere and at all times: a load that sees no death proves nothing.
    assert!(report.kinds[&Kind::Slow].failures.values().sum::<u64>() > 0, "{report}");
    let now: BTreeSet<_> = scene.rig.pids("web", "ready").into_iter().collect();
    assert!(now.is_disjoint(&victims.into_iter().collect()));
    assert!(scene.rig.stop().success());
}

/// How many connections wait to be accepted on the process's own listening socket (proc(5), /proc/net/tcp).
fn waiting_for(pid: i32, port: u16) -> u32 {
    let fds = fs::read_dir(format!("/proc/{pid}/fd")).expect("list its fds");
    let links = fds.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok());
    let sockets: BTreeSet<_> = links.map(|link| link.to_string_lossy().into_owned()).collect();
    let table = fs::read_to_string("/proc/net/tcp").expect("read the table of sockets");
    let waiting = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let (local, state, queues, inode) = (fields.get(1)?, fields.get(3)?, fields.get(4)?, fields.get(9)?);
        let ours = local.ends_with(&format!(":{port:04X}")) && sockets.contains(&format!("socket:[{inode}]"));
        // State 0A is LISTEN; there the receive queue counts connections.
        (ours && *state == "0A").then(|| u32::from_str_radix(queues.split_once(':')?.1, 16).ok())?
    };
    table.lines().filter_map(waiting).sum()
}

/// The state letter of /proc/PID/stat.
fn state_of(pid: i32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}
