//! Floor 2: what can be deployed and what was: the release store, digests, the watcher and the journal.
//!
//! Plain blocking code, made to run inside `spawn_blocking`. It reads no clock: times are given by the caller.

pub mod digest;
mod durable;
pub mod executable;
mod ingest;
pub mod journal;
mod places;
mod rejected;
pub mod settle;
pub mod source;
pub mod store;
pub mod tail;
pub mod watch;
