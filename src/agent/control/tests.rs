//! A real Unix socket, hyper behind it, and a loop that a test scripts.

use std::future::Future;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinSet;

use super::serve::{Patience, may_ask, serve_with};
use super::{BindError, Control};
use crate::agent::request::{LogFeed, Request, Roll};
use crate::units::Slot;
use crate::wire::api;

/// Far beyond what anything here takes, and short of a person's patience.
const GENEROUS: Duration = Duration::from_secs(20);

struct Rig {
    socket: PathBuf,
    requests: mpsc::Receiver<Request>,
    status: watch::Sender<Arc<api::Status>>,
    tasks: JoinSet<()>,
    _home: TempDir,
}

impl Rig {
    async fn start(patience: Duration) -> Self {
        let home = TempDir::new().unwrap();
        let socket = home.path().join("run/rollout.sock");
        let control = Control::bind(&socket).await.unwrap();
        let (ask, requests) = mpsc::channel(8);
        let (status, see) = watch::channel(Arc::new(api::Status { services: vec![] }));
        let mut tasks = JoinSet::new();
        tasks.spawn(serve_with(Patience { head: patience, rest: patience }, control, ask, see));
        Self { socket, requests, status, tasks, _home: home }
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.socket).await.unwrap()
    }

    /// Sends bytes, and gives back all that comes until the server closes.
    async fn say(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect().await;
        // The server may stop reading early: what it said meanwhile is what counts.
        drop(stream.write_all(bytes).await);
        read_all(&mut stream).await
    }

    async fn post(&self, path: &str, body: &str) -> String {
        self.say(post(path, body).as_bytes()).await
    }

    async fn get(&self, path: &str) -> String {
        self.say(format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").as_bytes()).await
    }

    async fn next_request(&mut self) -> Request {
        soon(self.requests.recv()).await.expect("the API is there")
    }
}

fn post(path: &str, body: &str) -> String {
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}")
}

async fn read_all(stream: &mut UnixStream) -> String {
    let mut answer = Vec::new();
    // A reset after the answer (the server closed on unread bytes) is as good as an end.
    drop(soon(stream.read_to_end(&mut answer)).await);
    String::from_utf8(answer).unwrap()
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(GENEROUS, future).await.expect("this should have happened long ago")
}

fn status_of(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or("no status")
}

fn refusal(answer: &str) -> api::Refusal {
    let body = answer.split_once("\r\n\r\n").expect("a body").1;
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error} in {answer}"))
}

fn step(progress: api::Progress) -> api::Step {
    api::Step { at: "2026-01-01T00:00:00.000Z".to_owned(), progress }
}

fn line(slot: u32, text: &str) -> api::LogLine {
    api::LogLine { at: "now".to_owned(), slot: Slot(slot), worker: "w1".to_owned(), line: text.to_owned() }
}

#[tokio::test]
async fn steps_arrive_one_by_one_while_the_rollout_is_under_way() {
    let mut rig = Rig::start(GENEROUS).await;
    let mut stream = rig.connect().await;
    stream.write_all(post("/v1/services/web/deploy", r#"{"path":"/srv/web"}"#).as_bytes()).await.unwrap();
    let Request::Roll { service, roll: Roll::Deploy(deploy), who, answer } = rig.next_request().await else {
        panic!("a deploy was asked for")
    };
    assert_eq!((service.as_str(), deploy.path.as_str(), deploy.force), ("web", "/srv/web", false));
    assert_eq!(who.pid, Some(i32::try_from(std::process::id()).unwrap()));
    let (steps, coming) = mpsc::channel(1);
    answer.send(Ok(coming)).unwrap();
    let mut lines = BufReader::new(stream).lines();
    for expected in ["resumed", "paused"] {
        let progress =
            if expected == "resumed" { api::Progress::Resumed } else { api::Progress::Paused { why: "so".to_owned() } };
        steps.send(step(progress)).await.unwrap();
        // The line is read before the next step is sent: nothing is held back.
        loop {
            let line = soon(lines.next_line()).await.unwrap().unwrap();
            if line.contains(&format!("\"event\":\"{expected}\"")) {
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_client_that_goes_away_drops_its_receiver() {
    let mut rig = Rig::start(GENEROUS).await;
    let mut stream = rig.connect().await;
    stream.write_all(post("/v1/services/web/restart", "").as_bytes()).await.unwrap();
    let Request::Roll { answer, .. } = rig.next_request().await else { panic!("a restart was asked for") };
    let (steps, coming) = mpsc::channel(1);
    answer.send(Ok(coming)).unwrap();
    drop(stream);
    soon(steps.closed()).await;
}

#[tokio::test]
async fn what_the_loop_refuses_reaches_the_client_word_for_word() {
    let mut rig = Rig::start(GENEROUS).await;
    let mut stream = rig.connect().await;
    stream.write_all(post("/v1/services/webb/pause", "").as_bytes()).await.unwrap();
    let Request::Steer { service, answer, .. } = rig.next_request().await else { panic!("a pause was asked for") };
    let said = api::Refusal { error: format!("service {service:?} does not exist: this agent runs web"), exit: 1 };
    answer.send(Err(said.clone())).unwrap();
    let heard = read_all(&mut stream).await;
    assert_eq!((status_of(&heard), refusal(&heard)), ("422", said));
}

#[tokio::test]
async fn malformed_questions_are_refused_with_what_is_expected_and_reach_nobody() {
    let mut rig = Rig::start(GENEROUS).await;
    let deploy = "/v1/services/web/deploy";
    let cases = [
        (deploy, "{", "400", "expected {\"path\""),
        (deploy, "", "400", "missing field `path`"),
        (deploy, r#"{"path": 7}"#, "400", "invalid type: integer `7`"),
        (deploy, r#"{"path": "/a", "forse": true}"#, "400", "unknown field `forse`"),
        (deploy, r#"{"path": "a"}"#, "400", "not absolute"),
        (deploy, r#"{"path": "/a", "sha256": "abc"}"#, "400", "not a SHA-256"),
        (deploy, "\u{0}\u{1}\u{7f}", "400", "not understood"),
        ("/v1/services/web/scale", r#"{"workers": -1}"#, "400", "expected {\"workers\": 4}"),
        ("/v1/services/web/scale", r#"{"workers": 0}"#, "400", "at least 1"),
        ("/v1/services/web/scale", r#"{"workers": 99999999999}"#, "400", "expected {\"workers\": 4}"),
        ("/v1/services/web/explode", "", "404", "is not a path"),
        ("/", "", "404", "/v1/status"),
        ("/v1/status", "", "405", "use GET"),
    ];
    for (path, body, status, words) in cases {
        let answer = rig.post(path, body).await;
        assert_eq!(status_of(&answer), status, "{path} {body}: {answer}");
        let refusal = refusal(&answer);
        assert!(refusal.error.contains(words), "{path} {body}: {}", refusal.error);
        assert_eq!(refusal.exit, 2);
    }
    for (path, status, words) in [
        ("/v1/stop", "405", "use POST"),
        ("/v1/status?wach=true", "400", "expected watch=true"),
        ("/v1/services/web/logs?lines=many", "400", "expected lines=100"),
        ("/v1/services/web/logs?lines=10001", "400", "at most 10000"),
        ("/v1/services/web/logs?slot=-1", "400", "expected lines=100"),
    ] {
        let answer = rig.get(path).await;
        assert_eq!(status_of(&answer), status, "{path}: {answer}");
        assert!(refusal(&answer).error.contains(words), "{path}: {answer}");
    }
    assert!(rig.requests.try_recv().is_err());
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_refused_before_it_is_held() {
    let rig = Rig::start(GENEROUS).await;
    let answer = rig.post("/v1/services/web/deploy", &"x".repeat(1024 * 1024)).await;
    assert_eq!(status_of(&answer), "413", "{answer}");
    assert!(refusal(&answer).error.contains("larger than 65536 bytes"));
}

#[tokio::test]
async fn garbage_is_answered_and_closed_and_hurts_nobody() {
    let rig = Rig::start(GENEROUS).await;
    for garbage in [&b"\x00\xff\x13garbage\r\n\r\n"[..], &b"POST /v1/stop\r\n\r\n"[..], &[b'A'; 200_000][..]] {
        let answer = rig.say(garbage).await;
        assert!(status_of(&answer).starts_with('4'), "{answer:?}");
    }
    assert_eq!(status_of(&rig.get("/v1/status").await), "200");
}

#[tokio::test]
async fn a_client_that_dribbles_its_question_is_cut_off() {
    let rig = Rig::start(Duration::from_millis(50)).await;
    let mut head = rig.connect().await;
    head.write_all(b"GET /v1/status HTTP/1.1\r\nhost: ").await.unwrap();
    read_all(&mut head).await;
    let mut body = rig.connect().await;
    let dribble = "POST /v1/services/web/scale HTTP/1.1\r\nhost: a\r\ncontent-length: 14\r\n\r\n{\"wor";
    body.write_all(dribble.as_bytes()).await.unwrap();
    let answer = read_all(&mut body).await;
    assert_eq!(status_of(&answer), "408");
    assert!(refusal(&answer).error.contains("send it at once"));
}

#[tokio::test]
async fn connections_beyond_the_bound_are_told_so_and_places_are_given_back() {
    let rig = Rig::start(GENEROUS).await;
    let mut watchers = Vec::new();
    for _ in 0..64 {
        let mut stream = rig.connect().await;
        stream.write_all(b"GET /v1/status?watch=true HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let mut lines = BufReader::new(stream).lines();
        while soon(lines.next_line()).await.unwrap().unwrap() != r#"{"services":[]}"# {}
        watchers.push(lines);
    }
    let answer = rig.get("/v1/status").await;
    assert_eq!(status_of(&answer), "503");
    assert!(refusal(&answer).error.contains("64 clients are connected"), "{answer}");
    drop(watchers);
    let served = async { while status_of(&rig.get("/v1/status").await) != "200" {} };
    soon(served).await;
}

#[tokio::test]
async fn a_watcher_gets_the_status_at_once_and_after_each_change() {
    let rig = Rig::start(GENEROUS).await;
    let mut stream = rig.connect().await;
    stream.write_all(b"GET /v1/status?watch=true HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut lines = BufReader::new(stream).lines();
    while soon(lines.next_line()).await.unwrap().unwrap() != r#"{"services":[]}"# {}
    let web = api::ServiceStatus {
        name: "web".to_owned(),
        state: "serving".to_owned(),
        generation: None,
        release: None,
        listen: vec![],
        workers: vec![],
        rollout: None,
    };
    rig.status.send_replace(Arc::new(api::Status { services: vec![web] }));
    while !soon(lines.next_line()).await.unwrap().unwrap().contains("\"name\":\"web\"") {}
}

#[tokio::test]
async fn logs_are_the_kept_lines_then_the_coming_ones_of_the_slot_and_a_word_about_lost_ones() {
    let mut rig = Rig::start(GENEROUS).await;
    let mut stream = rig.connect().await;
    let ask = b"GET /v1/services/web/logs?lines=5&slot=2&follow=true HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    stream.write_all(ask).await.unwrap();
    let Request::Logs { lines, slot, answer, .. } = rig.next_request().await else { panic!("logs were asked for") };
    assert_eq!((lines, slot), (5, Some(Slot(2))));
    let (send, coming) = broadcast::channel(2);
    for (slot, text) in [(1, "lost"), (2, "lost too"), (1, "other slot"), (2, "fresh")] {
        send.send(line(slot, text)).unwrap();
    }
    answer.send(Ok(LogFeed { kept: vec![line(2, "kept")], coming })).unwrap();
    drop(send);
    let heard = read_all(&mut stream).await;
    let places = ["kept", "2 lines were left out", "fresh"].map(|text| heard.find(text).expect(text));
    assert!(places.is_sorted(), "{heard}");
    assert!(!heard.contains("other slot") && !heard.contains("lost"), "{heard}");
}

#[tokio::test]
async fn the_last_answer_is_delivered_after_the_loop_has_gone() {
    let mut rig = Rig::start(GENEROUS).await;
    let mut stream = rig.connect().await;
    let mut idle = rig.connect().await;
    stream.write_all(post("/v1/stop", "").as_bytes()).await.unwrap();
    let Request::Stop { answer } = rig.next_request().await else { panic!("a stop was asked for") };
    // Larger than any socket buffer, so that it is still on its way when the loop is gone.
    let said = format!("{} everything is stopped", "x".repeat(4 << 20));
    answer.send(Ok(api::Done { said })).unwrap();
    rig.requests.close();
    assert!(read_all(&mut stream).await.contains("everything is stopped"));
    assert_eq!(read_all(&mut idle).await, "");
    soon(rig.tasks.join_next()).await.unwrap().unwrap();
    assert!(!rig.socket.exists());
}

#[tokio::test]
async fn a_question_that_the_loop_drops_is_answered_all_the_same() {
    let mut rig = Rig::start(GENEROUS).await;
    let mut stream = rig.connect().await;
    stream.write_all(post("/v1/stop", "").as_bytes()).await.unwrap();
    drop(rig.next_request().await);
    let answer = read_all(&mut stream).await;
    assert_eq!((status_of(&answer), refusal(&answer).exit), ("503", 6));
}

#[tokio::test]
async fn a_second_agent_is_refused_and_a_dead_socket_is_replaced() {
    let home = TempDir::new().unwrap();
    let socket = home.path().join("deep/er/rollout.sock");
    let first = Control::bind(&socket).await.unwrap();
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(std::fs::metadata(socket.parent().unwrap()).unwrap().permissions().mode() & 0o777, 0o700);
    let refused = Control::bind(&socket).await.unwrap_err();
    assert!(matches!(refused, BindError::Answered(_)), "{refused:?}");
    assert!(refused.to_string().contains("stop it with"));
    drop(first);
    assert!(!socket.exists());
    // What a killed agent leaves behind: a socket file that nobody listens on.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    let second = Control::bind(&socket).await.unwrap();
    let left: Vec<_> = std::fs::read_dir(socket.parent().unwrap()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "the socket and its lock, nothing else: {left:?}");
    drop(second);
}

#[tokio::test]
async fn a_socket_that_answers_without_our_lock_is_left_alone() {
    let home = TempDir::new().unwrap();
    let socket = home.path().join("s");
    let _other = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    assert!(matches!(Control::bind(&socket).await, Err(BindError::Answered(_))));
    assert!(socket.exists());
}

#[tokio::test]
async fn a_file_in_the_way_and_a_path_that_is_too_long_are_explained() {
    let home = TempDir::new().unwrap();
    let file = home.path().join("file");
    std::fs::write(&file, "precious").unwrap();
    assert!(matches!(Control::bind(&file).await, Err(BindError::InTheWay(_))));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
    let long = home.path().join("x".repeat(120));
    let refused = Control::bind(&long).await.unwrap_err();
    assert!(refused.to_string().contains("may be 107"), "{refused}");
    let refused = Control::bind(&file.join("below/a/file")).await.unwrap_err();
    assert!(refused.to_string().contains("make its directory"), "{refused}");
}

#[test]
fn only_the_agents_user_and_root_may_ask() {
    assert!(may_ask(1000, 1000));
    assert!(may_ask(0, 1000));
    assert!(!may_ask(1000, 0));
    assert!(!may_ask(1001, 1000));
}
