//! Workers that go bad while they serve: noticed, kept from clients, replaced ready first.

#[path = "load/mod.rs"]
#[expect(dead_code, reason = "the load program and other tests use more of it")]
mod load;
#[expect(dead_code, reason = "no test uses the whole rig")]
mod support;
#[expect(dead_code, reason = "other tests use more of it")]
mod web;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use load::Load;
use load::mix::Mix;
use load::report::Class;
use support::sampler::ReadySampler;
use support::{GENEROUS, Rig, example, once, tree};

/// Four workers with a fault that is triggered by a request.
fn serving(fault: &str, more: &str) -> Rig {
    let home = web::home();
    let lines = [("VERSION", "v1"), ("FAULT", fault)];
    example::release(&example::built("faulty"), &home.path().join("web"), &lines);
    let mut rig = Rig::start_in(home, &web::config(more));
    rig.wait_until_serving();
    rig
}

/// Asks whichever worker gets the request; `version slot pid worker`.
fn ask(address: SocketAddr, path: &str) -> (u32, i32) {
    let body = once::get(address, path);
    let words: Vec<_> = body.lines().last().expect("a body").split(' ').collect();
    (words[1].parse().expect("a slot"), words[2].parse().expect("a pid"))
}

/// Waits until the slot has another worker and all four are ready.
fn wait_for_another(rig: &mut Rig, slot: u32, pid: i32) {
    rig.wait_for_status("the worker is replaced", |status| {
        let workers = &status.services[0].workers;
        workers.len() == 4
            && workers.iter().all(|worker| worker.state == "ready" && worker.pid != Some(pid))
            && workers.iter().any(|worker| worker.slot.0 == slot && worker.restarts == 1)
    });
}

/// Where a line with all these parts is in the log.
fn line_of(log: &str, parts: &[&str]) -> usize {
    let found = log.lines().position(|line| parts.iter().all(|part| line.contains(part)));
    found.unwrap_or_else(|| panic!("no line with {parts:?} in {log}"))
}

#[test]
fn a_worker_that_says_it_is_sick_is_replaced_ready_first() {
    let liveness = "    liveness: {interval: 100ms, failures: 2, timeout: 1s}\n    rollout: {min_ready: 100ms}\n";
    let mut rig = serving("sickens", &format!("{}{liveness}", web::HEALTHZ));
    let (load, sampler) = (web::load(&rig), ReadySampler::start(&rig, "web"));
    let (slot, pid) = ask(rig.address("web", 0), "/sicken");
    wait_for_another(&mut rig, slot, pid);
    let log = rig.log();
    let new = line_of(&log, &[&format!("web.{slot} w5: ready after")]);
    let old = line_of(&log, &[&format!("web.{slot} w{slot}: draining")]);
    let failed = line_of(&log, &["WARN", &format!("web.{slot} w{slot}: "), "failed its check", "500"]);
    assert!(failed < new && new < old, "failed {failed}, replaced {new}, retired {old}: {log}");
    web::end_without_failure(load);
    let samples = sampler.stop();
    // It was counted out while it was sick; the other three were there.
    assert_eq!(samples.least_ready, 3, "{samples:?}");
}

/// SIGSTOP: it accepts nothing any more, says nothing, and looks alive. Its health is asked far too seldom to notice.
#[test]
fn a_worker_that_hangs_is_noticed_by_its_queue_and_replaced() {
    let more = "    readiness: {http: /healthz, interval: 20ms, probe_timeout: 500ms}\n    \
                liveness: {interval: 600s, timeout: 500ms, hung_after: 1s}\n    rollout: {min_ready: 100ms}\n    \
                drain: {timeout: 1s, settle: 500ms}\n";
    let mut rig = web::serving(&web::config(more));
    // New connections only: what a hanging worker has accepted is its own, and nobody can take that away from it.
    let load = Load::start(rig.address("web", 0), Mix { fresh: 120.0, ..Mix::default() }).expect("loopback");
    assert!(load.wait_until(GENEROUS, |report| report.ok() > 50));
    let victim = rig.service("web").workers[2].clone();
    let pid = victim.pid.expect("a pid");
    tree::signal("STOP", &[pid]);
    wait_for_another(&mut rig, 3, pid);
    rig.wait_until("the hanging one is gone", |rig| !rig.processes().contains(&pid));
    let so_far = load.so_far().ok();
    assert!(load.wait_until(GENEROUS, |report| report.ok() > so_far + 100));
    let report = load.stop();
    let log = rig.log();
    line_of(&log, &["WARN", "web.3 w3: ", "took no connection for"]);
    let slowest = report.latency().max();
    // Whoever waited in its queue was served by somebody else: noticed after 1 s and a probe, relayed when it was let go.
    assert!(slowest < Duration::from_secs(6), "{report}");
    assert!(slowest > Duration::from_secs(1), "nobody waited, so nothing was proved: {report}");
    // At most the one request that it had in its hands.
    let accepted = [Class::Reset, Class::Eof, Class::Cut].map(|class| report.failures_of(class)).iter().sum::<u64>();
    assert_eq!(report.failures(), accepted, "{report}");
    assert!(accepted <= 2, "{report}");
}

/// Slots that answer: sooner or later every one of them.
fn wait_until_every_slot_answers(rig: &mut Rig) {
    let address = rig.address("web", 0);
    let mut seen = BTreeSet::new();
    rig.wait_until("every slot answers", |_| {
        seen.insert(ask(address, "/").0);
        seen.len() == 4
    });
}

#[test]
fn a_worker_that_shuts_its_listening_socket_does_not_stop_the_service() {
    let mut rig = serving("shuts-lane", &format!("{}    liveness: off\n", web::HEALTHZ));
    let load = web::load(&rig);
    let (slot, pid) = ask(rig.address("web", 0), "/damage");
    rig.wait_until("the guilty one is named", |rig| {
        rig.log().lines().any(|line| line.contains("WARN") && line.contains(&format!(" w{slot}: ")))
    });
    wait_until_every_slot_answers(&mut rig);
    assert!(web::ready(&rig).contains(&pid), "it serves again, on the repaired socket");
    // The lanes are in order: each worker is reached, and a rollout goes as always.
    let before = load.so_far();
    assert_eq!(rig.deploy(&web::polite(&rig, "v2")).code, Some(0), "{}", rig.log());
    let report = load.stop();
    assert_eq!(report.failures(), before.failures(), "{report}");
    // Those that waited in its queue at that moment were reset by the kernel.
    assert_eq!(report.failures(), report.failures_of(Class::Reset) + report.failures_of(Class::Eof), "{report}");
    assert!(report.failures() <= 3, "{report}");
}

#[test]
fn a_worker_that_shortens_its_queue_does_not_stop_the_service() {
    let mut rig = serving("small-backlog", &format!("{}    liveness: off\n", web::HEALTHZ));
    let load = web::load(&rig);
    let (slot, pid) = ask(rig.address("web", 0), "/damage");
    rig.wait_until("the guilty one is named", |rig| {
        let own = format!(" w{slot}: ");
        rig.log().lines().any(|line| {
            line.contains("WARN")
                && line.contains(&own)
                && line.contains("shortened the queue of its listening socket to 1;")
        })
    });
    wait_until_every_slot_answers(&mut rig);
    assert!(web::ready(&rig).contains(&pid));
    assert_eq!(rig.deploy(&web::polite(&rig, "v2")).code, Some(0), "{}", rig.log());
    web::end_without_failure(load);
}
