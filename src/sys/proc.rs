//! What /proc says about a process.
