//! Numbers and times as people say them, and text from elsewhere made safe for a terminal.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use crate::units::Digest;

/// Reads `90s`, `1m 30s`, `250ms`.
pub(super) fn duration(text: &str) -> Result<Duration, &'static str> {
    humantime::parse_duration(text).map_err(|_| "not a duration: write it like 250ms, 90s or 1h 30m")
}

/// `12 ms`, `1.2 s`, `2m 5s`.
pub(super) fn took(millis: u64) -> String {
    if millis < 1000 {
        format!("{millis} ms")
    } else if millis < 59_950 {
        let tenths = (millis + 50) / 100;
        format!("{}.{} s", tenths / 10, tenths % 10)
    } else {
        coarse(Duration::from_millis(millis + 50))
    }
}

/// How long ago an RFC 3339 time was: `3s`, `2m 5s`, `4h 12m`, `3d 4h`; the text itself when it is no time.
pub(super) fn ago(at: &str, now: SystemTime) -> String {
    match humantime::parse_rfc3339(at) {
        Ok(then) => coarse(now.duration_since(then).unwrap_or(Duration::ZERO)),
        Err(_) => at.to_owned(),
    }
}

/// The largest unit that is there, and the next.
fn coarse(time: Duration) -> String {
    let all = time.as_secs();
    let parts = [(all / 86_400, "d"), (all / 3600 % 24, "h"), (all / 60 % 60, "m"), (all % 60, "s")];
    let first = parts.iter().position(|(number, _)| *number > 0).unwrap_or(parts.len() - 1);
    let said =
        parts.iter().enumerate().skip(first).take(2).filter(|(place, (number, _))| *place == first || *number > 0);
    said.map(|(_, (number, unit))| format!("{number}{unit}")).collect::<Vec<_>>().join(" ")
}

/// `12.3 MiB`.
pub(super) fn size(bytes: u64) -> String {
    bytesize::ByteSize::b(bytes).to_string()
}

/// The beginning of a release's name.
pub(super) fn release(release: Option<Digest>) -> String {
    release.map_or_else(|| "-".to_owned(), |digest| digest.short())
}

/// `1 connection`, `12 connections`.
pub(super) fn count(number: u32, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

/// Text of workers and releases may hold anything: control characters but the tab are shown, not obeyed.
pub(super) fn tame(text: &str) -> Cow<'_, str> {
    let wild = |c: char| c.is_control() && c != '\t';
    if !text.contains(wild) {
        return Cow::Borrowed(text);
    }
    let shown = |c: char| if wild(c) { c.escape_default().to_string() } else { c.to_string() };
    Cow::Owned(text.chars().map(shown).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_said_as_people_say_them() {
        let said = [0, 49, 999, 1000, 1249, 59_949, 59_950, 60_000, 125_000, 3_725_000].map(took);
        assert_eq!(said, ["0 ms", "49 ms", "999 ms", "1.0 s", "1.2 s", "59.9 s", "1m", "1m", "2m 5s", "1h 2m"]);
        let now = humantime::parse_rfc3339("2026-02-03T04:05:06Z").unwrap();
        assert_eq!(ago("2026-02-03T04:05:03.500Z", now), "2s");
        assert_eq!(ago("2026-02-03T00:00:00Z", now), "4h 5m");
        assert_eq!(ago("2026-02-03T05:00:00Z", now), "0s");
        assert_eq!(ago("2026-01-31T00:04:06Z", now), "3d 4h");
        assert_eq!(ago("2025-02-03T04:05:06Z", now), "365d");
        assert_eq!(ago("yesterday", now), "yesterday");
    }

    #[test]
    fn control_characters_are_shown_and_not_obeyed() {
        assert_eq!(tame("plain\ttext é"), "plain\ttext é");
        assert_eq!(tame("\u{1b}[2J\r\u{9b}x"), "\\u{1b}[2J\\r\\u{9b}x");
    }

    #[test]
    fn one_is_not_many() {
        assert_eq!((count(1, "worker"), count(0, "worker")), ("1 worker".to_owned(), "0 workers".to_owned()));
    }
}
