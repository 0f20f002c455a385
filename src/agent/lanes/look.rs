//! Looking at accept queues. There is no kernel event for "a queue has been waiting", so this looks: once a second while
//! all is quiet, every 10 ms while something waits somewhere.
//!
//! *Feedback*: new connections prefer lanes where nothing waits. A random choice alone puts one connection in eleven
//! behind a slow one; with feedback it is one in twenty. *Suspects*: a worker in whose lane something waits without a
//! break does not accept. *Damage*: a lane that was shut down is brought back.

use std::time::Duration;

use tracing::warn;

use super::report::{Damage, Standing};
use super::table::Lanes;
use crate::units::{LaneIndex, Moment, WorkerId};

/// While something waits: shorter gains little (11.2 % slow requests without, 4.7 % at 10 ms, 4.2 % at 2 ms).
const BUSY: Duration = Duration::from_millis(10);
/// While nothing does: an idle agent wakes once a second.
const QUIET: Duration = Duration::from_secs(1);

/// What was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Look {
    /// When to look again; `None` if there is nothing to look at.
    pub next: Option<Moment>,
    /// Admitted workers in whose lane something has waited for so long.
    pub suspects: Vec<(WorkerId, Duration)>,
    /// What was found and undone since the last report.
    pub damage: Vec<Damage>,
}

impl Lanes {
    /// Looks at every lane, steers by what is seen, and repairs what was damaged.
    pub fn look(&mut self, now: Moment, hung_after: Duration) -> Look {
        self.tasks.sweep();
        if let Err(error) = self.repair() {
            warn!(service = %self.service, %error, "a lane cannot be repaired");
        }
        let waiting = self.prefer_idle();
        let suspects = self.suspects(now, hung_after, &waiting);
        let pause = if waiting.is_empty() { QUIET } else { BUSY };
        let next = self.groups().next().map(|_| now.after(pause));
        Look { next, suspects, damage: std::mem::take(&mut self.damage) }
    }

    /// Steers each listener to the admitted lanes where nothing waits, to all of them if there is no such lane. Gives back
    /// the lanes in which something waits.
    fn prefer_idle(&mut self) -> Vec<LaneIndex> {
        let mut all_waiting = vec![];
        let admitted: Vec<_> = self.entries.iter().map(|entry| self.admitted(entry.listener.name())).collect();
        for (entry, admitted) in self.entries.iter_mut().zip(admitted) {
            let Some(group) = entry.listener.group_mut() else { continue };
            let (waiting, idle): (Vec<_>, Vec<_>) = admitted.iter().partition(|lane| group.look(**lane).queued > 0);
            let to = if idle.is_empty() { &admitted } else { &idle };
            if let Err(error) = group.steer(to) {
                warn!(service = %self.service, %error, "new connections are steered as before");
            }
            all_waiting.extend(waiting);
        }
        all_waiting
    }

    fn suspects(&mut self, now: Moment, hung_after: Duration, waiting: &[LaneIndex]) -> Vec<(WorkerId, Duration)> {
        let mut suspects = vec![];
        for (worker, tenant) in &mut self.tenants {
            let waits =
                tenant.standing == Standing::Admitted && tenant.lane.is_some_and(|lane| waiting.contains(&lane));
            tenant.waiting_since = waits.then(|| tenant.waiting_since.unwrap_or(now));
            let waited = tenant.waiting_since.map(|since| now.since(since));
            suspects.extend(waited.filter(|waited| *waited >= hung_after).map(|waited| (*worker, waited)));
        }
        suspects
    }
}
