//! What an agent is started with.

use std::path::PathBuf;

use crate::config::flags::Flags;

/// Everything that the command line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// Where the configuration comes from.
    pub source: Source,
    /// `--socket`; `config::paths` knows the rest.
    pub socket: Option<PathBuf>,
    /// `--state-dir`; `config::paths` knows the rest.
    pub state_dir: Option<PathBuf>,
}

/// Where the configuration comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file, read again on SIGHUP; `None`: the first of the usual files that exists.
    File(Option<PathBuf>),
    /// The command line.
    Flags(Flags),
}
