//! What a service manager hears from the keeper and gives to it: sd_notify(3), sd_listen_fds(3), systemd.service(5).
//!
//! The service manager here is the test. A run inside a real systemd is another matter.

#[path = "load/mod.rs"]
#[expect(dead_code, reason = "the load program and other tests use more of it")]
mod load;
#[expect(dead_code, reason = "no test uses the whole rig")]
mod support;
#[expect(dead_code, reason = "other tests use more of it")]
mod web;

use std::fs::{self, Permissions};
use std::io::{Read, Write, stderr};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rollout::sys::clock;
use support::{GENEROUS, Rig, example};
use tempfile::TempDir;

const CONFIG: &str = "\
services:
  web:
    binary: ./web
    watch: false
    workers: 2
    listen: [{address: 127.0.0.1:0, name: http}]
    rollout: {min_ready: 200ms}
";

/// A home with a worker that shows its environment.
fn home() -> TempDir {
    let home = TempDir::new().expect("a temporary directory");
    example::release(&example::built("faulty"), &home.path().join("web"), &[("VERSION", "v1"), ("FAULT", "none")]);
    home
}

/// A program in front of `rollout` that does what only the process itself can: name its own pid.
fn starter(home: &Path, script: &str) -> PathBuf {
    let path = home.join("starter");
    fs::write(&path, script.replace("ROLLOUT", env!("CARGO_BIN_EXE_rollout"))).expect("write the starter");
    fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("make it executable");
    path
}

/// The service manager's end of `NOTIFY_SOCKET`.
struct Ear {
    socket: UnixDatagram,
    heard: Vec<String>,
}

impl Ear {
    fn at(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).expect("bind the notify socket");
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("set a timeout");
        Self { socket, heard: Vec::new() }
    }

    /// Hears on until a datagram from number `from` on is right; returns the number after it.
    fn wait_for(&mut self, what: &str, from: usize, is_right: impl Fn(&str) -> bool) -> usize {
        let deadline = clock::now().after(GENEROUS);
        loop {
            if let Some(at) = self.heard[from..].iter().position(|datagram| is_right(datagram)) {
                return from + at + 1;
            }
            assert!(!clock::until(deadline).is_zero(), "gave up waiting for {what}, heard {:#?}", self.heard);
            let mut buffer = [0; 4096];
            if let Ok(length) = self.socket.recv(&mut buffer) {
                self.heard.push(String::from_utf8(buffer[..length].to_vec()).expect("text"));
            }
        }
    }
}

fn says(line: &'static str) -> impl Fn(&str) -> bool {
    move |datagram| datagram.lines().any(|said| said == line)
}

#[test]
fn a_service_manager_hears_each_step_of_the_keepers_life_and_workers_hear_nothing_of_it() {
    let home = home();
    let notify = home.path().join("notify.sock");
    let mut ear = Ear::at(&notify);
    let starter = starter(home.path(), "#!/bin/sh\nWATCHDOG_PID=$$\nexport WATCHDOG_PID\nexec ROLLOUT \"$@\"\n");
    let notify = notify.to_str().expect("a path in UTF-8").to_owned();
    let env = [("NOTIFY_SOCKET", notify.as_str()), ("WATCHDOG_USEC", "400000"), ("MAINPID", "1")];
    let mut rig = Rig::start_program(&starter, home, CONFIG, &env);

    let ready = ear.wait_for("READY=1", 0, says("READY=1"));
    assert!(!ear.heard[..ready - 1].iter().any(|said| said.contains("READY")), "{:#?}", ear.heard);
    ear.wait_for("a status", 0, says("STATUS=web: 2 ready"));
    let first = ear.wait_for("the watchdog's first sign", 0, says("WATCHDOG=1"));
    let second = ear.wait_for("its second", first, says("WATCHDOG=1"));
    ear.wait_for("its third", second, says("WATCHDOG=1"));
    let status = rig.wait_until_serving();

    let env = get(rig.address("web", 0), "/env");
    let pids: Vec<String> =
        status.services[0].workers.iter().filter_map(|it| it.pid).map(|pid| pid.to_string()).collect();
    for name in ["NOTIFY_SOCKET=", "WATCHDOG_USEC=", "WATCHDOG_PID=", "MAINPID=", "ROLLOUT_WATCHDOG", "ROLLOUT_OPEN"] {
        assert!(!env.lines().any(|line| line.starts_with(name)), "a worker must not see {name}: {env}");
    }
    let own = env.lines().find_map(|line| line.strip_prefix("LISTEN_PID=")).expect("a worker has LISTEN_PID");
    assert!(pids.iter().any(|pid| pid == own), "LISTEN_PID={own} is none of {pids:?}");

    // A reload: both words in one datagram, READY=1 only when every worker is new.
    let from = ear.heard.len();
    rig.signal("HUP");
    let reloading = ear.wait_for("RELOADING=1", from, says("RELOADING=1"));
    let datagram = ear.heard[reloading - 1].clone();
    let stamp = datagram.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC="));
    assert!(stamp.is_some_and(|usec| usec.parse::<u64>().is_ok_and(|usec| usec > 0)), "{datagram:?}");
    ear.wait_for("more time", reloading, says("EXTEND_TIMEOUT_USEC=30000000"));
    ear.wait_for("the steps", reloading, says("STATUS=web: rolling 1 of 2"));
    let ready = ear.wait_for("READY=1 again", reloading, says("READY=1"));
    assert!(!ear.heard[from..ready - 1].iter().any(|said| says("READY=1")(said)), "{:#?}", ear.heard);
    let service = rig.service("web");
    assert!(service.rollout.is_none() && service.generation.is_some_and(|it| it.0 == 2), "{service:#?}");

    // A reload that fails is over at once, and the status goes on saying so.
    rig.write_config("services: {");
    let from = ear.heard.len();
    rig.signal("HUP");
    let reloading = ear.wait_for("RELOADING=1", from, says("RELOADING=1"));
    let not_taken = says("STATUS=web: 2 ready; the new configuration was not taken: see the log");
    ear.wait_for("what was wrong", reloading, not_taken);
    ear.wait_for("READY=1 again", reloading, says("READY=1"));

    let from = ear.heard.len();
    assert!(rig.stop().success());
    ear.wait_for("STOPPING=1", from, says("STOPPING=1"));
}

/// A parent like systemd: binds, and becomes `rollout` with the socket as fd 3.
const ACTIVATE: &str = r#"#!/usr/bin/env python3
import os, socket, sys
listener = socket.socket()
if os.environ.pop("REUSEPORT") == "yes":
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
listener.bind(("127.0.0.1", 0))
listener.listen(128)
with open("port", "w") as file:
    file.write(str(listener.getsockname()[1]))
if listener.fileno() != 3:
    os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_FDS="1", LISTEN_FDNAMES="http", LISTEN_PID=str(os.getpid()))
os.execv("ROLLOUT", ["rollout"] + sys.argv[1:])
"#;

#[test]
fn a_socket_that_was_passed_in_is_served_without_a_gap() {
    if !has_python() {
        return;
    }
    let modes = [
        ("yes", CONFIG.to_owned()),
        ("no", CONFIG.replace("name: http}]", "name: http, mode: shared}]\n    readiness: notify")),
    ];
    for (reuse_port, config) in modes {
        let home = home();
        let starter = starter(home.path(), ACTIVATE);
        let mut rig = Rig::start_program(&starter, home, &config, &[("REUSEPORT", reuse_port)]);
        rig.wait_until_serving();
        let port = fs::read_to_string(rig.home().join("port")).expect("the starter wrote the port");
        assert_eq!(rig.address("web", 0).port().to_string(), port, "REUSEPORT={reuse_port}");
        let env = get(rig.address("web", 0), "/env");
        assert!(env.contains("LISTEN_FDS=1\n") && env.contains("LISTEN_FDNAMES=http\n"), "{env}");
        let load = web::load(&rig);
        let v2 = web::faulty(&rig, "v2", "none");
        let deployed = rig.deploy(&v2);
        assert_eq!(deployed.code, Some(0), "{deployed:?}");
        // The agent that comes after this one must find the socket, too.
        rig.kill_agent();
        let again = rig.cli(&["restart"]);
        assert_eq!(again.code, Some(0), "{again:?}");
        let report = web::end_without_failure(load);
        let _shown = writeln!(stderr(), "inherited, REUSEPORT={reuse_port}: {} requests, none failed", report.ok());
        assert!(rig.stop().success());
    }
}

#[test]
fn a_socket_that_cannot_have_lanes_is_refused_with_the_two_ways_out() {
    if !has_python() {
        return;
    }
    let home = home();
    let starter = starter(home.path(), ACTIVATE);
    fs::write(home.path().join("rollout.yaml"), CONFIG).expect("write the configuration");
    let mut command = Command::new("timeout");
    command.args(["-k", "9", "30"]).arg(&starter).args(["run", "--socket", "a.sock", "--state-dir", "state"]);
    let output = command.current_dir(home.path()).env("REUSEPORT", "no").stdin(Stdio::null()).output().expect("run it");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("set `ReusePort=yes` in its .socket unit, or `mode: shared` here"), "{said}");
}

/// Whether the tool is there. Where `tests/run.sh` installs it, its absence is a failure.
fn has_python() -> bool {
    let there = Command::new("python3").arg("--version").stdout(Stdio::null()).status().is_ok_and(|it| it.success());
    assert!(there || std::env::var_os("ROLLOUT_TESTS_NEED_TOOLS").is_none(), "python3 is not installed");
    if !there {
        let _shown = writeln!(stderr(), "skipped: python3 is not installed");
    }
    there
}

/// The body of `GET path`.
fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("connect");
    stream.set_read_timeout(Some(GENEROUS)).expect("set a timeout");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").expect("ask");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 200"), "{answer}");
    format!("{body}\n")
}
