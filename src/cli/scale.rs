//! `rollout scale`: more or fewer slots.

use clap::Args;

use super::args::Whose;
use super::exit::{Exit, Failure};
use super::follow::{How, roll};
use crate::wire::api;

/// Change the number of workers
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  rollout scale 8
  rollout scale 2 -s web")]
#[command(after_long_help = Exit::table())]
pub(super) struct Scale {
    /// How many; at least 1
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    workers: u32,
    #[command(flatten)]
    whose: Whose,
    #[command(flatten)]
    how: How,
}

impl Scale {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        roll(self.whose, "scale", &api::Scale { workers: self.workers }, &self.how)
    }
}
