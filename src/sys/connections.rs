//! Which established TCP connections a process tree holds.
