//! The keeper's own words.

use std::fmt;
use std::io::{self, Write};

/// One line on stderr. A keeper whose stderr is closed goes on working.
pub(super) fn log(text: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "rollout keeper: {text}");
}
