//! Rollouts on every kind of listener, and clients that come while nobody is ready.

#[expect(dead_code, reason = "no test uses all of it")]
mod deploy;

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use deploy::load::mix::Mix;
use deploy::support::sampler::ReadySampler;
use deploy::support::{GENEROUS, Rig, tree};
use deploy::{BRISK, CALM, Language, Scene, VERSIONS, config, say};
use tempfile::TempDir;

const ROLLOUTS: usize = 3;

const THREE: &str = "workers: 3";
const NOTIFY: &str = "readiness: notify";

fn mix() -> Mix {
    Mix::all(100.0)
}

#[test]
fn ipv6_alone() {
    for (name, listen) in
        [("::1", "listen: ['[::1]:0']"), (":: without IPv4", "listen: [{address: '[::]:0', only_v6: true}]")]
    {
        let scene = Scene::start(name, Language::Rust, &[THREE, listen, "readiness: accept", CALM], mix());
        assert!(scene.rig.address("web", 0).is_ipv6());
        let live = scene.deploy_alternating(ROLLOUTS);
        scene.end(3, live);
    }
}

#[test]
fn dual_stack_by_both_ways() {
    let lines = [THREE, "listen: ['[::]:0']", "readiness: accept", CALM];
    let mut scene = Scene::start("dual stack", Language::Rust, &lines, mix());
    let by_ipv6 = scene.rig.address("web", 0);
    assert!(by_ipv6.is_ipv6());
    scene.put_load_on(SocketAddr::from((Ipv4Addr::LOCALHOST, by_ipv6.port())), mix());
    let live = scene.deploy_alternating(ROLLOUTS);
    scene.end(3, live);
}

#[test]
fn one_shared_socket() {
    let lines = [THREE, "listen: [{address: 127.0.0.1:0, mode: shared}]", NOTIFY, BRISK];
    let scene = Scene::start("shared", Language::Rust, &lines, mix());
    let live = scene.deploy_alternating(ROLLOUTS);
    scene.end(3, live);
}

#[test]
fn two_listeners_at_once() {
    let lines =
        [THREE, "listen: [{address: 127.0.0.1:0, name: one}, {address: '[::1]:0', name: other}]", NOTIFY, BRISK];
    let mut scene = Scene::start("two listeners", Language::Rust, &lines, mix());
    scene.put_load_on(scene.rig.address("web", 1), mix());
    let live = scene.deploy_alternating(ROLLOUTS);
    scene.end(3, live);
}

// ---- Unix sockets

/// Clients of a Unix socket, paced by the server: each sends its next request when the last one was answered.
struct UnixLoad {
    over: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Vec<String>>>,
}

#[derive(Clone, Copy, PartialEq)]
enum Keep {
    Alive,
    Not,
}

impl UnixLoad {
    fn start(socket: &Path) -> Self {
        let (over, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let client = |keep, path: &'static str| {
            let (socket, over, answered) = (socket.to_owned(), Arc::clone(&over), Arc::clone(&answered));
            std::thread::spawn(move || unix_client(&socket, keep, path, &over, &answered))
        };
        let short = (0..4).flat_map(|_| [(Keep::Not, "/slow?ms=20"), (Keep::Alive, "/slow?ms=30")]);
        let clients = short.chain([(Keep::Not, "/slow?ms=2000"), (Keep::Alive, "/slow?ms=500")]);
        let clients = clients.map(|(keep, path)| client(keep, path)).collect();
        Self { over, answered, clients }
    }

    /// How many were answered, and what went wrong with the others.
    fn stop(self) -> (u64, Vec<String>) {
        self.over.store(true, Ordering::SeqCst);
        let failed = self.clients.into_iter().flat_map(|client| client.join().expect("the client does not panic"));
        let failed = failed.collect();
        (self.answered.load(Ordering::SeqCst), failed)
    }
}

fn unix_client(socket: &Path, keep: Keep, path: &str, over: &AtomicBool, answered: &AtomicU64) -> Vec<String> {
    let mut failed = vec![];
    let mut kept = None;
    while !over.load(Ordering::SeqCst) {
        let answer = kept.take().map_or_else(|| UnixStream::connect(socket), Ok).and_then(|mut stream| {
            let answer = exchange(&mut stream, keep, path)?;
            Ok((stream, answer))
        });
        match answer {
            Ok((stream, Answer { head, body })) => {
                answered.fetch_add(1, Ordering::SeqCst);
                if !head.starts_with("HTTP/1.1 200 ") || !VERSIONS.iter().any(|known| body.starts_with(known)) {
                    failed.push(format!("{path}: {head} {body}"));
                }
                let stays = keep == Keep::Alive && !head.to_ascii_lowercase().contains("connection: close");
                kept = stays.then_some(stream);
            }
            Err(error) => failed.push(format!("{path}: {error}")),
        }
    }
    failed
}

struct Answer {
    head: String,
    body: String,
}

/// One request and its answer, whose length must be in its head.
fn exchange(stream: &mut (impl Read + Write), keep: Keep, path: &str) -> io::Result<Answer> {
    let close = if keep == Keep::Not { "connection: close\r\n" } else { "" };
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{close}\r\n").as_bytes())?;
    read_answer(stream)
}

fn read_answer(stream: &mut impl Read) -> io::Result<Answer> {
    let mut received = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&received);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            if length.is_some_and(|length: usize| body.len() >= length) {
                return Ok(Answer { head: head.to_owned(), body: body.to_owned() });
            }
        }
        match stream.read(&mut piece)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            length => received.extend_from_slice(&piece[..length]),
        }
    }
}

#[test]
fn a_unix_socket() {
    let home = TempDir::new().expect("a temporary directory");
    let releases = ["web", "v1", "v2"].map(|name| {
        let version = if name == "web" { "v1" } else { name };
        Language::Rust.release(&home.path().join(name), version)
    });
    let lines = [THREE, "listen: ['unix:web.sock']", NOTIFY, BRISK];
    let mut rig = Rig::start_in(home, &config(&lines));
    rig.wait_until_serving();
    let sampler = ReadySampler::start(&rig, "web");
    let load = UnixLoad::start(&rig.home().join("web.sock"));
    for release in [&releases[2], &releases[1], &releases[2]] {
        let said = rig.deploy(release);
        assert_eq!(said.code, Some(0), "{said:?}");
    }
    let (answered, failed) = load.stop();
    let seen = sampler.stop();
    say(&format!("unix: {seen:?}: {answered} answered, {} failed", failed.len()));
    assert!(failed.is_empty(), "{failed:?}\n--- log\n{}", rig.log());
    assert!(answered > 100, "{answered}");
    assert!(seen.least_ready >= 3, "{seen:?}");
    let mut last = UnixStream::connect(rig.home().join("web.sock")).expect("connect");
    assert!(exchange(&mut last, Keep::Not, "/").expect("an answer").body.starts_with("v2 "));
    assert!(rig.stop().success());
}

// ---- the waiting room

/// A release that becomes the worker when the file `go` is there.
fn gated(home: &Path) -> PathBuf {
    let worker = Language::Rust.release(&home.join("worker"), "v1");
    let (gate, script) = (home.join("go"), home.join("web"));
    let text = format!(
        "#!/bin/sh\nuntil [ -e {gate} ]; do sleep 0.05; done\nexec {worker}\n",
        gate = gate.display(),
        worker = worker.display()
    );
    fs::write(home.join("web.new"), text).expect("write");
    fs::set_permissions(home.join("web.new"), Permissions::from_mode(0o755)).expect("make it executable");
    fs::rename(home.join("web.new"), &script).expect("put it in place");
    script
}

/// Clients that have connected and asked, and have no answer yet.
struct Waiting(Vec<TcpStream>);

impl Waiting {
    fn at(address: SocketAddr, count: usize) -> Self {
        let ask = |_| {
            let mut client = TcpStream::connect_timeout(&address, GENEROUS).expect("connect while nobody is ready");
            client.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").expect("ask");
            client
        };
        let waiting = Self((0..count).map(ask).collect());
        for mut client in &waiting.0 {
            // No deadline, but the other way round: an answer or an end would be there at once.
            client.set_read_timeout(Some(Duration::from_millis(5))).expect("set a deadline");
            let early = client.read(&mut [0; 1]);
            assert!(early.as_ref().is_err_and(|error| error.kind() == ErrorKind::WouldBlock), "{early:?}");
            client.set_read_timeout(Some(GENEROUS)).expect("set a deadline");
        }
        waiting
    }

    fn are_served(self, rig: &Rig) {
        for mut client in self.0 {
            let answer = read_answer(&mut client);
            let answer = answer.unwrap_or_else(|error| panic!("{error}\n--- log\n{}", rig.log()));
            assert!(answer.body.starts_with("v1 "), "{} {}", answer.head, answer.body);
        }
    }
}

#[test]
fn clients_wait_while_nobody_is_ready_and_are_served() {
    for (name, listen, readiness) in [
        ("steered", "listen: [127.0.0.1:0]", "readiness: {http: /healthz}"),
        ("steered, IPv6", "listen: ['[::1]:0']", "readiness: accept"),
        ("shared", "listen: [{address: 127.0.0.1:0, mode: shared}]", NOTIFY),
    ] {
        let home = TempDir::new().expect("a temporary directory");
        gated(home.path());
        let mut rig = Rig::start_in(home, &config(&[THREE, listen, readiness, CALM]));
        rig.wait_for_status("the first workers start", |status| {
            let web = &status.services[0];
            web.workers.len() == 3 && web.workers.iter().all(|worker| worker.pid.is_some())
        });
        let address = rig.address("web", 0);
        let first = Waiting::at(address, 40);
        fs::write(rig.home().join("go"), "").expect("open the gate");
        first.are_served(&rig);
        rig.wait_until_serving();

        fs::remove_file(rig.home().join("go")).expect("close the gate");
        let dead = rig.pids("web", "ready");
        tree::signal("KILL", &dead);
        rig.wait_until("nobody is ready", |rig| {
            rig.pids("web", "ready").is_empty() && rig.pids("web", "starting").len() == 3
        });
        let second = Waiting::at(address, 40);
        fs::write(rig.home().join("go"), "").expect("open the gate");
        second.are_served(&rig);
        say(&format!("{name}: 40 and 40 clients waited and were served"));
        rig.wait_until_serving();
        assert!(rig.stop().success());
    }
}
