//! Sealed memory files.
