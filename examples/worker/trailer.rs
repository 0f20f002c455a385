//! Values in lines appended to the program's own file, so that a copy with another line is another release.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

const MARK: &str = "ROLLOUT-EXAMPLE-";

/// More than any trailer has.
const TAIL: u64 = 1024;

/// The value of `ROLLOUT-EXAMPLE-<key>=…` in the lines at the very end of this program's file.
pub(crate) fn value(key: &str) -> Option<String> {
    let mut file = File::open("/proc/self/exe").ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL))).ok()?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail).ok()?;
    find(&String::from_utf8_lossy(&tail), key)
}

fn find(tail: &str, key: &str) -> Option<String> {
    tail.lines()
        .rev()
        .map_while(|line| line.strip_prefix(MARK)?.split_once('='))
        .find(|(name, _)| *name == key)
        .map(|(_, value)| value.to_owned())
}
