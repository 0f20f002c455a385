//! A YAML text as a tree that knows where everything was written: the door to the YAML crate.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_yaml::options::{DuplicateKeyPolicy, NonFiniteFloatPolicy};
use serde_yaml::{Location, SnippetMode, Spanned, UserMessageFormatter};

use super::problem::{At, Place, Problems};
use super::tree::{Node, Shape};

/// The tree of a YAML text, within limits that no honest configuration meets; `None` if it is not YAML (then the
/// parser has stopped at the first problem, and it is among `problems`).
pub(super) fn tree(text: &str, problems: &mut Problems<'_>) -> Option<Node> {
    let options = serde_yaml::options! {
        budget: serde_yaml::budget! {
            max_events: 200_000,
            max_nodes: 100_000,
            max_depth: 32,
            max_aliases: 1_000,
            max_documents: 2, // the second is refused by name
            max_total_scalar_bytes: 1 << 20,
        },
        alias_limits: serde_yaml::alias_limits! { max_total_replayed_events: 50_000, max_replay_stack_depth: 8 },
        // Ours, so that all of them are reported and not only the first.
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
        // Not an error: what counts is the text that was written.
        non_finite_float_policy: NonFiniteFloatPolicy::PassThrough,
        with_snippet: false,
    };
    match serde_yaml::from_str_with_options::<Spanned<Loose>>(text, options) {
        Ok(loose) => Some(node(loose, text)),
        Err(error) => {
            let place = error.location().map_or(Place::Whole, place);
            problems.add(&At { place, path: String::new() }, advice(&error, text));
            None
        }
    }
}

fn advice(error: &serde_yaml::Error, text: &str) -> String {
    use serde_yaml::Error::{AliasReplayLimitExceeded, AliasReplayStackDepthExceeded, Budget, MultipleDocuments};
    if matches!(error, Budget { .. } | AliasReplayLimitExceeded { .. } | AliasReplayStackDepthExceeded { .. }) {
        return "larger or more deeply nested than a configuration may be".to_owned();
    }
    if matches!(error, MultipleDocuments { .. }) {
        return "a second document begins here: write all services below one `services:`".to_owned();
    }
    let render = serde_yaml::render_options! { formatter: &UserMessageFormatter, snippets: SnippetMode::Off };
    let message = error.render_with_options(render);
    // The place is shown once, in front.
    let message = message.split(" at line ").next().unwrap_or(&message);
    let line = error.location().and_then(|at| text.lines().nth(usize::try_from(at.line()).ok()?.checked_sub(1)?));
    let hint = match line {
        Some(line) if line.contains("[:") => "; put quotes around an address that begins with a bracket: \"[::]:8080\"",
        _ => "",
    };
    format!("not valid YAML: {message}{hint}")
}

fn place(location: Location) -> Place {
    if location.line() == 0 {
        return Place::Whole;
    }
    let number = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    Place::Text {
        line: number(location.line()),
        column: number(location.column()),
        width: number(location.span().len()).max(1),
    }
}

fn node(spanned: Spanned<Loose>, text: &str) -> Node {
    let written = || {
        let span = spanned.defined.span();
        let start = usize::try_from(span.byte_offset()?).ok()?;
        let end = start.checked_add(usize::try_from(span.byte_len()?).ok()?)?;
        text.get(start..end).map(|text| text.trim().to_owned())
    };
    let shape = match spanned.value {
        Loose::Nothing => Shape::Nothing,
        Loose::Text(text) => Shape::Scalar(text),
        Loose::Other(seen) => Shape::Scalar(written().unwrap_or(seen)),
        Loose::List(items) => Shape::List(items.into_iter().map(|item| node(item, text)).collect()),
        Loose::Map(entries) => {
            Shape::Map(entries.into_iter().map(|(key, value)| (node(key, text), node(value, text))).collect())
        }
    };
    Node { place: place(spanned.referenced), shape }
}

/// Any YAML value.
#[derive(Debug)]
enum Loose {
    Nothing,
    Text(String),
    /// A number or boolean as the crate understood it. `0660`, `1.10` and `True` lose their form that way, so this is
    /// only used if their place in the text is unknown.
    Other(String),
    List(Vec<Spanned<Loose>>),
    Map(Vec<(Spanned<Loose>, Spanned<Loose>)>),
}

impl<'de> Deserialize<'de> for Loose {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LooseVisitor)
    }
}

struct LooseVisitor;

impl<'de> Visitor<'de> for LooseVisitor {
    type Value = Loose;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }
    fn visit_unit<E>(self) -> Result<Loose, E> {
        Ok(Loose::Nothing)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Loose, E> {
        Ok(Loose::Other(value.to_string()))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Loose, E> {
        Ok(Loose::Other(value.to_string()))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Loose, E> {
        Ok(Loose::Other(value.to_string()))
    }
    fn visit_i128<E>(self, value: i128) -> Result<Loose, E> {
        Ok(Loose::Other(value.to_string()))
    }
    fn visit_u128<E>(self, value: u128) -> Result<Loose, E> {
        Ok(Loose::Other(value.to_string()))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Loose, E> {
        Ok(Loose::Other(value.to_string()))
    }
    fn visit_str<E>(self, value: &str) -> Result<Loose, E> {
        Ok(Loose::Text(value.to_owned()))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Loose, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Loose::List(list))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Loose, A::Error> {
        let mut map = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            map.push(entry);
        }
        Ok(Loose::Map(map))
    }
}
