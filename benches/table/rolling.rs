//! What clients notice of a rollout: the latency of short requests at a moderate, steady rate.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::agent;
use super::figure::{Figure, Spread, Target, millis};
use crate::load::mix::{Mix, Pool};
use crate::load::{Load, report::Report};
use crate::support::example;

const ROUNDS: usize = 5;

pub(crate) fn figures() -> Vec<Figure> {
    let home = agent::home();
    let worker = example::built("worker");
    let [v1, v2] = ["v1", "v2"].map(|name| example::release(&worker, &home.path().join(name), &[("VERSION", name)]));
    // Everything else as it is by default: min_ready is a second.
    let config = "services:\n  web:\n    binary: v1\n    watch: off\n    workers: 4\n    listen: ['127.0.0.1:0']\n    \
                  readiness: {http: /healthz}\n";
    let rig = agent::start(home, config);
    let address = rig.address("web", 0);
    let deploy = |release: &Path| agent::roll(&rig, "deploy", &format!("{{\"path\":\"{}\"}}", release.display()));
    // Both releases in the store, so that every round does the same.
    let mut length = deploy(&v2).took();
    let mut rounds = Vec::new();
    for round in 0..ROUNDS {
        let before = under_load(address, || super::pass(length));
        let release = if round % 2 == 0 { &v1 } else { &v2 };
        let during = under_load(address, || length = deploy(release).took());
        rounds.push([before, during]);
    }
    let before = Spread::of(rounds.iter().map(|[before, _]| millis(*before)));
    let ratio = Spread::of(rounds.iter().map(|[before, during]| during.as_secs_f64() / before.as_secs_f64()));
    vec![
        Figure::new("p99 of 500 requests/s before a rollout", before, "ms", Target::None),
        Figure::new("p99 during a rollout ÷ before", ratio, "", Target::AtMost(1.2)),
    ]
}

/// The p99 while `what` goes on.
fn under_load(address: SocketAddr, what: impl FnOnce()) -> Duration {
    let mix = Mix { fresh: 100.0, kept: Pool::of_rate(400.0, Duration::from_millis(100)), ..Mix::default() };
    let load = Load::start(address, mix).expect("start the load");
    let steady = |report: &Report| report.ok() > 200;
    assert!(load.wait_until(Duration::from_secs(10), steady), "no answers: {}", load.so_far());
    what();
    let report = load.stop();
    assert_eq!(report.failures(), 0, "{report}");
    report.latency().quantile(990)
}
