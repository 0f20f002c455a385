//! A timer that wakes its waiter once, when it is time (timerfd_create(2)). A long sleep of the runtime wakes twice: when
//! the wheel that holds it turns, and again at its end.

use std::io;
use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use super::fd;
use super::watched::Watched;
use crate::units::Moment;

/// One timer.
pub struct Timer {
    timer: TimerFd,
    /// The same timer, through another fd.
    watched: Watched,
    set_to: Option<Moment>,
}

impl Timer {
    /// A timer that is not set. Panics outside of a tokio runtime.
    ///
    /// # Errors
    /// Out of fds or memory.
    pub fn new() -> io::Result<Self> {
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        let watched = Watched::new(fd::duplicate(&timer)?)?;
        Ok(Self { timer, watched, set_to: None })
    }

    /// Returns at this moment, or at once if it is over. Cancel-safe: a wait that is begun again goes on.
    ///
    /// # Errors
    /// None that a moment could cause; the runtime is shutting down.
    pub async fn until(&mut self, moment: Moment) -> io::Result<()> {
        if self.set_to != Some(moment) {
            // Zero would switch it off.
            let at = TimeSpec::from_duration(Duration::from_nanos(moment.0.max(1)));
            self.timer.set(Expiration::OneShot(at), TimerSetTimeFlags::TFD_TIMER_ABSTIME)?;
            self.set_to = Some(moment);
        }
        self.watched.read_with(|_| self.timer.wait().map_err(io::Error::from)).await?;
        self.set_to = None;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;
    use crate::sys::clock;

    #[tokio::test]
    async fn it_ends_at_its_moment_and_can_be_set_anew() {
        let mut timer = Timer::new().expect("a timer");
        timer.until(Moment(0)).await.expect("what is over ends at once");
        let far = clock::now().after(Duration::from_secs(3600));
        for _ in 0..2 {
            assert!(timeout(Duration::from_millis(5), timer.until(far)).await.is_err());
        }
        let near = clock::now().after(Duration::from_millis(20));
        timer.until(near).await.expect("ends");
        assert!(clock::now() >= near);
        // One that rang for nobody does not ring for the next.
        let missed = clock::now();
        assert!(timeout(Duration::ZERO, timer.until(missed.after(Duration::from_millis(100)))).await.is_err());
        timer.watched.readable().await.expect("it rings");
        assert!(timeout(Duration::from_millis(5), timer.until(far)).await.is_err());
    }
}
