//! The control API: axum routes on the Unix socket; each becomes a [`super::request::Request`].
