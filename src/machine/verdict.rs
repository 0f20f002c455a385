//! Probe results → verdict: k good in a row, m bad in a row. For readiness and liveness alike.
