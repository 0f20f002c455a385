//! Changes of the configuration by SIGHUP: each takes hold of every worker, and nobody notices.

#[path = "load/mod.rs"]
#[expect(dead_code, reason = "the load program and other tests use more of it")]
mod load;
#[expect(dead_code, reason = "no test uses the whole rig")]
mod support;
#[expect(dead_code, reason = "other tests use more of it")]
mod web;

use std::fs;
use std::io::{ErrorKind, Write, stderr};
use std::net::TcpStream;

use rollout::wire::api::ServiceStatus;
use support::Rig;

/// The configuration of a step; `more` are further services.
fn config(workers: u32, listen: &str, greeting: &str, more: &str) -> String {
    format!(
        "services:\n  web:\n    binary: ./web\n    watch: false\n    workers: {workers}\n    listen: [{listen}]\n    \
         rollout: {{min_ready: 0s}}\n    env: {{GREETING: {greeting}}}\n{more}"
    )
}

const ONE: &str = "{address: 127.0.0.1:0, name: one}";
const TWO: &str = "{address: 127.0.0.1:0, name: two}";
const API: &str = "  api:
    binary: ./web
    watch: false
    workers: 1
    listen: [127.0.0.1:0]
    rollout: {min_ready: 0s}
";

/// A service's ready workers carry this generation and there is no other worker.
fn is_settled(service: &ServiceStatus, generation: u64, workers: usize) -> bool {
    let is_right = |worker: &rollout::wire::api::WorkerStatus| {
        worker.state == "ready" && worker.generation.is_some_and(|it| it.0 == generation)
    };
    service.rollout.is_none() && service.workers.len() == workers && service.workers.iter().all(is_right)
}

/// SIGHUP, and then `web` with this many workers, all of this generation.
fn reload(rig: &mut Rig, config: &str, generation: u64, workers: usize) {
    rig.write_config(config);
    rig.signal("HUP");
    rig.wait_for_status(&format!("generation {generation} serves with {workers} workers"), |status| {
        status.services.iter().any(|service| service.name == "web" && is_settled(service, generation, workers))
    });
}

#[test]
fn each_change_takes_hold_without_a_gap() {
    let mut rig = Rig::start_in(web::home(), &config(2, ONE, "first", ""));
    rig.wait_until_serving();
    let load = web::load(&rig);
    let address = rig.address("web", 0);

    // The environment.
    reload(&mut rig, &config(2, ONE, "second", ""), 2, 2);
    web::assert_no_failure(&load, "another environment");
    for pid in rig.pids("web", "ready") {
        let environment = fs::read(format!("/proc/{pid}/environ")).expect("a worker that lives");
        let mut variables = environment.split(|&byte| byte == 0);
        assert!(variables.any(|variable| variable == b"GREETING=second"), "worker {pid}");
    }
    // The number of workers.
    reload(&mut rig, &config(4, ONE, "second", ""), 3, 4);
    reload(&mut rig, &config(2, ONE, "second", ""), 4, 2);
    web::assert_no_failure(&load, "other numbers of workers");
    // A listener comes and goes.
    reload(&mut rig, &config(2, &format!("{ONE}, {TWO}"), "second", ""), 5, 2);
    let second = rig.address("web", 1);
    assert!(TcpStream::connect(second).is_ok(), "the new listener is open");
    assert_eq!(rig.address("web", 0), address, "the old one is where it was");
    reload(&mut rig, &config(2, ONE, "second", ""), 6, 2);
    rig.wait_until("the listener that is not configured any more is closed", |_| {
        TcpStream::connect(second).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    });
    web::assert_no_failure(&load, "a listener that came and went");
    // A service comes and goes.
    reload(&mut rig, &config(2, ONE, "second", API), 7, 2);
    rig.wait_for_status("the new service serves", |status| status.services.iter().all(|it| it.state == "serving"));
    let third = rig.address("api", 0);
    assert!(TcpStream::connect(third).is_ok(), "the new service answers");
    let workers = rig.pids("api", "ready");
    assert_eq!(workers.len(), 1);
    reload(&mut rig, &config(2, ONE, "second", ""), 8, 2);
    rig.wait_for_status("the service is gone", |status| status.services.len() == 1);
    assert!(TcpStream::connect(third).is_err(), "nobody answers for the service that is gone");
    let left = rig.processes();
    assert!(workers.iter().all(|pid| !left.contains(pid)), "its worker {workers:?} is still there: {left:?}");

    let report = web::end_without_failure(load);
    assert_eq!(rig.address("web", 0), address);
    let _shown = writeln!(stderr(), "eight configurations: {} requests, none failed", report.ok());
    assert!(rig.stop().success());
}

#[test]
fn fifty_signals_with_a_configuration_that_is_good_and_bad_in_turn_end_on_the_last() {
    let mut rig = Rig::start_in(web::home(), &config(2, ONE, "first", ""));
    rig.wait_until_serving();
    let load = web::load(&rig);
    for turn in 0..25 {
        rig.write_config("services: {");
        rig.signal("HUP");
        rig.write_config(&config(2, ONE, &format!("turn{turn}"), ""));
        rig.signal("HUP");
    }
    rig.wait_until("every worker has the last environment", |rig| {
        let pids = rig.pids("web", "ready");
        let has_last = |pid: &i32| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|&byte| byte == 0).any(|variable| variable == b"GREETING=turn24")
        };
        pids.len() == 2 && pids.iter().all(has_last) && rig.service("web").rollout.is_none()
    });
    web::end_without_failure(load);
    assert!(rig.stop().success());
}
