//! The agent is not in the path of a request: the example worker under it, against the same worker without it.
//!
//! Two workers on each side, saturated by one client in turn: lanes against a plain `SO_REUSEPORT` group, the shared
//! socket against a shared socket.

use std::net::SocketAddr;
use std::time::Duration;

use super::agent;
use super::bare::Bare;
use super::figure::{Figure, Spread, Target};
use super::saturate::{Seen, Task};
use crate::support::example;

/// A host with two processors is kept busy by these and the client.
const WORKERS: usize = 2;
const PER_WORKER: usize = 16;
const SLICE: Duration = Duration::from_millis(300);
/// Odd, so that the median is one of them.
const ROUNDS: usize = 31;

/// Both ways to serve the same.
struct Pair {
    mode: &'static str,
    agent: SocketAddr,
    bare: Bare,
}

pub(crate) fn figures() -> Vec<Figure> {
    let worker = example::built("worker");
    let service = |name: &str, mode: &str| {
        format!(
            "  {name}:\n    binary: {}\n    watch: off\n    workers: {WORKERS}\n    \
             listen: [{{address: '127.0.0.1:0', mode: {mode}}}]\n    readiness: notify\n",
            worker.display()
        )
    };
    let config = format!("services:\n{}{}", service("lanes", "steered"), service("one", "shared"));
    let rig = agent::start(agent::home(), &config);
    let pairs = [
        Pair { mode: "steered", agent: rig.address("lanes", 0), bare: Bare::with_own_sockets(&worker, WORKERS) },
        Pair { mode: "shared", agent: rig.address("one", 0), bare: Bare::with_one_socket(&worker, WORKERS) },
    ];
    let mut rounds = pairs.each_ref().map(|_| Vec::new());
    for round in 0..=ROUNDS {
        for (pair, rounds) in pairs.iter().zip(&mut rounds) {
            let ratios = pair.ratios(round);
            // The first one warms both sides up.
            if round > 0 {
                rounds.push(ratios);
            }
        }
    }
    pairs.iter().zip(&rounds).flat_map(|(pair, rounds)| pair.figures(rounds)).collect()
}

impl Pair {
    /// Requests per second and p99 under the agent, divided by those without it. The sides take turns in being first.
    fn ratios(&self, round: usize) -> [f64; 2] {
        let saturate = |address| Task { address, workers: WORKERS, per_worker: PER_WORKER, time: SLICE }.carry_out();
        let (agent, bare): (Seen, Seen) = if round.is_multiple_of(2) {
            let agent = saturate(self.agent);
            (agent, saturate(self.bare.address))
        } else {
            let bare = saturate(self.bare.address);
            (saturate(self.agent), bare)
        };
        [agent.per_second / bare.per_second, agent.p99.as_secs_f64() / bare.p99.as_secs_f64()]
    }

    fn figures(&self, rounds: &[[f64; 2]]) -> [Figure; 2] {
        // More requests than without the agent would be a measurement that is not fair.
        let targets = [("requests/s", Target::Between(0.98, 1.05)), ("p99", Target::AtMost(1.05))];
        targets.map(|(what, target)| {
            let index = usize::from(what == "p99");
            let what = format!("{}: {what} under the agent ÷ of the same workers without it", self.mode);
            Figure::new(what, Spread::of(rounds.iter().map(|round| round[index])), "", target)
        })
    }
}
