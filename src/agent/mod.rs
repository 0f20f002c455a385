//! Floor 3: the imperative shell: it waits and obeys.

pub mod control;
pub mod keeper_link;
pub mod lanes;
pub mod output;
pub mod prober;
pub mod relay;
pub mod request;
pub mod route;
pub mod start;

use std::process::ExitCode;

/// A stand-in.
#[must_use]
pub fn run(_start: start::Start) -> ExitCode {
    ExitCode::FAILURE
}
