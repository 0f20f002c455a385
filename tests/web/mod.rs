//! The service of the tests with faults: `web`, workers of the example program, on the path `web` of the rig's home.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use rollout::units::Digest;
use rollout::wire::api::{History, Outcome, Progress, Report, Step};
use tempfile::TempDir;

use crate::load::Running;
use crate::load::mix::{Mix, Pool};
use crate::load::{Load, report};
use crate::support::{CliResult, GENEROUS, Rig, control, example};

/// Four workers that are ready soon. `more` are further keys of the service, indented by four spaces.
pub(crate) fn config(more: &str) -> String {
    config_of(4, more)
}

/// The same with another number of workers.
pub(crate) fn config_of(workers: u32, more: &str) -> String {
    format!(
        "services:\n  web:\n    binary: ./web\n    workers: {workers}\n    listen: [127.0.0.1:0]\n    \
         watch: {{settle: 100ms}}\n    env: {{RUST_BACKTRACE: \"0\"}}\n{more}"
    )
}

/// Ready by `/healthz`, within a second; the usual `readiness` here.
pub(crate) const HEALTHZ: &str = "    readiness: {http: /healthz, timeout: 1500ms, interval: 20ms}\n";

/// A home with `v1` of the polite worker on the watched path.
pub(crate) fn home() -> TempDir {
    let home = TempDir::new().expect("a temporary directory");
    example::release(&example::built("worker"), &home.path().join("web"), &[("VERSION", "v1")]);
    home
}

/// A rig whose four workers serve `v1`.
pub(crate) fn serving(config: &str) -> Rig {
    let mut rig = Rig::start_in(home(), config);
    rig.wait_until_serving();
    rig
}

/// A polite release that answers `version`, in a file of that name.
pub(crate) fn polite(rig: &Rig, version: &str) -> PathBuf {
    example::release(&example::built("worker"), &rig.home().join(version), &[("VERSION", version)])
}

/// A release with a fault that answers `version`, in a file of that name.
pub(crate) fn faulty(rig: &Rig, version: &str, fault: &str) -> PathBuf {
    let lines = [("VERSION", version), ("FAULT", fault)];
    example::release(&example::built("faulty"), &rig.home().join(version), &lines)
}

/// Replaces what is on the watched path, as a build does.
pub(crate) fn put_on_watched_path(rig: &Rig, release: &Path) {
    let unfinished = rig.home().join("web.unfinished");
    fs::copy(release, &unfinished).expect("copy");
    fs::rename(unfinished, rig.home().join("web")).expect("rename");
}

/// New and kept connections, enough of them to meet every worker often.
pub(crate) fn load(rig: &Rig) -> Running {
    let kept = Pool { connections: 8, think: std::time::Duration::from_millis(100) };
    let mix = Mix { fresh: 60.0, kept, ..Mix::default() };
    let load = Load::start(rig.address("web", 0), mix).expect("the address is loopback");
    assert!(load.wait_until(GENEROUS, |report| report.ok() > 20), "no traffic: {}", load.so_far());
    load
}

/// The load has gone well from its beginning to here, and goes on.
pub(crate) fn assert_no_failure(load: &Running, when: &str) {
    let before = load.so_far().sent();
    assert!(load.wait_until(GENEROUS, |report| report.ok() > before), "{when}: no answers: {}", load.so_far());
    let report = load.so_far();
    assert_eq!(report.failures(), 0, "{when}: {report}");
}

/// Ends the load; nothing failed.
pub(crate) fn end_without_failure(load: Running) -> report::Report {
    let report = load.stop();
    assert_eq!((report.failures(), report.ok()), (0, report.sent()), "{report}");
    report
}

/// Every slot serves this one release, and nothing else is under way.
pub(crate) fn wait_for_release(rig: &mut Rig, release: Digest, workers: usize) {
    let settled = rig.wait_for_status(&format!("every slot runs {}", release.short()), |status| {
        let service = &status.services[0];
        service.rollout.is_none()
            && service.workers.len() == workers
            && service.workers.iter().all(|worker| worker.state == "ready" && worker.release == Some(release))
    });
    assert_eq!(settled.services[0].release, Some(release), "{settled:#?}");
}

/// The release that is live.
pub(crate) fn live(rig: &Rig) -> Digest {
    rig.service("web").release.expect("a release is live")
}

/// What the journal says, newest first.
pub(crate) fn history(rig: &Rig) -> History {
    let answer = control::get(&rig.socket(), "/v1/services/web/history").expect("ask");
    serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{error} in {}", answer.body))
}

/// The report at the end of `--json`.
pub(crate) fn report_in(result: &CliResult) -> Report {
    let steps: Vec<Step> = result
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}")))
        .collect();
    match steps.into_iter().next_back() {
        Some(Step { progress: Progress::Ended(report), .. }) => report,
        other => panic!("no report at the end, but {other:?} of {result:?}"),
    }
}

/// The pids of the ready workers.
pub(crate) fn ready(rig: &Rig) -> BTreeSet<i32> {
    rig.pids("web", "ready").into_iter().collect()
}

/// How the newest rollout ended.
pub(crate) fn last_outcome(rig: &Rig) -> Option<Outcome> {
    history(rig).entries.first().map(|entry| entry.outcome)
}
