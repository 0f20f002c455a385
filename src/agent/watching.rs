//! The watched binary: from "something changed near the path" to "the file has settled with this content".

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tracing::warn;

use super::happening::Happening;
use crate::release::digest::digest_of;
use crate::release::settle::{Look, Settle, Stat};
use crate::release::watch::Watcher;
use crate::sys::clock;
use crate::units::ServiceName;

/// Network and some layered file systems send no events; there the file is looked at this often.
const SLOW_LOOK: Duration = Duration::from_secs(10);

/// Several events in one burst are one reason to look: a full queue means that a look is due anyway.
const EVENTS_BOUND: usize = 1;

/// Watches for ever; ends with the task.
pub(crate) async fn watch(service: ServiceName, path: PathBuf, wait: Duration, inbox: mpsc::Sender<Happening>) {
    let (changed, mut changes) = mpsc::channel(EVENTS_BOUND);
    let tell = move |_| {
        // A full queue says the same already.
        let _ = changed.try_send(());
    };
    let mut watcher = match Watcher::open(&path, tell) {
        Ok(watcher) => Some(watcher),
        Err(error) => {
            warn!(%service, path = %path.display(), error = super::chain(&error), "no events for the watched binary: looking every 10 s");
            None
        }
    };
    // What is there now may have come while nobody watched: before this agent was started again, for instance. Whoever
    // hears of it knows whether it is new.
    let mut settle = Settle::new(wait, None);
    let mut due = None;
    loop {
        match due {
            Some(at) => sleep(clock::until(at)).await,
            // Only the timeout says that no event came; a closed channel (no watcher) is for ever silent.
            None => drop(timeout(SLOW_LOOK, next(&mut changes)).await),
        }
        if let Some(watcher) = &mut watcher
            && let Err(error) = watcher.refresh()
        {
            warn!(%service, path = %path.display(), error = super::chain(&error), "cannot watch for the next change of the binary");
        }
        due = match settle.look(clock::now(), look(&path)) {
            Look::LookAgainAt(at) => Some(at),
            Look::Nothing => None,
            Look::Settled(_) => {
                match report(&service, &path, &inbox).await {
                    Told::Yes => {}
                    Told::Unread => settle.forget(),
                    Told::NobodyListens => return,
                }
                None
            }
        };
    }
}

async fn next(changes: &mut mpsc::Receiver<()>) {
    if changes.recv().await.is_none() {
        std::future::pending::<()>().await;
    }
}

fn look(path: &std::path::Path) -> Option<Stat> {
    Stat::of(path).ok().flatten()
}

/// What became of a report.
enum Told {
    Yes,
    /// The file could not be read: it is looked at again.
    Unread,
    NobodyListens,
}

async fn report(service: &ServiceName, path: &std::path::Path, inbox: &mpsc::Sender<Happening>) -> Told {
    let owned = path.to_owned();
    match tokio::task::spawn_blocking(move || digest_of(&owned)).await {
        Ok(Ok(digest)) => match inbox.send(Happening::NewContent(service.clone(), digest)).await {
            Ok(()) => Told::Yes,
            Err(_) => Told::NobodyListens,
        },
        Ok(Err(error)) => {
            warn!(%service, path = %path.display(), error = super::chain(&error), "cannot read the watched binary");
            Told::Unread
        }
        Err(_) => Told::NobodyListens,
    }
}
