//! What is wrong with a configuration, where, and how it is shown. Problems are collected, never returned one by one.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// A place that a problem can point at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the text; line and column count from 1, in characters; the caret marks `width` characters.
    Text {
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
        /// At least 1.
        width: usize,
    },
    /// The text as a whole.
    Whole,
    /// A command-line flag.
    Flag(&'static str),
}

/// One thing that is wrong, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file, as it was named.
    pub file: String,
    /// Where.
    pub place: Place,
    /// The YAML path: `services.web.rollout.max_surge`; empty for the top level.
    pub path: String,
    /// The line of text at `place`, if it is in the text.
    pub line: Option<String>,
    /// Lower-case; says what to do.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.place {
            Place::Text { line, column, .. } => write!(f, "{}:{line}:{column}: ", self.file)?,
            Place::Whole => write!(f, "{}: ", self.file)?,
            Place::Flag(flag) => return write!(f, "{flag}: {}", self.message),
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        self.snippet(f)
    }
}

/// Longest piece of a line that is shown, in characters: a file without line breaks must not flood the terminal.
const SNIPPET: usize = 100;

impl Problem {
    fn snippet(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Place::Text { line: number, column, width }, Some(line)) = (self.place, &self.line) else {
            return Ok(());
        };
        let start = if column > SNIPPET { column - SNIPPET / 2 } else { 0 };
        // Control characters would move the cursor (or worse) and shift the caret.
        let visible = |c: char| if c.is_control() { ' ' } else { c };
        let shown: String = line.chars().skip(start).take(SNIPPET).map(visible).collect();
        let before = column - 1 - start;
        let width = width.min(shown.chars().count().saturating_sub(before)).max(1);
        let gutter = number.to_string().len();
        write!(f, "\n {:gutter$} |\n {number} | {}\n {:gutter$} | ", "", shown.trim_end(), "")?;
        write!(f, "{:before$}{}", "", "^".repeat(width))
    }
}

/// Why a configuration could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("read configuration {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file was read and something in it is wrong. At least one.
    #[error("{}", list(.0))]
    Problems(Vec<Problem>),
}

/// All problems, one below the other, for a terminal.
#[must_use]
pub fn list(problems: &[Problem]) -> String {
    let texts: Vec<String> = problems.iter().map(Problem::to_string).collect();
    let are_short = texts.iter().all(|text| !text.contains('\n'));
    texts.join(if are_short { "\n" } else { "\n\n" })
}

/// Where a value was written: its place and its YAML path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct At {
    pub(super) place: Place,
    pub(super) path: String,
}

impl At {
    /// The place of `key`'s value inside the map that is here.
    pub(super) fn key(&self, key: &str, place: Place) -> Self {
        let dot = if self.path.is_empty() { "" } else { "." };
        Self { place, path: format!("{}{dot}{key}", self.path) }
    }

    /// The place of item number `index` of the list that is here.
    pub(super) fn item(&self, index: usize, place: Place) -> Self {
        Self { place, path: format!("{}[{index}]", self.path) }
    }
}

/// Collects the problems of one text.
pub(super) struct Problems<'a> {
    file: &'a str,
    lines: Vec<&'a str>,
    found: Vec<Problem>,
}

/// More would not be read; the first ones are enough to begin with.
const MOST_PROBLEMS: usize = 100;

impl<'a> Problems<'a> {
    pub(super) fn new(file: &'a str, text: &'a str) -> Self {
        Self { file, lines: text.lines().collect(), found: Vec::new() }
    }

    pub(super) fn add(&mut self, at: &At, message: impl Into<String>) {
        if self.found.len() == MOST_PROBLEMS {
            return;
        }
        let line = match at.place {
            Place::Text { line, .. } => self.lines.get(line - 1).map(|line| (*line).to_owned()),
            Place::Whole | Place::Flag(_) => None,
        };
        let problem = Problem {
            file: self.file.to_owned(),
            place: at.place,
            path: at.path.clone(),
            line,
            message: message.into(),
        };
        self.found.push(problem);
    }

    /// `value`, unless something was wrong. Problems come in the order of the text.
    pub(super) fn unless_any<T>(mut self, value: Option<T>) -> Result<T, Vec<Problem>> {
        self.found.sort_by_key(|problem| match problem.place {
            Place::Text { line, column, .. } => (line, column),
            Place::Whole | Place::Flag(_) => (0, 0),
        });
        match value {
            Some(value) if self.found.is_empty() => Ok(value),
            _ => Err(self.found),
        }
    }
}
