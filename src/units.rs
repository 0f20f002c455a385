//! Floor 0: the words of the project as types. No I/O, no clock, no policy.
//!
//! Each newtype exists so that two numbers that mean different things cannot be
//! swapped. All of them are plain data that can be written to the state file.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The name of a service: 1 to 64 of `a-z A-Z 0-9 _ -`, starting with a letter or digit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServiceName(String);

/// Why a text is not a [`ServiceName`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a service name: use 1 to 64 letters, digits, '-' or '_', starting with a letter or digit")]
pub struct BadServiceName(String);

impl ServiceName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ServiceName {
    type Err = BadServiceName;

    fn from_str(text: &str) -> Result<Self, BadServiceName> {
        let first_is_plain = text.starts_with(|c: char| c.is_ascii_alphanumeric());
        let all_are_allowed = text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
        if first_is_plain && all_are_allowed && text.len() <= 64 {
            Ok(Self(text.to_owned()))
        } else {
            Err(BadServiceName(text.to_owned()))
        }
    }
}

impl TryFrom<String> for ServiceName {
    type Error = BadServiceName;

    fn try_from(text: String) -> Result<Self, BadServiceName> {
        text.parse()
    }
}

impl From<ServiceName> for String {
    fn from(name: ServiceName) -> Self {
        name.0
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

number!(
    /// One worker process of one service. Never reused while the service's state lives; the pid is a kernel detail.
    WorkerId(u64), "w"
);
number!(
    /// The numbered place of a worker, 1..=N, stable across releases.
    Slot(u32), ""
);
number!(
    /// Counts the rollouts of a service that began. Each worker belongs to one. The first start is generation 1.
    Generation(u64), ""
);
number!(
    /// One request to bring every slot to a plan (release, configuration, environment).
    RolloutId(u64), "r"
);
number!(
    /// The place of a lane in its `SO_REUSEPORT` group: the order of `listen(2)`. Lane 0 is the waiting room.
    LaneIndex(u16), ""
);

/// A SHA-256: the name of a release.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(pub [u8; 32]);

/// Why a text is not a [`Digest`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a SHA-256: expected 64 hexadecimal digits")]
pub struct BadDigest(String);

impl Digest {
    /// The first 12 digits, for people.
    #[must_use]
    pub fn short(&self) -> String {
        let mut text = self.to_string();
        text.truncate(12);
        text
    }
}

impl FromStr for Digest {
    type Err = BadDigest;

    fn from_str(text: &str) -> Result<Self, BadDigest> {
        let bad = || BadDigest(text.to_owned());
        if text.len() != 64 || !text.is_ascii() {
            return Err(bad());
        }
        let mut bytes = [0; 32];
        for (place, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * place..2 * place + 2], 16).map_err(|_| bad())?;
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Digest {
    type Error = BadDigest;

    fn try_from(text: String) -> Result<Self, BadDigest> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({})", self.short())
    }
}

/// A moment of `CLOCK_MONOTONIC`, in nanoseconds since boot: comparable across restarts of the agent, not across reboots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Moment(pub u64);

impl Moment {
    /// The moment `wait` after this one; saturates at the end of time.
    #[must_use]
    pub fn after(self, wait: Duration) -> Self {
        let nanos = u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(nanos))
    }

    /// How long ago `earlier` was; zero if it lies ahead.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// A Unix signal by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Signal(pub i32);

/// Why a text is not a [`Signal`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a signal: use a name like SIGTERM or a number from 1 to 64")]
pub struct BadSignal(String);

/// Names and numbers on x86-64 and aarch64 (signal(7)); the two agree.
const SIGNALS: [(&str, i32); 31] = [
    ("SIGHUP", 1),
    ("SIGINT", 2),
    ("SIGQUIT", 3),
    ("SIGILL", 4),
    ("SIGTRAP", 5),
    ("SIGABRT", 6),
    ("SIGBUS", 7),
    ("SIGFPE", 8),
    ("SIGKILL", 9),
    ("SIGUSR1", 10),
    ("SIGSEGV", 11),
    ("SIGUSR2", 12),
    ("SIGPIPE", 13),
    ("SIGALRM", 14),
    ("SIGTERM", 15),
    ("SIGSTKFLT", 16),
    ("SIGCHLD", 17),
    ("SIGCONT", 18),
    ("SIGSTOP", 19),
    ("SIGTSTP", 20),
    ("SIGTTIN", 21),
    ("SIGTTOU", 22),
    ("SIGURG", 23),
    ("SIGXCPU", 24),
    ("SIGXFSZ", 25),
    ("SIGVTALRM", 26),
    ("SIGPROF", 27),
    ("SIGWINCH", 28),
    ("SIGIO", 29),
    ("SIGPWR", 30),
    ("SIGSYS", 31),
];

impl Signal {
    /// Ends a process that cannot refuse.
    pub const KILL: Self = Self(9);
    /// The usual request to stop.
    pub const TERM: Self = Self(15);
}

impl FromStr for Signal {
    type Err = BadSignal;

    fn from_str(text: &str) -> Result<Self, BadSignal> {
        let bad = || BadSignal(text.to_owned());
        if let Ok(number) = text.parse() {
            return if (1..=64).contains(&number) { Ok(Self(number)) } else { Err(bad()) };
        }
        let upper = text.to_ascii_uppercase();
        let named = |name: &str| name == upper || name.strip_prefix("SIG") == Some(&upper);
        SIGNALS.iter().find(|(name, _)| named(name)).map(|(_, number)| Self(*number)).ok_or_else(bad)
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match SIGNALS.iter().find(|(_, number)| *number == self.0) {
            Some((name, _)) => f.write_str(name),
            None => write!(f, "signal {}", self.0),
        }
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// It called exit with this code.
    Code(i32),
    /// This signal ended it.
    Signal(Signal),
    /// It is gone and nobody can say how (it was not our child).
    Unknown,
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "killed by {signal}"),
            Self::Unknown => f.write_str("ended, exit code unknown"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_survives_its_text() {
        let digest = Digest([0xab; 32]);
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert!("zz".parse::<Digest>().is_err());
        assert!("é".repeat(32).parse::<Digest>().is_err(), "64 bytes that are not digits");
    }

    #[test]
    fn signals_are_read_as_people_write_them() {
        assert_eq!("SIGTERM".parse(), Ok(Signal::TERM));
        assert_eq!("term".parse(), Ok(Signal::TERM));
        assert_eq!("15".parse(), Ok(Signal::TERM));
        assert!("0".parse::<Signal>().is_err());
        assert!("SIGNOPE".parse::<Signal>().is_err());
        assert_eq!(Signal(34).to_string(), "signal 34");
    }

    #[test]
    fn service_names_cannot_leave_their_directory() {
        assert!("web-1".parse::<ServiceName>().is_ok());
        for bad in ["", "..", "a/b", "-x", "a b", &"x".repeat(65)] {
            assert!(bad.parse::<ServiceName>().is_err(), "{bad:?}");
        }
    }
}
