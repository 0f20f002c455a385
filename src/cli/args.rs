//! The grammar: which verbs there are and the flags that several share.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};

use super::exit::{Exit, Failure};
use super::{
    check, completions, deploy, history, init, logs, man, restart, rollback, run, scale, schema, status, steer, stop,
};

/// Replaces the workers of a service one at a time, without losing a request
#[derive(Debug, Parser)]
#[command(name = "rollout", version, before_help = EXAMPLES, after_long_help = Exit::table())]
#[command(disable_help_subcommand = true)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
}

const EXAMPLES: &str = "\
Examples:
  rollout run --listen 8080 --workers 4 -- ./server    start an agent with one service
  rollout deploy ./server-v2                           replace every worker, ready first
  rollout status                                       look";

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    Run(run::Run),
    Deploy(deploy::Deploy),
    Restart(restart::Restart),
    Rollback(rollback::Rollback),
    Status(status::Status),
    History(history::History),
    Logs(logs::Logs),
    Scale(scale::Scale),
    Pause(steer::Pause),
    Resume(steer::Resume),
    Abort(steer::Abort),
    Stop(stop::Stop),
    Check(check::Check),
    Init(init::Init),
    Schema(schema::Schema),
    Completions(completions::Completions),
    Man(man::Man),
}

impl Command {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let exit = match self {
            Self::Run(verb) => return Ok(verb.run()),
            Self::Deploy(verb) => verb.run(),
            Self::Restart(verb) => verb.run(),
            Self::Rollback(verb) => verb.run(),
            Self::Status(verb) => verb.run(),
            Self::History(verb) => verb.run(),
            Self::Logs(verb) => verb.run(),
            Self::Scale(verb) => verb.run(),
            Self::Pause(verb) => verb.run(),
            Self::Resume(verb) => verb.run(),
            Self::Abort(verb) => verb.run(),
            Self::Stop(verb) => verb.run(),
            Self::Check(verb) => verb.run(),
            Self::Init(verb) => verb.run(),
            Self::Schema(verb) => verb.run(),
            Self::Completions(verb) => verb.run(),
            Self::Man(verb) => verb.run(),
        };
        exit.map(ExitCode::from)
    }
}

/// One line what, then examples, then usage and options.
const LAYOUT: &str = "{about-with-newline}\n{before-help}{usage-heading} {usage}\n\n{all-args}{after-help}";

/// The whole grammar.
pub(super) fn command() -> clap::Command {
    let layout = |command: clap::Command| command.help_template(LAYOUT);
    layout(Cli::command()).mut_subcommands(layout)
}

/// Which agent.
#[derive(Debug, Args)]
pub(super) struct Agent {
    /// The agent's control socket [default: the first of $XDG_RUNTIME_DIR/rollout.sock and /run/rollout/rollout.sock
    /// that exists]
    #[arg(long, env = "ROLLOUT_SOCKET", value_name = "PATH", hide_env_values = true)]
    pub(super) socket: Option<PathBuf>,
}

/// Which service of which agent.
#[derive(Debug, Args)]
pub(super) struct Whose {
    /// The service; may be left out when the agent has exactly one
    #[arg(short, long, value_name = "NAME")]
    pub(super) service: Option<String>,
    #[command(flatten)]
    pub(super) agent: Agent,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_contradicts_itself_nowhere() {
        command().debug_assert();
    }

    #[test]
    fn short_help_fits_a_screen() {
        let mut commands = vec![command()];
        commands.extend(command().get_subcommands().cloned());
        for mut command in commands {
            let lines = command.render_help().to_string().lines().count();
            assert!(lines <= 40, "{} -h has {lines} lines", command.get_name());
        }
    }
}
