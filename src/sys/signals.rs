//! Signals as readable fds.
