//! `rollout stop`: the end of everything an agent runs.

use clap::Args;

use super::args::Agent;
use super::client::Client;
use super::exit::{Exit, Failure};
use super::{host, render};
use crate::wire::api;

/// Drain and stop every worker of every service, then the agent
#[derive(Debug, Args)]
#[command(before_help = "Examples:\n  rollout stop\n  rollout stop --socket /run/rollout/rollout.sock")]
pub(super) struct Stop {
    #[command(flatten)]
    agent: Agent,
}

impl Stop {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        host::block_on(async {
            let done: api::Done = Client::new(self.agent.socket).post("/v1/stop").await?;
            render::print(&done.said)?;
            Ok(Exit::Done)
        })
    }
}
