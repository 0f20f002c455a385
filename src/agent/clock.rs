//! The time of day for people, from the one clock that decisions use.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::sys::clock;
use crate::units::Moment;

/// Turns moments into times of day. The offset is taken once, so that one moment always reads the same.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wall {
    boot: SystemTime,
}

impl Wall {
    pub(crate) fn now() -> Self {
        let since_boot = Duration::from_nanos(clock::now().0);
        Self { boot: clock::time_of_day().checked_sub(since_boot).unwrap_or(UNIX_EPOCH) }
    }

    /// RFC 3339, UTC, milliseconds.
    pub(crate) fn text(self, moment: Moment) -> String {
        humantime::format_rfc3339_millis(self.time(moment)).to_string()
    }

    pub(crate) fn time(self, moment: Moment) -> SystemTime {
        self.boot + Duration::from_nanos(moment.0)
    }
}
