//! The rig itself, on a stand-in for the agent: a rig that cannot fail proves nothing.

#[expect(dead_code, reason = "no test uses the whole rig")]
mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;

use support::sampler::{ReadySampler, Samples};
use support::{Rig, control, example, facts, tree};
use tempfile::TempDir;

/// Answers `status` with what is in the file `status.json` beside its socket, and starts a process that leaves its
/// session. As `rollout run`, it starts another of itself as `__agent`, anew when that one dies.
const STAND_IN: &str = r#"#!/usr/bin/env python3
import os, signal, socket, subprocess, sys, threading, time
socket_path = sys.argv[sys.argv.index("--socket") + 1]
here = os.path.dirname(socket_path)

def answer(client):
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        piece = client.recv(1)
        if not piece: return
        head += piece
    if b"watch=true" not in head:
        body = open(here + "/status.json", "rb").read()
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    else:
        client.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        last = None
        while True:
            body = open(here + "/status.json", "rb").read() + b"\n"
            if body != last:
                # In two pieces, cut anywhere: a reader of lines must not care.
                for part in (body[:7], body[7:]): client.sendall(b"%x\r\n" % len(part) + part + b"\r\n")
            last = body
            time.sleep(0.005)
    client.close()

if sys.argv[1] == "run":
    running = [subprocess.Popen(["sleep", "1000"], start_new_session=True)]
    def stop(*_):
        if "messy" not in open(here + "/rollout.yaml").read():
            for process in running:
                try: os.kill(process.pid, signal.SIGKILL), os.waitpid(process.pid, 0)
                except (ChildProcessError, ProcessLookupError): pass
        os._exit(3)
    signal.signal(signal.SIGTERM, stop)
    while True:
        running.append(subprocess.Popen([sys.executable, sys.argv[0], "__agent"] + sys.argv[2:]))
        running[-1].wait()
else:
    try: os.unlink(socket_path)
    except FileNotFoundError: pass
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(socket_path)
    listener.listen()
    print("stand-in is up", file=sys.stderr, flush=True)
    while True:
        threading.Thread(target=answer, args=[listener.accept()[0]], daemon=True).start()
"#;

fn status(states: &[&str]) -> String {
    let worker = |(index, state): (usize, &&str)| {
        let since = "2026-01-01T00:00:00Z";
        serde_json::json!({"slot": index + 1, "pid": 100 + index, "state": state, "generation": 1, "release": null,
            "since": since, "restarts": 0})
    };
    let workers: Vec<_> = states.iter().enumerate().map(worker).collect();
    let service = serde_json::json!({"name": "web", "state": "serving", "generation": 1, "release": null,
        "listen": ["0.0.0.0:8080", "[::]:8081"], "workers": workers, "rollout": null});
    serde_json::json!({"services": [service]}).to_string()
}

/// Replaces the stand-in's status as a whole.
fn show(home: &Path, states: &[&str]) {
    fs::write(home.join("status.new"), status(states)).expect("write");
    fs::rename(home.join("status.new"), home.join("status.json")).expect("rename");
}

fn start(config: &str) -> Rig {
    let home = TempDir::new().expect("a temporary directory");
    let program = home.path().join("stand-in");
    // Written under another name first: a program that some other test's child still has open cannot be run (ETXTBSY).
    fs::write(home.path().join("stand-in.new"), STAND_IN).expect("write");
    fs::set_permissions(home.path().join("stand-in.new"), fs::Permissions::from_mode(0o755)).expect("chmod");
    fs::rename(home.path().join("stand-in.new"), &program).expect("rename");
    show(home.path(), &["ready", "draining", "ready"]);
    Rig::start_program(&program, home, config, &[("FURTHER", "yes")])
}

/// The text of the panic in `run`.
fn panic_of<T>(run: impl FnOnce() -> T) -> String {
    let panic = catch_unwind(AssertUnwindSafe(|| drop(run()))).expect_err("must panic");
    panic.downcast_ref::<String>().cloned().unwrap_or_default()
}

#[test]
fn the_status_is_read_and_waited_for() {
    let mut rig = start("");
    let status = rig.wait_until_serving();
    assert_eq!(status, rig.status());
    assert_eq!(rig.service("web").workers.len(), 3);
    assert_eq!(rig.pids("web", "ready"), [100, 102]);
    assert_eq!(rig.address("web", 0).to_string(), "127.0.0.1:8080");
    assert_eq!(rig.address("web", 1).to_string(), "[::1]:8081");
    assert_eq!(control::post(&rig.socket(), "/v1/stop", "{}").expect("ask").status, 200);
    show(rig.home(), &["failed"]);
    rig.wait_for_status("the slot has failed", |status| status.services[0].workers[0].state == "failed");
    assert_eq!(rig.cli(&["--version"]).code, Some(0));
    assert!(rig.log().contains("stand-in is up"));
    rig.write_config("other");
    assert_eq!(fs::read_to_string(rig.home().join("rollout.yaml")).expect("read"), "other");
}

#[test]
fn a_wait_ends_at_once_when_the_keeper_is_gone_and_shows_the_log() {
    let mut rig = start("");
    rig.wait_until_serving();
    tree::signal("KILL", &[rig.keeper_pid()]);
    let said = panic_of(|| rig.wait_until("pigs fly", |_| false));
    for part in ["pigs fly", "the keeper has ended", "stand-in is up", "serving"] {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
}

#[test]
fn nothing_outlives_the_rig() {
    let mut rig = start("");
    rig.wait_until_serving();
    rig.wait_until("the sleeper sleeps", |rig| rig.processes().len() == 3);
    let processes = rig.processes();
    let sleeps = |pid: &i32| facts::arguments(*pid).first().is_some_and(|name| name == "sleep");
    assert!(processes.iter().any(sleeps), "no process that left its session in {processes:?}");
    drop(rig);
    let left: Vec<_> = processes.into_iter().filter(|&pid| !facts::arguments(pid).concat().is_empty()).collect();
    assert_eq!(left, [0; 0]);
}

#[test]
fn a_clean_stop_is_clean_and_a_messy_one_is_told() {
    let mut rig = start("clean");
    rig.wait_until_serving();
    assert_eq!(rig.stop().code(), Some(3));
    let mut rig = start("messy");
    rig.wait_until_serving();
    let said = panic_of(|| rig.stop());
    assert!(said.contains("and left") && said.contains("\"sleep\""), "{said}");
}

#[test]
fn a_killed_agent_has_a_successor() {
    let mut rig = start("");
    rig.wait_until_serving();
    let old = rig.agent_pid();
    rig.kill_agent();
    assert!(rig.agent_pid().is_some() && rig.agent_pid() != old);
}

#[test]
fn a_dip_is_seen_even_across_agents() {
    let mut rig = start("");
    rig.wait_until_serving();
    let sampler = ReadySampler::start(&rig, "web");
    rig.kill_agent();
    show(rig.home(), &["ready", "draining"]);
    sampler.wait_until("the dip", |samples| samples.least_ready == 1);
    show(rig.home(), &["ready", "ready"]);
    let dipped = sampler.stop();
    assert_eq!(dipped, Samples { seen: dipped.seen, least_ready: 1, most_workers: 3 });
    assert!(dipped.seen >= 2, "{dipped:?}");
}

#[test]
fn facts_count_what_a_process_holds() {
    let mut child = Command::new("cat").stdin(std::process::Stdio::piped()).spawn().expect("spawn");
    let pid = i32::try_from(child.id()).expect("pid");
    let deadline = rollout::sys::clock::now().after(support::GENEROUS);
    while facts::arguments(pid).first().is_none_or(|name| name != "cat") {
        assert!(!rollout::sys::clock::until(deadline).is_zero(), "cat does not start");
        support::pause();
    }
    let facts = facts::of(pid);
    assert_eq!(facts.threads, 1);
    assert!(facts.fds.contains(&"pipe".to_owned()) && facts.fds.len() >= 3, "{facts:?}");
    assert!(facts.pss_kib > 0 && facts.pss_kib < 100_000, "{facts:?}");
    let me = i32::try_from(std::process::id()).expect("pid");
    assert!(facts::children(me).contains(&pid));
    drop(child.stdin.take());
    child.wait().expect("wait");
}

#[test]
fn a_release_is_a_copy_with_lines_at_its_end() {
    let home = TempDir::new().expect("a temporary directory");
    let copy = example::release(Path::new("/bin/true"), &home.path().join("v2"), &[("VERSION", "v2"), ("FAULT", "x")]);
    let bytes = fs::read(&copy).expect("read");
    assert!(bytes.ends_with(b"\nROLLOUT-EXAMPLE-VERSION=v2\nROLLOUT-EXAMPLE-FAULT=x\n"));
    assert!(Command::new(&copy).status().expect("it still runs").success());
}
