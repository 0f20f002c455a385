//! A simulated world around the shipped machine, the laws it must keep, and bugs planted at its seam.

pub(crate) mod history;
pub(crate) mod hunt;
pub(crate) mod laws;
pub(crate) mod ledger;
pub(crate) mod planted;
pub(crate) mod seam;
pub(crate) mod search;
pub(crate) mod sim;
mod states;
pub(crate) mod world;
