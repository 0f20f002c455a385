//! `rollout history`: what was rolled out, and how it ended.

use clap::Args;

use super::args::Whose;
use super::exit::{Exit, Failure};
use super::pick::pick;
use super::{host, render};
use crate::wire::api;

/// List the rollouts of a service, newest first
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  rollout history
  rollout history -s web --json | jq -r '.entries[0].outcome'")]
pub(super) struct History {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    whose: Whose,
}

impl History {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        host::block_on(async {
            let (client, service) = pick(self.whose).await?;
            let history: api::History = client.get(&format!("/v1/services/{service}/history")).await?;
            if self.json {
                render::print_json(&history)?;
            } else {
                render::print(&render::history(&history, host::now(), render::terminal_width()))?;
            }
            Ok(Exit::Done)
        })
    }
}
