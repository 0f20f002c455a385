//! Goes through the same random histories every time until a law is broken.

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;

use super::history::{history, play};
use super::laws::{Law, Violation};
use super::seam::Machine;

/// The first of `count` histories in which this law is the first to be broken, and how many were tried.
pub(crate) fn hunt<M: Machine>(law: Law, count: u32, machine: impl Fn() -> M) -> Option<(u32, Violation)> {
    let mut runner = TestRunner::deterministic();
    (1..=count).find_map(|tried| {
        let history = history().new_tree(&mut runner).expect("every history can be generated").current();
        play(&history, machine()).err().filter(|violation| violation.law == law).map(|violation| (tried, violation))
    })
}
