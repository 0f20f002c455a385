//! The last few lines of one worker, for the report of its failure.

use std::collections::VecDeque;

/// As many as a report shows.
const MOST_LINES: usize = 20;
/// All lines of one worker together: there may be hundreds of workers.
const MOST_BYTES: usize = 8 * 1024;
/// Of one line; the file has the rest.
const LONGEST: usize = 1024;

/// Oldest first.
#[derive(Debug, Default)]
pub(super) struct LastLines {
    lines: VecDeque<String>,
    bytes: usize,
}

impl LastLines {
    pub(super) fn push(&mut self, line: &str) {
        let line = shortened(line);
        self.bytes += line.len();
        self.lines.push_back(line.to_owned());
        while self.lines.len() > MOST_LINES || self.bytes > MOST_BYTES {
            self.bytes -= self.lines.pop_front().map_or(0, |oldest| oldest.len());
        }
    }

    /// The last `most`, and the half line that followed them.
    pub(super) fn read(&self, most: usize, partial: &[u8]) -> Vec<String> {
        let half = String::from_utf8_lossy(partial);
        let half = (!half.is_empty()).then(|| shortened(&half).to_owned());
        let all: Vec<String> = self.lines.iter().cloned().chain(half).collect();
        all[all.len().saturating_sub(most)..].to_vec()
    }
}

fn shortened(line: &str) -> &str {
    let end = (0..=LONGEST.min(line.len())).rev().find(|at| line.is_char_boundary(*at));
    &line[..end.unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_lines_are_kept_in_few_bytes() {
        let mut last = LastLines::default();
        for n in 0..100 {
            last.push(&n.to_string());
        }
        assert_eq!(last.read(2, b""), ["98", "99"]);
        assert_eq!(last.read(2, b"half"), ["99", "half"]);
        assert_eq!(last.read(1000, b"").len(), MOST_LINES);
        for _ in 0..100 {
            last.push(&"€".repeat(LONGEST));
        }
        let bytes: usize = last.read(1000, b"").iter().map(String::len).sum();
        assert!(bytes <= MOST_BYTES && bytes == last.bytes, "{bytes}");
    }
}
