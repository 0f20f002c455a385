//! From a new file in the place of the watched binary to the rollout.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use rollout::release::digest::digest_of;
use rollout::sys::clock;
use rollout::wire::api::Status;

use super::agent;
use super::figure::{Figure, Spread, Target};
use crate::support::control::Lines;
use crate::support::{GENEROUS, Rig};

const SETTLE: Duration = Duration::from_millis(300);
const ROUNDS: usize = 5;
const LARGE: u64 = 500_000_000;

pub(crate) fn figures() -> Vec<Figure> {
    let home = agent::home();
    let large = home.path().join("large");
    fs::copy(agent::this_program(), home.path().join("program")).expect("copy this program");
    let config = agent::trivial(1, "").replace(&agent::this_program().display().to_string(), "program");
    let config = config.replace("watch: off", &format!("watch: {{settle: {}ms}}", SETTLE.as_millis()));
    let mut rig = agent::start(home, &config);
    let small = Spread::of_times((0..ROUNDS).map(|round| {
        let next = rig.home().join("next");
        fs::copy(agent::this_program(), &next).expect("copy this program");
        grow(&next, &[u8::try_from(round).expect("small")]);
        from_place_to_rollout(&mut rig, &next)
    }));
    fs::copy(agent::this_program(), &large).expect("copy this program");
    fill(&large);
    let seconds = |time: Duration| time.as_secs_f64();
    let bytes = fs::metadata(&large).expect("look at the file").len();
    let speed = Spread::of((0..ROUNDS).map(|_| {
        let began = processor_time();
        digest_of(&large).expect("hash the file");
        gigabytes(bytes) / seconds(processor_time().saturating_sub(began))
    }));
    let stored = from_place_to_rollout(&mut rig, &large);
    vec![
        Figure::new("file in place to its rollout, minus the settle time", small, "ms", Target::None),
        Figure::new("SHA-256 of a 500 MB release, per second of a processor", speed, "GB/s", Target::AtLeast(1.0)),
        Figure::new(
            "500 MB file in place to its rollout, minus the settle time",
            Spread::of([seconds(stored)]),
            "s",
            Target::None,
        ),
    ]
}

/// Puts the file in place and returns when the status says that a rollout is under way.
fn from_place_to_rollout(rig: &mut Rig, file: &Path) -> Duration {
    rig.wait_until_serving();
    let mut lines = Lines::get(&rig.socket(), "/v1/status?watch=true").expect("watch");
    lines.next(GENEROUS).expect("watch").expect("a status");
    let began = clock::now();
    fs::rename(file, rig.home().join("program")).expect("put it in place");
    loop {
        let line = lines.next(GENEROUS).expect("watch").expect("a rollout within the time");
        let now = clock::now();
        let status: Status = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in {line}"));
        if status.services[0].rollout.is_some() {
            return now.since(began).saturating_sub(SETTLE);
        }
    }
}

fn grow(file: &Path, bytes: &[u8]) {
    OpenOptions::new().append(true).open(file).and_then(|mut file| file.write_all(bytes)).expect("append");
}

/// Appends bytes up to the large size, and waits until they are on disk: that is the deployer's time, not the agent's.
fn fill(file: &Path) {
    let block: Vec<u8> = (0..1_000_000_u32).map(|number| number.to_le_bytes()[0] ^ number.to_le_bytes()[1]).collect();
    while fs::metadata(file).expect("look at the file").len() < LARGE {
        grow(file, &block);
    }
    File::open(file).and_then(|file| file.sync_all()).expect("sync");
}

/// Of this thread (proc(5), `schedstat`): on a busy host the clock on the wall says nothing about a speed.
fn processor_time() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").expect("read the thread's time");
    let nanos = text.split(' ').next().and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.expect("nanoseconds"))
}

fn gigabytes(bytes: u64) -> f64 {
    Duration::from_nanos(bytes).as_secs_f64()
}
