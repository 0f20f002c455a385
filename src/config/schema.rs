//! `rollout schema`: the JSON Schema that editors complete from.

use super::raw;

/// The schema, as pretty JSON with a trailing newline.
#[must_use]
pub fn json() -> String {
    let mut schema = raw::schema();
    schema.insert("title".to_owned(), "Configuration of rollout".into());
    format!("{:#}\n", schema.as_value())
}
