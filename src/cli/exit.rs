//! How a command ends: the exit codes, and what is said on the way out.

use std::error::Error;
use std::fmt::Write;
use std::process::ExitCode;

/// An exit code. The doc comments are the meaning that `--help` lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exit {
    /// What was asked is true now.
    Done = 0,
    /// Failed before anything changed.
    Unchanged = 1,
    /// Usage: the command line is not understood.
    Usage = 2,
    /// The rollout failed and was rolled back; the old release serves.
    RolledBack = 3,
    /// The rollout failed and needs a person: it is paused, or the way back failed.
    NeedsPerson = 4,
    /// Refused: busy, digest or signature mismatch, not allowed.
    Refused = 5,
    /// The agent is not reachable.
    NoAgent = 6,
    /// Gave up waiting; the rollout goes on.
    GaveUp = 7,
}

impl Exit {
    const ALL: [Self; 8] = [
        Self::Done,
        Self::Unchanged,
        Self::Usage,
        Self::RolledBack,
        Self::NeedsPerson,
        Self::Refused,
        Self::NoAgent,
        Self::GaveUp,
    ];

    fn meaning(self) -> &'static str {
        match self {
            Self::Done => "what was asked is true now",
            Self::Unchanged => "failed before anything changed",
            Self::Usage => "usage: the command line is not understood",
            Self::RolledBack => "the rollout failed and was rolled back; the old release serves",
            Self::NeedsPerson => "the rollout failed and needs a person (paused, or the way back failed)",
            Self::Refused => "refused: busy, digest or signature mismatch, not allowed",
            Self::NoAgent => "the agent is not reachable",
            Self::GaveUp => "gave up waiting; the rollout goes on",
        }
    }

    /// The code that an agent named. One that this program does not know needs a person.
    pub(super) fn from_agent(code: u8) -> Self {
        Self::ALL.into_iter().find(|exit| *exit as u8 == code).unwrap_or(Self::NeedsPerson)
    }

    /// The section of `--help`.
    pub(super) fn table() -> String {
        let mut text = "Exit codes:".to_owned();
        for exit in Self::ALL {
            write!(text, "\n  {}  {}", exit as u8, exit.meaning()).expect("a String takes everything");
        }
        text
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command stopped before its end.
#[derive(Debug)]
pub(super) enum Failure {
    /// With a sentence for stderr that names the object, the cause and what to do next.
    Told {
        /// Without "rollout: ".
        said: String,
        /// The code.
        exit: Exit,
    },
    /// The reader of stdout has gone.
    StdoutClosed,
}

impl Failure {
    /// An error with its causes, each said once.
    pub(super) fn because(exit: Exit, error: &dyn Error) -> Self {
        let mut said = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            write!(said, ": {error}").expect("a String takes everything");
            cause = error.source();
        }
        Self::Told { said, exit }
    }

    /// A failure with a sentence.
    pub(super) fn told(exit: Exit, said: impl Into<String>) -> Self {
        Self::Told { said: said.into(), exit }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("start the web")]
    struct Outer(#[source] Inner);

    #[derive(Debug, thiserror::Error)]
    #[error("open the door")]
    struct Inner(#[source] std::io::Error);

    #[test]
    fn causes_are_told_to_the_last_and_each_once() {
        let error = Outer(Inner(std::io::Error::other("no key")));
        let Failure::Told { said, exit } = Failure::because(Exit::Unchanged, &error) else { panic!("it is told") };
        assert_eq!((said.as_str(), exit), ("start the web: open the door: no key", Exit::Unchanged));
    }

    #[test]
    fn every_code_is_its_place_in_the_table() {
        for (code, exit) in (0..).zip(Exit::ALL) {
            assert_eq!(exit as u8, code);
            assert_eq!(Exit::from_agent(code), exit);
        }
        assert_eq!(Exit::from_agent(99), Exit::NeedsPerson);
        assert_eq!(Exit::table().lines().count(), 9);
    }
}
