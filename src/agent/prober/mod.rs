//! One prober for readiness and liveness.
