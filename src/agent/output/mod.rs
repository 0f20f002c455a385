//! Worker output: captured, prefixed, kept in rotated files.
