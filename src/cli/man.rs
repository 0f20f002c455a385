//! `rollout man`: manual pages. The only file that names clap_mangen.

use clap::Args;
use clap_mangen::Man as Page;

use super::exit::{Exit, Failure};
use super::{args, render};

/// Print the manual page of rollout, or of one of its commands
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  rollout man | man -l -
  rollout man deploy > rollout-deploy.1")]
pub(super) struct Man {
    /// One command
    command: Option<String>,
}

impl Man {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let page = match self.command {
            None => args::command(),
            Some(name) => one(&name)?,
        };
        // Pages have no place for what comes before the options, so the examples go behind them.
        let examples = page.get_before_help().cloned().unwrap_or_default();
        let rest = page.get_after_long_help().cloned().unwrap_or_default();
        let page = page.after_long_help(format!("{examples}\n\n{rest}"));
        let mut text = Vec::new();
        let written = Page::new(page).render(&mut text);
        written.map_err(|error| Failure::told(Exit::Unchanged, format!("render the page: {error}")))?;
        render::print(String::from_utf8_lossy(&text).trim_end())?;
        Ok(Exit::Done)
    }
}

fn one(name: &str) -> Result<clap::Command, Failure> {
    let mut whole = args::command();
    // Gives each command its full name and version.
    whole.build();
    let found = whole.get_subcommands().find(|command| command.get_name() == name);
    found
        .cloned()
        .ok_or_else(|| Failure::told(Exit::Usage, format!("{name:?} is no command: 'rollout --help' lists them")))
}
