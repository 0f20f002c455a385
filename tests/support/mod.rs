//! The rig of the tests with real processes: an agent of its own per test, in a directory of its own, killed with
//! everything below it when the test ends, however it ends.
//!
//! ```ignore
//! #[expect(dead_code, reason = "no test uses the whole rig")]
//! mod support;
//!
//! let rig = Rig::start("services: {web: {binary: ./worker, workers: 4, listen: [127.0.0.1:0]}}");
//! ```
//!
//! Relative paths in the configuration are relative to [`Rig::home`], where it is written. Tests never sleep: they wait
//! for a level ("every slot runs v2") with [`Rig::wait_until`] or [`Rig::wait_for_status`].

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rollout::sys::clock;
use rollout::wire::api::{ServiceStatus, Status};
use tempfile::TempDir;

pub(crate) mod control;
pub(crate) mod example;
pub(crate) mod facts;
pub(crate) mod once;
pub(crate) mod sampler;
pub(crate) mod tree;

/// Far beyond what anything here takes on a busy machine.
pub(crate) const GENEROUS: Duration = Duration::from_secs(30);

/// A keeper with its agent and workers.
pub(crate) struct Rig {
    home: TempDir,
    keeper: Child,
    mark: tree::Mark,
}

/// What a command said.
#[derive(Debug)]
pub(crate) struct CliResult {
    /// `None` when a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A command that still runs; killed when dropped.
pub(crate) struct CliRun {
    child: Child,
    out: PathBuf,
    err: PathBuf,
}

impl Rig {
    /// Starts the built `rollout` on this configuration. Does not wait for anything: see [`Rig::wait_until_serving`].
    pub(crate) fn start(config: &str) -> Self {
        Self::start_in(TempDir::new().expect("a temporary directory"), config)
    }

    /// The same in a directory that was prepared before, with releases and scripts that the configuration names.
    pub(crate) fn start_in(home: TempDir, config: &str) -> Self {
        Self::start_program(Path::new(env!("CARGO_BIN_EXE_rollout")), home, config, &[])
    }

    /// The same with another program for `rollout run`, and further variables in its environment.
    pub(crate) fn start_program(program: &Path, home: TempDir, config: &str, env: &[(&str, &str)]) -> Self {
        fs::write(home.path().join("rollout.yaml"), config).expect("write the configuration");
        let mark = tree::Mark::new();
        let keeper = spawn(program, home.path(), &mark, env);
        Self { home, keeper, mark }
    }

    /// Starts the built `rollout` again in the same directory, after [`Rig::ended`].
    pub(crate) fn start_again(&mut self) {
        self.keeper = spawn(Path::new(env!("CARGO_BIN_EXE_rollout")), self.home.path(), &self.mark, &[]);
    }

    /// The directory of this test.
    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    /// The control socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.home.path().join("rollout.sock")
    }

    /// Writes another configuration; `SIGHUP` or `restart` makes the agent read it.
    pub(crate) fn write_config(&self, config: &str) {
        fs::write(self.home.path().join("rollout.yaml"), config).expect("write the configuration");
    }

    /// What keeper, agent and workers wrote to standard error so far.
    pub(crate) fn log(&self) -> String {
        let log = fs::read(self.home.path().join("agent.log")).expect("read the log");
        String::from_utf8_lossy(&log).into_owned()
    }

    // ---- waiting

    /// Waits for a fact. Gives up after [`GENEROUS`], or at once when the keeper is gone, and then shows everything.
    pub(crate) fn wait_until(&mut self, what: &str, mut is_so: impl FnMut(&Self) -> bool) {
        let deadline = clock::now().after(GENEROUS);
        while !is_so(self) {
            let gone = self.keeper.try_wait().expect("ask for the keeper");
            if gone.is_some() || clock::until(deadline).is_zero() {
                let why = gone.map_or("time is up".to_owned(), |status| format!("the keeper has ended ({status})"));
                let status = self.try_status();
                panic!("gave up waiting until {what}: {why}\n--- status\n{status:#?}\n--- log\n{}", self.log());
            }
            pause();
        }
    }

    /// Waits for a status that is as it should be, and returns it.
    pub(crate) fn wait_for_status(&mut self, what: &str, is_so: impl Fn(&Status) -> bool) -> Status {
        let mut found = None;
        self.wait_until(what, |rig| {
            found = rig.try_status().filter(|status| is_so(status));
            found.is_some()
        });
        found.expect("wait_until returns only when it is there")
    }

    /// Waits until every service serves.
    pub(crate) fn wait_until_serving(&mut self) -> Status {
        self.wait_for_status("every service serves", |status| {
            !status.services.is_empty() && status.services.iter().all(|service| service.state == "serving")
        })
    }

    // ---- looking

    /// The agent's status, if there is an agent that answers.
    pub(crate) fn try_status(&self) -> Option<Status> {
        let answer = control::get(&self.socket(), "/v1/status").ok()?;
        assert_eq!(answer.status, 200, "{}", answer.body);
        Some(serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("{error} in {}", answer.body)))
    }

    /// The agent's status.
    pub(crate) fn status(&self) -> Status {
        self.try_status().unwrap_or_else(|| panic!("the agent does not answer\n--- log\n{}", self.log()))
    }

    /// One service's status.
    pub(crate) fn service(&self, name: &str) -> ServiceStatus {
        let status = self.status();
        let found = status.services.iter().find(|service| service.name == name).cloned();
        found.unwrap_or_else(|| panic!("no service {name} in {status:#?}"))
    }

    /// Where a client reaches TCP listener number `index` of a service.
    pub(crate) fn address(&self, service: &str, index: usize) -> SocketAddr {
        let listen = self.service(service).listen;
        let mut address: SocketAddr = listen[index].parse().unwrap_or_else(|_| panic!("no TCP address: {listen:?}"));
        if address.ip().is_unspecified() {
            let loopback = if address.is_ipv4() { "127.0.0.1" } else { "::1" };
            address.set_ip(loopback.parse().expect("an address"));
        }
        address
    }

    /// The pids of a service's workers in a state (`ready`, `draining` …), by slot.
    pub(crate) fn pids(&self, service: &str, state: &str) -> Vec<i32> {
        let workers = self.service(service).workers;
        workers.iter().filter(|worker| worker.state == state).filter_map(|worker| worker.pid).collect()
    }

    /// The keeper: the pid that a person sees and signals.
    pub(crate) fn keeper_pid(&self) -> i32 {
        i32::try_from(self.keeper.id()).expect("a pid")
    }

    /// The agent's process, while there is one.
    pub(crate) fn agent_pid(&self) -> Option<i32> {
        let is_agent = |&pid: &i32| facts::arguments(pid).iter().take(3).any(|argument| argument == "__agent");
        facts::children(self.keeper_pid()).into_iter().find(is_agent)
    }

    /// Every process of this rig that lives, the keeper included, wherever it has gone in the process tree.
    pub(crate) fn processes(&self) -> Vec<i32> {
        self.mark.bearers()
    }

    // ---- doing

    /// Runs a command of the built `rollout` against this agent to its end.
    pub(crate) fn cli(&self, arguments: &[&str]) -> CliResult {
        self.start_cli(arguments).wait()
    }

    /// Starts a command of the built `rollout` against this agent.
    pub(crate) fn start_cli(&self, arguments: &[&str]) -> CliRun {
        // Files, not pipes: a command that says much and is not waited for must not stand still.
        let keep = |kind| tempfile::Builder::new().prefix(kind).tempfile_in(self.home.path()).expect("a file").keep();
        let (out, out_path) = keep("cli.out.").expect("keep");
        let (err, err_path) = keep("cli.err.").expect("keep");
        let mut command = Command::new(env!("CARGO_BIN_EXE_rollout"));
        command.args(arguments).env("ROLLOUT_SOCKET", self.socket()).env(tree::VARIABLE, self.mark.as_str());
        command.current_dir(self.home.path()).stdin(Stdio::null()).stdout(out).stderr(err);
        CliRun { child: command.spawn().expect("start rollout"), out: out_path, err: err_path }
    }

    /// `rollout deploy PATH`, to its end.
    pub(crate) fn deploy(&self, path: &Path) -> CliResult {
        self.cli(&["deploy", path.to_str().expect("a path in UTF-8")])
    }

    /// Sends the keeper a signal by its name (`HUP`).
    pub(crate) fn signal(&self, name: &str) {
        tree::signal(name, &[self.keeper_pid()]);
    }

    /// SIGKILL to the agent alone; returns when another one is there. The keeper and the workers must not mind.
    pub(crate) fn kill_agent(&mut self) {
        let old = self.agent_pid().expect("an agent");
        tree::signal("KILL", &[old]);
        self.wait_until("another agent answers", |rig| {
            rig.agent_pid().is_some_and(|pid| pid != old) && rig.try_status().is_some()
        });
    }

    /// SIGTERM to the keeper; returns its exit status once it has ended, and fails if a process is left.
    pub(crate) fn stop(mut self) -> ExitStatus {
        self.signal("TERM");
        self.ended()
    }

    /// Waits until the keeper, which was told to end, has ended; returns its exit status, and fails if a process is left.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let deadline = clock::now().after(GENEROUS);
        let status = loop {
            match self.keeper.try_wait().expect("ask for the keeper") {
                Some(status) => break status,
                None if clock::until(deadline).is_zero() => panic!("the keeper does not end:\n{}", self.log()),
                None => pause(),
            }
        };
        let left: Vec<_> = self.processes().into_iter().map(|pid| (pid, facts::arguments(pid))).collect();
        assert!(left.is_empty(), "the keeper has ended ({status}) and left {left:?}\n--- log\n{}", self.log());
        status
    }
}

fn spawn(program: &Path, home: &Path, mark: &tree::Mark, env: &[(&str, &str)]) -> Child {
    let log = File::options().append(true).create(true).open(home.join("agent.log")).expect("open the log");
    let mut command = Command::new(program);
    command.arg("run").arg("-c").arg(home.join("rollout.yaml"));
    command.arg("--socket").arg(home.join("rollout.sock")).arg("--state-dir").arg(home.join("state"));
    command.current_dir(home).env("RUST_LOG", "rollout=debug").env(tree::VARIABLE, mark.as_str());
    command.envs(env.iter().copied()).stdin(Stdio::null()).stdout(log.try_clone().expect("dup")).stderr(log);
    command.spawn().unwrap_or_else(|error| panic!("start {}: {error}", program.display()))
}

impl Drop for Rig {
    fn drop(&mut self) {
        // The keeper first: it would start an agent again, and the agent a worker.
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
        let left = self.mark.kill_all();
        if std::thread::panicking() {
            show(&self.log());
        } else {
            assert!(left.is_empty(), "cannot kill {left:?}");
        }
    }
}

impl CliRun {
    /// Waits for its end.
    pub(crate) fn wait(mut self) -> CliResult {
        let deadline = clock::now().after(2 * GENEROUS);
        let status = loop {
            match self.child.try_wait().expect("ask for the command") {
                Some(status) => break status,
                None if clock::until(deadline).is_zero() => panic!("the command does not end: {:?}", self.so_far()),
                None => pause(),
            }
        };
        CliResult { code: status.code(), ..self.so_far() }
    }

    /// What it has said so far.
    pub(crate) fn so_far(&self) -> CliResult {
        let read = |path: &Path| fs::read_to_string(path).expect("read what the command said");
        CliResult { code: None, stdout: read(&self.out), stderr: read(&self.err) }
    }

    /// Sends it a signal by its name (`INT`).
    pub(crate) fn signal(&self, name: &str) {
        tree::signal(name, &[i32::try_from(self.child.id()).expect("a pid")]);
    }
}

impl Drop for CliRun {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Between two looks at a fact for which there is no event.
pub(crate) fn pause() {
    std::thread::park_timeout(Duration::from_millis(20));
}

#[expect(clippy::print_stderr, reason = "shown by the test harness when the test failed")]
fn show(log: &str) {
    eprintln!("--- log\n{log}");
}
