//! SIGKILL to the agent at every moment of a rollout: workers and listeners go on, the successor adopts them and brings
//! the rollout to its end, nobody's request is lost, and nobody is told a lie.

#[path = "load/mod.rs"]
#[expect(dead_code, reason = "the load program and other tests use more of it")]
mod load;
#[expect(dead_code, reason = "no test uses the whole rig")]
mod support;
#[expect(dead_code, reason = "other tests use more of it")]
mod web;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use load::Running;
use rollout::wire::api::{LogLine, Outcome, ServiceStatus};
use support::sampler::ReadySampler;
use support::{Rig, example, facts, tree};

/// Kills the agent and looks at once: every worker that had a process has the same one still, and the listener is the same.
/// Returns how many workers there were.
fn kill_agent(rig: &mut Rig, when: &str, is_so: impl Fn(&ServiceStatus) -> bool) -> usize {
    let before = rig.wait_for_status(when, |status| is_so(&status.services[0])).services.swap_remove(0);
    let pids = |status: &ServiceStatus| -> Vec<i32> { status.workers.iter().filter_map(|worker| worker.pid).collect() };
    let (agent, workers) = (rig.agent_pid().expect("an agent"), pids(&before));
    tree::signal("KILL", &[agent]);
    // No agent may run for a moment: then nobody can have told a worker to go since the last look at the old agent.
    let gone: Vec<_> = workers.iter().filter(|pid| facts::arguments(**pid).concat().is_empty()).collect();
    rig.wait_until("another agent answers", |rig| {
        rig.agent_pid().is_some_and(|pid| pid != agent) && rig.try_status().is_some()
    });
    let after = rig.service("web");
    assert_eq!(after.listen, before.listen, "{when}");
    // Who was draining may have come to its own end meanwhile; who was ready may be draining by now, not gone.
    let ready = before.workers.iter().filter(|worker| worker.state == "ready").filter_map(|worker| worker.pid);
    let lost: Vec<_> = ready.filter(|pid| gone.contains(&pid) || !pids(&after).contains(pid)).collect();
    assert!(lost.is_empty(), "{when}: {lost:?} of {before:#?} are not in {after:#?}\n{}", rig.log());
    workers.len()
}

fn phase(service: &ServiceStatus) -> Option<(&str, u32)> {
    service.rollout.as_ref().map(|rollout| (rollout.phase.as_str(), rollout.done))
}

fn has(service: &ServiceStatus, state: &str) -> bool {
    service.workers.iter().any(|worker| worker.state == state)
}

/// A program that needs a moment before it does anything.
fn slow_to_start(rig: &Rig, version: &str) -> PathBuf {
    let program = web::polite(rig, &format!("{version}-program"));
    let path = rig.home().join(version);
    let script = format!("#!/bin/sh\nsleep 0.7\nexec {} --version-name {version}\n", program.display());
    fs::write(&path, script).expect("write");
    fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("chmod");
    path
}

/// Deploys, kills the agent when it is so, and sees the rollout end well.
fn deploy_and_kill(rig: &mut Rig, load: &Running, path: &Path, when: &str, is_so: impl Fn(&ServiceStatus) -> bool) {
    let old = web::live(rig);
    let deploy = rig.start_cli(&["deploy", path.to_str().expect("UTF-8")]);
    rig.wait_until("the rollout has begun", |rig| {
        rig.try_status().is_some_and(|status| status.services[0].rollout.is_some())
    });
    kill_agent(rig, when, is_so);
    let result = deploy.wait();
    assert_eq!(result.code, Some(0), "{when}: {result:?}\n{}", rig.log());
    let entry = web::history(rig).entries.swap_remove(0);
    assert_eq!((entry.outcome, entry.from), (Outcome::Done, Some(old)), "{when}: {entry:?}");
    web::wait_for_release(rig, entry.release, 4);
    assert!(result.stdout.contains(&entry.release.short().to_string()), "{when}: {result:?}");
    web::assert_no_failure(load, when);
}

#[test]
fn the_agent_may_be_killed_at_any_moment_of_a_rollout() {
    let more = format!(
        "{}    rollout: {{min_ready: 200ms, hold: 300ms}}\n    drain: {{timeout: 8s}}\n",
        "    readiness: {http: /healthz, timeout: 10s, interval: 20ms}\n"
    );
    let mut rig = web::serving(&web::config(&more));
    let (load, sampler) = (web::load(&rig), ReadySampler::start(&rig, "web"));

    let before = web::ready(&rig);
    kill_agent(&mut rig, "idle", |service| phase(service).is_none());
    assert_eq!(web::ready(&rig), before);
    web::assert_no_failure(&load, "idle");

    let path = slow_to_start(&rig, "v2");
    deploy_and_kill(&mut rig, &load, &path, "a new worker starts", |service| has(service, "starting"));
    let path = web::polite(&rig, "v3");
    deploy_and_kill(&mut rig, &load, &path, "a replacement is held", |service| {
        let ready = service.workers.iter().filter(|worker| worker.state == "ready").count();
        ready == 5
    });
    let path = web::polite(&rig, "v4");
    deploy_and_kill(&mut rig, &load, &path, "old workers drain", |service| {
        has(service, "draining") && phase(service).is_some_and(|(_, done)| done >= 2)
    });

    let report = web::end_without_failure(load);
    assert!(report.versions.contains_key("v4"), "{report}");
    let samples = sampler.stop();
    assert!(samples.least_ready >= 4, "{samples:?}");
}

/// Between the first good check and the admission.
#[test]
fn the_agent_may_be_killed_while_a_replacement_proves_itself() {
    let mut rig = web::serving(&web::config(&format!("{}    rollout: {{min_ready: 1500ms}}\n", web::HEALTHZ)));
    let load = web::load(&rig);
    let deploy = rig.start_cli(&["deploy", web::polite(&rig, "v2").to_str().expect("UTF-8")]);
    rig.wait_until("the first replacement listens", |rig| rig.log().matches("listening on").count() == 5);
    // Checks come every 20 ms: by then one was good.
    let so_far = load.so_far().ok();
    assert!(load.wait_until(support::GENEROUS, |report| report.ok() > so_far + 30));
    kill_agent(&mut rig, "a replacement proves itself", |service| {
        has(service, "starting") && phase(service) == Some(("forward", 0))
    });
    let result = deploy.wait();
    assert_eq!(result.code, Some(0), "{result:?}");
    // It was adopted, not replaced: four workers were started, and no fifth.
    assert_eq!(rig.log().matches("listening on").count(), 8, "{}", rig.log());
    web::end_without_failure(load);
}

#[test]
fn the_agent_may_be_killed_while_it_takes_a_rollout_back() {
    let more = format!("{}    rollout: {{min_ready: 300ms}}\n", web::HEALTHZ);
    let mut rig = web::serving(&web::config(&more));
    let (load, sampler, v1) = (web::load(&rig), ReadySampler::start(&rig, "web"), web::live(&rig));
    let path = web::faulty(&rig, "bad-third", "slot:3:exits");
    let deploy = rig.start_cli(&["deploy", path.to_str().expect("UTF-8")]);
    kill_agent(&mut rig, "the rollout goes back", |service| phase(service).is_some_and(|(phase, _)| phase == "back"));
    let result = deploy.wait();
    assert_eq!(result.code, Some(3), "{result:?}\n{}", rig.log());
    for part in ["slot 3, worker w", "ended before it was ready: exit code 1", "cannot open /nowhere/faulty.conf"] {
        assert!(result.stderr.contains(part), "no {part:?} in {}", result.stderr);
    }
    web::wait_for_release(&mut rig, v1, 4);
    assert_eq!(web::last_outcome(&rig), Some(Outcome::RolledBack));
    web::end_without_failure(load);
    let samples = sampler.stop();
    assert_eq!(samples.least_ready, 4, "{samples:?}");
}

/// The keeper is stopped meanwhile, so that there is no successor before everything has happened.
#[test]
fn a_worker_that_dies_while_there_is_no_agent_is_missed() {
    let mut rig = web::serving(&web::config(web::HEALTHZ));
    let load = web::load(&rig);
    let (agent, keeper) = (rig.agent_pid().expect("an agent"), rig.keeper_pid());
    let victim = rig.service("web").workers[1].clone();
    tree::signal("STOP", &[keeper]);
    tree::signal("KILL", &[agent]);
    tree::signal("KILL", &[victim.pid.expect("a pid")]);
    tree::signal("CONT", &[keeper]);
    let status = rig.wait_for_status("the slot has another worker", |status| {
        let worker = &status.services[0].workers[1];
        worker.state == "ready" && worker.pid != victim.pid
    });
    let workers = &status.services[0].workers;
    assert_eq!((workers.len(), workers[1].restarts, workers[0].restarts), (4, 1, 0), "{status:#?}");
    assert!(rig.log().contains("killed by SIGKILL"), "{}", rig.log());
    let report = load.stop();
    // What it had accepted; the others' requests and those in its queue are answered.
    let accepted = [load::report::Class::Reset, load::report::Class::Eof, load::report::Class::Cut]
        .map(|it| report.failures_of(it));
    assert_eq!(report.failures(), accepted.iter().sum::<u64>(), "{report}");
    assert!(report.failures() <= 4, "{report}");
}

/// Between the state that holds a decision and the history that tells of it, an agent may die, too.
#[test]
fn an_end_that_was_decided_and_not_written_down_is_written_down_once() {
    let mut rig = web::serving(&web::config(web::HEALTHZ));
    let path = web::faulty(&rig, "exits", "exits");
    assert_eq!(rig.deploy(&path).code, Some(3));
    let before = web::history(&rig).entries;
    let file = rig.home().join("state/web/history.jsonl");
    let whole = fs::read_to_string(&file).expect("read the history");
    let without_last: String = whole.split_inclusive('\n').take(before.len() - 1).collect();
    for found in [&without_last, &whole] {
        // No successor before the file is as that death would have left it.
        let (agent, keeper) = (rig.agent_pid().expect("an agent"), rig.keeper_pid());
        tree::signal("STOP", &[keeper]);
        tree::signal("KILL", &[agent]);
        fs::write(&file, found).expect("write the history");
        tree::signal("CONT", &[keeper]);
        rig.wait_until("another agent answers", |rig| {
            rig.agent_pid().is_some_and(|pid| pid != agent) && rig.try_status().is_some()
        });
        assert_eq!(web::history(&rig).entries, before);
    }
}

/// Lines that workers write before, while and after there is no agent: each once, in order.
#[test]
fn no_line_of_output_is_lost_with_the_agent() {
    let home = web::home();
    let lines = [("VERSION", "v1"), ("FAULT", "counts")];
    example::release(&example::built("faulty"), &home.path().join("web"), &lines);
    let mut rig = Rig::start_in(home, &web::config_of(2, web::HEALTHZ));
    rig.wait_until_serving();
    let counted = |rig: &Rig, slot: &str| -> Vec<u64> {
        let result = rig.cli(&["logs", "-n", "10000", "--slot", slot, "--json"]);
        assert_eq!(result.code, Some(0), "{result:?}");
        let lines = result.stdout.lines().map(|line| serde_json::from_str(line).expect("a log line"));
        lines.filter_map(|line: LogLine| line.line.strip_prefix("count ")?.parse().ok()).collect()
    };
    for _ in 0..3 {
        let written = counted(&rig, "1").len();
        rig.wait_until("more lines", |rig| counted(rig, "1").len() > written + 20);
        rig.kill_agent();
    }
    let written = counted(&rig, "1").len();
    rig.wait_until("more lines", |rig| counted(rig, "1").len() > written + 20);
    for slot in ["1", "2"] {
        let numbers = counted(&rig, slot);
        let expected: Vec<u64> = (1..).take(numbers.len()).collect();
        assert_eq!(numbers, expected, "slot {slot}");
    }
}

/// However often: an agent that is killed as soon as it is there leaves the service as it was.
#[test]
fn a_series_of_kills_leaves_the_service_as_it_was() {
    let mut rig = web::serving(&web::config(web::HEALTHZ));
    let (load, before) = (web::load(&rig), web::ready(&rig));
    let deploy = rig.start_cli(&["deploy", web::polite(&rig, "v2").to_str().expect("UTF-8")]);
    rig.wait_until("the rollout has begun", |rig| {
        rig.try_status().is_some_and(|status| status.services[0].rollout.is_some())
    });
    let mut killed = Vec::new();
    for _ in 0..6 {
        rig.wait_until("there is an agent", |rig| rig.agent_pid().is_some_and(|pid| !killed.contains(&pid)));
        let agent = rig.agent_pid().expect("an agent");
        tree::signal("KILL", &[agent]);
        killed.push(agent);
    }
    let result = deploy.wait();
    assert_eq!(result.code, Some(0), "{result:?}\n{}", rig.log());
    let v2 = web::live(&rig);
    web::wait_for_release(&mut rig, v2, 4);
    assert!(web::ready(&rig).is_disjoint(&before));
    rig.wait_until("keeper, agent and four workers are all there is", |rig| rig.processes().len() == 6);
    web::end_without_failure(load);
}
