//! The control API: axum routes on a Unix socket; each question becomes a [`super::request::Request`] to the loop.
//!
//! Nothing here decides anything: it checks who asks ([`serve`]), that the question is well formed (`reading`), and
//! turns answers into JSON (`routes`).

mod bind;
mod reading;
mod refused;
mod routes;
mod serve;
#[cfg(test)]
mod tests;

pub use bind::{BindError, Control};
pub use serve::serve;
