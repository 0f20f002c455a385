//! Floor 2: the control protocol as data. No sockets.

pub mod api;
