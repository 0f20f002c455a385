//! A stand-in.

/// JSON Schema of the configuration.
#[must_use]
pub fn json() -> String {
    "{}\n".to_owned()
}
