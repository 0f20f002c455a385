//! The parts of the polite worker. The tests' faulty worker is made of the same parts.

pub(crate) mod identity;
pub(crate) mod lanes;
pub(crate) mod routes;
pub(crate) mod serve;
pub(crate) mod signals;
pub(crate) mod trailer;

use std::net::SocketAddr;

/// What the worker can be told on its command line.
#[derive(Debug, Clone, clap::Parser)]
pub(crate) struct Options {
    /// Where to listen when no socket was inherited
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    pub(crate) listen: SocketAddr,
    /// How long an idle keep-alive connection stays open after SIGTERM
    #[arg(long, value_name = "TIME", default_value = "1s")]
    pub(crate) grace: humantime::Duration,
    /// What to answer as the version, instead of the line at the end of the program's file
    #[arg(long, value_name = "NAME")]
    pub(crate) version_name: Option<String>,
}
