//! Takes connections from a lane that nobody serves to a ready worker, byte by byte.
