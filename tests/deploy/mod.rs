//! A service under load whose workers are replaced: what the tests of rollouts on real programs have in common.
//!
//! A [`Scene`] is an agent, a client that sends every kind of traffic at a steady rate, and a sampler of ready workers.
//! Its [`Scene::end`] is the assertion that counts: not one request failed.

#[path = "../load/mod.rs"]
#[expect(dead_code, reason = "the load program and other tests use more of it")]
pub(crate) mod load;
#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "no test uses the whole rig")]
pub(crate) mod support;

use std::env;
use std::fs::{self, Permissions};
use std::io::{Write, stderr};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use load::mix::Mix;
use load::report::Report;
use load::{Load, Running};
use support::sampler::{ReadySampler, Samples};
use support::{GENEROUS, Rig, example};
use tempfile::TempDir;

/// What the workers are written in.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Language {
    Rust,
    Node,
    Python,
}

impl Language {
    /// Makes a release of the polite worker that answers with this version.
    pub(crate) fn release(self, to: &Path, version: &str) -> PathBuf {
        let source = match self {
            Self::Rust => return example::release(&example::built("worker"), to, &[("VERSION", version)]),
            Self::Node => "worker.js",
            Self::Python => "worker.py",
        };
        put_in_place(with_version(&format!("examples/{source}"), version), to);
        to.to_owned()
    }

    /// Whether its programs can run here. Where `tests/run.sh` installs what they need, a missing tool is a failure.
    pub(crate) fn is_here(self) -> bool {
        let tool = match self {
            Self::Rust => return true,
            Self::Node => "node",
            Self::Python => "python3",
        };
        let found = Command::new(tool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        let there = found.is_ok_and(|status| status.success());
        assert!(there || env::var_os("ROLLOUT_TESTS_NEED_TOOLS").is_none(), "{tool} is not installed");
        if !there {
            say(&format!("skipped: {tool} is not installed"));
        }
        there
    }
}

/// The text of a program of this repository that answers with this version.
pub(crate) fn with_version(source: &str, version: &str) -> String {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(source);
    let text = fs::read_to_string(&source).unwrap_or_else(|error| panic!("{}: {error}", source.display()));
    let lines = ["VERSION = \"v1\"", "VERSION: &str = \"v1\""];
    let line = lines.into_iter().find(|line| text.contains(line));
    let line = line.unwrap_or_else(|| panic!("{} has no line {}", source.display(), lines[0]));
    text.replace(line, &line.replace("v1", version))
}

/// Writes a program, which appears whole.
pub(crate) fn put_in_place(text: impl AsRef<[u8]>, to: &Path) {
    let unfinished = to.with_extension("unfinished");
    fs::write(&unfinished, text).expect("write a release");
    fs::set_permissions(&unfinished, Permissions::from_mode(0o755)).expect("make it executable");
    fs::rename(&unfinished, to).expect("put it in place");
}

/// For workers that say themselves that they are ready.
pub(crate) const BRISK: &str = "rollout: {min_ready: 200ms}";

/// For workers that are looked at: a look gets half of this, and where many tests share two cores a good program may take a
/// fifth of a second to answer.
pub(crate) const CALM: &str = "rollout: {min_ready: 600ms}";

/// The versions that a [`Scene`] has releases of: `v1` runs first.
pub(crate) const VERSIONS: [&str; 3] = ["v1", "v2", "v3"];

/// A service `web` under load.
pub(crate) struct Scene {
    pub(crate) rig: Rig,
    name: &'static str,
    loads: Vec<Running>,
    /// Until the load is stopped.
    sampler: Option<ReadySampler>,
}

impl Scene {
    /// Starts `web` with these lines of configuration beside its `binary:`, waits until every slot serves, and then puts
    /// load on its first listener.
    pub(crate) fn start(name: &'static str, language: Language, lines: &[&str], mix: Mix) -> Self {
        Self::start_with(name, |to, version| drop(language.release(to, version)), lines, mix)
    }

    /// The same with releases of another make.
    pub(crate) fn start_with(name: &'static str, release: impl Fn(&Path, &str), lines: &[&str], mix: Mix) -> Self {
        let home = TempDir::new().expect("a temporary directory");
        release(&home.path().join("web"), VERSIONS[0]);
        for version in VERSIONS {
            release(&home.path().join(version), version);
        }
        let mut rig = Rig::start_in(home, &config(lines));
        rig.wait_until_serving();
        let sampler = Some(ReadySampler::start(&rig, "web"));
        let mut scene = Self { rig, name, loads: vec![], sampler };
        scene.put_load_on(scene.rig.address("web", 0), mix);
        scene
    }

    /// Puts more load on it; returns when its first answers are there.
    pub(crate) fn put_load_on(&mut self, address: SocketAddr, mix: Mix) {
        let mix = Mix { known: VERSIONS.map(str::to_owned).to_vec(), ..mix };
        let load = Load::start(address, mix).expect("the address is loopback");
        assert!(load.wait_until(GENEROUS, |report| report.ok() >= 50), "no load:\n{}", load.so_far());
        self.loads.push(load);
    }

    /// Deploys a version and expects that the command says that it is live.
    pub(crate) fn deploy(&self, version: &str) {
        let said = self.rig.deploy(&self.rig.home().join(version));
        assert_eq!(said.code, Some(0), "deploy {version}: {said:?}\n--- load\n{}", self.report());
    }

    /// Deploys back to back: v2, v1, v2 … Gives back what is live at the end.
    pub(crate) fn deploy_alternating(&self, times: usize) -> &'static str {
        let live = |round: usize| VERSIONS[(round + 1) % 2];
        (0..times).for_each(|round| self.deploy(live(round)));
        live(times - 1)
    }

    /// Runs a command that must end with exit code 0.
    pub(crate) fn cli(&self, arguments: &[&str]) {
        let said = self.rig.cli(arguments);
        assert_eq!(said.code, Some(0), "rollout {arguments:?}: {said:?}\n--- load\n{}", self.report());
    }

    /// Waits until every slot runs what was live last and nothing is under way.
    pub(crate) fn wait_until_at_rest(&mut self, workers: usize) {
        self.rig.wait_for_status("the service is at rest", |status| {
            let web = &status.services[0];
            let all_ready = web.workers.iter().all(|worker| worker.state == "ready" && worker.release == web.release);
            web.rollout.is_none() && web.workers.len() == workers && all_ready
        });
    }

    /// What the clients have seen so far.
    pub(crate) fn report(&self) -> Report {
        merged(self.loads.iter().map(Running::so_far))
    }

    /// How many workers were ready and there in this phase; the next phase begins.
    pub(crate) fn next_phase(&mut self, what: &str) -> Samples {
        let next = ReadySampler::start(&self.rig, "web");
        let seen = self.sampler.replace(next).expect("the load goes on").stop();
        say(&format!("{}: {what}: {seen:?}", self.name));
        let report = self.report();
        assert_eq!(report.failures(), 0, "{what}:\n{report}\n--- log\n{}", self.rig.log());
        seen
    }

    /// Ends the load and asserts that no request failed, that at least `least` workers were ready all the time, and that
    /// `live` answers alone, and that the agent found no fault with anything. Then stops the agent, which must leave nothing behind.
    pub(crate) fn end(mut self, least: usize, live: &str) {
        let mix = Mix { fresh: 200.0, ..Mix::default() };
        let now = self.rig.address("web", 0);
        let (report, seen) = self.stop_load();
        assert_eq!((report.failures(), report.ok()), (0, report.sent()), "{report}\n--- log\n{}", self.rig.log());
        assert!(seen.least_ready >= least, "{seen:?}\n--- log\n{}", self.rig.log());
        self.put_load_on(now, mix);
        let last = self.loads.remove(0);
        assert!(last.wait_until(GENEROUS, |report| report.ok() >= 100), "{}", last.so_far());
        let last = last.stop();
        assert_eq!(last.failures(), 0, "{last}");
        assert_eq!(last.versions.keys().collect::<Vec<_>>(), [live], "{last}");
        let log = self.rig.log();
        let complaints: Vec<_> =
            log.lines().filter(|line| line.contains(" WARN ") || line.contains(" ERROR ")).collect();
        assert!(complaints.is_empty(), "nothing was wrong, but the agent says: {complaints:#?}");
        let status = self.rig.stop();
        assert!(status.success(), "the keeper ended with {status}");
    }

    /// Ends the load; what the clients and the sampler have seen.
    pub(crate) fn stop_load(&mut self) -> (Report, Samples) {
        let report = merged(self.loads.drain(..).map(Running::stop));
        let seen = self.sampler.take().expect("the load goes on").stop();
        say(&format!("{}: {seen:?}\n{report}", self.name));
        (report, seen)
    }
}

/// A configuration with one service `web` and these lines in it.
pub(crate) fn config(lines: &[&str]) -> String {
    let mut config = "services:\n  web:\n    binary: web\n".to_owned();
    lines.iter().for_each(|line| config += &format!("    {line}\n"));
    config
}

fn merged(reports: impl Iterator<Item = Report>) -> Report {
    reports.fold(Report::default(), |mut all, report| {
        all.merge(&report);
        all
    })
}

/// To whoever runs the tests.
pub(crate) fn say(what: &str) {
    let _seen_or_not = writeln!(stderr(), "{what}");
}
