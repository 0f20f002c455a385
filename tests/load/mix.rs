//! Which traffic, and how much of it.

use std::time::Duration;

/// The kinds of traffic that run together. The default is none of any kind.
#[derive(Debug, Clone)]
pub(crate) struct Mix {
    /// A new connection for each request: per second.
    pub(crate) fresh: f64,
    /// Connections that are kept open.
    pub(crate) kept: Pool,
    /// The same, seen through a round trip of 20 ms: what the server does is seen 10 ms later, and what the client writes
    /// arrives 10 ms later, so a server that closes an idle connection can find a request already under way to it.
    pub(crate) far: Pool,
    /// `/slow` requests that take [`Mix::SLOW`]: per second.
    pub(crate) slow: f64,
    /// Uploads that take [`Mix::UPLOAD`]: per second.
    pub(crate) upload: f64,
    /// Streamed answers that take [`Mix::STREAM`]: per second.
    pub(crate) stream: f64,
    /// How long a connection may take to be made.
    pub(crate) connect_timeout: Duration,
    /// How long an answer may take, beyond the time that it is asked to take.
    pub(crate) patience: Duration,
    /// The versions that may answer. Empty: any.
    pub(crate) known: Vec<String>,
}

/// Kept connections, each with a request every `think`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Pool {
    /// How many.
    pub(crate) connections: u32,
    /// From one request to the next.
    pub(crate) think: Duration,
}

impl Pool {
    /// No connection.
    pub(crate) const NONE: Self = Self { connections: 0, think: Duration::from_millis(100) };

    /// As many connections as make `rate` requests a second.
    pub(crate) fn of_rate(rate: f64, think: Duration) -> Self {
        Self { connections: whole(rate * think.as_secs_f64()), think }
    }
}

impl Mix {
    /// How long a slow request takes.
    pub(crate) const SLOW: Duration = Duration::from_secs(2);
    /// How long an upload takes.
    pub(crate) const UPLOAD: Duration = Duration::from_millis(1500);
    /// How long a streamed answer takes.
    pub(crate) const STREAM: Duration = Duration::from_secs(3);

    /// Every kind: about `rate` short requests a second, and one long one for each 20 of those.
    pub(crate) fn all(rate: f64) -> Self {
        Self {
            fresh: rate / 2.0,
            kept: Pool::of_rate(rate / 4.0, Duration::from_millis(100)),
            far: Pool::of_rate(rate / 4.0, Duration::from_millis(150)),
            slow: rate / 50.0,
            upload: rate / 50.0,
            stream: rate / 100.0,
            ..Self::default()
        }
    }
}

impl Default for Mix {
    fn default() -> Self {
        Self {
            fresh: 0.0,
            kept: Pool::NONE,
            far: Pool::NONE,
            slow: 0.0,
            upload: 0.0,
            stream: 0.0,
            // A dropped SYN is sent again after 1 s and after 3 s: only the second repetition is too late.
            connect_timeout: Duration::from_millis(2500),
            patience: Duration::from_secs(10),
            known: Vec::new(),
        }
    }
}

/// Upwards, so that a low rate is not none.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count of connections, clamped first")]
fn whole(number: f64) -> u32 {
    number.ceil().clamp(0.0, 10_000.0) as u32
}
