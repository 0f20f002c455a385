//! A configuration as a tree of values that know where they were written. No meaning yet, and no crate's types.

use super::problem::Place;

/// A value and its place.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) shape: Shape,
}

/// The four things that a value can be. A scalar is its text: what it means is for the reader of the key to say, so
/// that `8080`, `"8080"` and `1.10` keep what was written.
#[derive(Debug, Clone)]
pub(super) enum Shape {
    Nothing,
    Scalar(String),
    List(Vec<Node>),
    /// In the order of the text; keys may repeat.
    Map(Vec<(Node, Node)>),
}

impl Node {
    /// What this is, for "expected …, found …".
    pub(super) fn found(&self) -> String {
        match &self.shape {
            Shape::Nothing => "nothing".to_owned(),
            Shape::Scalar(text) => format!("{:?}", clipped(text)),
            Shape::List(_) => "a list".to_owned(),
            Shape::Map(_) => "a map".to_owned(),
        }
    }

    /// Where a problem with this value as a whole points: a map or nothing has no text of its own, its key has.
    pub(super) fn place_under(&self, key: Place) -> Place {
        match self.shape {
            Shape::Nothing | Shape::List(_) | Shape::Map(_) => key,
            Shape::Scalar(_) => self.place,
        }
    }
}

/// Enough of a text to recognise it.
pub(super) fn clipped(text: &str) -> String {
    const ENOUGH: usize = 60;
    match text.char_indices().nth(ENOUGH) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}
