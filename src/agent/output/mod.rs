//! Worker output: captured, prefixed, kept in rotated files.
//!
//! A worker writes into a pipe whose read end the keeper holds and the agent reads. While there is no agent, the output
//! waits in the pipe; the next agent reads on where this one stopped. So the agent takes no more out of a pipe than it
//! writes to the file in the same step; all it can lose is half a line, at most 200 ms old.
//!
//! Nothing here grows with what a worker writes: a file takes what is read, 16 KiB a turn, and a worker that writes
//! faster waits in its `write(2)`. What is only for looking (the mirror on stderr, followers) is dropped and counted
//! when the one who looks is slower than that.

mod capture;
mod kept;
mod last_lines;
mod ledger;
mod line;
mod mirror;
mod rotated;
mod split;

pub use capture::{Output, OutputError};
pub use kept::Kept;
pub use mirror::{Controls, Mirror};
