//! What became of a rollout whose connection was lost, because its agent was killed, crashed or was replaced.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::client::Client;
use super::exit::{Exit, Failure};
use super::render;
use crate::units::{Digest, RolloutId};
use crate::wire::api::{Entry, History, Outcome, Progress, Report, RolloutStatus, ServiceStatus, Status};

/// How long an agent that has come back may take to find the rollout again.
const RECOVERING: Duration = Duration::from_secs(30);
/// What the steps have told so far.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Which rollout this is.
    pub(super) rollout: Option<RolloutId>,
    release: Option<Digest>,
    slots: u32,
}

impl Known {
    /// Takes a step in.
    pub(super) fn learn(&mut self, step: &Progress) {
        match step {
            Progress::Stored { release, .. } => self.release = Some(*release),
            Progress::Queued { rollout, .. } => self.rollout = Some(*rollout),
            Progress::Began { rollout, release, slots, .. } => {
                self.rollout = Some(*rollout);
                self.release = Some(*release);
                self.slots = *slots;
            }
            Progress::Starting { .. }
            | Progress::Ready { .. }
            | Progress::Draining { .. }
            | Progress::Gone { .. }
            | Progress::Failed { .. }
            | Progress::RollingBack { .. }
            | Progress::Paused { .. }
            | Progress::Resumed
            | Progress::Ended(_) => {}
        }
    }

    /// Whether a rollout that is under way is this one. One that was not named yet is known by its release.
    fn is(&self, rollout: &RolloutStatus) -> bool {
        match self.rollout {
            Some(id) => id == rollout.id,
            None => self.release == Some(rollout.to),
        }
    }
}

/// What a look at a returned agent shows.
enum Look {
    UnderWay(RolloutId),
    NotThere,
    Paused(String),
}

/// Waits for the agent, follows the rollout there, and reports how it ended by its journal.
pub(super) async fn outcome(client: &Client, service: &str, known: &mut Known) -> Result<Report, Failure> {
    loop {
        let mut changes = client.changes_once_back().await?;
        let mut unseen_until = Some(Instant::now() + RECOVERING);
        loop {
            let change = match unseen_until {
                Some(deadline) => timeout_at(deadline, changes.next()).await.unwrap_or(Ok(None)),
                None => changes.next().await,
            };
            let Ok(Some(status)) = change else { break };
            match look(&status, service, known) {
                Look::UnderWay(id) => {
                    known.rollout = Some(id);
                    unseen_until = None;
                }
                Look::Paused(cause) => return Ok(paused(service, known, cause)),
                Look::NotThere => {
                    if let Some(report) = from_journal(client, service, known).await {
                        return Ok(report);
                    }
                }
            }
        }
        if unseen_until.is_some_and(|deadline| deadline <= Instant::now()) {
            return Err(unknown(service));
        }
    }
}

fn look(status: &Status, service: &str, known: &Known) -> Look {
    let ours = status.services.iter().find(|of| of.name == service);
    let rollout = ours.and_then(|of: &ServiceStatus| of.rollout.as_ref()).filter(|rollout| known.is(rollout));
    match rollout {
        None => Look::NotThere,
        Some(RolloutStatus { phase, cause, .. }) if phase == "paused" => {
            Look::Paused(cause.clone().unwrap_or_else(|| "no cause given".to_owned()))
        }
        Some(rollout) => Look::UnderWay(rollout.id),
    }
}

async fn from_journal(client: &Client, service: &str, known: &Known) -> Option<Report> {
    let id = known.rollout?;
    // A journal that cannot be read now is read again after the next change.
    let History { entries } = client.get(&format!("/v1/services/{service}/history")).await.ok()?;
    entries.into_iter().find(|entry| entry.rollout == id).map(|entry| report(service, entry))
}

fn report(service: &str, entry: Entry) -> Report {
    let exit = match entry.outcome {
        Outcome::Done | Outcome::AlreadyLive => Exit::Done,
        Outcome::RolledBack => Exit::RolledBack,
        Outcome::NeedsPerson => Exit::NeedsPerson,
        Outcome::Superseded | Outcome::Stopped => Exit::Refused,
    };
    let release = if exit == Exit::Done { Some(entry.release) } else { entry.from };
    let (id, outcome) = (entry.rollout, render::outcome(entry.outcome));
    Report {
        rollout: Some(id),
        service: service.to_owned(),
        outcome: entry.outcome,
        release,
        said: format!("rollout {id} to {}: {outcome}, by the journal", entry.release.short()),
        failure: entry.failure,
        took_ms: entry.took_ms,
        exit: exit as u8,
    }
}

fn paused(service: &str, known: &Known, cause: String) -> Report {
    Report {
        rollout: known.rollout,
        service: service.to_owned(),
        outcome: Outcome::NeedsPerson,
        release: None,
        said: format!("the rollout is paused: {cause}"),
        failure: None,
        took_ms: 0,
        exit: Exit::NeedsPerson as u8,
    }
}

fn unknown(service: &str) -> Failure {
    let said = format!(
        "{service}: the agent came back but knows nothing of the rollout: look with 'rollout status' and 'rollout history -s {service}', and ask again"
    );
    Failure::told(Exit::NoAgent, said)
}
