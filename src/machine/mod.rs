//! Floor 1: the decisions of one service, pure: no I/O, no clock, no runtime.
//!
//! [`service::Service::step`] is the one door: `step(now, event) → actions`.
//! There are two lists. *Places* (one per slot) hold who serves and who is
//! coming to serve; *leavers* are the workers that were told to go and must be
//! gone by a deadline. A place whose new worker dies while the old one is still
//! leaving is therefore no special case.
//!
//! ```text
//! one place                                    one leaver
//!
//!            start                              (told to go)
//!   Nobody ────────▶ Starting                        │ Exclude
//!     ▲ ▲               │ passed                     ▼
//!     │ │               ▼                        Settling ──┐ not admitted
//!     │ │            Proving                         │      │
//!     │ │  min_ready    │  Admit                     ▼      │
//!     │ │ ┌─────────────┴─────────┐              Lingering  │
//!     │ │ │ no predecessor        │ predecessor      │      │
//!     │ │ ▼                       ▼                  ▼ Stop │
//!     │ serving ◀──────────── Holding            Stopping ◀─┘
//!     │    │        hold over:                       │
//!     │    │ died   predecessor leaves               ▼ Kill
//!     │    ▼                                      Killed
//!   Backoff ──▶ (start)      GivenUp                 │
//!      └── too many failures ──▶┘                    ▼ exited: gone
//!
//! one rollout
//!
//!   (asked) ─▶ Forward ─▶ Done
//!                │ ▲ resume
//!   a worker is  │ │
//!   no good, or  │ Paused ──▶ (abort)
//!   asked        ▼             │
//!              Back ◀──────────┘
//!                │
//!                ▼
//!           RolledBack, or Stuck when the way back fails too
//! ```

pub mod event;
mod failing;
mod leaver;
pub mod limits;
mod picture;
mod place;
mod rolling;
pub mod service;
mod taken;
mod time;
pub mod verdict;
pub mod view;
