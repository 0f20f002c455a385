//! Floor 2: YAML text → raw → checked [`settings::Settings`].

pub mod settings;
