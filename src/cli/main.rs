//! From the process's arguments to its exit code.

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::FromArgMatches;

use super::args::{self, Cli};
use super::exit::{Exit, Failure};
use super::run;

/// Runs the command that the arguments name.
#[must_use]
pub fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().collect();
    // Before anything else: this process is about to become a worker, hundreds of which may be starting.
    if words.get(1).is_some_and(|word| word == "__exec") {
        return run::shim();
    }
    if words.get(1).is_some_and(|word| word == "__agent") {
        return run::agent(&words[1..]).unwrap_or_else(|error| misread(&error));
    }
    match parse(&words) {
        Ok(cli) => cli.command.run().unwrap_or_else(|failure| end(&failure)),
        Err(error) => misread(&error),
    }
}

/// Help and the version come this way, too.
/// Whether this is a command line of `rollout`: for the test of those in the README.
///
/// # Errors
/// What a person would be told.
pub fn understands(words: &[OsString]) -> Result<(), String> {
    parse(words).map(drop).map_err(|error| error.to_string())
}

fn misread(error: &clap::Error) -> ExitCode {
    // Nobody is left to tell when the reader has gone.
    drop(error.print());
    if error.use_stderr() { Exit::Usage.into() } else { Exit::Done.into() }
}

fn parse(words: &[OsString]) -> Result<Cli, clap::Error> {
    let mut matches = args::command().try_get_matches_from(words)?;
    Cli::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut args::command()))
}

fn end(failure: &Failure) -> ExitCode {
    match failure {
        // Whoever read the output has seen enough: `rollout history | head -1` is no failure.
        Failure::StdoutClosed => Exit::Done.into(),
        Failure::Told { said, exit } => {
            drop(writeln!(io::stderr(), "rollout: {said}"));
            (*exit).into()
        }
    }
}
