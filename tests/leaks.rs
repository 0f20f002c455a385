//! Nothing grows: not with rollouts, not with output.

#[path = "load/mod.rs"]
#[expect(dead_code, reason = "the load program and other tests use more of it")]
mod load;
#[expect(dead_code, reason = "no test uses the whole rig")]
mod support;
#[expect(dead_code, reason = "other tests use more of it")]
mod web;

use std::fs::{self, Permissions};
use std::io::{Write, stderr};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rollout::sys::clock;
use rollout::wire::api::LogLine;
use support::facts::{self, Facts};
use support::{GENEROUS, Rig, control, example, once};
use tempfile::TempDir;

/// Says what was measured; shown with `--nocapture` and when a test fails.
fn say(what: &str) {
    let _seen_or_not = writeln!(stderr(), "{what}");
}

/// How many rollouts one run makes, and after how many everything that is made once is there.
const ROLLOUTS: u32 = 100;
const WARM: u32 = 10;

/// May differ although nothing leaks: pages that the allocator has not given back yet, of requests and journal lines.
/// (Measured without the pages of the program's file: their share changes with every process that has it open.)
const NOISE_KIB: u64 = 1024;

#[test]
fn a_hundred_rollouts_leave_nothing_behind_in_agent_and_keeper() {
    let home = TempDir::new().expect("a temporary directory");
    // The most trivial worker there is: it accepts nothing, writes nothing, and dies of SIGTERM.
    for (file, argument) in [("web", "1000"), ("other", "1001")] {
        let path = home.path().join(file);
        fs::write(&path, format!("#!/bin/sh\nexec sleep {argument}\n")).expect("write");
        fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("chmod");
    }
    let config = "services:\n  web:\n    binary: ./web\n    workers: 2\n    listen: [127.0.0.1:0]\n    watch: off\n    \
                  readiness: {alive_for: 1ms}\n    rollout: {min_ready: 0s, max_draining: 1}\n    keep: 2\n";
    let mut rig = Rig::start_in(home, config);
    rig.wait_until_serving();
    let roll = |rig: &mut Rig, number: u32| {
        let file = if number.is_multiple_of(2) { "web" } else { "other" };
        let path = rig.home().join(file);
        let answer = control::post(
            &rig.socket(),
            "/v1/services/web/deploy",
            &format!(r#"{{"path": "{}", "force": true}}"#, path.display()),
        );
        let answer = answer.expect("ask");
        assert!(answer.body.contains(r#""outcome":"done""#), "rollout {number}: {answer:?}");
        // A worker that still drains keeps its lane, and more lanes are made when there are none left: that is no leak.
        rig.wait_for_status("the last old worker is gone", |status| status.services[0].workers.len() == 2);
    };
    let measure = |rig: &mut Rig, expected: Option<&(Facts, Facts)>| -> (Facts, Facts) {
        rig.wait_until("the old workers are gone", |rig| rig.processes().len() == 4);
        let deadline = clock::now().after(GENEROUS);
        loop {
            let now = (facts::of(rig.keeper_pid()), facts::of(rig.agent_pid().expect("an agent")));
            // Threads for blocking work end when they have been idle for 10 s.
            let alike = |now: &Facts, before: &Facts| now.fds == before.fds && now.threads <= before.threads;
            if expected.is_none_or(|before| alike(&now.0, &before.0) && alike(&now.1, &before.1)) {
                return now;
            }
            assert!(!clock::until(deadline).is_zero(), "{now:#?}\ninstead of\n{expected:#?}");
            support::pause();
        }
    };
    for number in 1..=WARM {
        roll(&mut rig, number);
    }
    let before = measure(&mut rig, None);
    for number in WARM + 1..=ROLLOUTS {
        roll(&mut rig, number);
    }
    let after = measure(&mut rig, Some(&before));
    for (who, before, after) in [("keeper", &before.0, &after.0), ("agent", &before.1, &after.1)] {
        say(&format!(
            "{who}: {} KiB of its own memory after {WARM} rollouts, {} KiB after {ROLLOUTS} (PSS {} KiB); {} fds, {} threads",
            before.heap_kib,
            after.heap_kib,
            after.pss_kib,
            after.fds.len(),
            after.threads
        ));
        assert!(after.heap_kib <= before.heap_kib + NOISE_KIB, "{who}: {before:?} {after:?}");
    }
    // Zombies have no environment and no command line, but a parent.
    assert_eq!(facts::children(rig.keeper_pid()).len(), 3, "the agent and two workers");
    assert_eq!(facts::children(rig.agent_pid().expect("an agent")).len(), 0);
    let releases = fs::read_dir(rig.home().join("state/web/releases")).expect("list").count();
    assert!(releases <= 3, "{releases} releases with keep: 2");
    assert_eq!(rig.service("web").generation.map(|generation| generation.0), Some(u64::from(ROLLOUTS) + 1));
}

#[test]
fn a_worker_has_exactly_its_fds() {
    let home = TempDir::new().expect("a temporary directory");
    example::release(&example::built("faulty"), &home.path().join("web"), &[("VERSION", "v1")]);
    let config = "services:\n  web:\n    binary: ./web\n    workers: 2\n    \
                  listen: [{address: 127.0.0.1:0, name: one}, {address: 127.0.0.1:0, name: two}, unix:./web.sock]\n    \
                  readiness: {http: /healthz, interval: 20ms}\n";
    let mut rig = Rig::start_in(home, config);
    rig.wait_until_serving();
    // The second generation, and the first after the agent's death: nothing of the first is inherited.
    assert_eq!(rig.cli(&["restart"]).code, Some(0));
    rig.kill_agent();
    assert_eq!(rig.cli(&["restart"]).code, Some(0));
    for index in [0, 1] {
        let fds = once::get(rig.address("web", index), "/fds");
        let lines: Vec<_> = fds.lines().map(|line| line.split_once(' ').expect("number and target")).collect();
        let kinds: Vec<_> = lines.iter().map(|(fd, to)| (*fd, to.split(':').next().expect("a kind"))).collect();
        let expected =
            [("0", "/dev/null"), ("1", "pipe"), ("2", "pipe"), ("3", "socket"), ("4", "socket"), ("5", "socket")];
        assert_eq!(kinds, expected, "{fds}");
        assert_eq!(lines[1].1, lines[2].1, "one pipe for stdout and stderr: {fds}");
        assert!(lines[3].1 != lines[4].1 && lines[4].1 != lines[5].1, "{fds}");
    }
}

/// What must go through. Far more than the agent may hold at any time.
const FLOOD: u64 = 500 * 1000 * 1000;

/// The files of the kept output.
const FILE_KIB: u64 = 512;
const FILES: u64 = 3;

/// What the agent may hold of a flood: a turn's 16 KiB, the mirror's two halves of 256 KiB, the followers' backlog.
const FLOOD_KIB: u64 = 2 * 1024;

#[test]
fn a_flood_of_output_grows_nothing_and_drowns_nobody() {
    let home = TempDir::new().expect("a temporary directory");
    for (file, fault) in [("web", "floods"), ("calm", "counts")] {
        let lines = [("VERSION", file), ("FAULT", fault)];
        example::release(&example::built("faulty"), &home.path().join(file), &lines);
    }
    // The mirror on stderr would fill the disk with the log of this test.
    let quiet = home.path().join("quiet");
    let program = env!("CARGO_BIN_EXE_rollout");
    fs::write(&quiet, format!("#!/bin/sh\nexec {program} \"$@\" 2>/dev/null\n")).expect("write");
    fs::set_permissions(&quiet, Permissions::from_mode(0o755)).expect("chmod");
    let service = |name: &str| {
        format!(
            "  {name}:\n    binary: ./{name}\n    workers: 1\n    listen: [127.0.0.1:0]\n    \
             logs: {{max_size: {FILE_KIB}KiB, files: {FILES}}}\n{}",
            web::HEALTHZ
        )
    };
    let config = format!("services:\n{}{}", service("web"), service("calm"));
    let mut rig = Rig::start_program(&quiet, home, &config, &[]);
    rig.wait_until_serving();
    let (address, logs) = (rig.address("web", 0), rig.home().join("state/web/logs"));
    let mut lines = control::Lines::get(&rig.socket(), "/v1/services/calm/logs?lines=0&follow=true").expect("ask");
    // A follower that reads nothing of it: it must cost nothing, either.
    let deaf = control::Lines::get(&rig.socket(), "/v1/services/web/logs?lines=0&follow=true").expect("ask");

    let agent = rig.agent_pid().expect("an agent");
    let (mut most, mut least, mut largest, mut last) = (0, u64::MAX, 0, 0);
    let mut numbers: Vec<u64> = Vec::new();
    loop {
        let written: u64 = once::get(address, "/flooded").trim().parse().expect("a number");
        let own = facts::of(agent).heap_kib;
        (most, least) = (most.max(own), least.min(own));
        largest = largest.max(size(&logs));
        // Somebody else's lines come through meanwhile.
        let line = lines.next(GENEROUS).expect("the stream goes on").expect("a line comes");
        let line: LogLine = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in {line}"));
        numbers.extend(line.line.strip_prefix("count ").and_then(|number| number.parse::<u64>().ok()));
        if written >= FLOOD {
            break;
        }
        assert!(written > last || numbers.len() < 10_000, "the flood stands still at {written}");
        last = written;
    }
    say(&format!("{FLOOD} bytes: the agent's own memory {least} to {most} KiB, files at most {} KiB", largest / 1024));
    assert!(most <= least + FLOOD_KIB, "{least} to {most} KiB");
    assert!(largest <= (FILES * FILE_KIB + 64) * 1024, "{largest} bytes of kept output");
    assert!(numbers.len() > 10 && numbers.windows(2).all(|two| two[1] == two[0] + 1), "{numbers:?}");
    drop(deaf);
    // The flooding worker itself is served and stopped like any other.
    assert_eq!(rig.cli(&["restart", "-s", "web"]).code, Some(0));
    rig.signal("TERM");
    assert_eq!(rig.ended().code(), Some(0));
}

fn size(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).expect("list the kept output");
    // One may be renamed between the list and the look.
    entries.filter_map(|entry| entry.ok()?.metadata().ok()).map(|file| file.len()).sum()
}
