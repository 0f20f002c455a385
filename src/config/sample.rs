//! A stand-in.

/// A commented configuration.
#[must_use]
pub fn sample(name: &str, binary: &str, listen: &str) -> String {
    format!("services:\n  {name}:\n    binary: {binary}\n    listen: [{listen}]\n")
}
