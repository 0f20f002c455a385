//! A figure, what it should be, and the table of them.

use std::fmt;
use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};

/// One row.
pub(crate) struct Figure {
    what: String,
    measured: Spread,
    unit: &'static str,
    target: Target,
}

/// What a figure should be.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Target {
    AtLeast(f64),
    AtMost(f64),
    Between(f64, f64),
    /// Nothing: it explains another figure.
    None,
}

/// The median and the quartiles of some rounds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    low: f64,
    high: f64,
}

impl Figure {
    pub(crate) fn new(what: impl Into<String>, measured: Spread, unit: &'static str, target: Target) -> Self {
        Self { what: what.into(), measured, unit, target }
    }
}

impl Spread {
    /// # Panics
    /// If there is no round.
    pub(crate) fn of(rounds: impl IntoIterator<Item = f64>) -> Self {
        let mut rounds: Vec<f64> = rounds.into_iter().collect();
        assert!(!rounds.is_empty(), "nothing was measured");
        rounds.sort_by(f64::total_cmp);
        let at = |quarter: usize| rounds[(rounds.len() - 1) * quarter / 4];
        let middle = rounds.len() / 2;
        let median =
            if rounds.len() % 2 == 1 { rounds[middle] } else { f64::midpoint(rounds[middle - 1], rounds[middle]) };
        Self { median, low: at(1), high: at(3) }
    }

    /// In milliseconds.
    pub(crate) fn of_times(rounds: impl IntoIterator<Item = Duration>) -> Self {
        Self::of(rounds.into_iter().map(millis))
    }
}

pub(crate) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

impl Target {
    /// Judged as precisely as it is printed.
    fn verdict(self, value: f64) -> &'static str {
        let value = (value * 1000.0).round() / 1000.0;
        let met = match self {
            Self::AtLeast(least) => value >= least,
            Self::AtMost(most) => value <= most,
            Self::Between(least, most) => (least..=most).contains(&value),
            Self::None => return "",
        };
        if met { "met" } else { "MISSED" }
    }

    fn text(self, unit: &str) -> String {
        match self {
            Self::AtLeast(least) => format!("≥ {least}{unit}"),
            Self::AtMost(most) => format!("≤ {most}{unit}"),
            Self::Between(least, most) => format!("{least} … {most}{unit}"),
            Self::None => String::new(),
        }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { median, low, high } = self;
        #[expect(clippy::float_cmp, reason = "they are the same number where there was one round")]
        if low == high { write!(f, "{median:.3}") } else { write!(f, "{median:.3} ({low:.3} … {high:.3})") }
    }
}

/// All of them, to be printed.
pub(crate) fn table(figures: &[Figure]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_BORDERS_ONLY);
    table.set_header(["figure", "measured: median (quartiles)", "", "target", ""]);
    for Figure { what, measured, unit, target } in figures {
        let unit = if unit.is_empty() { String::new() } else { format!(" {unit}") };
        let verdict = target.verdict(measured.median);
        table.add_row([what, &measured.to_string(), unit.trim(), &target.text(&unit), verdict]);
    }
    if let Some(column) = table.column_mut(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}
