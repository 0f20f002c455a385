//! `rollout restart`: the same again, from what the configuration names now.

use clap::Args;

use super::args::Whose;
use super::exit::{Exit, Failure};
use super::follow::{How, roll};
use crate::wire::api;

/// Read the configuration and the binary again and replace every worker
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  rollout restart
  rollout restart -s web --note 'new certificate'")]
#[command(after_long_help = Exit::table())]
pub(super) struct Restart {
    /// A note for the history
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
    #[command(flatten)]
    whose: Whose,
    #[command(flatten)]
    how: How,
}

impl Restart {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        roll(self.whose, "restart", &api::Restart { note: self.note }, &self.how)
    }
}
