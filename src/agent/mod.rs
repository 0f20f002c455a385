//! Floor 3: the imperative shell: it waits and obeys.

mod applied;
mod archive;
mod asked;
mod book;
mod clock;
pub mod control;
mod desk;
mod ending;
mod handover;
mod happening;
mod inherited;
pub mod keeper_link;
pub mod lanes;
mod left_over;
mod log_output;
mod names;
pub mod output;
pub mod prober;
pub mod relay;
mod reload;
pub mod request;
pub mod route;
mod run;
mod service_manager;
mod shell;
pub mod start;
mod state_file;
mod vigil;
mod watching;
mod words;
mod worker_env;

pub use run::run;

/// An error and its causes on one line: `open the store: create /x: permission denied`.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
