//! When a file that changed may be taken for finished. Pure but for [`Stat::of`].
//!
//! Closing a file does not mean that it is complete (some programs write in several goes), so what counts is that
//! device, inode, size and mtime stayed the same for a while. `touch` settles, too: the digest then says
//! that nothing changed.

use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use crate::units::Moment;

/// What changes when a file is written or replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Device.
    pub dev: u64,
    /// Inode.
    pub ino: u64,
    /// Bytes.
    pub size: u64,
    /// Last write, in nanoseconds since 1970.
    pub mtime_ns: i128,
}

impl Stat {
    /// The file that a path leads to, if it could be a release: regular, executable and not empty. A file that becomes
    /// executable later is a new one then.
    ///
    /// # Errors
    /// As stat(2), except that a missing file is `None`.
    pub fn of(path: &Path) -> io::Result<Option<Self>> {
        let found = match std::fs::metadata(path) {
            Ok(found) => found,
            Err(cause) if matches!(cause.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            Err(cause) => return Err(cause),
        };
        if !found.is_file() || found.permissions().mode() & 0o111 == 0 || found.len() == 0 {
            return Ok(None);
        }
        let mtime_ns = i128::from(found.mtime()) * 1_000_000_000 + i128::from(found.mtime_nsec());
        Ok(Some(Self { dev: found.dev(), ino: found.ino(), size: found.len(), mtime_ns }))
    }
}

/// Decides when a file has settled. Fed with looks at it: after each event of the watcher, when it asked for one, and
/// every 10 seconds for file systems that give no events.
#[derive(Debug)]
pub struct Settle {
    wait: Duration,
    candidate: Option<(Stat, Moment)>,
    reported: Option<Stat>,
}

/// What a look means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// The file is finished and was not reported before: hash it.
    Settled(Stat),
    /// It may still change: look again at this moment, or at the next event if that comes first.
    LookAgainAt(Moment),
    /// There is no file, or none that is new.
    Nothing,
}

impl Settle {
    /// A rule by which a file must stay the same for `wait`. `known` is the file that is live and is not reported.
    #[must_use]
    pub fn new(wait: Duration, known: Option<Stat>) -> Self {
        Self { wait, candidate: None, reported: known }
    }

    /// Judges a look. Looks may come too early, too late and in any number.
    pub fn look(&mut self, now: Moment, stat: Option<Stat>) -> Look {
        let Some(stat) = stat else {
            self.candidate = None;
            return Look::Nothing;
        };
        if self.reported == Some(stat) {
            self.candidate = None;
            return Look::Nothing;
        }
        let since = match self.candidate {
            Some((same, since)) if same == stat => since,
            _ => now,
        };
        self.candidate = Some((stat, since));
        let ready = since.after(self.wait);
        if now < ready {
            return Look::LookAgainAt(ready);
        }
        self.known(stat);
        Look::Settled(stat)
    }

    /// Takes a file for dealt with, for instance because somebody deployed it by hand.
    pub fn known(&mut self, stat: Stat) {
        self.candidate = None;
        self.reported = Some(stat);
    }

    /// Reports the file again although it was reported: what was to be done with it failed for a reason outside it.
    pub fn forget(&mut self) {
        self.reported = None;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WAIT: Duration = Duration::from_millis(1000);

    fn at(ms: u64) -> Moment {
        Moment(ms * 1_000_000)
    }

    fn stat(size: u64, mtime_ns: i128) -> Stat {
        Stat { dev: 1, ino: 2, size, mtime_ns }
    }

    #[test]
    fn a_new_file_settles_once_after_the_wait() {
        let mut settle = Settle::new(WAIT, Some(stat(1, 1)));
        assert_eq!(settle.look(at(0), Some(stat(1, 1))), Look::Nothing);
        assert_eq!(settle.look(at(5), Some(stat(2, 2))), Look::LookAgainAt(at(1005)));
        assert_eq!(settle.look(at(500), Some(stat(2, 2))), Look::LookAgainAt(at(1005)));
        assert_eq!(settle.look(at(1005), Some(stat(2, 2))), Look::Settled(stat(2, 2)));
        assert_eq!(settle.look(at(9000), Some(stat(2, 2))), Look::Nothing);
    }

    #[test]
    fn a_file_that_goes_away_and_comes_back_the_same_is_not_new() {
        let mut settle = Settle::new(WAIT, Some(stat(1, 1)));
        assert_eq!(settle.look(at(0), None), Look::Nothing);
        assert_eq!(settle.look(at(1), Some(stat(1, 1))), Look::Nothing);
    }

    #[test]
    fn a_file_that_vanishes_begins_anew() {
        let mut settle = Settle::new(WAIT, None);
        settle.look(at(0), Some(stat(1, 1)));
        settle.look(at(900), None);
        assert_eq!(settle.look(at(1000), Some(stat(1, 1))), Look::LookAgainAt(at(2000)));
    }

    #[test]
    fn what_was_touched_or_forgotten_settles_again() {
        let mut settle = Settle::new(Duration::ZERO, Some(stat(1, 1)));
        assert_eq!(settle.look(at(1), Some(stat(1, 2))), Look::Settled(stat(1, 2)));
        settle.forget();
        assert_eq!(settle.look(at(2), Some(stat(1, 2))), Look::Settled(stat(1, 2)));
    }

    proptest! {
        /// Looks at irregular moments, at a file that is written (`true`) or left alone (`false`) before each.
        #[test]
        fn what_settles_was_the_same_for_the_whole_wait(looks in prop::collection::vec((0u64..700, any::<bool>()), 1..60)) {
            let mut settle = Settle::new(WAIT, None);
            let (mut now, mut written, mut size) = (0, None, 0);
            for (pause, is_written) in looks {
                now += pause;
                if is_written || written.is_none() {
                    size += 1;
                    written = Some(now);
                }
                if let Look::Settled(_) = settle.look(at(now), Some(stat(size, 0))) {
                    prop_assert!(now - written.expect("there is a file") >= 1000);
                }
            }
        }

        #[test]
        fn a_file_that_keeps_changing_never_settles(pauses in prop::collection::vec(0u64..5000, 1..60)) {
            let mut settle = Settle::new(WAIT, None);
            let mut now = 0;
            for (n, pause) in pauses.into_iter().enumerate() {
                now += pause;
                let look = settle.look(at(now), Some(stat(1, i128::try_from(n).expect("small"))));
                prop_assert_eq!(look, Look::LookAgainAt(at(now + 1000)));
            }
        }

        #[test]
        fn a_file_that_is_left_alone_settles_at_the_moment_asked_for(start in 0u64..5000) {
            let mut settle = Settle::new(WAIT, None);
            let Look::LookAgainAt(moment) = settle.look(at(start), Some(stat(1, 1))) else { panic!("too early") };
            prop_assert_eq!(settle.look(moment, Some(stat(1, 1))), Look::Settled(stat(1, 1)));
        }
    }
}
