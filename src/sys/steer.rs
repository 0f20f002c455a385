//! The classic-BPF program that picks a lane.
