//! The end: everything drains within its deadlines, and nothing is left.

#[path = "load/mod.rs"]
#[expect(dead_code, reason = "the load program and other tests use more of it")]
mod load;
#[expect(dead_code, reason = "no test uses the whole rig")]
mod support;
#[expect(dead_code, reason = "other tests use more of it")]
mod web;

use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitStatus;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rollout::sys::clock;
use support::{Rig, example, facts, once, tree};

/// Two polite workers with every kind of socket; one that ignores SIGTERM; one whose child left its session.
fn start(name: &str) -> Rig {
    let home = web::home();
    for (file, fault) in [("rude", "ignores-term"), ("parent", "grandchild")] {
        let lines = [("VERSION", file), ("FAULT", fault)];
        example::release(&example::built("faulty"), &home.path().join(file), &lines);
    }
    let config = format!(
        "services:
  web:
    binary: ./web
    workers: 2
    listen: [127.0.0.1:0, unix:./web.sock, 'unix:@{name}']
{ready}    drain: {{timeout: 10s}}
  rude:
    binary: ./rude
    workers: 1
    listen: [127.0.0.1:0]
{ready}    drain: {{timeout: 1s}}
  parent:
    binary: ./parent
    workers: 1
    listen: [127.0.0.1:0]
{ready}    drain: {{timeout: 10s}}
",
        ready = web::HEALTHZ
    );
    let mut rig = Rig::start_in(home, &config);
    rig.wait_until_serving();
    rig
}

/// A name for an abstract socket that no other test and no other run has.
fn abstract_name(test: &str) -> String {
    format!("rollout-test-{test}-{}", std::process::id())
}

fn is_bound(name: &str) -> bool {
    fs::read_to_string("/proc/net/unix").expect("read").lines().any(|line| line.ends_with(&format!("@{name}")))
}

/// Requests that are under way: each is told to take a second and a half.
fn slow_requests(address: SocketAddr) -> Vec<JoinHandle<String>> {
    (0..6).map(|_| thread::spawn(move || once::answer(address, "/slow?ms=1500"))).collect()
}

/// A rig in its middle: requests under way, everything bound.
fn in_the_middle(name: &str) -> (Rig, Vec<JoinHandle<String>>) {
    let mut rig = start(name);
    let web = rig.address("web", 0);
    let grandchild: i32 =
        once::answer(rig.address("parent", 0), "/children").lines().last().expect("a line").parse().expect("pid");
    assert!(rig.processes().contains(&grandchild));
    let asked = slow_requests(web);
    let pids = rig.pids("web", "ready");
    // Everybody is served: the requests are with the workers, not on their way.
    rig.wait_until("the requests have been accepted", |_| {
        let of = |pid: &i32| facts::of(*pid).fds.iter().filter(|fd| fd.as_str() == "socket").count();
        // Three listening sockets each.
        pids.iter().map(of).sum::<usize>() >= 2 * 3 + asked.len()
    });
    assert!(is_bound(name) && rig.home().join("web.sock").exists());
    (rig, asked)
}

fn assert_answered(asked: Vec<JoinHandle<String>>) {
    for request in asked {
        let answer = request.join().expect("a client does not panic");
        assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("v1 "), "{answer:?}");
    }
}

/// What a service leaves on the file system and in the abstract name space: nothing.
fn assert_nothing_left(home: &Path, name: &str, log: &str) {
    let sockets: Vec<_> = fs::read_dir(home)
        .expect("list")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "sock"))
        .collect();
    assert!(sockets.is_empty(), "{sockets:?}\n{log}");
    assert!(!is_bound(name), "{log}");
}

/// Ends the rig: `end` is what tells it to.
fn end(rig: &mut Rig, name: &str, end: impl FnOnce(&Rig)) -> ExitStatus {
    let before = clock::now();
    end(rig);
    let status = rig.ended();
    let (took, log) = (clock::now().since(before), rig.log());
    assert_nothing_left(rig.home(), name, &log);
    assert!(log.contains("did not go in time: killed"), "the rude one is killed after 1 s: {log}");
    // 1.5 s for the slow requests, 1 s for the grace or the rude one: far below the deadline of the polite ones.
    assert!(took < Duration::from_secs(8), "{took:?}\n{log}");
    status
}

#[test]
fn sigterm_drains_and_stops_everything() {
    let name = abstract_name("term");
    let (mut rig, asked) = in_the_middle(&name);
    let status = end(&mut rig, &name, |rig| rig.signal("TERM"));
    assert_eq!(status.code(), Some(0));
    assert_answered(asked);
}

#[test]
fn rollout_stop_drains_and_stops_everything() {
    let name = abstract_name("stop");
    let (mut rig, asked) = in_the_middle(&name);
    let status = end(&mut rig, &name, |rig| {
        let result = rig.cli(&["stop"]);
        assert_eq!(result.code, Some(0), "{result:?}");
        assert!(result.stdout.contains("everything is stopped"), "{result:?}");
    });
    assert_eq!(status.code(), Some(0));
    assert_answered(asked);
}

/// As Ctrl-C on a terminal: to the whole foreground group. Only the keeper is in it.
#[test]
fn sigint_to_the_group_hits_the_keeper_alone() {
    let home = web::home();
    let program = home.path().join("in-a-group-of-its-own");
    fs::write(&program, format!("#!/bin/sh\nexec setsid {} \"$@\"\n", env!("CARGO_BIN_EXE_rollout"))).expect("write");
    fs::set_permissions(&program, Permissions::from_mode(0o755)).expect("chmod");
    let mut rig = Rig::start_program(&program, home, &web::config(web::HEALTHZ), &[]);
    rig.wait_until_serving();
    let asked = slow_requests(rig.address("web", 0));
    let keeper = rig.keeper_pid();
    let group_of = |pid: &i32| -> i32 {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("read");
        let fields = stat.rsplit_once(')').expect("a name").1;
        fields.split_whitespace().nth(2).expect("a group").parse().expect("a number")
    };
    let in_group: Vec<_> = rig.processes().into_iter().filter(|pid| group_of(pid) == keeper).collect();
    assert_eq!(in_group, [keeper]);
    rig.wait_until("the requests have been accepted", |rig| {
        let of = |pid: &i32| facts::of(*pid).fds.iter().filter(|fd| fd.as_str() == "socket").count();
        rig.pids("web", "ready").iter().map(of).sum::<usize>() >= 4 + asked.len()
    });
    tree::signal("INT", &[-keeper]);
    assert_eq!(rig.ended().code(), Some(0));
    assert_answered(asked);
}

/// SIGTERM in the middle of a rollout: that ends, too, and whoever follows it is told.
#[test]
fn sigterm_during_a_rollout_ends_it_and_says_so() {
    let mut rig = web::serving(&web::config(&format!("{}    rollout: {{min_ready: 400ms}}\n", web::HEALTHZ)));
    let load = web::load(&rig);
    let deploy = rig.start_cli(&["deploy", web::polite(&rig, "v2").to_str().expect("UTF-8")]);
    rig.wait_for_status("one slot is done", |status| {
        status.services[0].rollout.as_ref().is_some_and(|rollout| rollout.done == 1)
    });
    rig.signal("TERM");
    let result = deploy.wait();
    assert_eq!(result.code, Some(5), "{result:?}");
    assert!(result.stderr.contains("the service is being stopped"), "{result:?}");
    assert_eq!(rig.ended().code(), Some(0));
    drop(load);
}

#[test]
fn a_keeper_that_is_started_again_finds_its_releases_and_nothing_in_its_way() {
    let home = web::home();
    let mut rig = Rig::start_in(home, &web::config(web::HEALTHZ));
    rig.wait_until_serving();
    assert_eq!(rig.deploy(&web::polite(&rig, "v2")).code, Some(0));
    let v2 = web::live(&rig);
    rig.signal("TERM");
    assert_eq!(rig.ended().code(), Some(0));
    rig.start_again();
    rig.wait_until_serving();
    assert_eq!(web::live(&rig), v2, "what was live before is live again");
    assert_eq!(rig.stop().code(), Some(0));
}
