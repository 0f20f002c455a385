//! Reads kept output back.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use super::line::parse;
use super::split::LONGEST_LINE;
use crate::release::tail::LinesFromEnd;
use crate::units::Slot;
use crate::wire::api::LogLine;

/// A line in a file: three bytes for one that was no UTF-8, and what stands in front.
const LONGEST_IN_FILE: usize = 3 * LONGEST_LINE + 128;

/// What was kept at one moment. Later lines and rotations do not change it.
#[derive(Debug)]
pub struct Kept {
    /// Newest first, each with the length it had.
    files: Vec<(File, u64)>,
}

impl Kept {
    pub(super) fn open(paths: Vec<PathBuf>) -> io::Result<Self> {
        let mut files = Vec::new();
        for path in paths {
            match File::open(path) {
                Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
                opened => {
                    let file = opened?;
                    let len = file.metadata()?.len();
                    files.push((file, len));
                }
            }
        }
        Ok(Self { files })
    }

    /// The last `lines` lines (of one slot), oldest first. May read everything that is kept: not for the runtime's thread.
    ///
    /// # Errors
    /// As read(2).
    pub fn read(self, lines: usize, slot: Option<Slot>) -> io::Result<Vec<LogLine>> {
        let mut found = Vec::new();
        let all = self.files.into_iter().flat_map(|(file, len)| LinesFromEnd::new(file, len, LONGEST_IN_FILE));
        for bytes in all {
            if found.len() == lines {
                break;
            }
            found.extend(parse(&bytes?).filter(|line| slot.is_none_or(|slot| line.slot == slot)));
        }
        found.reverse();
        Ok(found)
    }
}
