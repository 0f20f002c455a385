//! The agent's own log: one line per event on stderr; `RUST_LOG` chooses what.
//!
//! A line begins with whom it is about, as the workers' own lines do: `web.1 w5: ready took="16 ms"` beside
//! `web.1 | listening on 0.0.0.0:8080`.

use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal, Write};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::registry::LookupSpan;

use super::output::Mirror;
use crate::sys::clock;

/// Begins to log. Lines go the way of the workers' output, so that a stderr that nobody reads holds nothing up. Under a
/// service manager the journal adds the time itself.
pub(crate) fn begin(mirror: Mirror) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let colours = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let time = if std::env::var_os("JOURNAL_STREAM").is_some() { Time::Hidden } else { Time::Shown };
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || Line(mirror.clone()))
        .with_ansi(colours)
        .event_format(Layout(time));
    // Only a second call fails, and then logging goes on as it was.
    drop(lines.try_init());
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

/// What a line looks like: `TIME LEVEL service.slot worker: message field=value`.
struct Layout(Time);

/// Whether lines begin with the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Time {
    Shown,
    Hidden,
}

impl<S, N> FormatEvent<S, N> for Layout
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut facts = Facts::default();
        event.record(&mut facts);
        let (dim, level, plain) = if writer.has_ansi_escapes() {
            ("\x1b[2m", colour(*event.metadata().level()), "\x1b[0m")
        } else {
            ("", "", "")
        };
        if self.0 == Time::Shown {
            write!(writer, "{dim}{}{plain} ", humantime::format_rfc3339_millis(clock::time_of_day()))?;
        }
        write!(writer, "{level}{:<5}{plain} {}{}", event.metadata().level().as_str(), facts.whom(), facts.message)?;
        if !facts.others.is_empty() {
            write!(writer, "{dim}{}{plain}", facts.others)?;
        }
        writeln!(writer)
    }
}

fn colour(level: Level) -> &'static str {
    match level {
        Level::ERROR => "\x1b[31m",
        Level::WARN => "\x1b[33m",
        Level::INFO => "\x1b[32m",
        Level::DEBUG | Level::TRACE => "\x1b[34m",
    }
}

/// The parts of an event.
#[derive(Debug, Default)]
struct Facts {
    service: Option<String>,
    slot: Option<String>,
    worker: Option<String>,
    message: String,
    others: String,
}

impl Facts {
    /// `web.1 w5: `, as far as it is known.
    fn whom(&self) -> String {
        let place = match (&self.service, &self.slot) {
            (Some(service), Some(slot)) => Some(format!("{service}.{slot}")),
            (Some(service), None) => Some(service.clone()),
            (None, Some(slot)) => Some(format!("slot {slot}")),
            (None, None) => None,
        };
        let known: Vec<String> = place.into_iter().chain(self.worker.clone()).collect();
        if known.is_empty() { String::new() } else { format!("{}: ", known.join(" ")) }
    }

    fn take(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => self.message = tame(value),
            "service" => self.service = Some(tame(value)),
            "slot" => self.slot = Some(tame(value)),
            "worker" => self.worker = Some(tame(value)),
            name => write!(self.others, " {name}={}", quoted(value)).expect("a String takes everything"),
        }
    }
}

impl Visit for Facts {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.take(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.take(field, &format!("{value:?}"));
    }
}

/// Quotes only where a reader could not tell where the value ends.
fn quoted(value: &str) -> String {
    let needed = value.is_empty() || value.contains(|c: char| c.is_whitespace() || c.is_control() || c == '"');
    if needed { format!("{value:?}") } else { value.to_owned() }
}

/// Workers' words get into lines, and must not move a terminal's cursor.
fn tame(text: &str) -> String {
    let shown = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    text.chars().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// What a subscriber with this layout writes while `say` runs.
    fn said(time: Time, colours: bool, say: impl FnOnce()) -> String {
        #[derive(Clone, Default)]
        struct Sink(Arc<Mutex<Vec<u8>>>);
        impl Write for Sink {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().extend_from_slice(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let sink = Sink::default();
        let writer = sink.clone();
        let lines = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .with_ansi(colours)
            .event_format(Layout(time))
            .finish();
        tracing::subscriber::with_default(lines, say);
        String::from_utf8(sink.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn a_line_says_whom_what_and_the_rest_with_quotes_only_where_they_help() {
        let text = said(Time::Hidden, false, || {
            tracing::info!(service = %"web", slot = 1, worker = %"w5", exit = %"exit code 0", pid = 17, "worker gone");
            tracing::warn!(service = "web", why = "\"odd\" \x1b[2J", "paused: \x1b[2J");
            tracing::error!("cannot go on");
        });
        let expected = "INFO  web.1 w5: worker gone exit=\"exit code 0\" pid=17\n\
                        WARN  web: paused: \\u{1b}[2J why=\"\\\"odd\\\" \\u{1b}[2J\"\n\
                        ERROR cannot go on\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn time_is_to_the_millisecond_and_colours_only_where_asked_for() {
        let text = said(Time::Shown, false, || tracing::info!("up"));
        let (time, rest) = text.split_once(' ').unwrap();
        assert!(humantime::parse_rfc3339(time).is_ok() && time.len() == "2026-02-03T04:05:06.789Z".len(), "{text}");
        assert_eq!(rest, "INFO  up\n");
        assert!(said(Time::Hidden, true, || tracing::info!("up")).starts_with("\x1b[32mINFO"));
    }
}
