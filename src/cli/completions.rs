//! `rollout completions`: for shells. The only file that names clap_complete.

use clap::Args;
use clap_complete::Shell;

use super::exit::{Exit, Failure};
use super::{args, render};

/// Print a completion script for a shell
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  rollout completions bash > ~/.local/share/bash-completion/completions/rollout
  rollout completions fish > ~/.config/fish/completions/rollout.fish")]
pub(super) struct Completions {
    /// Which shell
    shell: Shell,
}

impl Completions {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut args::command(), "rollout", &mut script);
        render::print(String::from_utf8_lossy(&script).trim_end())?;
        Ok(Exit::Done)
    }
}
