//! Bytes into lines.

/// A longer line is cut into pieces of this size: what half a line may cost in memory, per worker.
pub(super) const LONGEST_LINE: usize = 16 * 1024;

/// What a worker wrote since its last newline.
#[derive(Debug, Default)]
pub(super) struct Splitter {
    /// At most [`LONGEST_LINE`] bytes between calls.
    partial: Vec<u8>,
}

impl Splitter {
    /// Takes what was read; gives each line that is complete or too long, without its line end.
    pub(super) fn feed(&mut self, mut bytes: &[u8], mut line: impl FnMut(&[u8])) {
        while let Some(newline) = bytes.iter().position(|byte| *byte == b'\n') {
            let (head, rest) = (&bytes[..newline], &bytes[newline + 1..]);
            bytes = rest;
            if self.partial.is_empty() {
                give(head, &mut line);
            } else {
                self.partial.extend_from_slice(head);
                self.flush(&mut line);
            }
        }
        self.partial.extend_from_slice(bytes);
        let mut done = 0;
        while self.partial.len() - done > LONGEST_LINE {
            let piece = piece_of(&self.partial[done..]);
            line(piece);
            done += piece.len();
        }
        self.partial.drain(..done);
    }

    /// Gives the half line, if there is one.
    pub(super) fn flush(&mut self, mut line: impl FnMut(&[u8])) {
        // Taken, not cleared: a worker that is silent again costs nothing.
        let partial = std::mem::take(&mut self.partial);
        if !partial.is_empty() {
            give(&partial, &mut line);
        }
    }

    /// The half line.
    pub(super) fn partial(&self) -> &[u8] {
        &self.partial
    }
}

fn give(bytes: &[u8], line: &mut impl FnMut(&[u8])) {
    let mut rest = bytes.strip_suffix(b"\r").unwrap_or(bytes);
    while rest.len() > LONGEST_LINE {
        let piece = piece_of(rest);
        line(piece);
        rest = &rest[piece.len()..];
    }
    line(rest);
}

/// The first [`LONGEST_LINE`] bytes, or up to three fewer so that no UTF-8 character is cut.
fn piece_of(bytes: &[u8]) -> &[u8] {
    let is_inside = |at: &usize| bytes[*at] & 0b1100_0000 == 0b1000_0000;
    let end = (LONGEST_LINE - 3..=LONGEST_LINE).rev().find(|at| !is_inside(at));
    &bytes[..end.unwrap_or(LONGEST_LINE)]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lines_of(reads: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut splitter = Splitter::default();
        let mut lines = Vec::new();
        for read in reads {
            splitter.feed(read, |line| lines.push(line.to_vec()));
            assert!(splitter.partial().len() <= LONGEST_LINE, "half a line stays small");
        }
        splitter.flush(|line| lines.push(line.to_vec()));
        lines
    }

    #[test]
    fn lines_may_come_in_any_pieces() {
        assert_eq!(lines_of(&[b"one\ntw", b"o\r\n", b"\nth", b"re", b"e"]), [b"one".as_slice(), b"two", b"", b"three"]);
    }

    #[test]
    fn a_line_that_is_too_long_comes_in_pieces() {
        let exact = [&[b'x'; LONGEST_LINE][..], b"\n"].concat();
        assert_eq!(lines_of(&[&exact]).len(), 1, "exactly the limit is one line");
        let longer = [&[b'x'; LONGEST_LINE * 2 + 1][..], b"\nnext\n"].concat();
        let lengths: Vec<usize> = lines_of(&[&longer]).iter().map(Vec::len).collect();
        assert_eq!(lengths, [LONGEST_LINE, LONGEST_LINE, 1, 4]);
    }

    #[test]
    fn a_cut_spares_characters() {
        let euros = "€".repeat(LONGEST_LINE);
        for line in lines_of(&[euros.as_bytes()]) {
            assert!(std::str::from_utf8(&line).is_ok());
        }
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_nothing_is_too_long(
            lengths in prop::collection::vec(prop_oneof![0usize..30, 16_000usize..50_000], 1..6),
            cuts in prop::collection::vec(1usize..40_000, 0..12),
        ) {
            let content = lengths.iter().map(|length| vec![b'x'; *length]).collect::<Vec<_>>().join(&b'\n');
            let mut reads = Vec::new();
            let mut rest = content.as_slice();
            for cut in cuts {
                let (read, after) = rest.split_at(cut.min(rest.len()));
                reads.push(read);
                rest = after;
            }
            reads.push(rest);
            let lines = lines_of(&reads);
            prop_assert!(lines.iter().all(|line| line.len() <= LONGEST_LINE));
            prop_assert_eq!(lines.concat(), lengths.iter().flat_map(|length| vec![b'x'; *length]).collect::<Vec<_>>());
        }
    }
}
