//! `rollout check`: is this configuration right?

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;

use super::exit::{Exit, Failure};
use super::words::count;
use super::{host, render};
use crate::config::{self, ConfigError};

/// Check a configuration file and list all its problems
#[derive(Debug, Args)]
#[command(before_help = "Examples:\n  rollout check\n  rollout check -c /etc/rollout/rollout.yaml")]
pub(super) struct Check {
    /// The file [default: ./rollout.yaml, then /etc/rollout/rollout.yaml]
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl Check {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let Some(path) = self.config.or_else(config::find) else {
            let said = "no configuration: neither ./rollout.yaml nor /etc/rollout/rollout.yaml exists: write one with 'rollout init', or name it with -c";
            return Err(Failure::told(Exit::Unchanged, said));
        };
        match config::load(&path, host::cpus()) {
            Ok(settings) => {
                let names: Vec<&str> = settings.services.keys().map(|name| name.as_str()).collect();
                let number = u32::try_from(names.len()).unwrap_or(u32::MAX);
                let (services, names) = (count(number, "service"), names.join(", "));
                render::print(&format!("ok: {services} in {}: {names}", path.display()))?;
                Ok(Exit::Done)
            }
            Err(unreadable @ ConfigError::Unreadable { .. }) => Err(Failure::because(Exit::Unchanged, &unreadable)),
            Err(problems @ ConfigError::Problems(_)) => {
                // Whole lines with carets: a "rollout: " before them would shift the first.
                drop(writeln!(io::stderr(), "{}", problems.to_string().trim_end()));
                Ok(Exit::Unchanged)
            }
        }
    }
}
