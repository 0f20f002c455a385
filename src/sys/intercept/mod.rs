//! Answering a program's `bind`, `listen` and `shutdown` in its place (seccomp_unotify(2)).
//!
//! ```text
//! filter.rs   the program in the kernel that stops these three calls, installed by the process itself
//! calls.rs    the calls that it stopped, and their answers
//! caller.rs   the process that made one: its memory, its fds
//! socket.rs   the socket that it bound: its kind, and the options that move to the one put in its place
//! ```
//!
//! A convenience for willing programs, not a sandbox: what is read of a call's memory may change before the call goes on.

pub mod caller;
pub mod calls;
pub mod filter;
pub mod socket;
