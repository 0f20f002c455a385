//! The keeper, the shim and the agent's link on real processes. `tests/workers/keeper_probe.rs` is the keeper and its agent.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use rollout::sys::{child, clock, poll, tree};
use rollout::units::Signal;
use tempfile::TempDir;

const LONG: Duration = Duration::from_secs(30);

/// The probe, built once: `cargo test --test keeper_real` does not build examples by itself.
fn probe() -> &'static Path {
    static PROBE: OnceLock<PathBuf> = OnceLock::new();
    PROBE.get_or_init(|| {
        let test = std::env::current_exe().expect("own path");
        let profile = test.ancestors().nth(2).expect("target/<profile>/deps/<test>");
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--example", "keeper_probe", "--target-dir"]);
        build.arg(profile.parent().expect("target")).current_dir(env!("CARGO_MANIFEST_DIR"));
        if profile.ends_with("release") {
            build.arg("--release");
        }
        assert!(build.status().expect("cargo").success(), "build of keeper_probe");
        profile.join("examples/keeper_probe")
    })
}

fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let deadline = clock::now().after(LONG);
    while !condition() {
        assert!(!clock::until(deadline).is_zero(), "gave up waiting until {what}");
        poll::wait(&[], Some(clock::now().after(Duration::from_millis(20)))).expect("poll");
    }
}

/// A keeper, killed with everything below it at the end of the test.
struct Rig {
    directory: TempDir,
    agents: UnixListener,
    keeper: Child,
    pidfd: OwnedFd,
}

impl Rig {
    fn start() -> Self {
        Self::start_with(|probe, socket| {
            let mut command = Command::new(probe);
            command.arg("keep").arg(socket).stdin(Stdio::null());
            command
        })
    }

    fn start_with(command: impl FnOnce(&Path, &Path) -> Command) -> Self {
        let directory = tempfile::tempdir().expect("temp dir");
        let socket = directory.path().join("test.sock");
        let agents = UnixListener::bind(&socket).expect("bind");
        let log = File::create(directory.path().join("keeper.log")).expect("log");
        let mut command = command(probe(), &socket);
        let keeper = command.stderr(log).spawn().expect("start the keeper");
        let pidfd = child::pidfd_open(pid_of(&keeper)).expect("pidfd");
        Self { directory, agents, keeper, pidfd }
    }

    fn pid(&self) -> i32 {
        pid_of(&self.keeper)
    }

    /// The next agent that introduces itself.
    fn agent(&self) -> Agent {
        let soon = clock::now().after(LONG);
        assert!(
            poll::wait_one(self.agents.as_fd(), poll::For::Reading, soon).expect("poll"),
            "no agent: {}",
            self.log()
        );
        Agent::meet(self.agents.accept().expect("accept").0)
    }

    fn signal(&self, signal: i32) {
        child::signal(self.pidfd.as_fd(), Signal(signal)).expect("signal");
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("keeper.log")).expect("log")
    }

    fn output(&self, name: &str) -> String {
        fs::read_to_string(self.directory.path().join(format!("{name}.out"))).expect("output")
    }

    fn exit_code(&mut self) -> Option<i32> {
        let soon = clock::now().after(LONG);
        assert!(
            poll::wait_one(self.pidfd.as_fd(), poll::For::Reading, soon).expect("poll"),
            "keeper goes on: {}",
            self.log()
        );
        self.keeper.wait().expect("wait").code()
    }

    fn open_fds(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).expect("fds").count()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        tree::kill_tree(self.pid(), self.pidfd.as_fd());
        let _ = self.keeper.wait();
        if std::thread::panicking() {
            let _ = writeln!(std::io::stderr(), "{}", self.log());
        }
    }
}

struct Agent {
    pid: i32,
    inventory: serde_json::Value,
    environment: String,
    reader: BufReader<UnixStream>,
}

impl Agent {
    fn meet(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(LONG)).expect("timeout");
        let mut agent = Self {
            pid: 0,
            inventory: serde_json::Value::Null,
            environment: String::new(),
            reader: BufReader::new(stream),
        };
        let line = agent.line();
        let (pid, inventory) = line.split_once(' ').unwrap_or_else(|| panic!("no introduction: {line:?}"));
        agent.pid = pid.parse().expect("pid");
        agent.inventory = serde_json::from_str(inventory).expect("inventory");
        agent.environment = agent.line();
        agent
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.reader.read_line(&mut line).expect("read");
        line.trim_end().to_owned()
    }

    fn say(&mut self, words: &[&str]) {
        writeln!(self.reader.get_mut(), "{}", words.join("\t")).expect("write");
    }

    fn ask(&mut self, words: &[&str]) -> String {
        self.say(words);
        self.line()
    }

    fn obeys(&mut self, words: &[&str]) {
        assert_eq!(self.ask(words), "ok", "{words:?}");
    }

    fn spawn(&mut self, name: &str, script: &str) -> i32 {
        self.ask(&["spawn", name, "0", "sh", "-c", script]).parse().expect("pid")
    }

    fn event(&mut self) -> String {
        self.ask(&["event"])
    }

    fn kill(self) {
        let pidfd = child::pidfd_open(self.pid).expect("pidfd");
        child::signal(pidfd.as_fd(), Signal::KILL).expect("kill");
    }
}

fn pid_of(child: &Child) -> i32 {
    i32::try_from(child.id()).expect("pid")
}

fn exited(name: &str, exit: &str) -> String {
    format!("Exited {{ child: {name:?}, exit: {exit} }}")
}

/// `None`: reaped.
fn state(pid: i32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.chars().next()
}

fn field(pid: i32, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("field");
    line.trim_start_matches(':').trim().to_owned()
}

fn zombies_of(parent: i32) -> Vec<i32> {
    let pids = fs::read_dir("/proc").expect("proc").flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| state(*pid) == Some('Z'))
        .filter(|pid| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let parent = parent.to_string();
            stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)) == Some(parent.as_str())
        })
        .collect()
}

#[test]
fn exit_codes_and_signals_are_told() {
    let rig = Rig::start();
    let mut agent = rig.agent();
    agent.spawn("code", "exit 3");
    assert_eq!(agent.event(), exited("code", "Code(3)"));
    agent.spawn("killed", "kill -9 $$");
    assert_eq!(agent.event(), exited("killed", "Signal(Signal(9))"));
    agent.spawn("real time", "kill -40 $$");
    assert_eq!(agent.event(), exited("real time", "Signal(Signal(40))"));
    wait_until("nothing is left to reap", || zombies_of(rig.pid()).is_empty());
}

#[test]
fn a_worker_has_exactly_its_fds_and_a_clean_slate() {
    let rig = Rig::start();
    let mut agent = rig.agent();
    let pid: i32 = agent.ask(&["spawn", "web", "2", "sleep", "600"]).parse().expect("pid");
    let mut fds: Vec<(i32, String, bool)> = fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("fds")
        .flatten()
        .map(|entry| {
            let number = entry.file_name().to_str().and_then(|name| name.parse().ok()).expect("number");
            let target = fs::read_link(entry.path()).expect("target").to_string_lossy().into_owned();
            let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).expect("info");
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).expect("flags").trim();
            let close_on_exec = u32::from_str_radix(flags, 8).expect("octal") & 0o2_000_000 != 0;
            (number, target, close_on_exec)
        })
        .collect();
    fds.sort();
    let numbers: Vec<_> = fds.iter().map(|(number, ..)| *number).collect();
    assert_eq!(numbers, [0, 1, 2, 3, 4], "{fds:?}");
    assert!(fds.iter().all(|(.., close_on_exec)| !close_on_exec), "{fds:?}");
    assert_eq!(fds[0].1, "/dev/null");
    let output = rig.directory.path().join("web.out");
    assert!(fds[1..3].iter().all(|(_, target, _)| Path::new(target) == output), "{fds:?}");
    assert!(fds[3..].iter().all(|(_, target, _)| target.starts_with("socket:")) && fds[3].1 != fds[4].1, "{fds:?}");

    for mask in ["SigBlk", "SigIgn", "SigCgt"] {
        assert_eq!(u64::from_str_radix(&field(pid, mask), 16).expect("mask"), 0, "{mask}");
    }
    let environ = fs::read_to_string(format!("/proc/{pid}/environ")).expect("environ");
    let mut environ: Vec<_> = environ.split_terminator('\0').collect();
    environ.sort_unstable();
    let (listen_pid, main_pid) = (format!("LISTEN_PID={pid}"), format!("ROLLOUT_MAIN_PID={pid}"));
    assert_eq!(environ, ["LISTEN_FDS=2", &listen_pid, "PATH=/usr/bin:/bin", &main_pid]);
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
    let session: i32 =
        stat.rsplit_once(") ").expect("stat").1.split(' ').nth(3).expect("session").parse().expect("pid");
    assert_eq!(session, pid);
    assert_eq!(fs::read_link(format!("/proc/{pid}/cwd")).expect("cwd"), rig.directory.path());
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).expect("limits");
    let open_files = limits.lines().find(|line| line.starts_with("Max open files")).expect("limit");
    assert_eq!(open_files.split_whitespace().nth(3), Some("512"));
}

#[test]
fn what_cannot_run_is_said_and_its_exit_is_told() {
    let rig = Rig::start();
    let mut agent = rig.agent();
    let missing = agent.ask(&["spawn", "missing", "0", "/nowhere/web"]);
    assert_eq!(missing, "error: start /nowhere/web: no such file");
    assert_eq!(agent.event(), exited("missing", "Code(127)"));
    let script = rig.directory.path().join("script");
    fs::write(&script, "#!/nowhere/python3\n").expect("write");
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
    let answer = agent.ask(&["spawn", "script", "0", "./script"]);
    assert_eq!(answer, "error: start ./script: its interpreter /nowhere/python3 is missing");
    assert_eq!(agent.event(), exited("script", "Code(127)"));
    let taken = agent.ask(&["spawn", "script", "0", "true"]);
    assert!(taken.starts_with("error: keeper refused to start script"), "{taken}");
}

#[test]
fn fds_and_workers_outlive_an_agent() {
    let rig = Rig::start();
    let mut agent = rig.agent();
    assert_eq!(agent.inventory["agents_before"], 0);
    assert!(agent.environment.starts_with("open_files=Some("), "{}", agent.environment);
    let address = agent.ask(&["listen", "lane"]);
    let worker = agent.spawn("web", "exec sleep 600");
    agent.obeys(&["in_charge"]);
    agent.kill();

    let mut successor = rig.agent();
    assert_eq!(successor.inventory["agents_before"], 1);
    assert_eq!(successor.inventory["fds"], serde_json::json!(["lane"]));
    let child = serde_json::json!([{"name": "web", "pid": worker, "exit": null}]);
    assert_eq!(successor.inventory["children"], child);
    assert_eq!(successor.ask(&["take", "lane"]), address);
    assert_eq!(successor.ask(&["take", "pidfd:web"]), "pidfd");
    assert_eq!(successor.ask(&["take", "pidfd:other"]), "missing");
    assert_eq!(state(worker), Some('S'));
    successor.obeys(&["drop", "lane"]);
    assert_eq!(successor.ask(&["take", "lane"]), "missing");
}

#[test]
fn an_exit_is_repeated_to_each_successor_until_it_is_forgotten() {
    let rig = Rig::start();
    let mut agent = rig.agent();
    agent.spawn("web", "exit 4");
    agent.obeys(&["in_charge"]);
    assert_eq!(agent.event(), exited("web", "Code(4)"));
    agent.kill();
    let mut second = rig.agent();
    assert_eq!(second.inventory["children"][0]["exit"], serde_json::json!({"code": 4}));
    assert_eq!(second.event(), exited("web", "Code(4)"));
    second.obeys(&["forget", "web"]);
    second.kill();
    let mut third = rig.agent();
    assert_eq!(third.inventory["children"], serde_json::json!([]));
    rig.signal(10);
    assert_eq!(third.event(), "Signalled(Signal(10))", "nothing came before it");
}

#[test]
fn what_happens_while_the_agent_stands_still_is_told_when_it_goes_on() {
    let rig = Rig::start();
    let mut agent = rig.agent();
    let worker = agent.spawn("web", "exec sleep 600");
    let send = |pid, signal| {
        let pidfd = child::pidfd_open(pid).expect("pidfd");
        child::signal(pidfd.as_fd(), Signal(signal)).expect("signal");
    };
    send(agent.pid, 19);
    wait_until("the agent stands still", || state(agent.pid) == Some('T'));
    send(worker, 9);
    wait_until("the worker is reaped", || state(worker).is_none());
    rig.signal(1);
    send(agent.pid, 18);
    assert_eq!(agent.event(), exited("web", "Signal(Signal(9))"));
    assert_eq!(agent.event(), "Signalled(Signal(1))");
}

#[test]
fn leftovers_of_a_workers_group_die_with_it() {
    let rig = Rig::start();
    let mut agent = rig.agent();
    agent.spawn("web", "sleep 600 & echo $!; exit 0");
    assert_eq!(agent.event(), exited("web", "Code(0)"));
    let leftover: i32 = rig.output("web").trim().parse().expect("pid");
    wait_until("the leftover is reaped", || state(leftover).is_none());
}

#[test]
fn orphans_are_reaped() {
    let rig = Rig::start();
    let mut agent = rig.agent();
    let worker = agent.spawn("web", "(setsid sh -c 'echo $$; echo done' &); echo started; exec sleep 600");
    wait_until("the daemon is over", || rig.output("web").contains("done"));
    let daemon: i32 = rig.output("web").lines().find_map(|line| line.parse().ok()).expect("pid");
    wait_until("the daemon is reaped", || state(daemon).is_none());
    assert_eq!(state(worker), Some('S'));
}

#[test]
fn a_tree_is_killed_with_a_daemon_that_left_it() {
    let rig = Rig::start();
    let mut agent = rig.agent();
    let script = "(setsid sh -c 'echo $$; exec sleep 600' &); sleep 600 & echo $!; wait";
    let worker = agent.spawn("web", script);
    let pids = || rig.output("web").lines().filter_map(|line| line.parse().ok()).collect::<Vec<i32>>();
    wait_until("both have started", || pids().len() == 2);
    assert_eq!(agent.ask(&["kill_tree", "web"]), "[]");
    assert_eq!(agent.event(), exited("web", "Signal(Signal(9))"));
    wait_until("all are reaped", || pids().into_iter().chain([worker]).all(|pid| state(pid).is_none()));
}

#[test]
fn signals_reach_the_agent_and_a_request_to_end_reaches_its_successor_too() {
    let rig = Rig::start();
    let mut agent = rig.agent();
    for signal in [1, 10, 12, 15] {
        rig.signal(signal);
        assert_eq!(agent.event(), format!("Signalled(Signal({signal}))"));
    }
    agent.obeys(&["in_charge"]);
    agent.kill();
    assert_eq!(rig.agent().event(), "Signalled(Signal(15))");
}

#[test]
fn an_agent_that_talks_garbage_is_replaced_and_nothing_is_lost() {
    let rig = Rig::start();
    let mut agent = rig.agent();
    let worker = agent.spawn("web", "exec sleep 600");
    agent.obeys(&["in_charge"]);
    agent.say(&["garbage"]);
    let mut successor = rig.agent();
    assert_eq!(successor.inventory["children"][0]["pid"], worker);
    assert!(rig.log().contains("does not speak the protocol"), "{}", rig.log());
    assert_eq!(successor.ask(&["take", "nothing"]), "missing");
}

#[test]
fn an_agent_that_fails_before_it_is_in_charge_ends_everything_with_its_code() {
    let mut rig = Rig::start();
    let mut agent = rig.agent();
    let worker = agent.spawn("web", "trap '' TERM HUP; sleep 600 & wait");
    agent.say(&["exit", "5"]);
    assert_eq!(rig.exit_code(), Some(5));
    assert_eq!(state(worker), None);
}

#[test]
fn when_the_agent_is_done_the_keeper_leaves_with_the_code_that_it_was_given() {
    let mut rig = Rig::start();
    let mut agent = rig.agent();
    agent.obeys(&["in_charge"]);
    agent.spawn("web", "exit 0");
    assert_eq!(agent.event(), exited("web", "Code(0)"));
    agent.obeys(&["done", "7"]);
    agent.say(&["exit", "0"]);
    assert_eq!(rig.exit_code(), Some(7));
}

#[test]
fn what_an_agent_said_before_its_death_holds() {
    let mut rig = Rig::start();
    let mut agent = rig.agent();
    rig.signal(19);
    wait_until("the keeper stands still", || state(rig.pid()) == Some('T'));
    agent.say(&["last_words", "7"]);
    wait_until("the agent is dead", || state(agent.pid) == Some('Z'));
    rig.signal(18);
    assert_eq!(rig.exit_code(), Some(7));
}

#[test]
fn a_hundred_workers_leave_nothing_behind_in_the_keeper() {
    let rig = Rig::start();
    let mut agent = rig.agent();
    let mut round = |number: usize| {
        let name = format!("w{number}");
        agent.spawn(&name, "exit 0");
        assert_eq!(agent.event(), exited(&name, "Code(0)"));
        agent.obeys(&["forget", &name]);
    };
    round(0);
    let before = rig.open_fds();
    (1..=100).for_each(&mut round);
    assert_eq!(rig.open_fds(), before);
    assert_eq!(zombies_of(rig.pid()), Vec::<i32>::new());
}

#[test]
fn a_service_manager_is_heard_and_told_and_hidden_from_the_agent() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address");
    let directory = tempfile::tempdir().expect("temp dir");
    let notify = directory.path().join("notify.sock");
    let manager = UnixDatagram::bind(&notify).expect("bind");
    manager.set_read_timeout(Some(LONG)).expect("timeout");
    let rig = Rig::start_with(|probe, socket| {
        // As systemd does: the socket at 3, and the pid of the process that is meant.
        let mut command = Command::new("sh");
        let script = "export LISTEN_PID=$$ WATCHDOG_PID=$$; exec \"$0\" keep \"$1\" 3<&0 </dev/null";
        command.args(["-c", script]).arg(probe).arg(socket).stdin(OwnedFd::from(listener));
        command.env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", "http").env("WATCHDOG_USEC", "2000000");
        command.env("NOTIFY_SOCKET", &notify);
        command
    });
    let mut agent = rig.agent();
    assert_eq!(agent.inventory["fds"], serde_json::json!(["inherited:0:http"]));
    assert_eq!(agent.ask(&["take", "inherited:0:http"]), address.to_string());
    assert!(agent.environment.ends_with("watchdog=Some(2s)"), "{}", agent.environment);
    let environ = fs::read_to_string(format!("/proc/{}/environ", agent.pid)).expect("environ");
    for name in ["LISTEN_", "NOTIFY_SOCKET=", "WATCHDOG_"] {
        assert!(!environ.split('\0').any(|variable| variable.starts_with(name)), "{environ}");
    }
    agent.obeys(&["ready", "3 of 4 ready"]);
    let datagram = || {
        let mut bytes = [0; 1024];
        let length = manager.recv(&mut bytes).expect("a notice");
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    };
    assert_eq!(datagram(), "STATUS=3 of 4 ready\n");
    let reloading = datagram();
    assert!(reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="), "{reloading}");
    assert_eq!(datagram(), "READY=1\n");
}

#[test]
fn it_is_fit_to_be_process_number_one() {
    let own_namespace = ["--pid", "--fork", "--kill-child", "--mount-proc"];
    if !Command::new("unshare")
        .args(own_namespace)
        .arg("true")
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|s| s.success())
    {
        let _ = writeln!(std::io::stderr(), "skipped: this user may not unshare a pid namespace");
        return;
    }
    let mut rig = Rig::start_with(|probe, socket| {
        let mut command = Command::new("unshare");
        command.args(own_namespace).arg(probe).arg("keep").arg(socket).stdin(Stdio::null());
        command
    });
    let mut agent = rig.agent();
    let leave_orphans = "for i in 1 2 3 4 5; do (setsid sh -c 'exit 0' &); done; exec sleep 600";
    agent.spawn("web", leave_orphans);
    agent.spawn("look", "while grep -q '^State:.Z' /proc/[0-9]*/status 2>/dev/null; do :; done; echo none");
    assert_eq!(agent.event(), exited("look", "Code(0)"));
    assert_eq!(rig.output("look"), "none\n");
    agent.obeys(&["in_charge"]);
    agent.obeys(&["done", "7"]);
    agent.say(&["exit", "0"]);
    assert_eq!(rig.exit_code(), Some(7), "and the worker that was left did not keep it");
}
