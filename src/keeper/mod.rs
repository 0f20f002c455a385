//! Floor 2½: the process that holds everything that must not be lost, and decides nothing.

pub mod protocol;
pub mod spec;
