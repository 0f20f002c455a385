//! One prober for readiness and liveness.
//!
//! Each watched worker has one task that looks at it ([`course`]) and, where it has a notify socket, one that hears it
//! ([`hearing`]). Both only report; what a report means is for the machine to say. One look at a time per worker: two could
//! want the same marked source port.
//!
//! ```text
//!             readiness pace              readiness pace, for min_ready         liveness pace, or nothing
//!  Starting ──── k good in a row ──► Passed ──── m bad in a row: Sick ────► steady ──── m bad in a row: Sick
//! ```

mod accept;
mod course;
mod exec;
mod hearing;
mod http;
mod notify;
#[cfg(test)]
mod tests;
mod watches;

pub use watches::{Finding, Prober, Stage, Subject, watchdog_allowance};

/// A time as people read it: `2 s`, `0.25 s`.
fn seconds(time: std::time::Duration) -> String {
    let millis = time.as_millis();
    match (millis / 1000, millis % 1000) {
        (whole, 0) => format!("{whole} s"),
        (whole, rest) => format!("{whole}.{} s", format!("{rest:03}").trim_end_matches('0')),
    }
}
