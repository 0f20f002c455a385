//! Rollouts back to back on real programs, under every kind of load together: not one request fails.

#[expect(dead_code, reason = "no test uses all of it")]
mod deploy;

use std::time::Duration;

use deploy::load::mix::{Mix, Pool};
use deploy::load::report::Class;
use deploy::{BRISK, CALM, Language, Scene};

const ROLLOUTS: usize = 10;

const FOUR: &str = "workers: 4";
const LISTEN: &str = "listen: [127.0.0.1:0]";
const HEALTHZ: &str = "readiness: {http: /healthz, timeout: 30s}";

/// Enough for each kind of traffic to be under way at every moment.
fn mix() -> Mix {
    Mix::all(120.0)
}

#[test]
fn rust_workers_are_replaced_ten_times() {
    let scene = Scene::start("rust", Language::Rust, &[FOUR, LISTEN, "readiness: accept", CALM], mix());
    let live = scene.deploy_alternating(ROLLOUTS);
    scene.end(4, live);
}

#[test]
fn node_workers_are_replaced_ten_times() {
    if Language::Node.is_here() {
        let scene = Scene::start("node", Language::Node, &[FOUR, LISTEN, HEALTHZ, CALM], mix());
        let live = scene.deploy_alternating(ROLLOUTS);
        scene.end(4, live);
    }
}

#[test]
fn python_workers_are_replaced_ten_times() {
    if Language::Python.is_here() {
        let scene = Scene::start("python", Language::Python, &[FOUR, LISTEN, HEALTHZ, CALM], mix());
        let live = scene.deploy_alternating(ROLLOUTS);
        scene.end(4, live);
    }
}

/// The old worker goes first: one of the four is missing all the time, and no request.
fn without_a_surge(name: &'static str, language: Language, readiness: &'static str) {
    if language.is_here() {
        let rollout = "rollout: {max_surge: 0, max_unavailable: 1, min_ready: 600ms}";
        let scene = Scene::start(name, language, &[FOUR, LISTEN, readiness, rollout], mix());
        let live = scene.deploy_alternating(ROLLOUTS);
        scene.end(3, live);
    }
}

#[test]
fn without_a_surge_one_rust_worker_is_missing_and_no_request() {
    without_a_surge("rust, no surge", Language::Rust, "readiness: notify");
}

#[test]
fn without_a_surge_one_node_worker_is_missing_and_no_request() {
    without_a_surge("node, no surge", Language::Node, HEALTHZ);
}

#[test]
fn without_a_surge_one_python_worker_is_missing_and_no_request() {
    without_a_surge("python, no surge", Language::Python, HEALTHZ);
}

#[test]
fn a_single_worker_is_replaced_ten_times() {
    // Each rollout is so short that more generations drain at once than usual.
    let lines = ["workers: 1", LISTEN, "readiness: notify", BRISK, "drain: {max_generations: 20}"];
    let scene = Scene::start("single", Language::Rust, &lines, mix());
    let live = scene.deploy_alternating(ROLLOUTS);
    scene.end(1, live);
}

/// The proof that the tests above can fail: a worker that closes its idle connections at once loses requests that are on
/// their way, and the load client sees it.
#[test]
fn a_worker_that_closes_idle_connections_at_once_is_noticed() {
    let command = r#"command: ["{release}", "--grace", "0s"]"#;
    let far = Pool { connections: 60, think: Duration::from_millis(100) };
    let lines = [FOUR, LISTEN, "readiness: notify", BRISK, command];
    let mut scene = Scene::start("rude", Language::Rust, &lines, Mix { far, ..Mix::default() });
    scene.deploy_alternating(3);
    let (report, _) = scene.stop_load();
    let closed_on_the_way = report.failures_of(Class::Eof) + report.failures_of(Class::Reset);
    assert!(closed_on_the_way > 0, "{report}");
    assert_eq!(closed_on_the_way, report.failures(), "{report}");
}
