//! `rollout init`: a first configuration.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;

use clap::Args;

use super::exit::{Exit, Failure};
use super::render;
use crate::config::sample::sample;
use crate::units::ServiceName;

/// Write a commented ./rollout.yaml to start from
#[derive(Debug, Args)]
#[command(before_help = "\
Examples:
  rollout init
  rollout init --name web --binary ./target/release/web --listen 0.0.0.0:8080")]
pub(super) struct Init {
    /// Name of the service
    #[arg(long, value_name = "NAME", default_value = "web")]
    name: ServiceName,
    /// The program that its workers run
    #[arg(long, value_name = "PATH", default_value = "./server")]
    binary: String,
    /// Where it listens
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:8080")]
    listen: String,
}

const FILE: &str = "rollout.yaml";

impl Init {
    pub(super) fn run(self) -> Result<Exit, Failure> {
        let text = sample(self.name.as_str(), &self.binary, &self.listen);
        write_new(Path::new(FILE), &text).map_err(|error| {
            let said = if error.kind() == io::ErrorKind::AlreadyExists {
                format!("./{FILE} exists already and is left as it is: move it away to get a new one")
            } else {
                format!("write ./{FILE}: {error}")
            };
            Failure::told(Exit::Unchanged, said)
        })?;
        render::print(&format!("wrote ./{FILE}: look it over, then 'rollout check' and 'rollout run'"))?;
        Ok(Exit::Done)
    }
}

fn write_new(path: &Path, text: &str) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).open(path)?.write_all(text.as_bytes())
}
