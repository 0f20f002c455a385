//! Puts load on an HTTP server on this host and names every failure.
//!
//! `cargo run --example load -- --url http://127.0.0.1:8080 --seconds 10 --rate 200`
//!
//! Ends after `--seconds` or on SIGINT or SIGTERM, in each case only when every request under way has ended; prints what
//! happened; exit code 1 if any request failed, 2 if
//! it could not begin. The server must answer like `examples/worker.rs`.

#[path = "../tests/load/mod.rs"]
#[expect(dead_code, reason = "tests look at more of a report than this program prints")]
mod load;
#[path = "worker/signals.rs"]
mod signals;

use std::error::Error;
use std::io::{Write, stderr, stdout};
use std::net::{SocketAddr, ToSocketAddrs};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use load::Load;
use load::mix::Mix;

#[derive(Parser)]
struct Options {
    /// Where the server is, on this host
    #[arg(long, value_parser = address, value_name = "URL", default_value = "http://127.0.0.1:8080")]
    url: SocketAddr,
    /// When to stop; until SIGINT or SIGTERM if not given
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
    /// Short requests per second, over all kinds
    #[arg(long, value_name = "N", default_value_t = 200.0)]
    rate: f64,
    /// Kinds of traffic
    #[arg(long, value_enum, value_delimiter = ',', default_value = "all")]
    mix: Vec<Choice>,
    /// Versions that may answer; any if not given
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    known: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Choice {
    /// Everything below
    All,
    /// A new connection for each request
    Fresh,
    /// Kept connections
    Kept,
    /// Kept connections, 20 ms away
    Far,
    /// Requests that take 2 s
    Slow,
    /// Uploads that take 1.5 s
    Upload,
    /// Answers that take 3 s
    Stream,
}

fn main() -> ExitCode {
    run(&Options::parse()).unwrap_or_else(|error| {
        let _nobody_left_to_tell = writeln!(stderr(), "load: {error}");
        ExitCode::from(2)
    })
}

fn run(options: &Options) -> Result<ExitCode, Box<dyn Error>> {
    let mix = mix(options);
    let report = tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let stop = signals::stop_signal()?;
        let running = Load::start(options.url, mix)?;
        let seconds = options.seconds.map_or(Duration::MAX, Duration::from_secs);
        let _either = tokio::time::timeout(seconds, stop).await;
        Ok::<_, Box<dyn Error>>(running.stop())
    })?;
    if options.json {
        serde_json::to_writer_pretty(stdout(), &report)?;
        writeln!(stdout())?;
    } else {
        writeln!(stdout(), "{report}")?;
    }
    Ok(if report.failures() == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn mix(options: &Options) -> Mix {
    let all = Mix::all(options.rate);
    let wants = |choice| options.mix.contains(&choice) || options.mix.contains(&Choice::All);
    let none = Mix { known: options.known.clone(), ..Mix::default() };
    Mix {
        fresh: if wants(Choice::Fresh) { all.fresh } else { none.fresh },
        kept: if wants(Choice::Kept) { all.kept } else { none.kept },
        far: if wants(Choice::Far) { all.far } else { none.far },
        slow: if wants(Choice::Slow) { all.slow } else { none.slow },
        upload: if wants(Choice::Upload) { all.upload } else { none.upload },
        stream: if wants(Choice::Stream) { all.stream } else { none.stream },
        ..none
    }
}

fn address(url: &str) -> Result<SocketAddr, String> {
    let host = url.strip_prefix("http://").unwrap_or(url).trim_end_matches('/');
    let mut found = host.to_socket_addrs().map_err(|error| format!("{host}: {error}"))?;
    found.next().ok_or_else(|| format!("{host} has no address"))
}
