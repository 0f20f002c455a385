//! Floor 4: the command line.
//!
//! One verb per file. Only `client.rs` names hyper, only `render.rs` prints to stdout, only `run.rs` sees the keeper and
//! the agent, and only `host.rs` sees sys/.

mod args;
mod board;
mod check;
mod client;
mod completions;
mod deploy;
mod exit;
mod follow;
mod history;
mod host;
mod init;
mod logs;
mod main;
mod man;
mod pick;
mod progress;
mod recover;
mod render;
mod restart;
mod rollback;
mod run;
mod scale;
mod schema;
mod status;
mod steer;
mod stop;
mod words;

pub use main::{main, understands};
