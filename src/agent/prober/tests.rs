//! The prober against real sockets and processes on this host.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::*;
use crate::agent::route::Route;
use crate::config::settings::{Check, Health, Pace};
use crate::machine::event::Symptom;
use crate::sys::clock;
use crate::sys::notify_socket::NotifySocket;
use crate::sys::tcp_info::Gauge;
use crate::units::{ServiceName, Slot, WorkerId};

const WORKER: WorkerId = WorkerId(7);
/// For what must happen.
const SOON: Duration = Duration::from_secs(20);
const NO_WINDOW: Duration = Duration::ZERO;

fn millis(number: u64) -> Duration {
    Duration::from_millis(number)
}

fn pace(timeout: u64, successes: u32, failures: u32) -> Pace {
    Pace { interval: millis(5), timeout: millis(timeout), successes, failures }
}

fn health(check: Check, readiness: Pace, liveness: Option<Pace>) -> Health {
    Health { check, readiness, liveness, hung_after: millis(500) }
}

fn http() -> Check {
    Check::Http { path: "/healthz".to_owned(), host: "example.org".to_owned(), expect: vec![(200, 399)] }
}

fn exec(script: &str) -> Check {
    Check::Exec { command: ["/bin/sh", "-c", script].map(str::to_owned).to_vec() }
}

/// A listener, the way to it, and a prober.
struct Bench {
    listener: Option<TcpListener>,
    route: Route,
    prober: Prober,
    findings: mpsc::Receiver<(ServiceName, WorkerId, Finding)>,
    servers: JoinSet<()>,
}

impl Bench {
    fn new() -> Self {
        Self::at("127.0.0.1:0", "127.114.0.3:0")
    }

    fn at(address: &str, from: &str) -> Self {
        let listener = std::net::TcpListener::bind(address).expect("bind");
        listener.set_nonblocking(true).expect("non-blocking");
        let lane: OwnedFd = listener.as_fd().try_clone_to_owned().expect("dup");
        let to = listener.local_addr().expect("address");
        let route = Route { from: from.parse().expect("address"), to, gauge: Gauge::new(Arc::new(lane)) };
        let (events, findings) = mpsc::channel(64);
        let prober = Prober::new("web".parse().expect("name"), events);
        let listener = Some(TcpListener::from_std(listener).expect("register"));
        Self { listener, route, prober, findings, servers: JoinSet::new() }
    }

    /// Answers connection k with what `program` says; the last word is repeated.
    fn serve(&mut self, program: &'static [Manner]) -> Arc<AtomicUsize> {
        let listener = self.listener.take().expect("served once");
        let served = Arc::new(AtomicUsize::new(0));
        let count = served.clone();
        self.servers.spawn(async move {
            let mut open = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.expect("accept");
                let manner = &program[count.fetch_add(1, Ordering::SeqCst).min(program.len() - 1)];
                open.spawn(behave(stream, manner));
            }
        });
        served
    }

    fn subject(&self) -> Subject {
        Subject {
            pid: me(),
            slot: Slot(2),
            started: clock::now(),
            stage: Stage::Starting,
            routes: vec![self.route.clone()],
            notify: None,
            env: vec![("PATH".to_owned(), "/usr/bin:/bin".to_owned())],
            cwd: PathBuf::from("/"),
        }
    }

    fn watch(&mut self, health: &Health, min_ready: Duration) {
        let subject = self.subject();
        self.prober.watch(WORKER, subject, health, min_ready).expect("watch");
    }

    async fn next(&mut self) -> Finding {
        let found = timeout(SOON, self.findings.recv()).await.expect("a finding in time").expect("open");
        let found = (found.1, found.2);
        assert_eq!(found.0, WORKER);
        found.1
    }

    fn nothing_more(&mut self) {
        assert_eq!(self.findings.try_recv().ok().map(|(_, worker, finding)| (worker, finding)), None);
    }
}

/// How a server treats a connection.
enum Manner {
    Answer(&'static str),
    /// Takes longer than half of the `min_ready` of the test that uses it.
    Late(&'static str),
    Hang,
    /// Neither reads nor answers nor notices that the client has gone.
    Ignore,
    /// Answers and does not notice that the client has gone.
    AnswerAndIgnore,
    Close,
    /// A head that promises more body than comes.
    CutBody,
    /// Goes on for ever.
    Endless,
}

async fn behave(mut stream: TcpStream, manner: &Manner) {
    if let Manner::Ignore = manner {
        std::future::pending::<()>().await;
    }
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).expect("text");
    assert!(head.starts_with("GET /healthz HTTP/1.1\r\n"), "{head}");
    for line in ["host: example.org", "user-agent: rollout", "connection: close"] {
        assert!(head.to_ascii_lowercase().contains(line), "{head}");
    }
    let _ = match manner {
        Manner::Answer(line) | Manner::Late(line) => {
            if let Manner::Late(_) = manner {
                tokio::time::sleep(millis(150)).await;
            }
            stream.write_all(format!("HTTP/1.1 {line}\r\nContent-Length: 2\r\n\r\nok").as_bytes()).await
        }
        Manner::Close => Ok(()),
        Manner::CutBody => stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok").await,
        Manner::Hang | Manner::Ignore => std::future::pending().await,
        Manner::AnswerAndIgnore => {
            let _ = stream.write_all(b"HTTP/1.1 204 Fine\r\n\r\n").await;
            std::future::pending().await
        }
        Manner::Endless => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
            while stream.write_all(&[b'x'; 4096]).await.is_ok() {}
            Ok(())
        }
    };
}

fn me() -> i32 {
    i32::try_from(std::process::id()).expect("pid")
}

fn sick(how: &str) -> Finding {
    Finding::Sick(Symptom::Unhealthy(how.to_owned()))
}

fn not_yet(how: &str) -> Finding {
    Finding::NotYet(how.to_owned())
}

/// Waits for a fact.
async fn until(what: &str, is_so: impl Fn() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(millis(1)).await;
        }
    };
    assert!(timeout(SOON, wait).await.is_ok(), "in vain: {what}");
}

#[test]
fn a_time_is_written_as_people_write_it() {
    let texts = [2000, 250, 1500, 475, 1001, 0].map(|time| seconds(millis(time)));
    assert_eq!(texts, ["2 s", "0.25 s", "1.5 s", "0.475 s", "1.001 s", "0 s"]);
}

// ---- http

#[tokio::test]
async fn a_good_answer_passes_once_and_then_nobody_asks_again() {
    let mut bench = Bench::new();
    let served = bench.serve(&[Manner::Answer("200 OK")]);
    bench.watch(&health(http(), pace(10_000, 1, 3), None), NO_WINDOW);
    assert_eq!(bench.next().await, Finding::Passed);
    let served_at_pass = served.load(Ordering::SeqCst);
    // A second prober asks the same server a few times; the first must not have asked meanwhile.
    let mut other = Prober::new("web".parse().expect("name"), mpsc::channel(1).0);
    other.watch(WORKER, bench.subject(), &health(http(), pace(10_000, 5, 3), None), NO_WINDOW).expect("watch");
    until("five looks", || served.load(Ordering::SeqCst) >= served_at_pass + 5).await;
    assert_eq!(served.load(Ordering::SeqCst), served_at_pass + 5);
    bench.nothing_more();
}

#[tokio::test]
async fn a_wrong_status_is_not_ready_and_is_said_once_until_it_changes() {
    let mut bench = Bench::new();
    bench.serve(&[
        Manner::Answer("503 Busy"),
        Manner::Answer("503 Busy"),
        Manner::Close,
        Manner::CutBody,
        Manner::Answer("301 Moved"),
    ]);
    bench.watch(&health(http(), pace(10_000, 1, 1), None), NO_WINDOW);
    assert_eq!(bench.next().await, not_yet("GET /healthz answered 503"));
    assert_eq!(bench.next().await, not_yet("GET /healthz: closed before answering"));
    let Finding::NotYet(cut) = bench.next().await else { panic!("a cut body passed") };
    assert!(cut.starts_with("GET /healthz answered 200, but its body was cut"), "{cut}");
    assert_eq!(bench.next().await, Finding::Passed);
}

#[tokio::test]
async fn a_garbled_answer_is_named() {
    let mut bench = Bench::new();
    bench.serve(&[Manner::Answer("what?")]);
    bench.watch(&health(http(), pace(10_000, 1, 1), None), NO_WINDOW);
    assert_eq!(bench.next().await, not_yet("GET /healthz: the answer is not HTTP/1.1"));
}

#[tokio::test]
async fn a_hang_costs_one_timeout_and_the_next_look_may_pass() {
    let mut bench = Bench::new();
    bench.serve(&[Manner::Hang, Manner::Answer("204 Fine")]);
    bench.watch(&health(http(), pace(250, 1, 1), None), NO_WINDOW);
    assert_eq!(bench.next().await, not_yet("GET /healthz: no answer within 0.25 s"));
    assert_eq!(bench.next().await, Finding::Passed);
}

#[tokio::test]
async fn nobody_there_is_a_refusal() {
    let mut bench = Bench::new();
    let to = bench.route.to;
    // A port that was just free, with the gauge of the old listener: nobody listens there.
    let gone = std::net::TcpListener::bind("127.0.0.1:0").expect("bind").local_addr().expect("address");
    bench.route.to = gone;
    assert_ne!(to, gone);
    bench.watch(&health(http(), pace(10_000, 1, 1), None), NO_WINDOW);
    assert_eq!(bench.next().await, not_yet(&format!("GET /healthz: {gone} refused the connection")));
}

#[tokio::test]
async fn an_answer_without_end_is_read_up_to_a_bound_and_is_good() {
    let mut bench = Bench::new();
    bench.serve(&[Manner::Endless]);
    bench.watch(&health(http(), pace(10_000, 1, 1), None), NO_WINDOW);
    assert_eq!(bench.next().await, Finding::Passed);
}

#[tokio::test]
async fn three_successes_means_three_in_a_row() {
    let mut bench = Bench::new();
    let served = bench.serve(&[
        Manner::Answer("200 OK"),
        Manner::Answer("200 OK"),
        Manner::Answer("500 No"),
        Manner::Answer("200 OK"),
    ]);
    bench.watch(&health(http(), pace(10_000, 3, 1), None), NO_WINDOW);
    assert_eq!(bench.next().await, not_yet("GET /healthz answered 500"));
    assert_eq!(bench.next().await, Finding::Passed);
    assert_eq!(served.load(Ordering::SeqCst), 6);
}

#[tokio::test]
async fn liveness_reports_sick_once_until_it_was_good_in_between() {
    let mut bench = Bench::new();
    bench.serve(&[
        Manner::Answer("200 OK"),
        Manner::Answer("500 a"),
        Manner::Answer("200 OK"),
        Manner::Answer("500 b"),
        Manner::Answer("500 c"),
        Manner::Answer("500 d"),
        Manner::Answer("501 e"),
        Manner::Answer("200 OK"),
        Manner::Answer("502 f"),
        Manner::Answer("502 g"),
        Manner::Answer("200 OK"),
    ]);
    bench.watch(&health(http(), pace(10_000, 1, 1), Some(pace(10_000, 1, 2))), NO_WINDOW);
    assert_eq!(bench.next().await, Finding::Passed);
    assert_eq!(bench.next().await, sick("GET /healthz answered 500"));
    assert_eq!(bench.next().await, sick("GET /healthz answered 502"));
    bench.nothing_more();
}

#[tokio::test]
async fn a_worker_that_was_ready_under_an_earlier_agent_need_not_pass_again() {
    let mut bench = Bench::new();
    bench.serve(&[Manner::Answer("200 OK"), Manner::Answer("200 OK"), Manner::Answer("500 No")]);
    let subject = Subject { stage: Stage::Ready, ..bench.subject() };
    let health = health(http(), pace(10_000, 1, 1), Some(pace(10_000, 1, 2)));
    bench.prober.watch(WORKER, subject, &health, millis(10)).expect("watch");
    assert_eq!(bench.next().await, sick("GET /healthz answered 500"));
}

// ---- min_ready

#[tokio::test]
async fn a_worker_that_gets_unready_within_min_ready_is_sick() {
    let mut bench = Bench::new();
    bench.serve(&[Manner::Answer("200 OK"), Manner::Answer("200 OK"), Manner::Answer("500 No")]);
    bench.watch(&health(http(), pace(10_000, 1, 3), None), SOON);
    assert_eq!(bench.next().await, Finding::Passed);
    assert_eq!(bench.next().await, sick("GET /healthz answered 500"));
}

#[tokio::test]
async fn a_worker_that_hangs_after_its_first_answer_is_sick_before_min_ready_is_over() {
    let mut bench = Bench::new();
    bench.serve(&[Manner::Answer("200 OK"), Manner::Hang]);
    // Three bad looks of ten seconds each would never fit into the window.
    bench.watch(&health(http(), pace(10_000, 1, 3), None), millis(1000));
    assert_eq!(bench.next().await, Finding::Passed);
    let passed = clock::now();
    assert_eq!(bench.next().await, sick("GET /healthz: no answer within 0.5 s"));
    let took = clock::now().since(passed);
    assert!(took < millis(1000), "found after {took:?}, when the machine would have admitted it");
}

#[tokio::test]
async fn a_worker_that_begins_late_and_then_hangs_has_not_passed() {
    let mut bench = Bench::new();
    // Its first answer takes longer than half of min_ready, so it is no measure of its answers.
    bench.serve(&[Manner::Late("200 OK"), Manner::Hang]);
    bench.watch(&health(http(), pace(1000, 1, 3), None), millis(200));
    assert_eq!(bench.next().await, not_yet("GET /healthz: no answer within 1 s"));
}

#[tokio::test]
async fn after_min_ready_a_worker_without_liveness_is_left_alone() {
    let mut bench = Bench::new();
    let served = bench.serve(&[Manner::Answer("200 OK")]);
    bench.watch(&health(http(), pace(10_000, 1, 1), None), millis(60));
    assert_eq!(bench.next().await, Finding::Passed);
    // Level, not edge: at some time the count stands still for longer than several intervals.
    timeout(SOON, async {
        loop {
            let before = served.load(Ordering::SeqCst);
            tokio::time::sleep(millis(100)).await;
            if served.load(Ordering::SeqCst) == before {
                return;
            }
        }
    })
    .await
    .expect("looks end");
    assert!(served.load(Ordering::SeqCst) > 1, "nobody looked during min_ready");
    bench.nothing_more();
}

// ---- accept

#[tokio::test]
async fn a_program_that_accepts_passes_and_one_that_does_not_does_not() {
    let mut bench = Bench::new();
    let to = bench.route.to;
    bench.watch(&health(Check::Accept, pace(100, 1, 1), None), NO_WINDOW);
    assert_eq!(bench.next().await, not_yet(&format!("no accept on {to} within 0.1 s")));
    bench.serve(&[Manner::Close]);
    assert_eq!(bench.next().await, Finding::Passed);
}

#[tokio::test]
async fn every_listener_must_be_accepted_from() {
    let mut bench = Bench::new();
    bench.serve(&[Manner::Close]);
    let deaf = Bench::new();
    let mut subject = bench.subject();
    subject.routes.push(deaf.route.clone());
    let health = health(Check::Accept, pace(100, 1, 1), None);
    bench.prober.watch(WORKER, subject, &health, NO_WINDOW).expect("watch");
    assert_eq!(bench.next().await, not_yet(&format!("no accept on {} within 0.1 s", deaf.route.to)));
}

#[tokio::test]
async fn an_accept_counts_even_when_others_keep_the_queue_full() {
    let mut bench = Bench::new();
    // Three clients wait; the program takes one, and one only.
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(TcpStream::connect(bench.route.to).await.expect("connect"));
    }
    let listener = bench.listener.take().expect("there");
    let gauge = bench.route.gauge.clone();
    bench.watch(&health(Check::Accept, pace(10_000, 1, 1), None), NO_WINDOW);
    until("the probe is queued", || gauge.queued().expect("ask") >= 4).await;
    bench.nothing_more();
    let _taken = listener.accept().await.expect("accept");
    assert_eq!(bench.next().await, Finding::Passed);
}

#[tokio::test]
async fn a_lane_that_its_program_shut_down_is_no_accept() {
    let mut bench = Bench::new();
    let to = bench.route.to;
    let listener = bench.listener.take().expect("there");
    let gauge = bench.route.gauge.clone();
    bench.watch(&health(Check::Accept, pace(10_000, 1, 1), None), NO_WINDOW);
    until("the probe is queued", || gauge.queued().expect("ask") > 0).await;
    // shutdown(2) of a listener, by a program that has no other word for it.
    let fd = listener.as_fd().try_clone_to_owned().expect("dup");
    std::net::TcpStream::from(fd).shutdown(std::net::Shutdown::Both).expect("shutdown");
    let expected = format!("connect to {to}: the lane does not listen any more: the program shut it down");
    assert_eq!(bench.next().await, not_yet(&expected));
}

#[tokio::test]
async fn a_marked_ipv6_port_is_used_again_and_again() {
    let probe = std::net::TcpListener::bind("[::1]:0").expect("bind");
    let from = probe.local_addr().expect("address");
    drop(probe);
    // Programs that leave it to us to end the connection: without care, our end of it would keep the port.
    let cases: [(Check, &'static [Manner]); 2] =
        [(Check::Accept, &[Manner::Ignore]), (http(), &[Manner::AnswerAndIgnore])];
    for (check, manners) in cases {
        let mut bench = Bench::at("[::1]:0", &from.to_string());
        bench.serve(manners);
        bench.watch(&health(check, pace(10_000, 20, 1), None), NO_WINDOW);
        assert_eq!(bench.next().await, Finding::Passed, "some look found its port taken");
    }
}

// ---- suspicion

#[tokio::test]
async fn a_suspicion_that_proves_true_is_a_hang_and_one_that_does_not_is_nothing() {
    let mut bench = Bench::new();
    let served = bench.serve(&[Manner::Answer("200 OK"), Manner::Answer("200 OK"), Manner::Hang]);
    bench.watch(&health(http(), pace(300, 1, 1), None), NO_WINDOW);
    assert_eq!(bench.next().await, Finding::Passed);
    bench.prober.suspect(WORKER);
    until("a look", || served.load(Ordering::SeqCst) >= 2).await;
    bench.prober.suspect(WORKER);
    assert_eq!(bench.next().await, Finding::Sick(Symptom::Hung(millis(500))));
    bench.prober.suspect(WorkerId(99));
    bench.nothing_more();
}

#[tokio::test]
async fn a_worker_without_looks_is_suspected_by_its_lane() {
    let mut bench = Bench::new();
    bench.watch(&health(Check::AliveFor { time: Duration::ZERO }, pace(100, 1, 1), None), NO_WINDOW);
    assert_eq!(bench.next().await, Finding::Passed);
    bench.prober.suspect(WORKER);
    assert_eq!(bench.next().await, Finding::Sick(Symptom::Hung(millis(500))));
}

// ---- alive_for

#[tokio::test(start_paused = true)]
async fn alive_for_counts_from_the_start_of_the_process() {
    let mut bench = Bench::new();
    let began = tokio::time::Instant::now();
    let check = Check::AliveFor { time: Duration::from_secs(3600) };
    let subject = Subject { started: clock::now(), ..bench.subject() };
    bench.prober.watch(WORKER, subject, &health(check, pace(10, 1, 1), None), NO_WINDOW).expect("watch");
    let found = bench.findings.recv().await.map(|(_, worker, finding)| (worker, finding)).expect("open");
    assert_eq!(found, (WORKER, Finding::Passed));
    let waited = began.elapsed();
    assert!(waited > Duration::from_secs(3590) && waited <= Duration::from_secs(3601), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_forgotten_worker_is_not_heard_of_again() {
    let mut bench = Bench::new();
    let check = Check::AliveFor { time: Duration::from_secs(60) };
    bench.watch(&health(check, pace(10, 1, 1), None), NO_WINDOW);
    bench.prober.forget(WORKER);
    // An hour of a clock that stands: it jumps from timer to timer.
    tokio::time::sleep(Duration::from_secs(3600)).await;
    bench.nothing_more();
}

// ---- exec

#[tokio::test]
async fn a_command_that_exits_0_passes_and_is_told_what_to_look_at() {
    let mut bench = Bench::new();
    let to = bench.route.to;
    let script = format!(
        "test \"$ROLLOUT_WORKER $ROLLOUT_PID $ROLLOUT_SLOT $ROLLOUT_PROBE_FROM $ROLLOUT_PROBE_TO $OWN$LISTEN_FDS\" \
         = 'w7 {} 2 127.114.0.3 {to} yes' && test \"$PWD\" = /",
        me()
    );
    let mut subject = bench.subject();
    subject.env.extend([("OWN", "yes"), ("LISTEN_FDS", "1")].map(|(name, value)| (name.to_owned(), value.to_owned())));
    let health = health(exec(&script), pace(10_000, 1, 1), None);
    bench.prober.watch(WORKER, subject, &health, NO_WINDOW).expect("watch");
    assert_eq!(bench.next().await, Finding::Passed);
}

#[tokio::test]
async fn the_last_line_of_a_failed_command_is_in_the_text() {
    let mut bench = Bench::new();
    let script = "echo first; head -c 200000 /dev/zero | tr '\\0' x; echo; echo 'no database' >&2; echo; exit 3";
    bench.watch(&health(exec(script), pace(10_000, 1, 1), None), NO_WINDOW);
    assert_eq!(bench.next().await, not_yet("/bin/sh: exit status: 3: no database"));
}

#[tokio::test]
async fn a_command_that_is_not_there_is_named() {
    let mut bench = Bench::new();
    let check = Check::Exec { command: vec!["/no/such".to_owned()] };
    bench.watch(&health(check, pace(10_000, 1, 1), None), NO_WINDOW);
    let Finding::NotYet(how) = bench.next().await else { panic!("passed") };
    assert!(how.starts_with("start /no/such in /: No such file"), "{how}");
}

#[tokio::test]
async fn a_command_whose_background_child_holds_the_output_is_not_waited_for() {
    let mut bench = Bench::new();
    let (read, write) = io::pipe().expect("pipe");
    // The child lives until our pipe ends.
    let hold = format!("cat < /proc/{}/fd/{} & exit 0", me(), std::os::fd::AsRawFd::as_raw_fd(&read));
    bench.watch(&health(exec(&hold), pace(10_000, 1, 1), None), NO_WINDOW);
    assert_eq!(bench.next().await, Finding::Passed);
    drop(write);
}

/// Ends when the last process that holds the write end of the pipe is gone.
async fn end_of(read: io::PipeReader) {
    let mut read = tokio::net::unix::pipe::Receiver::from_owned_fd(read.into()).expect("register");
    let mut all = Vec::new();
    timeout(SOON, read.read_to_end(&mut all)).await.expect("every process is gone").expect("read");
}

#[tokio::test]
async fn a_command_that_is_late_is_killed_with_its_grandchildren() {
    let mut bench = Bench::new();
    let (read, write) = io::pipe().expect("pipe");
    let path = format!("/proc/{}/fd/{}", me(), std::os::fd::AsRawFd::as_raw_fd(&write));
    let script = format!("exec 9>{path}; (sleep 1000; :) & echo waiting; sleep 1000; :");
    bench.watch(&health(exec(&script), pace(400, 1, 1), None), NO_WINDOW);
    assert_eq!(bench.next().await, not_yet("/bin/sh did not end within 0.4 s: waiting"));
    bench.prober.forget(WORKER);
    drop(write);
    end_of(read).await;
}

#[tokio::test]
async fn a_command_is_killed_with_its_grandchildren_when_its_worker_is_forgotten() {
    let mut bench = Bench::new();
    let (mut started, hello) = io::pipe().expect("pipe");
    let (read, write) = io::pipe().expect("pipe");
    let path = |pipe: &io::PipeWriter| format!("/proc/{}/fd/{}", me(), std::os::fd::AsRawFd::as_raw_fd(pipe));
    let script = format!("exec 9>{}; (echo > {}; sleep 1000; :) & sleep 1000; :", path(&write), path(&hello));
    bench.watch(&health(exec(&script), pace(600_000, 1, 1), None), NO_WINDOW);
    let said = tokio::task::spawn_blocking(move || io::Read::read(&mut started, &mut [0; 1]));
    assert_eq!(timeout(SOON, said).await.expect("it starts").expect("join").expect("read"), 1);
    bench.prober.forget(WORKER);
    drop(write);
    end_of(read).await;
}

// ---- notify

const SEND: &str = "import os,socket,sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
for line in sys.stdin:
    s.sendto(line.strip().replace('|', '\\n').encode(), '\\0' + os.environ['NOTIFY_SOCKET'][1:])
";

/// A process that sends what it is told, line by line.
struct Speaker(Child);

impl Speaker {
    fn new(socket: &NotifySocket) -> Self {
        let child = Command::new("python3")
            .args(["-c", SEND])
            .env("NOTIFY_SOCKET", socket.address())
            .stdin(Stdio::piped())
            .spawn()
            .expect("python3 is needed for this test");
        Self(child)
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).expect("pid")
    }

    fn say(&mut self, what: &str) {
        use std::io::Write;
        let mut input = self.0.stdin.as_ref().expect("piped");
        input.write_all(format!("{what}\n").as_bytes()).expect("write");
        input.flush().expect("flush");
    }
}

impl Drop for Speaker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A prober that hears `worker` and expects messages to come from process `pid`.
fn hear(bench: &mut Bench, socket: NotifySocket, pid: i32, health: &Health, stage: Stage) {
    let subject = Subject { pid, stage, notify: Some(socket), ..bench.subject() };
    bench.prober.watch(WORKER, subject, health, NO_WINDOW).expect("watch");
}

#[tokio::test]
async fn ready_is_heard_from_the_worker_and_said_once() {
    let mut bench = Bench::new();
    let socket = NotifySocket::unnamed().expect("new");
    let mut worker = Speaker::new(&socket);
    let health = health(Check::Notify, pace(10, 1, 1), None);
    hear(&mut bench, socket, worker.pid(), &health, Stage::Starting);
    worker.say("STATUS=loading");
    worker.say("STATUS=loading");
    worker.say("EXTEND_TIMEOUT_USEC=5000000");
    worker.say("READY=1|STATUS=up");
    worker.say("READY=1");
    worker.say("WATCHDOG=trigger");
    assert_eq!(bench.next().await, Finding::Status("loading".to_owned()));
    assert_eq!(bench.next().await, Finding::Extended(Duration::from_secs(5)));
    assert_eq!(bench.next().await, Finding::Passed);
    assert_eq!(bench.next().await, Finding::Status("up".to_owned()));
    assert_eq!(bench.next().await, sick("it said WATCHDOG=trigger"));
}

#[tokio::test]
async fn a_stranger_s_ready_counts_for_nothing() {
    let mut bench = Bench::new();
    let socket = NotifySocket::unnamed().expect("new");
    let (mut worker, mut stranger) = (Speaker::new(&socket), Speaker::new(&socket));
    let health = health(Check::Notify, pace(10, 1, 1), None);
    let kept = socket.as_fd().try_clone_to_owned().expect("dup");
    hear(&mut bench, socket, worker.pid(), &health, Stage::Starting);
    stranger.say("READY=1");
    // A second stranger, whose exit tells that the first message of the same kind was sent, is this process itself.
    let to = NotifySocket::adopt(kept).expect("adopt").address().to_owned();
    send_from_here(&to, "READY=1");
    stranger.0.stdin.take();
    tokio::task::spawn_blocking(move || stranger.0.wait()).await.expect("join").expect("wait");
    worker.say("STATUS=only me");
    assert_eq!(bench.next().await, Finding::Status("only me".to_owned()));
    worker.say("READY=1");
    assert_eq!(bench.next().await, Finding::Passed);
}

fn send_from_here(address: &str, what: &str) {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    let name = SocketAddr::from_abstract_name(address.strip_prefix('@').expect("abstract")).expect("name");
    UnixDatagram::unbound().expect("socket").send_to_addr(what.as_bytes(), &name).expect("send");
}

#[tokio::test]
async fn a_descendant_speaks_for_the_worker() {
    let mut bench = Bench::new();
    let socket = NotifySocket::unnamed().expect("new");
    // This process is the "worker"; the speaker is its child.
    let mut child = Speaker::new(&socket);
    let health = health(Check::Notify, pace(10, 1, 1), None);
    hear(&mut bench, socket, me(), &health, Stage::Starting);
    child.say("READY=1");
    assert_eq!(bench.next().await, Finding::Passed);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_stops_saying_that_it_lives_is_sick() {
    let mut bench = Bench::new();
    let socket = NotifySocket::unnamed().expect("new");
    let to = socket.address().to_owned();
    let liveness = Pace { interval: Duration::from_secs(10), timeout: millis(10), successes: 1, failures: 2 };
    let health = health(Check::Notify, pace(10, 1, 1), Some(liveness));
    assert_eq!(watchdog_allowance(&health), Some(Duration::from_secs(20)));
    // This process is the worker.
    hear(&mut bench, socket, me(), &health, Stage::Starting);
    send_from_here(&to, "READY=1");
    assert_eq!(
        bench.findings.recv().await.map(|(_, worker, finding)| (worker, finding)),
        Some((WORKER, Finding::Passed))
    );
    let ready = tokio::time::Instant::now();
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_secs(15)).await;
        send_from_here(&to, "WATCHDOG=1");
        // The task that hears must run before the clock jumps on.
        tokio::task::yield_now().await;
    }
    let silent = tokio::time::Instant::now();
    assert_eq!(
        bench.findings.recv().await.map(|(_, worker, finding)| (worker, finding)),
        Some((WORKER, sick("no WATCHDOG=1 for 20 s")))
    );
    assert!(ready.elapsed() > Duration::from_secs(150) && silent.elapsed() < Duration::from_secs(21));
    // Said once; a sign of life starts it again.
    tokio::time::sleep(Duration::from_secs(3600)).await;
    bench.nothing_more();
    send_from_here(&to, "WATCHDOG=1");
    assert_eq!(
        bench.findings.recv().await.map(|(_, worker, finding)| (worker, finding)),
        Some((WORKER, sick("no WATCHDOG=1 for 20 s")))
    );
}

#[tokio::test]
async fn silence_is_allowed_where_liveness_is_off_or_another_check_decides() {
    assert_eq!(watchdog_allowance(&health(Check::Notify, pace(10, 1, 1), None)), None);
    assert_eq!(watchdog_allowance(&health(Check::Accept, pace(10, 1, 1), Some(pace(10, 1, 1)))), None);
}

#[tokio::test]
async fn a_notify_check_without_a_socket_is_refused() {
    let mut bench = Bench::new();
    let subject = bench.subject();
    let watched = bench.prober.watch(WORKER, subject, &health(Check::Notify, pace(10, 1, 1), None), NO_WINDOW);
    assert_eq!(watched.expect_err("refused").kind(), io::ErrorKind::InvalidInput);
}
