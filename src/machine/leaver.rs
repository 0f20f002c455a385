//! Workers that were told to go. The escalation from "no new connection" to SIGKILL lives here and nowhere else.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::event::{Action, OnStop, Target};
use super::limits::{Limits, Linger};
use super::service::Turn;
use crate::units::{Moment, RolloutId, Slot, WorkerId};

/// One worker on its way out.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Leaver {
    pub(super) worker: WorkerId,
    pub(super) slot: Slot,
    pub(super) target: Target,
    pub(super) since: Moment,
    /// The rollout that it makes room for: these count towards `max_draining`.
    pub(super) for_rollout: Option<RolloutId>,
    standing: Standing,
    farewell: Farewell,
}

/// How far it has got.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
enum Farewell {
    /// Excluded; its lane's queue empties.
    Settling { until: Moment },
    /// It serves the connections it has and knows of nothing.
    Lingering { until: Moment },
    /// The stop signal was sent.
    Stopping { since: Moment, kill_at: Moment },
    /// SIGKILL was sent.
    Killed { again_at: Moment },
}

/// Who is told to go.
#[derive(Debug, Clone, Copy)]
pub(super) struct Goer {
    pub(super) worker: WorkerId,
    pub(super) slot: Slot,
    pub(super) target: Target,
}

/// What a worker that is told to go was doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) enum Standing {
    /// Clients may have reached it.
    Admitted,
    /// No client ever reached it.
    Unseen,
}

/// How long a program that dies of the stop signal is left alone first, when nothing else is said.
const LINGER_WHERE_FATAL: Duration = Duration::from_secs(10);

/// A killed worker that is still there after this long is killed again: its tree may have grown meanwhile.
const KILL_AGAIN: Duration = Duration::from_secs(5);

/// A worker may put its deadlines off to this many times their configured length.
pub(super) const EXTENSION: u32 = 10;

impl Leaver {
    /// Tells a worker to go.
    pub(super) fn new(
        who: Goer,
        standing: Standing,
        for_rollout: Option<RolloutId>,
        limits: &Limits,
        turn: &mut Turn,
    ) -> Self {
        let Goer { worker, slot, target } = who;
        let farewell = match standing {
            Standing::Admitted => {
                turn.out.push(Action::Exclude(worker));
                Farewell::Settling { until: turn.now.after(limits.settle) }
            }
            Standing::Unseen => stop(worker, turn.now, limits, &mut turn.out),
        };
        Self { worker, slot, target, since: turn.now, for_rollout, standing, farewell }
    }

    pub(super) fn settled(&mut self, on_stop: OnStop, now: Moment, limits: &Limits, out: &mut Vec<Action>) {
        match self.farewell {
            Farewell::Settling { .. } => self.linger(on_stop, now, limits, out),
            Farewell::Lingering { .. } | Farewell::Stopping { .. } | Farewell::Killed { .. } => {}
        }
    }

    pub(super) fn emptied(&mut self, now: Moment, limits: &Limits, out: &mut Vec<Action>) {
        match self.farewell {
            Farewell::Lingering { .. } => self.farewell = stop(self.worker, now, limits, out),
            Farewell::Settling { .. } | Farewell::Stopping { .. } | Farewell::Killed { .. } => {}
        }
    }

    pub(super) fn extended(&mut self, by: Duration, now: Moment, limits: &Limits) {
        match &mut self.farewell {
            Farewell::Stopping { since, kill_at } => {
                let latest = since.after(limits.drain_timeout.saturating_mul(EXTENSION));
                *kill_at = now.after(by).min(latest).max(*kill_at);
            }
            Farewell::Settling { .. } | Farewell::Lingering { .. } | Farewell::Killed { .. } => {}
        }
    }

    pub(super) fn deadline(&self) -> Moment {
        match self.farewell {
            Farewell::Settling { until } | Farewell::Lingering { until } => until,
            Farewell::Stopping { kill_at, .. } => kill_at,
            Farewell::Killed { again_at } => again_at,
        }
    }

    /// Takes the next step if its time has come.
    pub(super) fn expire(&mut self, now: Moment, limits: &Limits, out: &mut Vec<Action>) -> Expired {
        if now < self.deadline() {
            return Expired::Nothing;
        }
        match self.farewell {
            Farewell::Settling { .. } => {
                self.linger(OnStop::Caught, now, limits, out);
                Expired::Nothing
            }
            Farewell::Lingering { .. } => {
                self.farewell = stop(self.worker, now, limits, out);
                Expired::Nothing
            }
            Farewell::Stopping { .. } => {
                self.kill(now, out);
                Expired::Killed
            }
            Farewell::Killed { .. } => {
                self.kill(now, out);
                Expired::Nothing
            }
        }
    }

    pub(super) fn kill(&mut self, now: Moment, out: &mut Vec<Action>) {
        self.farewell = Farewell::Killed { again_at: now.after(KILL_AGAIN) };
        out.push(Action::Kill(self.worker));
    }

    pub(super) fn was_admitted(&self) -> bool {
        self.standing == Standing::Admitted
    }

    pub(super) fn is_killed(&self) -> bool {
        match self.farewell {
            Farewell::Killed { .. } => true,
            Farewell::Settling { .. } | Farewell::Lingering { .. } | Farewell::Stopping { .. } => false,
        }
    }

    /// What a new agent must do again, because the old one may have died before it did it.
    pub(super) fn again(&self, out: &mut Vec<Action>) {
        // The one step that was lost may have excluded it and gone on from there.
        if self.was_admitted() {
            out.push(Action::Exclude(self.worker));
        }
        match self.farewell {
            Farewell::Settling { .. } => {}
            Farewell::Lingering { .. } => out.push(Action::AwaitEmpty(self.worker)),
            Farewell::Stopping { .. } => out.push(Action::Stop(self.worker)),
            Farewell::Killed { .. } => out.push(Action::Kill(self.worker)),
        }
    }

    fn linger(&mut self, on_stop: OnStop, now: Moment, limits: &Limits, out: &mut Vec<Action>) {
        let linger = match (limits.linger, on_stop) {
            (Linger::For(linger), OnStop::Caught | OnStop::Fatal) => linger,
            (Linger::Auto, OnStop::Caught) => Duration::ZERO,
            (Linger::Auto, OnStop::Fatal) => LINGER_WHERE_FATAL,
        };
        self.farewell = if linger.is_zero() {
            stop(self.worker, now, limits, out)
        } else {
            out.push(Action::AwaitEmpty(self.worker));
            Farewell::Lingering { until: now.after(linger) }
        };
    }
}

/// What time has done to a leaver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expired {
    Nothing,
    Killed,
}

fn stop(worker: WorkerId, now: Moment, limits: &Limits, out: &mut Vec<Action>) -> Farewell {
    out.push(Action::Stop(worker));
    Farewell::Stopping { since: now, kill_at: now.after(limits.drain_timeout) }
}
