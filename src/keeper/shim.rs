//! A stand-in.

use std::process::ExitCode;

/// Becomes the worker.
#[must_use]
pub fn run() -> ExitCode {
    ExitCode::FAILURE
}
