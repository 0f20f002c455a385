//! `rollout logs`: what workers write.

use clap::{Args, value_parser};

use super::args::Whose;
use super::client::Lines;
use super::exit::{Exit, Failure};
use super::pick::pick;
use super::render::Show;
use super::{host, render};
use crate::wire::api;

/// Print what the workers of a service have written
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  rollout logs -n 50
  rollout logs -f -s web --slot 2")]
pub(super) struct Logs {
    /// Go on with new lines as they come, until Ctrl-C
    #[arg(short, long)]
    follow: bool,
    /// How many kept lines, at most 10000
    #[arg(short = 'n', long, value_name = "N", default_value_t = 100, value_parser = value_parser!(u32).range(..=10_000))]
    lines: u32,
    /// Only the worker in this slot
    #[arg(long, value_name = "SLOT", value_parser = value_parser!(u32).range(1..))]
    slot: Option<u32>,
    /// Print each line as JSON, with its time and worker
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    whose: Whose,
}

impl Logs {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let show = if host::stdout_is_terminal() { Show::Tamed } else { Show::Raw };
        host::block_on(async {
            let (client, service) = pick(self.whose).await?;
            let slot = self.slot.map(|slot| format!("&slot={slot}")).unwrap_or_default();
            let (lines, follow) = (self.lines, self.follow);
            let path = format!("/v1/services/{service}/logs?lines={lines}&follow={follow}{slot}");
            let mut output: Lines<api::LogLine> = client.get_lines(&path).await?;
            while let Some(line) = output.next().await? {
                if self.json {
                    render::print_json_line(&line)?;
                } else {
                    render::print(&render::log_line(&service, &line, show))?;
                }
            }
            if follow { Err(ended(&service)) } else { Ok(Exit::Done) }
        })
    }
}

/// New lines never end by themselves.
fn ended(service: &str) -> Failure {
    Failure::told(Exit::NoAgent, format!("{service}: the agent went away: run 'rollout logs -f' again once it is back"))
}
