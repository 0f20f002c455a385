//! Latencies, each kept to 3 % or better.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::ser::{Serialize, SerializeStruct, Serializer};

/// How often each latency occurred: 32 steps for each doubling, in microseconds.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Histogram {
    steps: BTreeMap<u64, u64>,
    count: u64,
    max: Duration,
}

impl Histogram {
    /// Counts one.
    pub(crate) fn add(&mut self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        *self.steps.entry(upper_bound(micros)).or_default() += 1;
        self.count += 1;
        self.max = self.max.max(latency);
    }

    /// Adds all of another.
    pub(crate) fn merge(&mut self, other: &Self) {
        for (step, count) in &other.steps {
            *self.steps.entry(*step).or_default() += count;
        }
        self.count += other.count;
        self.max = self.max.max(other.max);
    }

    /// The latency that `per_mille` of 1000 stayed within. Zero if there is none.
    pub(crate) fn quantile(&self, per_mille: u64) -> Duration {
        let rank = (self.count * per_mille).div_ceil(1000).max(1);
        let mut seen = 0;
        for (step, count) in &self.steps {
            seen += count;
            if seen >= rank {
                return Duration::from_micros(*step).min(self.max);
            }
        }
        self.max
    }

    /// The longest.
    pub(crate) fn max(&self) -> Duration {
        self.max
    }
}

/// Keeps the six highest bits and sets the others, so that a figure is never better than what was measured.
fn upper_bound(micros: u64) -> u64 {
    let blurred = (u64::BITS - micros.leading_zeros()).saturating_sub(6);
    micros | ((1 << blurred) - 1)
}

impl Serialize for Histogram {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let millis = |latency: Duration| latency.as_secs_f64() * 1000.0;
        let mut fields = serializer.serialize_struct("Latency", 3)?;
        fields.serialize_field("p50_ms", &millis(self.quantile(500)))?;
        fields.serialize_field("p99_ms", &millis(self.quantile(990)))?;
        fields.serialize_field("max_ms", &millis(self.max))?;
        fields.end()
    }
}
