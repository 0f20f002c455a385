//! The commands against an agent that a test scripts: what they ask, print, and exit with.

use std::future::Future;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rollout::agent::control::{Control, serve};
use rollout::agent::request::{LogFeed, Request, Roll};
use rollout::units::{Digest, Generation, RolloutId, Slot};
use rollout::wire::api::{self, Outcome, Progress, Report, Step};
use tempfile::TempDir;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinSet;

/// Far beyond what anything here takes.
const GENEROUS: Duration = Duration::from_secs(30);

struct Agent {
    socket: PathBuf,
    requests: mpsc::Receiver<Request>,
    status: watch::Sender<Arc<api::Status>>,
    tasks: JoinSet<()>,
    home: TempDir,
}

impl Agent {
    async fn running(services: &[&str]) -> Self {
        let home = TempDir::new().expect("a temporary directory");
        let socket = home.path().join("rollout.sock");
        let status = api::Status { services: services.iter().map(|name| service(name)).collect() };
        let (status, see) = watch::channel(Arc::new(status));
        let (tasks, requests) = listen(&socket, see).await;
        Self { socket, requests, status, tasks, home }
    }

    /// As SIGKILL would: every connection ends, and the socket file stays dead until `come_back`.
    async fn die(&mut self) {
        self.tasks.shutdown().await;
    }

    async fn come_back(&mut self) {
        (self.tasks, self.requests) = listen(&self.socket, self.status.subscribe()).await;
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rollout"));
        command.args(words).env("ROLLOUT_SOCKET", &self.socket).current_dir(self.home.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn start(&self, words: &[&str]) -> Cli {
        let mut command = self.command(words);
        let mut tasks = JoinSet::new();
        tasks.spawn_blocking(move || command.output().expect("the command runs"));
        Cli { tasks }
    }

    async fn next_request(&mut self) -> Request {
        soon(self.requests.recv()).await.expect("the command asks")
    }

    /// Answers the next request for a rollout with these steps; the sender goes on with it.
    async fn roll(&mut self, steps: Vec<Progress>) -> (Roll, mpsc::Sender<Step>) {
        let Request::Roll { roll, answer, .. } = self.next_request().await else { panic!("a rollout was asked for") };
        let (send, coming) = mpsc::channel(64);
        for progress in steps {
            send.try_send(step(progress)).expect("room for a script");
        }
        answer.send(Ok(coming)).expect("the command waits");
        (roll, send)
    }
}

async fn listen(
    socket: &std::path::Path,
    status: watch::Receiver<Arc<api::Status>>,
) -> (JoinSet<()>, mpsc::Receiver<Request>) {
    let control = Control::bind(socket).await.expect("the socket is free");
    let (ask, requests) = mpsc::channel(8);
    let mut tasks = JoinSet::new();
    tasks.spawn(serve(control, ask, status));
    (tasks, requests)
}

struct Cli {
    tasks: JoinSet<Output>,
}

struct Said {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Cli {
    async fn said(mut self) -> Said {
        let output = soon(self.tasks.join_next()).await.expect("one task").expect("no panic");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        Said {
            code: output.status.code().expect("an exit code"),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(GENEROUS, future).await.expect("this should have happened long ago")
}

fn step(progress: Progress) -> Step {
    Step { at: "2026-01-01T00:00:00.000Z".to_owned(), progress }
}

fn release(byte: u8) -> Digest {
    Digest([byte; 32])
}

fn service(name: &str) -> api::ServiceStatus {
    api::ServiceStatus {
        name: name.to_owned(),
        state: "serving".to_owned(),
        generation: Some(Generation(3)),
        release: Some(release(0x11)),
        listen: vec!["0.0.0.0:8080".to_owned()],
        workers: vec![api::WorkerStatus {
            slot: Slot(1),
            pid: Some(4121),
            state: "ready".to_owned(),
            generation: Some(Generation(3)),
            release: Some(release(0x11)),
            since: "2026-01-01T00:00:00Z".to_owned(),
            restarts: 0,
            connections: None,
        }],
        rollout: None,
    }
}

fn began() -> Progress {
    Progress::Began {
        rollout: RolloutId(7),
        generation: Generation(4),
        release: release(0x22),
        from: Some(release(0x11)),
        slots: 1,
    }
}

fn steps_of_a_slot() -> Vec<Progress> {
    let (slot, old, new) = (Slot(1), "w1".to_owned(), "w2".to_owned());
    vec![
        Progress::Stored { release: release(0x22), size: 4_404_019, already: false },
        began(),
        Progress::Starting { slot, worker: new.clone(), release: release(0x22) },
        Progress::Ready { slot, worker: new, took_ms: 412 },
        Progress::Draining { slot, worker: old.clone(), connections: Some(12) },
        Progress::Draining { slot, worker: old.clone(), connections: Some(1) },
        Progress::Gone { slot, worker: old, took_ms: 1200, how: "exit code 0".to_owned() },
    ]
}

fn ended(outcome: Outcome, exit: u8, failure: Option<api::Failure>) -> Progress {
    Progress::Ended(Report {
        rollout: Some(RolloutId(7)),
        service: "web".to_owned(),
        outcome,
        release: Some(release(0x22)),
        said: "so it ended".to_owned(),
        failure,
        took_ms: 2300,
        exit,
    })
}

fn failure() -> api::Failure {
    api::Failure {
        slot: Slot(1),
        worker: "w2".to_owned(),
        why: "exit code 1 before it was ready".to_owned(),
        output: vec!["cannot reach the database".to_owned()],
    }
}

fn entry(outcome: Outcome) -> api::Entry {
    api::Entry {
        rollout: RolloutId(7),
        generation: Some(Generation(4)),
        at: "2026-01-01T00:00:00Z".to_owned(),
        trigger: "deploy".to_owned(),
        release: release(0x22),
        from: Some(release(0x11)),
        outcome,
        took_ms: 61_000,
        who: Some("uid 1000".to_owned()),
        note: None,
        failure: (outcome == Outcome::RolledBack).then(failure),
    }
}

fn rolling(mut service: api::ServiceStatus, phase: &str) -> api::ServiceStatus {
    service.rollout = Some(api::RolloutStatus {
        id: RolloutId(7),
        phase: phase.to_owned(),
        from: Some(release(0x11)),
        to: release(0x22),
        done: 0,
        slots: 1,
        since: "2026-01-01T00:00:00Z".to_owned(),
        cause: (phase == "paused").then(|| "slot 1 was no good".to_owned()),
    });
    service
}

#[tokio::test]
async fn a_deploy_in_a_pipe_is_a_line_per_step_and_a_sentence_on_stdout() {
    let mut agent = Agent::running(&["web"]).await;
    let cli = agent.start(&["deploy", "./web", "--note", "hello"]);
    let mut steps = steps_of_a_slot();
    steps.push(ended(Outcome::Done, 0, None));
    let (asked, _) = agent.roll(steps).await;
    let Roll::Deploy(asked) = asked else { panic!("a deploy was asked for") };
    assert_eq!(asked.path, agent.home.path().join("web").to_str().expect("text"));
    assert_eq!(asked.note.as_deref(), Some("hello"));
    let said = cli.said().await;
    assert_eq!(said.stdout, "web: so it ended (2.3 s)\n");
    assert_eq!(
        said.stderr,
        "web: release 222222222222 stored, 4.2 MiB
web: rollout r7 began: generation 4, 1 slot, 111111111111 → 222222222222
web: slot 1: w2 starting
web: slot 1: w2 ready after 412 ms
web: slot 1: w1 draining 12 connections
web: slot 1: w1 gone after 1.2 s (exit code 0)
"
    );
    assert_eq!(said.code, 0);
}

#[tokio::test]
async fn a_deploy_that_was_rolled_back_exits_3_and_says_why() {
    let mut agent = Agent::running(&["web"]).await;
    let cli = agent.start(&["deploy", "./web"]);
    agent.roll(vec![began(), ended(Outcome::RolledBack, 3, Some(failure()))]).await;
    let said = cli.said().await;
    assert_eq!((said.code, said.stdout.as_str()), (3, ""));
    for words in ["so it ended", "slot 1, worker w2: exit code 1", "| cannot reach the database", "next: "] {
        assert!(said.stderr.contains(words), "{words:?} is missing in {}", said.stderr);
    }
}

#[tokio::test]
async fn json_is_every_step_as_the_agent_said_it_and_the_report_decides_the_exit_code() {
    let mut agent = Agent::running(&["web"]).await;
    let cli = agent.start(&["restart", "-s", "web", "--json"]);
    let mut steps = steps_of_a_slot();
    steps.push(ended(Outcome::NeedsPerson, 4, None));
    agent.roll(steps.clone()).await;
    let said = cli.said().await;
    let heard: Vec<Step> =
        said.stdout.lines().map(|line| serde_json::from_str(line).expect("a step is a line")).collect();
    assert_eq!(heard, steps.into_iter().map(step).collect::<Vec<_>>());
    assert_eq!(said.code, 4);
}

#[tokio::test]
async fn a_rollout_that_takes_too_long_goes_on_without_its_watcher() {
    let mut agent = Agent::running(&["web"]).await;
    let cli = agent.start(&["rollback", "abc", "--timeout", "300ms"]);
    let (_, steps) = agent.roll(vec![began()]).await;
    let said = cli.said().await;
    assert_eq!(said.code, 7);
    assert!(said.stderr.contains("rollout r7 goes on: follow it with 'rollout status --watch'"), "{}", said.stderr);
    soon(steps.closed()).await;
}

#[tokio::test]
async fn no_wait_returns_when_the_agent_has_taken_the_request() {
    let mut agent = Agent::running(&["web"]).await;
    let cli = agent.start(&["scale", "3", "--no-wait"]);
    let (asked, _steps) = agent.roll(vec![began()]).await;
    assert!(matches!(asked, Roll::Scale(api::Scale { workers: 3 })));
    let said = cli.said().await;
    assert_eq!(said.code, 0);
    assert!(said.stdout.contains("rollout r7 is under way"), "{}", said.stdout);
}

#[tokio::test]
async fn ctrl_c_leaves_the_rollout_going_and_says_how_to_follow_it() {
    let mut agent = Agent::running(&["web"]).await;
    let mut child = agent.command(&["deploy", "./web"]).spawn().expect("the command runs");
    let (_, _steps) = agent.roll(vec![began()]).await;
    let mut waiter = JoinSet::new();
    waiter.spawn_blocking(move || {
        let mut stderr = BufReader::new(child.stderr.take().expect("piped"));
        let mut line = String::new();
        stderr.read_line(&mut line).expect("a line");
        assert!(line.contains("rollout r7 began"), "{line}");
        signal(&child, "-INT");
        let mut rest = String::new();
        stderr.read_to_string(&mut rest).expect("text");
        (child.wait().expect("it ends").code(), rest)
    });
    let (code, rest) = soon(waiter.join_next()).await.expect("one task").expect("no panic");
    assert_eq!(code, Some(7), "{rest}");
    assert!(rest.contains("rollout r7 goes on") && rest.contains("rollout status --watch"), "{rest}");
}

fn signal(child: &Child, signal: &str) {
    let sent = Command::new("kill").arg(signal).arg(child.id().to_string()).status().expect("kill runs");
    assert!(sent.success());
}

#[tokio::test]
async fn an_agent_that_dies_during_a_rollout_is_awaited_and_its_journal_is_believed() {
    let mut agent = Agent::running(&["web"]).await;
    let cli = agent.start(&["deploy", "./web"]);
    let (_, steps) = agent.roll(vec![began()]).await;
    agent.die().await;
    drop(steps);
    agent.status.send_replace(Arc::new(api::Status { services: vec![rolling(service("web"), "forward")] }));
    agent.come_back().await;
    // The rollout is seen under way, so nothing is asked until it is over.
    agent.status.send_replace(Arc::new(api::Status { services: vec![rolling(service("web"), "back")] }));
    agent.status.send_replace(Arc::new(api::Status { services: vec![service("web")] }));
    let Request::History { answer, .. } = agent.next_request().await else { panic!("the journal was asked for") };
    answer.send(Ok(api::History { entries: vec![entry(Outcome::RolledBack)] })).expect("the command waits");
    let said = cli.said().await;
    assert_eq!(said.code, 3, "{}", said.stderr);
    for words in ["the connection to the agent was lost", "rolled back, by the journal", "exit code 1 before"] {
        assert!(said.stderr.contains(words), "{words:?} is missing in {}", said.stderr);
    }
}

#[tokio::test]
async fn a_rollout_that_a_returned_agent_has_paused_needs_a_person() {
    let mut agent = Agent::running(&["web"]).await;
    let cli = agent.start(&["deploy", "./web"]);
    let (_, steps) = agent.roll(vec![began()]).await;
    agent.die().await;
    drop(steps);
    agent.status.send_replace(Arc::new(api::Status { services: vec![rolling(service("web"), "paused")] }));
    agent.come_back().await;
    let said = cli.said().await;
    assert_eq!(said.code, 4, "{}", said.stderr);
    assert!(said.stderr.contains("paused: slot 1 was no good"), "{}", said.stderr);
}

#[tokio::test]
async fn without_an_agent_every_command_says_what_to_do() {
    let mut agent = Agent::running(&[]).await;
    agent.die().await;
    for words in [&["status"][..], &["deploy", "x"], &["stop"], &["logs", "-s", "web"], &["pause"]] {
        let said = agent.start(words).said().await;
        assert_eq!(said.code, 6, "{words:?}");
        let expected = format!(
            "rollout: no agent answers at {}: start one with 'rollout run', or name its socket with --socket\n",
            agent.socket.display()
        );
        assert_eq!(said.stderr, expected);
    }
}

#[tokio::test]
async fn a_service_must_be_named_when_there_are_several_and_must_exist() {
    let mut agent = Agent::running(&["api", "web"]).await;
    let said = agent.start(&["history"]).said().await;
    assert_eq!(
        (said.code, said.stderr.as_str()),
        (2, "rollout: which service? this agent runs api, web: name one with -s\n")
    );
    let said = agent.start(&["status", "-s", "webb"]).said().await;
    assert_eq!(
        (said.code, said.stderr.as_str()),
        (1, "rollout: service \"webb\" does not exist: this agent runs api, web\n")
    );
    let said = agent.start(&["deploy", "x", "-s", "../stop"]).said().await;
    assert_eq!(said.code, 2, "{}", said.stderr);
    let cli = agent.start(&["abort", "-s", "api"]);
    let Request::Steer { answer, .. } = agent.next_request().await else { panic!("an abort was asked for") };
    let refusal = api::Refusal { error: "no rollout of api is under way".to_owned(), exit: 1 };
    answer.send(Err(refusal)).expect("the command waits");
    let said = cli.said().await;
    assert_eq!((said.code, said.stderr.as_str()), (1, "rollout: no rollout of api is under way\n"));
}

#[tokio::test]
async fn status_is_a_table_for_people_and_the_same_facts_as_json() {
    let agent = Agent::running(&["web"]).await;
    let said = agent.start(&["status"]).said().await;
    let mut lines = said.stdout.lines();
    assert_eq!(lines.next(), Some("web  serving  generation 3  release 111111111111  0.0.0.0:8080"));
    let heads: Vec<&str> = lines.next().expect("a head").split_whitespace().collect();
    assert_eq!(heads, ["SLOT", "STATE", "PID", "GENERATION", "RELEASE", "SINCE", "RESTARTS", "CONNECTIONS"]);
    let row: Vec<&str> = lines.next().expect("a row").split_whitespace().collect();
    assert_eq!(row[..5], ["1", "ready", "4121", "3", "111111111111"]);
    let said = agent.start(&["status", "--json"]).said().await;
    let status: api::Status = serde_json::from_str(&said.stdout).expect("JSON");
    assert_eq!(status.services, [service("web")]);
}

#[tokio::test]
async fn history_is_a_table() {
    let mut agent = Agent::running(&["web"]).await;
    let cli = agent.start(&["history"]);
    let Request::History { answer, .. } = agent.next_request().await else { panic!("the journal was asked for") };
    answer.send(Ok(api::History { entries: vec![entry(Outcome::RolledBack)] })).expect("the command waits");
    let said = cli.said().await;
    let row = said.stdout.lines().nth(1).expect("a row");
    for words in ["r7", "deploy", "222222222222", "111111111111", "rolled back", "1m 1s", "slot 1: exit code 1"] {
        assert!(row.contains(words), "{words:?} is missing in {row}");
    }
}

#[tokio::test]
async fn logs_name_the_slot_of_each_line_and_end_quietly_with_their_reader() {
    let mut agent = Agent::running(&["web"]).await;
    let mut child = agent.command(&["logs", "-f", "-n", "5", "--slot", "1"]).spawn().expect("the command runs");
    let Request::Logs { lines, slot, answer, .. } = agent.next_request().await else { panic!("logs were asked for") };
    assert_eq!((lines, slot), (5, Some(Slot(1))));
    let (send, coming) = broadcast::channel(1024);
    let line = |text: &str| api::LogLine {
        at: "2026-01-01T00:00:00.000Z".to_owned(),
        slot: Slot(1),
        worker: "w1".to_owned(),
        line: text.to_owned(),
    };
    answer.send(Ok(LogFeed { kept: vec![line("kept")], coming })).expect("the command waits");
    let stdout = child.stdout.take().expect("piped");
    let mut reader = JoinSet::new();
    reader.spawn_blocking(move || {
        let mut text = String::new();
        BufReader::new(stdout).read_line(&mut text).expect("a line");
        text
    });
    let first = soon(reader.join_next()).await.expect("one task").expect("no panic");
    assert_eq!(first, "web.1 | kept\n");
    // The next lines meet a closed pipe.
    let mut waiter = JoinSet::new();
    waiter.spawn_blocking(move || child.wait_with_output().expect("it ends"));
    let output = loop {
        drop(send.send(line("fresh")));
        match tokio::time::timeout(Duration::from_millis(20), waiter.join_next()).await {
            Ok(output) => break output.expect("one task").expect("no panic"),
            Err(_still_running) => {}
        }
    };
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}

#[tokio::test]
async fn stop_is_over_when_the_agent_says_so() {
    let mut agent = Agent::running(&["web"]).await;
    let cli = agent.start(&["stop"]);
    let Request::Stop { answer } = agent.next_request().await else { panic!("a stop was asked for") };
    answer.send(Ok(api::Done { said: "everything is stopped".to_owned() })).expect("the command waits");
    let said = cli.said().await;
    assert_eq!((said.code, said.stdout.as_str()), (0, "everything is stopped\n"));
}
