//! `cargo bench`: what the agent costs, as one table. `cargo bench -- crash size` makes only those rows.
//!
//! Real processes on loopback. Where a figure can be a ratio it is one, of rounds that take turns in one run, because what
//! a host can do differs by host and by minute; what is printed is the median and the quartiles of the rounds. Rounds are
//! separate, so a burst of somebody else's work spoils one of them and not the figure.
//!
//! The same program is the saturating client (a process of its own, as a client is) and the trivial worker.

#[path = "../tests/load/mod.rs"]
#[expect(dead_code, reason = "only latencies are looked at here")]
mod load;
#[path = "../tests/support/mod.rs"]
#[expect(dead_code, reason = "a bench does not look at everything that tests look at")]
mod support;
#[path = "table/mod.rs"]
mod table;

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("saturate") => table::saturate::run(&arguments[1..]),
        Some("worker") => table::worker::run(),
        // Only `cargo bench` asks for the figures; `cargo test --all-targets` runs this program, too.
        Some(_) | None => match arguments.iter().position(|argument| argument == "--bench") {
            Some(_) => table::print(&arguments),
            None => ExitCode::SUCCESS,
        },
    }
}
