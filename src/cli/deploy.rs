//! `rollout deploy`: a file becomes the release that every worker runs.

use std::path::PathBuf;

use clap::Args;

use super::args::Whose;
use super::exit::{Exit, Failure};
use super::follow::{How, roll};
use crate::units::Digest;
use crate::wire::api;

/// Put a file live: store it, replace each worker ready first, wait, report
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  rollout deploy ./target/release/web
  rollout deploy ./web -s web --note 'fixes #12' --timeout 5m
  rollout deploy ./web --sha256 \"$(cut -d' ' -f1 web.sha256)\" --json")]
#[command(after_long_help = Exit::table())]
pub(super) struct Deploy {
    /// The file that every worker is to run
    path: PathBuf,
    /// Roll even if this release is live already or was rejected before
    #[arg(long)]
    force: bool,
    /// Refuse the file unless it has this digest
    #[arg(long, value_name = "HEX")]
    sha256: Option<Digest>,
    /// A note for the history
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
    #[command(flatten)]
    whose: Whose,
    #[command(flatten)]
    how: How,
}

impl Deploy {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let shown = self.path.display().to_string();
        // The agent has another working directory. Links are left for it to follow, at the moment when it copies.
        let absolute = std::path::absolute(&self.path);
        let absolute = absolute.map_err(|error| Failure::told(Exit::Unchanged, format!("{shown:?}: {error}")))?;
        let path = absolute.into_os_string().into_string().map_err(|_| {
            Failure::told(Exit::Unchanged, format!("{shown:?} is not UTF-8: give the file another name"))
        })?;
        let question = api::Deploy { path, force: self.force, sha256: self.sha256, note: self.note };
        roll(self.whose, "deploy", &question, &self.how)
    }
}
