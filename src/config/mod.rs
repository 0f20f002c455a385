//! Floor 2: YAML text → raw → checked [`settings::Settings`].
//!
//! ```text
//! text ─yaml::tree→ tree::Node ─read→ raw::Root ─check→ settings::Settings
//!                      ↑                 └ every step adds to problem::Problems; any problem means no settings
//!                  flags::from_flags
//! ```

mod check;
pub mod flags;
mod human;
mod load;
mod masked;
pub mod paths;
pub mod problem;
mod raw;
mod read;
pub mod sample;
pub mod schema;
pub mod settings;
mod tree;
mod yaml;

pub use load::{find, load, parse};
pub use problem::{ConfigError, Problem};
