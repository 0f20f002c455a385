//! `rollout rollback`: an earlier release again.

use clap::Args;

use super::args::Whose;
use super::exit::{Exit, Failure};
use super::follow::{How, roll};
use crate::wire::api;

/// Roll to the release before this one, or to the named one
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  rollout rollback
  rollout rollback 3f2a9c -s web      'rollout history' lists releases")]
#[command(after_long_help = Exit::table())]
pub(super) struct Rollback {
    /// A release, or the beginning of its name
    release: Option<String>,
    /// A note for the history
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
    #[command(flatten)]
    whose: Whose,
    #[command(flatten)]
    how: How,
}

impl Rollback {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let question = api::Rollback { release: self.release, note: self.note };
        roll(self.whose, "rollback", &question, &self.how)
    }
}
