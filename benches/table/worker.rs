//! The trivial worker: says that it began and that it is ready, and waits to be ended.

use std::env;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use rollout::sys::clock;
use rollout::units::Moment;

/// Where a worker reports its begin.
const VARIABLE: &str = "BENCH_STARTS";

/// A worker's life.
pub(crate) fn run() -> ExitCode {
    let began = clock::now();
    if let Some(path) = env::var_os(VARIABLE)
        && let Ok(socket) = UnixDatagram::unbound()
    {
        let slot = env::var("ROLLOUT_SLOT").unwrap_or_default();
        // Only a few fit in (net.unix.max_dgram_qlen), and nobody waits for one that is not measured.
        let _ = socket.set_nonblocking(true);
        let _ = socket.send_to(format!("{slot} {}", began.0).as_bytes(), path);
    }
    // Without a socket to say it on, nobody wants to know.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    loop {
        std::thread::park();
    }
}

/// Hears when workers begin.
pub(crate) struct Starts(UnixDatagram);

impl Starts {
    pub(crate) fn listen(home: &Path) -> Self {
        Self(UnixDatagram::bind(home.join("starts")).expect("bind a socket"))
    }

    /// The line of YAML that sends workers here.
    pub(crate) fn env(home: &Path) -> String {
        format!("    env: {{{VARIABLE}: '{}'}}\n", home.join("starts").display())
    }

    /// For a worker without an agent.
    pub(crate) fn tell(command: &mut Command, home: &Path) {
        command.env(VARIABLE, home.join("starts")).env("ROLLOUT_SLOT", "0");
    }

    /// Forgets what came until now.
    pub(crate) fn forget(&self) {
        while self.next(Duration::from_millis(1)).is_some() {}
    }

    /// The slot of the next worker, and when its `main` began.
    pub(crate) fn next(&self, wait: Duration) -> Option<(u32, Moment)> {
        self.0.set_read_timeout(Some(wait)).expect("set a timeout");
        let mut bytes = [0; 64];
        match self.0.recv(&mut bytes) {
            Ok(length) => {
                let text = str::from_utf8(&bytes[..length]).expect("text");
                let (slot, moment) = text.split_once(' ').expect("two words");
                Some((slot.parse().expect("a slot"), Moment(moment.parse().expect("a moment"))))
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => None,
            Err(error) => panic!("hear of a start: {error}"),
        }
    }
}
