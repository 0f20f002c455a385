//! The listening sockets of one service, and who gets new connections (DESIGN: lanes).
//!
//! - `group`: one steered listener: its `SO_REUSEPORT` group, one lane per place.
//! - `repair`: what programs do to lanes, undone, with every lane back in its place.
//! - `listener`: from a `listen:` entry to sockets: held by the keeper, inherited, or bound anew.
//! - `shared`: one socket for all workers.
//! - `table`: which worker has which lane, and its standing (`tenant`: the rows).
//! - `open`: first start, recovery, change of configuration.
//! - `look`: accept queues: feedback, hung workers, damage.
//! - `watch`: lanes without a worker: what arrives there is relayed.
//!
//! The first lane is the *waiting room*: it takes clients while nobody is admitted. The last few are the *reserve*: no
//! worker ever gets one, so that they can fill a gap (see `repair`). A lane is never closed while its listener lives:
//! its place in the group is what the lane program returns.
//!
//! `O_NONBLOCK` belongs to the socket, not to the fd: it is set only on lanes that no worker holds, or whose worker was
//! told to stop and leaves connections waiting. Everything here relies on a runtime with one thread: between the
//! synchronous calls of this module no task runs, so a lane that is handed out is not being accepted from.

mod group;
mod listener;
mod look;
mod names;
mod open;
mod repair;
mod report;
mod shared;
mod table;
mod tenant;
mod watch;

pub use look::Look;
pub use open::Opening;
pub use report::{Assigned, Damage, LanesError, Made, Standing, What};
pub use table::Lanes;
