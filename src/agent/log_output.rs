//! The agent's own log: one line per event on stderr; `RUST_LOG` chooses what.

use std::io::{self, IsTerminal, Write};

use tracing_subscriber::EnvFilter;

use super::output::Mirror;

/// Begins to log. Lines go the way of the workers' output, so that a stderr that nobody reads holds nothing up. Under a
/// service manager the journal adds the time itself.
pub(crate) fn begin(mirror: Mirror) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || Line(mirror.clone()))
        .with_ansi(colours)
        .with_target(false);
    let begun =
        if std::env::var_os("JOURNAL_STREAM").is_some() { lines.without_time().try_init() } else { lines.try_init() };
    // Only a second call fails, and then logging goes on as it was.
    drop(begun);
}

/// One line on its way; the formatter writes each in one piece.
struct Line(Mirror);

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.say(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
