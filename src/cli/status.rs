//! `rollout status`: what runs.

use std::time::Duration;

use clap::Args;
use tokio::time::timeout;

use super::args::Whose;
use super::client::{Client, ClientError};
use super::exit::{Exit, Failure};
use super::render::{self, Colour};
use super::{host, pick};
use crate::wire::api;

/// Show services, workers and the rollout that is under way
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  rollout status
  rollout status --watch
  rollout status -s web --json | jq '.services[0].workers[].pid'")]
pub(super) struct Status {
    /// Print JSON; with --watch, a line per change
    #[arg(long)]
    json: bool,
    /// Show every change until Ctrl-C
    #[arg(short, long)]
    watch: bool,
    #[command(flatten)]
    whose: Whose,
}

/// How often the times on a watched screen are brought up to date when nothing changes.
const TICK: Duration = Duration::from_secs(1);

impl Status {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        host::block_on(async {
            let client = Client::new(self.whose.agent.socket.clone());
            if self.watch {
                return self.watch(&client).await;
            }
            let status = self.chosen(client.get("/v1/status").await?)?;
            if self.json {
                render::print_json(&status)?
            } else {
                render::print(&text(&status))?
            }
            Ok(Exit::Done)
        })
    }

    /// Only the named service, if one was named.
    fn chosen(&self, mut status: api::Status) -> Result<api::Status, Failure> {
        let Some(name) = &self.whose.service else { return Ok(status) };
        let names: Vec<String> = status.services.iter().map(|service| service.name.clone()).collect();
        status.services.retain(|service| service.name == *name);
        if status.services.is_empty() { Err(pick::no_such(name, &names)) } else { Ok(status) }
    }

    /// Ends with Ctrl-C, a closed pipe or an agent that stays away.
    async fn watch(&self, client: &Client) -> Result<Exit, Failure> {
        let mut changes = client.changes().await?;
        let mut last = None;
        loop {
            match timeout(TICK, changes.next()).await {
                Ok(Ok(Some(status))) => {
                    let status = self.chosen(status)?;
                    if last.as_ref() != Some(&status) {
                        self.show(&status)?;
                    }
                    last = Some(status);
                }
                Ok(Ok(None) | Err(ClientError::Cut(_))) => changes = client.changes_once_back().await?,
                Ok(Err(error)) => return Err(error.into()),
                Err(_nothing_changed) => {
                    if let Some(status) = last.as_ref().filter(|_| self.is_screen()) {
                        self.show(status)?;
                    }
                }
            }
        }
    }

    fn is_screen(&self) -> bool {
        !self.json && host::stdout_is_terminal()
    }

    fn show(&self, status: &api::Status) -> Result<(), Failure> {
        if self.json {
            render::print_json_line(status)
        } else if self.is_screen() {
            render::redraw(&text(status))
        } else {
            render::print(&format!("{}\n", text(status)))
        }
    }
}

fn text(status: &api::Status) -> String {
    let colour = if host::stdout_has_colour() { Colour::On } else { Colour::Off };
    render::status(status, host::now(), colour)
}
