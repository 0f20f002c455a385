//! Reads a file line by line from its end, in bounded memory.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// Bytes per read.
const BLOCK: usize = 64 * 1024;

/// The lines of a file's first `len` bytes, the last first, without their newlines. What follows the last newline is a
/// line, too, unless it is empty. A line of more than `longest` bytes is skipped.
#[derive(Debug)]
pub struct LinesFromEnd {
    file: File,
    /// Everything from here on was read.
    at: u64,
    longest: usize,
    /// Bytes from `at` on that were not given out. Never more than `longest` plus a block.
    ahead: Vec<u8>,
    /// The line that ends in front of `at` is too long: drop until its beginning.
    skipping: bool,
}

impl LinesFromEnd {
    /// Reads `file` up to `len`, wherever its own position is.
    #[must_use]
    pub fn new(file: File, len: u64, longest: usize) -> Self {
        Self { file, at: len, longest, ahead: Vec::new(), skipping: false }
    }

    fn read_back(&mut self) -> io::Result<()> {
        let length = usize::try_from(self.at).unwrap_or(BLOCK).min(BLOCK);
        let at = self.at - length as u64;
        let mut block = vec![0; length];
        self.file.read_exact_at(&mut block, at)?;
        block.extend_from_slice(&self.ahead);
        self.ahead = block;
        self.at = at;
        Ok(())
    }
}

impl Iterator for LinesFromEnd {
    type Item = io::Result<Vec<u8>>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let whole = self.ahead.strip_suffix(b"\n").unwrap_or(&self.ahead);
            if let Some(newline) = whole.iter().rposition(|byte| *byte == b'\n') {
                let line = whole[newline + 1..].to_vec();
                self.ahead.truncate(newline + 1);
                if std::mem::take(&mut self.skipping) || line.len() > self.longest {
                    continue;
                }
                return Some(Ok(line));
            }
            if self.at == 0 {
                let line = whole.to_vec();
                let is_end = self.ahead.is_empty();
                self.ahead.clear();
                let skip = std::mem::take(&mut self.skipping) || line.len() > self.longest;
                return (!is_end && !skip).then_some(Ok(line));
            }
            if self.skipping || whole.len() > self.longest {
                self.skipping = true;
                self.ahead.clear();
            }
            if let Err(cause) = self.read_back() {
                // Once is enough: a caller that goes on reading would never end.
                self.at = 0;
                self.ahead.clear();
                return Some(Err(cause));
            }
        }
    }
}

/// Whether the first `len` bytes of a file end in half a line: its last writer was interrupted.
///
/// # Errors
/// As pread(2).
pub fn is_torn(file: &File, len: u64) -> io::Result<bool> {
    let mut last = [b'\n'];
    if len > 0 {
        file.read_exact_at(&mut last, len - 1)?;
    }
    Ok(last != *b"\n")
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;

    use super::*;

    fn lines(content: &[u8], longest: usize) -> Vec<Vec<u8>> {
        let mut file = tempfile::tempfile().expect("a temporary file");
        file.write_all(content).expect("written");
        let read: io::Result<Vec<_>> = LinesFromEnd::new(file, content.len() as u64, longest).collect();
        read.expect("can be read")
    }

    #[test]
    fn lines_come_from_the_end() {
        assert_eq!(lines(b"one\n\nthree\nfour", 100), [b"four".as_slice(), b"three", b"", b"one"]);
        assert_eq!(lines(b"one\n", 100), [b"one"]);
        assert!(lines(b"", 100).is_empty());
    }

    #[test]
    fn a_line_that_is_too_long_is_skipped_alone() {
        let long = vec![b'x'; 3 * BLOCK];
        let content = [b"first\n".as_slice(), &long, b"\nlast\n"].concat();
        assert_eq!(lines(&content, 1000), [b"last".as_slice(), b"first"]);
        assert_eq!(lines(&content, 4 * BLOCK).len(), 3);
        let only_long = [long.as_slice(), b"\nlast\n"].concat();
        assert_eq!(lines(&only_long, 1000), [b"last"]);
    }

    proptest! {
        #[test]
        fn it_agrees_with_reading_forwards(
            lengths in prop::collection::vec(prop_oneof![0usize..20, 60_000usize..70_000], 0..6),
            ends in any::<bool>(),
        ) {
            let mut expected: Vec<Vec<u8>> =
                lengths.iter().enumerate().map(|(n, length)| vec![b'a' + u8::try_from(n).expect("few"); *length]).collect();
            let mut content = expected.join(&b'\n');
            if ends && !expected.is_empty() {
                content.push(b'\n');
            } else if expected.last().is_some_and(Vec::is_empty) {
                // Nothing after the last newline is no line.
                expected.pop();
            }
            expected.reverse();
            prop_assert_eq!(lines(&content, 1_000_000), expected);
        }
    }
}
