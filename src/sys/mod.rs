//! Floor 2: the only folder with `unsafe`, nix, libc and signal-hook.
//!
//! Each file wraps one kernel mechanism, names its manual page, and gives back owned fds and typed errors.

#![expect(unsafe_code, reason = "this is the one place for it; each block states its argument")]

pub mod child;
pub mod clock;
pub mod connections;
pub mod errno;
pub mod exec;
pub mod fd;
pub mod fd_pass;
pub mod group;
pub mod intercept;
pub mod knock;
pub mod listener;
pub mod memfd;
pub mod notify_socket;
pub mod poll;
pub mod proc;
pub mod signals;
pub mod steer;
pub mod tcp_info;
pub mod timer;
pub mod tree;
pub mod watched;
