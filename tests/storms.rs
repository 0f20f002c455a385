//! Many orders at once end on the newest, and cost nobody anything.

#[path = "load/mod.rs"]
#[expect(dead_code, reason = "the load program and other tests use more of it")]
mod load;
#[expect(dead_code, reason = "no test uses the whole rig")]
mod support;
#[expect(dead_code, reason = "other tests use more of it")]
mod web;

use std::collections::BTreeSet;

use load::report::Class;
use rollout::wire::api::{Outcome, Progress, Step};
use support::sampler::ReadySampler;
use support::{GENEROUS, Rig, tree};

/// Keeper, agent, one worker per slot: an orphan would be one more.
fn wait_until_nobody_is_left_over(rig: &mut Rig, workers: usize) {
    rig.wait_until("keeper, agent and the workers are all there is", |rig| rig.processes().len() == 2 + workers);
}

#[test]
fn fifty_hangups_in_a_second_become_a_few_rollouts() {
    let mut rig = web::serving(&web::config(&format!("{}    rollout: {{min_ready: 100ms}}\n", web::HEALTHZ)));
    let (load, sampler, v1) = (web::load(&rig), ReadySampler::start(&rig, "web"), web::live(&rig));
    let first = web::ready(&rig);
    for _ in 0..50 {
        rig.signal("HUP");
    }
    rig.wait_until("every worker is another one", |rig| {
        rig.try_status().is_some_and(|status| status.services[0].rollout.is_none())
            && web::ready(rig).is_disjoint(&first)
    });
    web::wait_for_release(&mut rig, v1, 4);
    wait_until_nobody_is_left_over(&mut rig, 4);
    let entries = web::history(&rig).entries;
    let done = entries.iter().filter(|entry| entry.outcome == Outcome::Done && entry.trigger == "sighup").count();
    assert!((1..10).contains(&done), "{done} rollouts for 50 signals: {entries:#?}");
    assert!(entries.iter().all(|entry| matches!(entry.outcome, Outcome::Done | Outcome::Superseded)), "{entries:#?}");
    let generations: BTreeSet<_> = rig.service("web").workers.iter().map(|worker| worker.generation).collect();
    assert_eq!(generations, BTreeSet::from([rig.service("web").generation]));
    web::end_without_failure(load);
    let samples = sampler.stop();
    assert_eq!(samples.least_ready, 4, "{samples:?}");
}

#[test]
fn of_three_deploys_at_once_the_newest_is_live() {
    let mut rig = web::serving(&web::config(&format!("{}    rollout: {{min_ready: 300ms}}\n", web::HEALTHZ)));
    let (load, sampler) = (web::load(&rig), ReadySampler::start(&rig, "web"));
    let paths = ["v2", "v3", "v4"].map(|version| web::polite(&rig, version));
    let deploys = paths.map(|path| rig.start_cli(&["deploy", "--json", path.to_str().expect("UTF-8")]));
    let ends = deploys.map(|deploy| {
        let result = deploy.wait();
        let report = web::report_in(&result);
        let stored = result.stdout.lines().find_map(|line| match serde_json::from_str(line).expect("a step") {
            Step { progress: Progress::Stored { release, .. }, .. } => Some(release),
            _ => None,
        });
        assert_eq!(result.code, Some(i32::from(report.exit)), "{result:?}");
        (report.rollout.expect("a number"), report.outcome, result.code, stored.expect("it was stored"))
    });
    let (_, newest, code, release) = *ends.iter().max_by_key(|(rollout, ..)| *rollout).expect("three");
    assert_eq!((newest, code), (Outcome::Done, Some(0)), "{ends:?}");
    web::wait_for_release(&mut rig, release, 4);
    for (_, outcome, code, _) in &ends {
        let expected = if *outcome == Outcome::Superseded { 5 } else { 0 };
        assert_eq!(*code, Some(expected), "{ends:?}");
        assert!(matches!(outcome, Outcome::Done | Outcome::Superseded), "{ends:?}");
    }
    // The first began at once; of the other two one waited, and the newer took its place.
    let superseded = ends.iter().filter(|(_, outcome, ..)| *outcome == Outcome::Superseded).count();
    assert!(superseded >= 1, "{ends:?}");
    wait_until_nobody_is_left_over(&mut rig, 4);
    web::end_without_failure(load);
    let samples = sampler.stop();
    assert_eq!(samples.least_ready, 4, "{samples:?}");
}

/// SIGKILL to each worker in turn: only what it had accepted is lost, and somebody takes its place at once.
/// One service hangs in its rollout, which takes as long as it may; the other one's goes on beside it.
#[test]
fn services_do_not_wait_for_each_other() {
    let look = r#"[sh, -c, "[ -n \"$ROLLOUT_PID\" ] && [ -n \"$ROLLOUT_PROBE_TO\" ]"]"#;
    let other = format!(
        "  other:\n    binary: ./web\n    workers: 2\n    listen: [127.0.0.1:0]\n    watch: off\n    \
         readiness: {{exec: {look}}}\n    rollout: {{min_ready: 100ms}}\n"
    );
    let mut rig = web::serving(&(web::config("    readiness: {http: /healthz, timeout: 10m}\n") + &other));
    let load = web::load(&rig);
    let bad = web::faulty(&rig, "hangs", "hangs");
    let _waits = rig.start_cli(&["deploy", "-s", "web", bad.to_str().expect("UTF-8")]);
    let hangs = |rig: &Rig| rig.service("web").rollout.is_some_and(|rollout| rollout.done == 0);
    rig.wait_until("the rollout of web is under way", hangs);
    let good = web::polite(&rig, "v2");
    for arguments in [&["deploy", "-s", "other", good.to_str().expect("UTF-8")][..], &["restart", "-s", "other"]] {
        let result = rig.cli(arguments);
        assert_eq!(result.code, Some(0), "{result:?}");
        assert!(hangs(&rig), "{:#?}", rig.service("web"));
    }
    assert_eq!(rig.service("other").generation.map(|generation| generation.0), Some(3));
    web::end_without_failure(load);
}

#[test]
fn each_worker_may_be_killed_in_turn() {
    let mut rig = web::serving(&web::config(web::HEALTHZ));
    let load = web::load(&rig);
    for slot in 0..4 {
        let victim = rig.service("web").workers[slot].pid.expect("a pid");
        tree::signal("KILL", &[victim]);
        rig.wait_for_status("the slot has another worker", |status| {
            let workers = &status.services[0].workers;
            workers.iter().all(|worker| worker.state == "ready") && workers[slot].pid != Some(victim)
        });
        let so_far = load.so_far().ok();
        assert!(load.wait_until(GENEROUS, |report| report.ok() > so_far + 50), "{}", load.so_far());
    }
    wait_until_nobody_is_left_over(&mut rig, 4);
    let report = load.stop();
    let accepted = [Class::Reset, Class::Eof, Class::Cut].map(|class| report.failures_of(class)).iter().sum::<u64>();
    assert_eq!(report.failures(), accepted, "{report}");
    // Per worker: two of the eight kept connections, and what was under way.
    assert!(accepted <= 4 * 4, "{report}");
}
