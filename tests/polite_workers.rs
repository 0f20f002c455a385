//! The example workers leave without losing a request, and the load client notices one that does not.
//!
//! No agent here: the test itself holds a listening socket that all workers share, starts the next worker, waits until it
//! answers, and then sends SIGTERM to the one before.

#[path = "load/mod.rs"]
#[expect(dead_code, reason = "the load program and other tests use more of it")]
mod load;

use std::env;
use std::fs::{self, File};
use std::io::Write;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use load::Load;
use load::mix::{Mix, Pool};
use load::report::{Class, Report};

/// Far more than anything here takes.
const LIMIT: Duration = Duration::from_secs(60);

/// Standard input is the only fd that `Command` lets a program inherit: the shell moves it to where LISTEN_FDS has it.
const ADOPT: &str = r#"exec 3<&0 0</dev/null; LISTEN_FDS=1; LISTEN_PID=$$; export LISTEN_FDS LISTEN_PID; exec "$@""#;

struct Worker(Child);

impl Worker {
    fn start(command: &[&str], version: &str, listener: &TcpListener) -> Self {
        let socket = OwnedFd::from(listener.try_clone().expect("duplicate the listener"));
        let child = Command::new("sh")
            .args(["-c", ADOPT, "sh"])
            .args(command)
            .env("APP_VERSION", version)
            .stdin(Stdio::from(socket))
            .stdout(Stdio::null())
            .spawn();
        Self(child.expect("start a worker"))
    }

    fn terminate(mut self) -> ExitStatus {
        let pid = self.0.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("run kill").success());
        let (ended, end) = mpsc::channel();
        thread::scope(|scope| {
            let child = &mut self.0;
            scope.spawn(move || ended.send(child.wait().expect("wait for a worker")));
            end.recv_timeout(LIMIT).unwrap_or_else(|_| {
                let _killed = Command::new("kill").args(["-KILL", &pid]).status();
                panic!("the worker did not end in time after SIGTERM");
            })
        })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _gone_already = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// Three replacements of one worker by the next, under load.
fn replace_under_load(command: impl Fn(&str) -> Vec<String>, mix: Mix) -> Report {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind a port");
    let address = listener.local_addr().expect("it has an address");
    let start = |version: &str| {
        let command = command(version);
        Worker::start(&command.iter().map(String::as_str).collect::<Vec<_>>(), version, &listener)
    };
    let mut old = start("v1");
    let load = Load::start(address, mix).expect("the address is loopback");
    for version in ["v1", "v2", "v3", "v4"] {
        let new = (version != "v1").then(|| start(version));
        let answers = load.wait_until(LIMIT, |report| report.versions.get(version).is_some_and(|count| *count >= 100));
        assert!(answers, "{version} does not answer:\n{}", load.so_far());
        if let Some(new) = new {
            let status = std::mem::replace(&mut old, new).terminate();
            assert!(status.success(), "the worker before {version} ended with {status}");
        }
    }
    load.stop()
}

fn assert_nothing_lost(report: &Report) {
    assert_eq!((report.failures(), report.ok()), (0, report.sent()), "{report}");
}

/// The built example; `cargo test --test` does not build examples by itself.
fn example(name: &str) -> PathBuf {
    let built = Command::new(env!("CARGO")).args(["build", "--quiet", "--example", name]).status();
    assert!(built.expect("run cargo").success(), "the example {name} cannot be built");
    let this = env::current_exe().expect("this program has a path");
    this.ancestors().nth(2).expect("target/debug/deps/this").join("examples").join(name)
}

fn source(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name).display().to_string()
}

/// Whether the tool is there. Where `tests/run.sh` installs them, a missing one is a failure.
fn has(tool: &str) -> bool {
    let there = Command::new(tool).arg("--version").stdout(Stdio::null()).status().is_ok_and(|status| status.success());
    assert!(there || env::var_os("ROLLOUT_TESTS_NEED_TOOLS").is_none(), "{tool} is not installed");
    if !there {
        // The only line that says that something was not tested.
        let _seen_or_not = writeln!(std::io::stderr(), "skipped: {tool} is not installed");
    }
    there
}

#[test]
fn the_rust_worker_loses_nothing() {
    let worker = example("worker").display().to_string();
    let command = |version: &str| vec![worker.clone(), "--version-name".to_owned(), version.to_owned()];
    assert_nothing_lost(&replace_under_load(command, Mix::all(200.0)));
}

#[test]
fn the_node_worker_loses_nothing() {
    if has("node") {
        let command = |_: &str| vec!["node".to_owned(), source("worker.js")];
        assert_nothing_lost(&replace_under_load(command, Mix::all(200.0)));
    }
}

#[test]
fn the_python_worker_loses_nothing() {
    if has("python3") {
        let command = |_: &str| vec!["python3".to_owned(), source("worker.py")];
        assert_nothing_lost(&replace_under_load(command, Mix::all(200.0)));
    }
}

/// The proof that the tests above can fail, and the reason for the grace.
#[test]
fn without_a_grace_requests_are_lost_at_a_distance() {
    let worker = example("worker").display().to_string();
    let command = |version: &str| {
        ["--version-name", version, "--grace", "0s"].iter().fold(vec![worker.clone()], |mut command, word| {
            command.push((*word).to_owned());
            command
        })
    };
    let far = Pool { connections: 60, think: Duration::from_millis(100) };
    let report = replace_under_load(command, Mix { far, fresh: 100.0, ..Mix::default() });
    let closed_on_the_way = report.failures_of(Class::Eof) + report.failures_of(Class::Reset);
    assert!(closed_on_the_way > 0, "{report}");
    assert_eq!(closed_on_the_way, report.failures(), "{report}");
}

#[test]
fn another_line_at_the_end_of_the_file_is_another_version_or_fault() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let copy = |name: &str, line: &str| {
        let path = directory.path().join(line.rsplit_once('=').expect("key=value").1);
        fs::copy(example(name), &path).expect("copy the program");
        let mut file = File::options().append(true).open(&path).expect("open the copy");
        write!(file, "\n{line}\n").expect("append a line");
        path.display().to_string()
    };
    let v7 = copy("worker", "ROLLOUT-EXAMPLE-VERSION=v7");
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind a port");
    let address = listener.local_addr().expect("it has an address");
    let worker = Worker::start(&[&v7], "ignored", &listener);
    let load = Load::start(address, Mix { fresh: 50.0, ..Mix::default() }).expect("the address is loopback");
    assert!(load.wait_until(LIMIT, |report| report.ok() > 0));
    let report = load.stop();
    assert_eq!(report.versions.keys().collect::<Vec<_>>(), ["v7"], "{report}");
    assert!(worker.terminate().success());

    let exits = copy("faulty", "ROLLOUT-EXAMPLE-FAULT=exits");
    let output = Command::new(exits).output().expect("run the faulty worker");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot open"), "{output:?}");
}
