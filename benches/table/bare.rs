//! Workers without an agent: on sockets of their own, started as plainly as can be.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rollout::sys::{child, clock};
use rollout::units::Signal;
use tokio::net::TcpSocket;

use super::agent;
use super::worker::Starts;
use crate::support::GENEROUS;

/// Makes fd 0 fd 3, as `LISTEN_FDS` wants it, in a session of its own: as the agent does, because a host may share its
/// processors out by session.
const SCRIPT: &str = r#"exec 3<&0 </dev/null; export LISTEN_PID=$$ LISTEN_FDS=1; exec setsid "$0""#;

/// Example workers that serve one address.
pub(crate) struct Bare {
    pub(crate) address: SocketAddr,
    workers: Vec<Child>,
}

impl Bare {
    /// Each with a socket of its own; the kernel spreads connections over them by hash.
    pub(crate) fn with_own_sockets(worker: &Path, count: usize) -> Self {
        let first = listener(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let address = first.local_addr().expect("it is bound");
        let sockets = std::iter::once(first).chain((1..count).map(|_| listener(address)));
        Self { address, workers: sockets.map(|socket| spawn(worker, socket)).collect() }
    }

    /// All with the same socket.
    pub(crate) fn with_one_socket(worker: &Path, count: usize) -> Self {
        let socket = listener(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let address = socket.local_addr().expect("it is bound");
        let workers = (0..count).map(|_| spawn(worker, socket.try_clone().expect("another fd"))).collect();
        Self { address, workers }
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        for worker in &mut self.workers {
            let _ = worker.kill();
            let _ = worker.wait();
        }
    }
}

fn spawn(worker: &Path, socket: TcpListener) -> Child {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", SCRIPT]).arg(worker).stdin(OwnedFd::from(socket)).stdout(Stdio::null());
    // So that its answers are as long as those of a worker under the agent.
    shell.env("ROLLOUT_SLOT", "1").env("ROLLOUT_WORKER", "w1").env_remove("NOTIFY_SOCKET");
    shell.spawn().expect("start a worker")
}

fn listener(address: SocketAddr) -> TcpListener {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let _inside = runtime.enter();
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_reuseport(true).expect("set SO_REUSEPORT");
    socket.bind(address).expect("bind");
    socket.listen(4096).expect("listen").into_std().expect("out of the runtime")
}

/// How long the trivial worker takes by itself: from the spawn to READY=1, and from SIGTERM to its end.
pub(crate) fn trivial_start_and_end() -> (Duration, Duration) {
    let home = agent::home();
    let path: PathBuf = home.path().join("notify");
    let notify = UnixDatagram::bind(&path).expect("bind a socket");
    notify.set_read_timeout(Some(GENEROUS)).expect("set a timeout");
    let began = clock::now();
    let mut worker =
        Command::new(agent::this_program()).arg("worker").env("NOTIFY_SOCKET", &path).spawn().expect("start a worker");
    notify.recv(&mut [0; 64]).expect("READY=1");
    let start = clock::now().since(began);
    let pid = i32::try_from(worker.id()).expect("a pid");
    let pidfd = child::pidfd_open(pid).expect("a pidfd");
    let told = clock::now();
    child::signal(pidfd.as_fd(), Signal::TERM).expect("signal a worker");
    worker.wait().expect("wait for a worker");
    (start, clock::now().since(told))
}

/// From the death of a trivial worker to the `main` of the next one, under the simplest supervisor: wait, spawn.
pub(crate) fn crash_to_main(starts: &Starts, home: &Path) -> Duration {
    let spawn = || {
        let mut command = Command::new(agent::this_program());
        Starts::tell(command.arg("worker"), home);
        command.spawn().expect("start a worker")
    };
    let mut worker = spawn();
    starts.next(GENEROUS).expect("a start");
    let pidfd = child::pidfd_open(i32::try_from(worker.id()).expect("a pid")).expect("a pidfd");
    let killed = clock::now();
    child::signal(pidfd.as_fd(), Signal::KILL).expect("kill a worker");
    worker.wait().expect("wait for a worker");
    let mut next = spawn();
    let (_, began) = starts.next(GENEROUS).expect("a start");
    next.kill().expect("kill a worker");
    next.wait().expect("wait for a worker");
    began.since(killed)
}
