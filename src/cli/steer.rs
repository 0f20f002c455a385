//! `rollout pause`, `resume` and `abort`: what to do with the rollout that is under way.

use clap::Args;

use super::args::Whose;
use super::exit::{Exit, Failure};
use super::pick::pick;
use super::{host, render};
use crate::wire::api;

/// Let the rollout that is under way stand still
#[derive(Debug, Args)]
#[command(before_help = "Examples:\n  rollout pause\n  rollout pause -s web")]
pub(super) struct Pause {
    #[command(flatten)]
    whose: Whose,
}

/// Let a paused rollout go on
#[derive(Debug, Args)]
#[command(before_help = "Examples:\n  rollout resume\n  rollout resume -s web")]
pub(super) struct Resume {
    #[command(flatten)]
    whose: Whose,
}

/// Take the rollout that is under way back
#[derive(Debug, Args)]
#[command(before_help = "Examples:\n  rollout abort\n  rollout abort -s web")]
pub(super) struct Abort {
    #[command(flatten)]
    whose: Whose,
}

impl Pause {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        steer(self.whose, "pause")
    }
}

impl Resume {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        steer(self.whose, "resume")
    }
}

impl Abort {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        steer(self.whose, "abort")
    }
}

fn steer(whose: Whose, verb: &str) -> Result<Exit, Failure> {
    host::block_on(async {
        let (client, service) = pick(whose).await?;
        let done: api::Done = client.post(&format!("/v1/services/{service}/{verb}")).await?;
        render::print(&done.said)?;
        Ok(Exit::Done)
    })
}
