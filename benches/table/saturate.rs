//! The saturating client: a closed loop of requests on kept connections, as lean as it can be, in a process of its own.
//!
//! Every worker gets the same number of connections, whoever spreads them: chance must not be measured.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use rollout::sys::clock;
use rollout::units::Moment;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::agent;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";

/// Longer than any answer of the example worker.
const LONGEST: usize = 4096;

/// What one client saw.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    pub(crate) per_second: f64,
    pub(crate) p99: Duration,
}

/// What one client is to do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Task {
    pub(crate) address: SocketAddr,
    pub(crate) workers: usize,
    pub(crate) per_worker: usize,
    pub(crate) time: Duration,
}

impl Task {
    /// Runs a client to its end.
    pub(crate) fn carry_out(&self) -> Seen {
        let Self { address, workers, per_worker, time } = self;
        let mut client = Command::new(agent::this_program());
        client.args(["saturate", &address.to_string(), &workers.to_string(), &per_worker.to_string()]);
        let output = client.arg(time.as_millis().to_string()).stderr(Stdio::inherit()).output().expect("run a client");
        assert!(output.status.success(), "the client ended with {}", output.status);
        let text = String::from_utf8(output.stdout).expect("text");
        let (per_second, p99) = text.trim().split_once(' ').expect("two numbers");
        let p99 = Duration::from_nanos(p99.parse().expect("nanoseconds"));
        Seen { per_second: per_second.parse().expect("a number"), p99 }
    }

    fn parse(arguments: &[String]) -> Option<Self> {
        let [address, workers, per_worker, millis] = arguments else { return None };
        let time = Duration::from_millis(millis.parse().ok()?);
        let (workers, per_worker) = (workers.parse().ok()?, per_worker.parse().ok()?);
        let address: SocketAddr = address.parse().ok()?;
        address.ip().is_loopback().then_some(Self { address, workers, per_worker, time })
    }
}

/// The client's process.
#[expect(clippy::print_stdout, clippy::print_stderr, reason = "the client's answer to the bench")]
pub(crate) fn run(arguments: &[String]) -> ExitCode {
    let Some(task) = Task::parse(arguments) else {
        eprintln!("expected: saturate LOOPBACK-ADDRESS WORKERS CONNECTIONS-PER-WORKER MILLISECONDS");
        return ExitCode::from(2);
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.and_then(|runtime| runtime.block_on(saturate(&task))) {
        Ok(Seen { per_second, p99 }) => {
            println!("{per_second} {}", p99.as_nanos());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("the saturating client: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn saturate(task: &Task) -> io::Result<Seen> {
    let connections = open(task).await?;
    let began = clock::now();
    let end = began.after(task.time);
    let mut loops = JoinSet::new();
    for connection in connections {
        loops.spawn(connection.repeat(end));
    }
    let mut latencies = Vec::new();
    while let Some(seen) = loops.join_next().await {
        latencies.extend(seen.map_err(io::Error::other)??);
    }
    let seconds = clock::now().since(began).as_secs_f64();
    latencies.sort_unstable();
    let count = u32::try_from(latencies.len()).map_err(io::Error::other)?;
    let p99 = latencies.get(latencies.len() * 99 / 100).copied().unwrap_or_default();
    Ok(Seen { per_second: f64::from(count) / seconds, p99 })
}

/// As many connections to each worker as the task says.
async fn open(task: &Task) -> io::Result<Vec<Connection>> {
    let mut by_worker: BTreeMap<String, Vec<Connection>> = BTreeMap::new();
    let full = |by_worker: &BTreeMap<String, Vec<Connection>>| {
        by_worker.values().filter(|connections| connections.len() == task.per_worker).count() == task.workers
    };
    // With chance alone a few times the wanted number is enough.
    for _ in 0..task.workers * task.per_worker * 100 {
        let (connection, worker) = Connection::open(task.address).await?;
        let connections = by_worker.entry(worker).or_default();
        if connections.len() < task.per_worker {
            connections.push(connection);
        }
        if full(&by_worker) {
            return Ok(by_worker.into_values().flatten().collect());
        }
    }
    let mut spread = String::new();
    for (worker, connections) in by_worker {
        let _ = write!(spread, " {worker}: {}", connections.len());
    }
    Err(io::Error::other(format!("not every worker got its connections:{spread}")))
}

struct Connection {
    stream: TcpStream,
    /// Of every answer: they differ in nothing but the date.
    length: usize,
}

impl Connection {
    /// Connects, and asks who answers.
    async fn open(address: SocketAddr) -> io::Result<(Self, String)> {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        stream.write_all(REQUEST).await?;
        let mut answer = Vec::new();
        // The body is one line and the only one that does not end in \r\n.
        while !answer.ends_with(b"\n") || answer.ends_with(b"\r\n") {
            if stream.read_buf(&mut answer).await? == 0 || answer.len() > LONGEST {
                return Err(io::Error::other("no answer as the example worker gives it"));
            }
        }
        let text = String::from_utf8_lossy(&answer);
        // `version slot pid worker`
        let pid = text.lines().last().and_then(|line| line.split(' ').nth(2)).unwrap_or_default().to_owned();
        Ok((Self { stream, length: answer.len() }, pid))
    }

    /// Asks again and again; how long each answer took.
    async fn repeat(mut self, end: Moment) -> io::Result<Vec<Duration>> {
        let mut latencies = Vec::with_capacity(65_536);
        let mut answer = vec![0; self.length];
        let mut now = clock::now();
        while now < end {
            self.stream.write_all(REQUEST).await?;
            self.stream.read_exact(&mut answer).await?;
            if !answer.starts_with(b"HTTP/1.1 200 ") {
                return Err(io::Error::other("an answer that is not 200"));
            }
            let then = std::mem::replace(&mut now, clock::now());
            latencies.push(now.since(then));
        }
        Ok(latencies)
    }
}
