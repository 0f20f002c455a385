//! Starting and reaping children by pidfd.
