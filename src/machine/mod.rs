//! Floor 1: the decisions of one service, pure: no I/O, no clock, no runtime.

pub mod event;
pub mod limits;
pub mod verdict;
pub mod view;
