//! From a node to a typed value, or to a problem at its place. One reader per kind of value; the keys are in `raw.rs`.

use std::collections::HashMap;
use std::time::Duration;

use crate::config::settings::{Handover, Mode};
use crate::machine::limits::{Backoff, GiveUp, Linger, OnFailure};
use crate::units::Signal;

use super::human::{self, Endpoint};
use super::problem::{At, Place, Problems};
use super::tree::{Node, Shape, clipped};

/// A kind of value that can be read from a node.
pub(super) trait Read: Sized {
    /// The value, or `None` with at least one problem added. Parts that are bad are left out of the value.
    fn read(node: &Node, at: &At, problems: &mut Problems<'_>) -> Option<Self>;
}

/// A key that may be given. `Bad` is a state of its own: it must not be called missing as well.
#[derive(Debug, Default)]
pub(super) enum Field<T> {
    #[default]
    Absent,
    Bad,
    Given(T, At),
}

impl<T: Read> Field<T> {
    pub(super) fn read(node: &Node, at: At, problems: &mut Problems<'_>) -> Self {
        if matches!(node.shape, Shape::Nothing) {
            problems.add(&at, "has no value: write one after the colon, or remove the key");
            return Self::Bad;
        }
        match T::read(node, &at, problems) {
            Some(value) => Self::Given(value, at),
            None => Self::Bad,
        }
    }
}

impl<T> Field<T> {
    /// Something else was written where this was meant.
    pub(super) fn miss(&mut self) {
        if self.is_absent() {
            *self = Self::Bad;
        }
    }

    pub(super) fn given(&self) -> Option<(&T, &At)> {
        match self {
            Self::Given(value, at) => Some((value, at)),
            Self::Absent | Self::Bad => None,
        }
    }

    pub(super) fn value(&self) -> Option<&T> {
        self.given().map(|(value, _)| value)
    }

    pub(super) fn at(&self) -> Option<&At> {
        self.given().map(|(_, at)| at)
    }

    pub(super) fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }

    pub(super) fn is_bad(&self) -> bool {
        matches!(self, Self::Bad)
    }
}

/// A list, item by item.
#[derive(Debug)]
pub(super) struct List<T> {
    /// Those that could be read.
    pub(super) good: Vec<(T, At)>,
    /// How many were written.
    pub(super) written: usize,
}

impl<T: Read> Read for List<T> {
    fn read(node: &Node, at: &At, problems: &mut Problems<'_>) -> Option<Self> {
        let Shape::List(items) = &node.shape else {
            let advice = match &node.shape {
                Shape::Scalar(text) => format!("write [{:?}]", clipped(text)),
                Shape::Nothing | Shape::List(_) | Shape::Map(_) => "begin each item with \"- \"".to_owned(),
            };
            problems.add(at, format!("expected a list, found {}: {advice}", node.found()));
            return None;
        };
        let mut good = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            if let Field::Given(value, at) = Field::read(item, at.item(index, item.place), problems) {
                good.push((value, at));
            }
        }
        Some(Self { good, written: items.len() })
    }
}

/// A map whose keys are chosen by the user. In the order of the text; keys do not repeat.
#[derive(Debug)]
pub(super) struct Named<T>(pub(super) Vec<Entry<T>>);

/// One key of a [`Named`] map.
#[derive(Debug)]
pub(super) struct Entry<T> {
    pub(super) key: String,
    pub(super) key_at: At,
    pub(super) value: Field<T>,
}

impl<T: Read> Read for Named<T> {
    fn read(node: &Node, at: &At, problems: &mut Problems<'_>) -> Option<Self> {
        let entries = entries(node, at, problems)?.into_iter().map(|(key, key_at, value)| {
            let at = At { place: value.place_under(key_at.place), path: key_at.path.clone() };
            Entry { key: key.to_owned(), key_at, value: Field::read(value, at, problems) }
        });
        Some(Self(entries.collect()))
    }
}

/// An entry of a map whose keys are fixed.
pub(super) enum Known<'n> {
    /// A key that exists, and its value.
    Key(&'n str, &'n Node, At),
    /// A key that does not exist but was probably meant to be this one: it is not missing as well.
    Meant(&'n str),
}

/// The entries of a map whose keys are fixed. Unknown keys are problems.
pub(super) fn known_entries<'n>(
    node: &'n Node,
    at: &At,
    known: &[&'static str],
    problems: &mut Problems<'_>,
) -> Option<Vec<Known<'n>>> {
    let mut fields = Vec::new();
    for (key, key_at, value) in entries(node, at, problems)? {
        if known.contains(&key) {
            let at = At { place: value.place_under(key_at.place), path: key_at.path };
            fields.push(Known::Key(key, value, at));
            continue;
        }
        let meant = nearest(key, known);
        let advice = meant.map_or_else(String::new, |key| format!("; did you mean {key:?}?"));
        problems.add(&key_at, format!("unknown key{advice} (valid here: {})", known.join(", ")));
        fields.extend(meant.map(Known::Meant));
    }
    Some(fields)
}

/// The known word that `word` looks like, if one does.
fn nearest(word: &str, known: &[&'static str]) -> Option<&'static str> {
    let longest = word.chars().count() / 3 + 1;
    let distances = known.iter().map(|known| (strsim::osa_distance(word, known), *known));
    distances.filter(|(distance, _)| *distance <= longest).min().map(|(_, known)| known)
}

/// Keys that are text, each once.
fn entries<'n>(node: &'n Node, at: &At, problems: &mut Problems<'_>) -> Option<Vec<(&'n str, At, &'n Node)>> {
    let Shape::Map(pairs) = &node.shape else {
        problems.add(at, format!("expected a map of keys and values, found {}", node.found()));
        return None;
    };
    let mut entries: Vec<(&str, At, &Node)> = Vec::with_capacity(pairs.len());
    let mut earlier: HashMap<&str, At> = HashMap::with_capacity(pairs.len());
    for (key, value) in pairs {
        let Shape::Scalar(text) = &key.shape else {
            let here = At { place: key.place, path: at.path.clone() };
            problems.add(&here, format!("a key must be a word, this is {}", key.found()));
            continue;
        };
        let key_at = at.key(&clipped(text), key.place);
        if let Some(earlier) = earlier.get(text.as_str()) {
            problems.add(&key_at, format!("given twice{}: remove one", first_at(earlier)));
            continue;
        }
        earlier.insert(text, key_at.clone());
        entries.push((text, key_at, value));
    }
    Some(entries)
}

/// " (first at line 7)", for a message about the second.
pub(super) fn first_at(at: &At) -> String {
    match at.place {
        Place::Text { line, .. } => format!(" (first at line {line})"),
        Place::Whole | Place::Flag(_) => String::new(),
    }
}

/// A thing that can be switched off, on, or on with settings.
#[derive(Debug)]
pub(super) enum Switchable<T> {
    Off,
    On(T),
}

impl<T: Read + Default> Read for Switchable<T> {
    fn read(node: &Node, at: &At, problems: &mut Problems<'_>) -> Option<Self> {
        let Shape::Scalar(text) = &node.shape else {
            return T::read(node, at, problems).map(Self::On);
        };
        match text.as_str() {
            "off" | "false" => Some(Self::Off),
            "on" | "true" => Some(Self::On(T::default())),
            _ => {
                problems.add(at, format!("expected true, false or a map, found {}", node.found()));
                None
            }
        }
    }
}

/// Reads a scalar with a function from text to value or advice.
fn scalar<T>(
    node: &Node,
    at: &At,
    problems: &mut Problems<'_>,
    what: &str,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Option<T> {
    let Shape::Scalar(text) = &node.shape else {
        problems.add(at, format!("expected {what}, found {}", node.found()));
        return None;
    };
    parse(text).map_err(|advice| problems.add(at, advice)).ok()
}

macro_rules! scalars {
    ($($(#[$doc:meta])* $type:ty, $what:literal, $parse:expr;)*) => {
        $(impl Read for $type {
            fn read(node: &Node, at: &At, problems: &mut Problems<'_>) -> Option<Self> {
                scalar(node, at, problems, $what, $parse)
            }
        })*
    };
}

/// Any text.
#[derive(Debug)]
pub(super) struct Text(pub(super) String);

/// A whole number.
#[derive(Debug)]
pub(super) struct Count(pub(super) u32);

/// `true` or `false`.
#[derive(Debug)]
pub(super) struct Switch(pub(super) bool);

/// `true`: a key that is either there or not.
#[derive(Debug)]
pub(super) struct Yes;

/// A duration.
#[derive(Debug)]
pub(super) struct Time(pub(super) Duration);

/// Bytes.
#[derive(Debug)]
pub(super) struct Size(pub(super) u64);

/// A range of HTTP statuses, inclusive.
#[derive(Debug)]
pub(super) struct Statuses(pub(super) u16, pub(super) u16);

/// Permission bits of a file.
#[derive(Debug)]
pub(super) struct Permissions(pub(super) u32);

/// How many workers.
#[derive(Debug)]
pub(super) enum Workers {
    Auto,
    Number(u32),
}

/// What a program binds instead of a listener's address.
#[derive(Debug, Clone)]
pub(super) enum Alias {
    Port(u16),
    Path(String),
}

scalars! {
    Text, "a text", no_nul;
    Count, "a whole number", |text| count(text).map(Count);
    Switch, "true or false", |text| word(text, &[("true", true), ("false", false)]).map(Switch);
    Yes, "true", |text| word(text, &[("true", ())]).map(|()| Yes);
    Time, "a duration", |text| human::duration(text).map(Time);
    Size, "a size", |text| human::size(text).map(Size);
    Statuses, "a range of HTTP statuses", |text| human::statuses(text).map(|(low, high)| Statuses(low, high));
    Permissions, "a file mode", |text| human::permissions(text).map(Permissions);
    Backoff, "a backoff like 100ms..30s", human::backoff;
    GiveUp, "a limit like 10 in 60s", human::give_up;
    Endpoint, "an address", human::endpoint;
    Signal, "a signal", |text| text.parse().map_err(|error: crate::units::BadSignal| error.to_string());
    Workers, "a whole number or auto", workers;
    Linger, "a duration or auto", linger;
    Mode, "steered or shared", |text| word(text, &[("steered", Mode::Steered), ("shared", Mode::Shared)]);
    OnFailure, "rollback or pause", |text| word(text, &[("rollback", OnFailure::Rollback), ("pause", OnFailure::Pause)]);
    Handover, "listen_fds, intercept or auto", |text| word(text, &HANDOVERS);
    Alias, "a port or unix:/path", alias;
}

const HANDOVERS: [(&str, Handover); 3] =
    [("listen_fds", Handover::ListenFds), ("intercept", Handover::Intercept), ("auto", Handover::Auto)];

fn alias(text: &str) -> Result<Alias, String> {
    let advice = || format!("expected the port that the program binds, or unix:/path, found {:?}", clipped(text));
    match text.strip_prefix("unix:") {
        Some("") => Err(advice()),
        Some(path) if !path.starts_with('@') => Ok(Alias::Path(no_nul(path)?.0)),
        Some(_) => Err(advice()),
        None => {
            text.parse().ok().filter(|port| *port > 0 && !text.starts_with('+')).map(Alias::Port).ok_or_else(advice)
        }
    }
}

/// One of the given words.
pub(super) fn word<T: Copy>(text: &str, words: &[(&str, T)]) -> Result<T, String> {
    let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
    found.ok_or_else(|| {
        let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        format!("expected {}, found {:?}", words.join(" or "), clipped(text))
    })
}

/// Every text of a configuration ends up in an argument, a variable or a path, none of which can hold NUL.
fn no_nul(text: &str) -> Result<Text, String> {
    if text.contains('\0') { Err("contains a NUL character".to_owned()) } else { Ok(Text(text.to_owned())) }
}

fn count(text: &str) -> Result<u32, String> {
    // `u32::from_str` takes "+1".
    let number = text.parse().ok().filter(|_| !text.starts_with('+'));
    number.ok_or_else(|| format!("expected a whole number, found {:?}", clipped(text)))
}

fn workers(text: &str) -> Result<Workers, String> {
    let number = || count(text).map(Workers::Number);
    let advice = |_| format!("expected a whole number or auto, found {:?}", clipped(text));
    if text == "auto" { Ok(Workers::Auto) } else { number().map_err(advice) }
}

fn linger(text: &str) -> Result<Linger, String> {
    if text == "auto" { Ok(Linger::Auto) } else { human::duration(text).map(Linger::For) }
}
