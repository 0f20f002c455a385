//! A line of worker output as text: `2026-08-01T12:00:00.123Z 1 w17 what it wrote`. Good for `less` and `grep`, too.

use std::time::SystemTime;

use crate::units::{Slot, WorkerId};
use crate::wire::api::LogLine;

/// Everything in front of the text; the same for all lines that come out of one read.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) at: String,
    pub(super) slot: Slot,
    pub(super) worker: WorkerId,
    /// With its last space.
    pub(super) text: String,
}

impl Head {
    pub(super) fn new(at: SystemTime, slot: Slot, worker: WorkerId) -> Self {
        let at = humantime::format_rfc3339_millis(at).to_string();
        let text = format!("{at} {slot} {worker} ");
        Self { at, slot, worker, text }
    }

    pub(super) fn log_line(&self, line: &str) -> LogLine {
        LogLine { at: self.at.clone(), slot: self.slot, worker: self.worker.to_string(), line: line.to_owned() }
    }
}

/// Reads a line back; `None` if it was not written by us, or only its end was.
pub(super) fn parse(bytes: &[u8]) -> Option<LogLine> {
    let text = String::from_utf8_lossy(bytes);
    let mut parts = text.splitn(4, ' ');
    let (at, slot, worker, line) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_worker = worker.strip_prefix('w').is_some_and(|number| number.parse::<u64>().is_ok());
    let is_time = at.len() == 24 && at.ends_with('Z');
    let slot = Slot(slot.parse().ok()?);
    (is_worker && is_time).then(|| LogLine {
        at: at.to_owned(),
        slot,
        worker: worker.to_owned(),
        line: line.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_survives_its_text() {
        let head = Head::new(SystemTime::UNIX_EPOCH, Slot(3), WorkerId(17));
        for line in ["", " two  spaces ", "tab\tand €", "w18 1 2"] {
            let text = format!("{}{line}", head.text);
            assert_eq!(parse(text.as_bytes()), Some(head.log_line(line)));
        }
        assert_eq!(head.text, "1970-01-01T00:00:00.000Z 3 w17 ");
    }

    #[test]
    fn what_we_did_not_write_is_no_line() {
        for foreign in
            ["", "hello", "1970-01-01T00:00:00.000Z x w17 a", "1970-01-01T00:00:00.000Z 1 17 a", "1970 1 w1 a"]
        {
            assert_eq!(parse(foreign.as_bytes()), None, "{foreign:?}");
        }
    }
}
