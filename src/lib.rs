//! `rollout`: zero-downtime rolling restarts for any program on one Linux host.
//!
//! A library only so that tests can reach it: there is no API promise. A file
//! may import its own folder and floors below, never sideways or upward;
//! `tests/layering.rs` keeps it so.
//!
//! ```text
//!  5  main.rs
//!  4  cli/      → wire config units (cli/run.rs alone sees agent and keeper, cli/host.rs alone sees sys)
//!  3  agent/    → everything below: the imperative shell
//! 2½  keeper/   → sys units: holds fds and children, decides nothing
//!  2  sys/      → units: the only unsafe, nix, libc, signal-hook
//!     wire/     → units: the control protocol as data
//!     config/   → machine units: YAML text → checked settings
//!     release/  → units: store, digest, watch, journal
//!  1  machine/  → units: pure decisions
//!  0  units
//! ```

pub mod agent;
pub mod cli;
pub mod config;
pub mod keeper;
pub mod machine;
pub mod release;
pub mod sys;
pub mod units;
pub mod wire;
