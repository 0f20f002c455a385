//! A worker that misbehaves as it is told: for the tests.
//!
//! Which way is in the line `ROLLOUT-EXAMPLE-FAULT=…` at the end of its own file, or in `--fault`:
//!
//! | fault | what it does |
//! |---|---|
//! | `none` | is as polite as `examples/worker.rs` |
//! | `exits` | says why on stderr, and exits with code 1 at once |
//! | `hangs` | never accepts a connection, never says READY |
//! | `unhealthy` | accepts, but `/healthz` is 500, and it never says READY |
//! | `dies:MS` | says READY, serves, and exits with code 1 after that time |
//! | `dies-busy:MS` | serves, and exits with code 1 that long after its first client request (not `/healthz`) |
//! | `slot:N:FAULT` | has that fault in slot N, and none in the others |
//! | `ignores-term` | goes on as if there had been no signal |
//! | `floods` | serves, and writes to stdout as fast as it is read; `/flooded` tells how many bytes |
//! | `counts` | serves, and writes `count N` to stdout every 5 ms, N from 1 |
//! | `sickens` | serves; once somebody has asked for `/sicken`, `/healthz` is 500 |
//! | `shuts-lane` | serves; at `/damage` it calls `shutdown` on its sockets |
//! | `small-backlog` | serves; at `/damage` it calls `listen(1)` on its sockets |
//! | `grandchild` | serves, and has started a process in a session of its own that holds the inherited sockets for 10 min |
//!
//! Besides the polite routes it answers `/fds` (each fd it was started with, and what it is), `/env` and `/children`.

#[path = "../../examples/worker/mod.rs"]
mod worker;

use std::env;
use std::error::Error;
use std::fs;
use std::future::pending;
use std::io::{self, Write, stderr, stdout};
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::process::{Command, ExitCode};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use clap::Parser;
use hyper::StatusCode;
use hyper::body::Incoming;
use nix::sys::socket::{Backlog, Shutdown, listen, shutdown};
use tokio::sync::watch;
use tokio::time::{interval, sleep};
use worker::identity::Identity;
use worker::lanes::Lanes;
use worker::serve::Answer;
use worker::{Options, routes, serve, signals, trailer};

#[derive(Parser)]
struct FaultyOptions {
    #[command(flatten)]
    worker: Options,
    /// How to misbehave, instead of the line at the end of the program's file
    #[arg(long)]
    fault: Option<Fault>,
}

#[derive(Debug, Clone, PartialEq)]
enum Fault {
    None,
    Exits,
    Hangs,
    Unhealthy,
    Dies(Duration),
    DiesBusy(Duration),
    IgnoresTerm,
    Floods,
    Counts,
    Sickens,
    ShutsLane,
    SmallBacklog,
    Grandchild,
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, argument) = text.split_once(':').unwrap_or((text, ""));
        let time = || argument.parse().map(Duration::from_millis).map_err(|_| format!("{text}: not a number of ms"));
        match name {
            "none" => Ok(Self::None),
            "exits" => Ok(Self::Exits),
            "hangs" => Ok(Self::Hangs),
            "unhealthy" => Ok(Self::Unhealthy),
            "dies" => Ok(Self::Dies(time()?)),
            "dies-busy" => Ok(Self::DiesBusy(time()?)),
            "ignores-term" => Ok(Self::IgnoresTerm),
            "floods" => Ok(Self::Floods),
            "counts" => Ok(Self::Counts),
            "sickens" => Ok(Self::Sickens),
            "shuts-lane" => Ok(Self::ShutsLane),
            "small-backlog" => Ok(Self::SmallBacklog),
            "grandchild" => Ok(Self::Grandchild),
            "slot" => match argument.split_once(':') {
                Some((slot, fault)) if env::var("ROLLOUT_SLOT").is_ok_and(|own| own == slot) => fault.parse(),
                Some((_, fault)) => fault.parse().map(|_: Self| Self::None),
                None => Err(format!("{text}: not slot:N:FAULT")),
            },
            _ => Err(format!("{text}: no such fault")),
        }
    }
}

/// What the routes tell, taken down before the sockets are adopted: that takes variables out of the environment.
struct Facts {
    identity: Arc<Identity>,
    env: String,
    fds: String,
    children: String,
    fault: Fault,
    clients: watch::Sender<Clients>,
    health: watch::Sender<Health>,
    lanes: Vec<TcpListener>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Health {
    Good,
    Bad,
}

/// Written by a flood so far.
static FLOODED: AtomicU64 = AtomicU64::new(0);

#[derive(Debug, Clone, Copy, PartialEq)]
enum Clients {
    NoneYet,
    Some,
}

fn main() -> ExitCode {
    run(FaultyOptions::parse()).unwrap_or_else(|error| {
        let _nobody_left_to_tell = writeln!(stderr(), "faulty: {error}");
        ExitCode::from(2)
    })
}

fn run(options: FaultyOptions) -> Result<ExitCode, Box<dyn Error>> {
    let fault = match (options.fault, trailer::value("FAULT")) {
        (Some(fault), _) => fault,
        (None, Some(text)) => text.parse()?,
        (None, None) => Fault::None,
    };
    if fault == Fault::Exits {
        writeln!(stderr(), "faulty: reading the configuration\nfaulty: cannot open /nowhere/faulty.conf")?;
        return Ok(ExitCode::from(1));
    }
    let fds = open_fds()?;
    let env = env::vars().map(|(name, value)| format!("{name}={value}\n")).collect();
    // Before the sockets are adopted: that closes them for every later child.
    let children = if fault == Fault::Grandchild { start_grandchild()? } else { String::new() };
    let lanes = Lanes::take(&options.worker.listen)?;
    let version = options.worker.version_name.or_else(|| trailer::value("VERSION"));
    let identity = Arc::new(Identity::of_this_process(version.unwrap_or_else(|| "faulty".to_owned())));
    let (clients, arrived) = watch::channel(Clients::NoneYet);
    let (health, _) = watch::channel(if fault == Fault::Unhealthy { Health::Bad } else { Health::Good });
    let own = lanes.tcp.iter().map(TcpListener::try_clone).collect::<Result<_, _>>()?;
    let facts = Arc::new(Facts { identity, env, fds, children, fault: fault.clone(), clients, health, lanes: own });

    if let Some(address) = lanes.address() {
        writeln!(stdout(), "listening on {address}")?;
    }
    if fault == Fault::Floods {
        thread::spawn(flood);
    }
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let term = signals::stop_signal()?;
        let stop: Pin<Box<dyn Future<Output = ()>>> =
            if fault == Fault::IgnoresTerm { Box::pin(pending()) } else { Box::pin(term) };
        if fault == Fault::Hangs {
            stop.await;
            return Ok(ExitCode::SUCCESS);
        }
        let lanes = lanes.listen()?;
        if fault != Fault::Unhealthy {
            sd_notify::notify(&[sd_notify::NotifyState::Ready])?;
        }
        let app = serve::app(move |request| answer(Arc::clone(&facts), request));
        let counting = async {
            let mut ticks = interval(Duration::from_millis(5));
            for number in 1_u64.. {
                ticks.tick().await;
                if fault != Fault::Counts || writeln!(stdout(), "count {number}").is_err() {
                    pending().await
                }
            }
        };
        tokio::select! {
            () = counting => Ok(ExitCode::SUCCESS),
            () = serve::serve(lanes, app, options.worker.grace.into(), stop) => Ok(ExitCode::SUCCESS),
            () = death(&fault, arrived) => {
                writeln!(stderr(), "faulty: dies as it was told ({fault:?})")?;
                Ok(ExitCode::from(1))
            }
        }
    })
}

/// Ends when it is time to die.
async fn death(fault: &Fault, mut arrived: watch::Receiver<Clients>) {
    match fault {
        Fault::Dies(time) => sleep(*time).await,
        Fault::DiesBusy(time) => {
            // The guard in the result would lock out the sender, and with it every answer.
            drop(arrived.wait_for(|clients| *clients == Clients::Some).await);
            sleep(*time).await;
        }
        Fault::None
        | Fault::Exits
        | Fault::Hangs
        | Fault::Unhealthy
        | Fault::IgnoresTerm
        | Fault::Floods
        | Fault::Counts
        | Fault::Sickens
        | Fault::ShutsLane
        | Fault::SmallBacklog
        | Fault::Grandchild => pending().await,
    }
}

async fn answer(facts: Arc<Facts>, request: hyper::Request<Incoming>) -> Answer {
    let path = request.uri().path();
    if path != "/healthz" {
        facts.clients.send_replace(Clients::Some);
    }
    match path {
        "/healthz" if *facts.health.borrow() == Health::Bad => {
            routes::text(StatusCode::INTERNAL_SERVER_ERROR, "no database\n".to_owned())
        }
        "/sicken" if facts.fault == Fault::Sickens => {
            facts.health.send_replace(Health::Bad);
            routes::text(StatusCode::OK, format!("{}\n", facts.identity))
        }
        "/damage" => match facts.damage() {
            Ok(()) => routes::text(StatusCode::OK, format!("{}\n", facts.identity)),
            Err(error) => routes::text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        },
        "/flooded" => routes::text(StatusCode::OK, format!("{}\n", FLOODED.load(Ordering::Relaxed))),
        "/fds" => routes::text(StatusCode::OK, facts.fds.clone()),
        "/env" => routes::text(StatusCode::OK, facts.env.clone()),
        "/children" => routes::text(StatusCode::OK, facts.children.clone()),
        _ => routes::answer(Arc::clone(&facts.identity), request).await,
    }
}

impl Facts {
    /// Does to its sockets what no worker should.
    fn damage(&self) -> io::Result<()> {
        for lane in &self.lanes {
            if self.fault == Fault::ShutsLane {
                shutdown(lane.as_raw_fd(), Shutdown::Both)?;
            }
            if self.fault == Fault::SmallBacklog {
                listen(lane, Backlog::new(1)?)?;
            }
        }
        Ok(())
    }
}

/// Writes until nobody reads.
fn flood() {
    let block = format!("{}\n", "flood ".repeat(1000));
    while stdout().write_all(block.as_bytes()).is_ok() {
        FLOODED.fetch_add(u64::try_from(block.len()).unwrap_or(0), Ordering::Relaxed);
    }
}

/// `number target` per open fd. The fd that reads the list is not in it: it is closed when the targets are read.
fn open_fds() -> io::Result<String> {
    let mut fds = Vec::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        let number: u32 = entry?.file_name().to_string_lossy().parse().map_err(io::Error::other)?;
        fds.push(number);
    }
    fds.sort_unstable();
    let targets = fds.into_iter().filter_map(|fd| Some((fd, fs::read_link(format!("/proc/self/fd/{fd}")).ok()?)));
    Ok(targets.map(|(fd, target)| format!("{fd} {}\n", target.display())).collect())
}

/// A process that outlives this one: its own session, and the inherited sockets still open. Its pid.
fn start_grandchild() -> io::Result<String> {
    // setsid(1) keeps its pid, because this child leads no process group.
    let child = Command::new("setsid").args(["sleep", "600"]).spawn()?;
    Ok(format!("{}\n", child.id()))
}
