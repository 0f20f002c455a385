//! `rollout schema`: the configuration's JSON Schema.

use clap::Args;

use super::exit::{Exit, Failure};
use super::render;
use crate::config;

/// Print the JSON Schema of the configuration file, for editors
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  rollout schema > rollout.schema.json
  first line of rollout.yaml: # yaml-language-server: $schema=rollout.schema.json")]
pub(super) struct Schema {}

impl Schema {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        render::print(config::schema::json().trim_end())?;
        Ok(Exit::Done)
    }
}
