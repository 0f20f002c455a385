//! `rollout run`: this process becomes the keeper. The only file of cli/ that sees the keeper and the agent.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser};

use crate::agent::start::{Source, Start};
use crate::config::flags::Flags;
use crate::{agent, keeper};

/// Run an agent: from a configuration file, or with one service from the command line
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  rollout run
  rollout run -c /etc/rollout/rollout.yaml
  rollout run --listen 8080 --workers 4 --readiness http:/healthz -- ./server --color")]
pub(super) struct Run {
    #[command(flatten)]
    flags: RunFlags,
}

/// The agent itself, started by the keeper with the flags of `run`. No verb of the grammar: nobody should type it.
#[derive(Debug, Parser)]
struct AgentProcess {
    #[command(flatten)]
    flags: RunFlags,
}

#[derive(Debug, PartialEq, Eq, Args)]
struct RunFlags {
    /// The configuration file [default: ./rollout.yaml, then /etc/rollout/rollout.yaml]
    #[arg(short, long, value_name = "FILE", conflicts_with = "command")]
    config: Option<PathBuf>,
    /// The control socket to make [default: rollout.sock in $RUNTIME_DIRECTORY, $XDG_RUNTIME_DIR or /run/rollout]
    #[arg(long, env = "ROLLOUT_SOCKET", value_name = "PATH", hide_env_values = true)]
    socket: Option<PathBuf>,
    /// Where releases and state are kept [default: $STATE_DIRECTORY, else /var/lib/rollout for root and
    /// ~/.local/state/rollout for others]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Where the service listens: a port, an address with a port, unix:/path or unix:@name; may be repeated
    #[arg(long, value_name = "ADDR", requires = "command", help_heading = "Without a file")]
    listen: Vec<String>,
    /// How many workers: a number, or auto for one per CPU
    #[arg(long, value_name = "N", requires = "command", help_heading = "Without a file")]
    workers: Option<String>,
    /// The service's name [default: the program's]
    #[arg(long, value_name = "NAME", requires = "command", help_heading = "Without a file")]
    name: Option<String>,
    /// When a worker is ready: accept, notify, http:/PATH, exec:COMMAND or alive_for:TIME
    #[arg(long, value_name = "CHECK", requires = "command", help_heading = "Without a file")]
    readiness: Option<String>,
    /// How workers get their sockets: listen_fds, for their own bind() (intercept), or both (auto)
    #[arg(long, value_name = "WAY", requires = "command", help_heading = "Without a file")]
    handover: Option<String>,
    /// A variable of the workers' environment; may be repeated
    #[arg(long, value_name = "K=V", requires = "command", help_heading = "Without a file")]
    env: Vec<String>,
    /// The workers' working directory
    #[arg(long, value_name = "DIR", requires = "command", help_heading = "Without a file")]
    cwd: Option<PathBuf>,
    /// The program and its arguments, after --
    #[arg(last = true, value_name = "CMD", help_heading = "Without a file")]
    command: Vec<String>,
}

impl Run {
    /// The keeper parses no configuration and starts no runtime: it lives for months, and whatever it does can break it.
    pub(super) fn run(self) -> ExitCode {
        keeper::run(self.flags.to_agent())
    }
}

/// Becomes the agent that these words, the first of which is no flag, tell.
pub(super) fn agent(words: &[OsString]) -> Result<ExitCode, clap::Error> {
    AgentProcess::try_parse_from(words).map(|process| agent::run(process.flags.into_start()))
}

/// Becomes the worker that the keeper asks for.
pub(super) fn shim() -> ExitCode {
    keeper::shim::run()
}

impl RunFlags {
    /// The same flags again, behind the agent's hidden verb. Values are glued to their flags: some begin with a dash.
    fn to_agent(&self) -> Vec<OsString> {
        let mut words: Vec<OsString> = vec!["__agent".into()];
        let mut flag = |name: &str, value: &OsStr| {
            let mut word = OsString::from(format!("--{name}="));
            word.push(value);
            words.push(word);
        };
        let paths =
            [("config", &self.config), ("socket", &self.socket), ("state-dir", &self.state_dir), ("cwd", &self.cwd)];
        for (name, path) in paths {
            path.iter().for_each(|path| flag(name, path.as_os_str()));
        }
        for (name, texts) in [("listen", &self.listen), ("env", &self.env)] {
            texts.iter().for_each(|text| flag(name, text.as_ref()));
        }
        let (workers, name) = (("workers", &self.workers), ("name", &self.name));
        for (name, text) in [workers, name, ("readiness", &self.readiness), ("handover", &self.handover)] {
            text.iter().for_each(|text| flag(name, text.as_ref()));
        }
        if !self.command.is_empty() {
            words.push("--".into());
            words.extend(self.command.iter().map(OsString::from));
        }
        words
    }

    fn into_start(self) -> Start {
        let Self { config, socket, state_dir, listen, workers, name, readiness, handover, env, cwd, command } = self;
        let source = if command.is_empty() {
            Source::File(config)
        } else {
            let cwd = cwd.map(|cwd| cwd.to_string_lossy().into_owned());
            Source::Flags(Flags { name, listen, workers, readiness, handover, env, cwd, command })
        };
        // Workers start in a directory of their own, and their programs are found below this one.
        let state_dir = state_dir.map(|path| std::path::absolute(&path).unwrap_or(path));
        Start { source, socket, state_dir }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_understands_what_the_keeper_was_told() {
        let told: [&[&str]; 4] = [
            &["run"],
            &["run", "-c", "a b.yaml", "--socket", "-odd", "--state-dir=/s"],
            &["run", "--listen", "8080", "--listen", "unix:@x", "--workers", "auto", "--", "./server", "--", "-c", "x"],
            &[
                "run",
                "--name=-n",
                "--readiness",
                "http:/",
                "--handover",
                "auto",
                "--env",
                "A=B C",
                "--env=-D=",
                "--cwd",
                "/",
                "--",
                "x",
            ],
        ];
        for words in told {
            let told =
                AgentProcess::try_parse_from(words.iter().map(|word| if *word == "-odd" { "./odd" } else { word }));
            let told = told.expect("these flags are right").flags;
            let heard = AgentProcess::try_parse_from(told.to_agent()).expect("the agent understands").flags;
            assert_eq!(heard, told);
        }
    }
}
