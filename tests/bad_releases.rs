//! A bad release cannot hurt: nobody meets it, or only as many as its own death cuts off; the old one goes on; and the
//! command that asked for it says what was wrong.

#[path = "load/mod.rs"]
#[expect(dead_code, reason = "the load program and other tests use more of it")]
mod load;
#[expect(dead_code, reason = "no test uses the whole rig")]
mod support;
mod web;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use load::report::Class;
use rollout::wire::api::{Failure, Outcome};
use support::sampler::ReadySampler;
use support::{GENEROUS, Rig, control, example};

/// What does not even look like a program for this host: refused, exit 1, and nothing has happened.
#[test]
fn what_cannot_run_is_refused_before_anything_changes() {
    let mut rig = web::serving(&web::config(web::HEALTHZ));
    let (load, live, before) = (web::load(&rig), web::live(&rig), web::ready(&rig));
    let entries = web::history(&rig).entries.len();
    let good = fs::read(example::built("worker")).expect("read the worker");

    let file = |name: &str, bytes: &[u8], mode: u32| {
        let path = rig.home().join(name);
        fs::write(&path, bytes).expect("write");
        fs::set_permissions(&path, Permissions::from_mode(mode)).expect("chmod");
        path
    };
    // e_machine, at offset 18 of an ELF header (elf(5)): 8 is MIPS.
    let foreign = [&good[..18], &[8, 0], &good[20..]].concat();
    let refused = [
        (rig.home().join("nowhere"), "does not exist"),
        (file("plain", &good, 0o644), "is not executable: run `chmod +x`"),
        (file("foreign", &foreign, 0o755), "is built for MIPS"),
        (file("truncated", &good[..good.len() / 2], 0o755), "is truncated"),
        (file("empty", b"", 0o755), "is empty"),
        (file("text", b"hello\n", 0o755), "neither an ELF program nor a script"),
    ];
    for (path, why) in refused {
        for arguments in [&["deploy"][..], &["deploy", "--json"]] {
            let path = path.to_str().expect("a path in UTF-8");
            let result = rig.cli(&[arguments, &[path]].concat());
            assert_eq!(result.code, Some(1), "{path}: {result:?}");
            assert!(result.stderr.contains(path) && result.stderr.contains(why), "{path}: {result:?}");
            assert_eq!(result.stdout, "", "{path}: {result:?}");
        }
    }
    assert_eq!((web::live(&rig), web::ready(&rig)), (live, before));
    assert_eq!(web::history(&rig).entries.len(), entries);
    web::end_without_failure(load);
    rig.wait_until("the store has no half-copied file", |rig| {
        let releases = rig.home().join("state/web/releases");
        fs::read_dir(releases).expect("list the store").count() == 1
    });
}

/// A release whose workers never come as far as a client.
struct Bad {
    name: &'static str,
    fault: &'static str,
    slot: u32,
    /// In the report.
    why: &'static str,
    /// Its last output.
    output: &'static [&'static str],
}

const NEVER_MET: [Bad; 4] = [
    Bad {
        name: "exits",
        fault: "exits",
        slot: 1,
        why: "ended before it was ready: exit code 1",
        output: &["faulty: reading the configuration", "faulty: cannot open /nowhere/faulty.conf"],
    },
    Bad {
        name: "hangs",
        fault: "hangs",
        slot: 1,
        why: "was not ready after 1.5 s",
        output: &["listening on 127.0.0.1:"],
    },
    Bad {
        name: "unhealthy",
        fault: "unhealthy",
        slot: 1,
        why: "was not ready after 1.5 s",
        output: &["listening on 127.0.0.1:"],
    },
    Bad {
        name: "dies",
        fault: "dies:150",
        slot: 1,
        why: "ended although nobody had told it to: exit code 1",
        output: &["listening on 127.0.0.1:", "faulty: dies as it was told"],
    },
];

const BAD_THIRD: Bad = Bad {
    name: "bad-third",
    fault: "slot:3:exits",
    slot: 3,
    why: "ended before it was ready: exit code 1",
    output: &["faulty: reading the configuration", "faulty: cannot open /nowhere/faulty.conf"],
};

impl Bad {
    fn check(&self, failure: &Failure, outcome: Outcome) {
        assert_eq!(outcome, Outcome::RolledBack, "{}", self.name);
        assert_eq!(failure.slot.0, self.slot, "{}: {failure:?}", self.name);
        assert!(failure.why.contains(self.why), "{}: {failure:?}", self.name);
        let told = failure.output.join("\n");
        assert!(self.output.iter().all(|line| told.contains(line)), "{}: {failure:?}", self.name);
    }

    /// Deployed twice, for people and for programs: both are told everything, and every slot is as it was.
    fn deploy(&self, rig: &mut Rig, path: &Path) {
        let live = web::live(rig);
        let path = path.to_str().expect("a path in UTF-8");
        let result = rig.cli(&["deploy", path]);
        assert_eq!(result.code, Some(3), "{}: {result:?}", self.name);
        let told = &result.stderr;
        assert!(told.contains(&format!("in slot {} ", self.slot)), "{}: {told}", self.name);
        assert!(told.contains(self.why) && told.contains(&live.short().to_string()), "{}: {told}", self.name);
        assert!(self.output.iter().all(|line| told.contains(line)), "{}: {told}", self.name);
        web::wait_for_release(rig, live, 4);

        let result = rig.cli(&["deploy", "--json", path]);
        assert_eq!(result.code, Some(3), "{}: {result:?}", self.name);
        let report = web::report_in(&result);
        assert_eq!((report.exit, report.release), (3, Some(live)), "{}: {report:?}", self.name);
        self.check(&report.failure.expect("a failure"), report.outcome);
        web::wait_for_release(rig, live, 4);

        let entry = web::history(rig).entries.swap_remove(0);
        assert_eq!((entry.rollout, entry.from), (report.rollout.expect("a number"), Some(live)), "{}", self.name);
        self.check(&entry.failure.expect("a failure"), entry.outcome);
    }
}

/// Until the first worker of a release has been ready for `min_ready`, no client meets it.
#[test]
fn releases_that_fail_before_they_serve_meet_nobody() {
    let rollout = "    rollout: {min_ready: 400ms}\n";
    let mut rig = web::serving(&web::config(&format!("{}{rollout}", web::HEALTHZ)));
    let (load, sampler) = (web::load(&rig), ReadySampler::start(&rig, "web"));
    let before = web::ready(&rig);
    for bad in NEVER_MET {
        let path = web::faulty(&rig, bad.name, bad.fault);
        bad.deploy(&mut rig, &path);
        assert_eq!(web::ready(&rig), before, "{}: the old workers were not touched", bad.name);
        web::assert_no_failure(&load, bad.name);
    }

    let report = web::end_without_failure(load);
    assert_eq!(report.versions.keys().collect::<Vec<_>>(), ["v1"], "{report}");
    let samples = sampler.stop();
    assert_eq!(samples.least_ready, 4, "{samples:?}");
    assert!(samples.most_workers <= 5, "one above the number: {samples:?}");
}

/// Two slots run the new release when it fails in the third: they go back, ready first.
#[test]
fn a_release_that_is_bad_in_the_third_slot_is_taken_back_from_the_first_two() {
    let mut rig = web::serving(&web::config(&format!("{}    rollout: {{min_ready: 100ms}}\n", web::HEALTHZ)));
    let (load, sampler, v1) = (web::load(&rig), ReadySampler::start(&rig, "web"), web::live(&rig));
    let path = web::faulty(&rig, BAD_THIRD.name, BAD_THIRD.fault);
    BAD_THIRD.deploy(&mut rig, &path);
    let bad = web::history(&rig).entries[0].release;

    // The watcher leaves a rejected release alone, and says so.
    let ended = web::history(&rig).entries.len();
    web::put_on_watched_path(&rig, &path);
    rig.wait_until("the watcher has seen it", |rig| rig.log().contains("rejected release: not tried again"));
    web::wait_for_release(&mut rig, v1, 4);
    // So does SIGHUP not: that is a person's order. A good one on the path is taken again.
    let good = web::polite(&rig, "v2");
    web::put_on_watched_path(&rig, &good);
    rig.wait_for_status("the watcher rolls a good release", |status| {
        let service = &status.services[0];
        service.rollout.is_none() && service.release.is_some_and(|release| release != v1 && release != bad)
    });
    let entries = web::history(&rig).entries;
    assert_eq!(entries.len(), ended + 1, "the rejected one was not tried: {entries:#?}");
    assert_eq!((entries[0].trigger.as_str(), entries[0].outcome), ("watch", Outcome::Done));

    let result = rig.deploy(&web::polite(&rig, "v3"));
    assert_eq!(result.code, Some(0), "{result:?}");
    let report = web::end_without_failure(load);
    assert!(report.versions.contains_key("v3"), "{report}");
    let samples = sampler.stop();
    assert_eq!(samples.least_ready, 4, "{samples:?}");
    assert!(samples.most_workers <= 9, "{samples:?}");
}

/// It serves, and dies of its first client: only what it had accepted is lost.
#[test]
fn a_death_under_traffic_during_hold_costs_only_what_that_worker_had_accepted() {
    let rollout = "    rollout: {min_ready: 100ms, hold: 20s}\n    drain: {timeout: 5s}\n";
    let mut rig = web::serving(&web::config(&format!("{}{rollout}", web::HEALTHZ)));
    let (load, sampler, v1) = (web::load(&rig), ReadySampler::start(&rig, "web"), web::live(&rig));
    let before = web::ready(&rig);
    let path = web::faulty(&rig, "dies-busy", "dies-busy:300");
    let result = rig.deploy(&path);
    assert_eq!(result.code, Some(3), "{result:?}");
    for part in ["in slot 1 ", "ended although nobody had told it to: exit code 1", "dies as it was told"] {
        assert!(result.stderr.contains(part), "no {part:?} in {}", result.stderr);
    }
    web::wait_for_release(&mut rig, v1, 4);
    assert_eq!(web::ready(&rig), before, "the predecessor was still there");
    let so_far = load.so_far().ok();
    assert!(load.wait_until(GENEROUS, |report| report.ok() > so_far + 50));
    let report = load.stop();
    let met = report.versions.get("dies-busy").copied().unwrap_or(0);
    assert!(met > 0, "it served clients: {report}");
    // The connections that it had accepted and not answered are cut; nobody is refused, and nobody waits in vain.
    let accepted = [Class::Reset, Class::Eof, Class::Cut].map(|class| report.failures_of(class)).iter().sum::<u64>();
    assert_eq!(report.failures(), accepted, "{report}");
    // Its own: an answer takes far less than the 16 ms between two requests, so one is under way, or a few on a busy host.
    assert!(accepted <= 8, "{report}");
    let samples = sampler.stop();
    assert_eq!(samples.least_ready, 4, "{samples:?}");
}

// ---- what a person has to do ----------------------------------------------------------------------------------------

#[test]
fn with_on_failure_pause_a_person_decides() {
    let rollout = "    rollout: {min_ready: 100ms, on_failure: pause}\n";
    let mut rig = web::serving(&web::config(&format!("{}{rollout}", web::HEALTHZ)));
    let (load, v1) = (web::load(&rig), web::live(&rig));
    let marker = rig.home().join("mended");
    // Bad in the third slot until somebody mends what it needs.
    let script = |rig: &Rig, name: &str| -> PathBuf {
        let good = web::polite(rig, &format!("{name}-program"));
        let text = format!(
            "#!/bin/sh\nif [ \"$ROLLOUT_SLOT\" = 3 ] && ! [ -e {} ]; then echo no database; exit 7; fi\n\
             LISTEN_PID=$$ exec {} --version-name {name}\n",
            marker.display(),
            good.display()
        );
        let path = rig.home().join(name);
        fs::write(&path, text).expect("write");
        fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("chmod");
        path
    };
    let paused = |rig: &Rig| {
        let rollout = rig.service("web").rollout.expect("a rollout that stands still");
        assert_eq!((rollout.phase.as_str(), rollout.done), ("paused", 2), "{rollout:?}");
        assert!(rollout.cause.as_deref().is_some_and(|cause| cause.contains("slot 3")), "{rollout:?}");
        assert_eq!(web::ready(rig).len(), 4);
    };

    let second = script(&rig, "v2");
    let result = rig.deploy(&second);
    assert_eq!(result.code, Some(4), "{result:?}");
    for part in ["in slot 3 ", "exit code 7", "| no database", "rollout resume", "rollout abort"] {
        assert!(result.stderr.contains(part), "no {part:?} in {}", result.stderr);
    }
    paused(&rig);
    let result = rig.cli(&["abort"]);
    assert_eq!(result.code, Some(0), "{result:?}");
    web::wait_for_release(&mut rig, v1, 4);
    assert_eq!(web::last_outcome(&rig), Some(Outcome::RolledBack));
    web::assert_no_failure(&load, "after the abort");

    let third = script(&rig, "v3");
    let result = rig.deploy(&third);
    assert_eq!(result.code, Some(4), "{result:?}");
    paused(&rig);
    // Not mended: it pauses again.
    assert_eq!(rig.cli(&["resume"]).code, Some(0));
    rig.wait_until("it has paused again", |rig| rig.log().matches("rollout paused").count() >= 3);
    paused(&rig);
    fs::write(&marker, "").expect("mend it");
    assert_eq!(rig.cli(&["resume"]).code, Some(0));
    rig.wait_for_status("v3 is live", |status| {
        let service = &status.services[0];
        service.rollout.is_none() && service.release.is_some_and(|release| release != v1)
    });
    assert_eq!(web::last_outcome(&rig), Some(Outcome::Done));
    let result = rig.cli(&["resume"]);
    assert_eq!(result.code, Some(1), "{result:?}");
    assert!(result.stderr.contains("no rollout is under way"), "{result:?}");
    web::end_without_failure(load);
}

/// The old release does not come up any more, either.
#[test]
fn a_way_back_that_fails_needs_a_person_and_loses_nobody() {
    let home = web::home();
    let gone = home.path().join("gone");
    let program = home.path().join("program");
    example::release(&example::built("worker"), &program, &[("VERSION", "v1")]);
    let text = format!(
        "#!/bin/sh\nif [ -e {} ]; then echo old release: no disk; exit 9; fi\nLISTEN_PID=$$ exec {}\n",
        gone.display(),
        program.display()
    );
    fs::write(home.path().join("web"), text).expect("write");
    fs::set_permissions(home.path().join("web"), Permissions::from_mode(0o755)).expect("chmod");
    let more = format!("{}    rollout: {{min_ready: 100ms}}\n    restart: {{backoff: 10ms..50ms}}\n", web::HEALTHZ);
    let mut rig = Rig::start_in(home, &web::config(&more));
    rig.wait_until_serving();
    let (load, v1) = (web::load(&rig), web::live(&rig));
    fs::write(&gone, "").expect("break the old release");
    let path = web::faulty(&rig, "bad-third", "slot:3:exits");
    let result = rig.deploy(&path);
    assert_eq!(result.code, Some(4), "{result:?}");
    assert!(result.stderr.contains("the way back to") && result.stderr.contains("failed, too"), "{result:?}");
    assert_eq!(web::last_outcome(&rig), Some(Outcome::NeedsPerson));
    assert_eq!(web::ready(&rig).len(), 4, "whoever serves goes on serving: {:#?}", rig.service("web"));
    web::assert_no_failure(&load, "stuck");
    // Mended, the old release comes back where it lacks, or at the next request.
    fs::remove_file(&gone).expect("mend the old release");
    let result = rig.cli(&["restart"]);
    assert_eq!(result.code, Some(0), "{result:?}");
    web::wait_for_release(&mut rig, v1, 4);
    web::end_without_failure(load);
}

/// A running rollout stands still, goes on and goes back when it is told to.
#[test]
fn a_running_rollout_is_paused_resumed_and_aborted() {
    let more = format!("{}    rollout: {{min_ready: 200ms, hold: 500ms}}\n", web::HEALTHZ);
    let mut rig = web::serving(&web::config(&more));
    let (load, v1) = (web::load(&rig), web::live(&rig));
    let done = |rig: &Rig| rig.service("web").rollout.map(|rollout| (rollout.phase, rollout.done));

    let deploy = rig.start_cli(&["deploy", "--json", web::polite(&rig, "v2").to_str().expect("UTF-8")]);
    rig.wait_until("one slot is done", |rig| done(rig).is_some_and(|(_, done)| done >= 1));
    let result = rig.cli(&["pause"]);
    assert_eq!(result.code, Some(0), "{result:?}");
    // What was being held when it was told goes on to its end; then nothing moves.
    rig.wait_for_status("nothing is under way in any slot", |status| {
        let service = &status.services[0];
        service.workers.len() == 4 && service.workers.iter().all(|worker| worker.state == "ready")
    });
    let (phase, stands_at) = done(&rig).expect("it is still there");
    assert_eq!(phase, "paused");
    assert!((1..4).contains(&stands_at), "{stands_at}");
    let before = load.so_far().ok();
    assert!(load.wait_until(GENEROUS, |report| report.ok() > before + 100));
    assert_eq!(done(&rig), Some(("paused".to_owned(), stands_at)));
    assert_eq!(deploy.so_far().code, None);

    let result = rig.cli(&["resume"]);
    assert_eq!(result.code, Some(0), "{result:?}");
    let result = deploy.wait();
    assert_eq!(result.code, Some(0), "{result:?}");
    let v2 = web::live(&rig);
    assert_ne!(v2, v1);

    let deploy = rig.start_cli(&["deploy", "--json", web::polite(&rig, "v3").to_str().expect("UTF-8")]);
    rig.wait_until("two slots are done", |rig| done(rig).is_some_and(|(_, done)| done >= 2));
    let result = rig.cli(&["abort"]);
    assert_eq!(result.code, Some(0), "{result:?}");
    let result = deploy.wait();
    assert_eq!(result.code, Some(3), "{result:?}");
    let report = web::report_in(&result);
    assert_eq!((report.outcome, report.release), (Outcome::RolledBack, Some(v2)), "{report:?}");
    assert!(report.said.contains("somebody asked for it"), "{report:?}");
    web::wait_for_release(&mut rig, v2, 4);
    // It was not bad: nobody rejects it.
    let result = rig.deploy(&web::polite(&rig, "v3"));
    assert_eq!(result.code, Some(0), "{result:?}");
    for steer in ["pause", "resume", "abort"] {
        let result = rig.cli(&[steer]);
        assert_eq!(result.code, Some(1), "{result:?}");
    }
    web::end_without_failure(load);
    let patience = Duration::from_secs(1);
    assert!(control::Lines::get(&rig.socket(), "/v1/status?watch=true").expect("ask").next(patience).is_ok());
}
