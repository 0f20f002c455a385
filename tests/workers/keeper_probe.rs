//! A keeper whose agent does what a test tells it. `keeper_probe keep SOCKET` is the keeper; it starts this binary again as
//! `agent SOCKET`, which connects to the test there, says who it is, and then obeys one line after the other.

use std::collections::BTreeMap;
use std::env;
use std::error::Error;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use rollout::agent::keeper_link::{self, KeeperLink, Spawned, prepare_spawn};
use rollout::keeper::protocol::{Inventory, Notice};
use rollout::keeper::spec::{Filter, Spec};
use rollout::keeper::{self, shim};
use rollout::sys::tree;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

const LONG: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let mut args = env::args_os().skip(1);
    let role = args.next().unwrap_or_default();
    let socket = args.next().unwrap_or_default();
    match role.to_str() {
        Some("keep") => keeper::run(vec!["agent".into(), socket]),
        Some("__exec") => shim::run(),
        Some("agent") => Agent::start(Path::new(&socket)).and_then(Agent::obey).unwrap_or(ExitCode::from(99)),
        Some(_) | None => ExitCode::from(98),
    }
}

struct Agent {
    link: KeeperLink,
    runtime: Runtime,
    directory: PathBuf,
    test: UnixStream,
    children: BTreeMap<String, Spawned>,
    listeners: BTreeMap<String, TcpListener>,
}

type Outcome<T> = Result<T, Box<dyn Error>>;

impl Agent {
    fn start(socket: &Path) -> Outcome<Self> {
        let (link, inventory) = KeeperLink::from_stdin()?;
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let directory = socket.parent().ok_or("no directory")?.to_owned();
        let test = UnixStream::connect(socket)?;
        let mut agent = Self { link, runtime, directory, test, children: BTreeMap::new(), listeners: BTreeMap::new() };
        agent.introduce(&inventory)?;
        Ok(agent)
    }

    fn introduce(&mut self, inventory: &Inventory) -> Outcome<()> {
        let pid = std::process::id();
        let soft = keeper_link::open_files_at_start();
        let watchdog = keeper_link::watchdog_period();
        writeln!(self.test, "{pid} {}", serde_json::to_string(inventory)?)?;
        writeln!(self.test, "open_files={soft:?} watchdog={watchdog:?}")?;
        Ok(())
    }

    fn obey(mut self) -> Outcome<ExitCode> {
        let mut lines = BufReader::new(self.test.try_clone()?).lines();
        while let Some(line) = lines.next().transpose()? {
            let words: Vec<&str> = line.split('\t').collect();
            if let ["exit", code] = words[..] {
                return Ok(ExitCode::from(code.parse::<u8>()?));
            }
            if let ["last_words", code] = words[..] {
                self.link.done(code.parse()?)?;
                return Ok(ExitCode::SUCCESS);
            }
            let answer = self.one(&words).unwrap_or_else(|error| format!("error: {error}"));
            writeln!(self.test, "{answer}")?;
        }
        Ok(ExitCode::from(97))
    }

    fn one(&mut self, words: &[&str]) -> Outcome<String> {
        match *words {
            ["spawn", name, listeners, ref command @ ..] => return self.spawn(name, listeners.parse()?, command),
            ["event"] => {
                let event = self.runtime.block_on(async { timeout(LONG, self.link.next_event()).await })?;
                return Ok(format!("{event:?}"));
            }
            ["listen", name] => {
                let listener = TcpListener::bind("127.0.0.1:0")?;
                self.link.put(name, listener.as_fd())?;
                return Ok(listener.local_addr()?.to_string());
            }
            ["take", name] => return self.take(name),
            ["kill_tree", name] => {
                let child = self.children.get(name).ok_or("no such child")?;
                return Ok(format!("{:?}", tree::kill_tree(child.pid, child.pidfd.as_fd())));
            }
            ["drop", name] => self.link.drop_fd(name)?,
            ["forget", name] => self.link.forget(name)?,
            ["in_charge"] => self.link.in_charge()?,
            ["ready", status] => {
                self.link.notice(Notice::Status(status.to_owned()))?;
                self.link.notice(Notice::Reloading)?;
                self.link.notice(Notice::Ready)?;
            }
            ["done", code] => self.link.done(code.parse()?)?,
            ["garbage"] => send_garbage()?,
            _ => return Err("what?".into()),
        }
        // Answered by the keeper, so everything before it has been obeyed when the test goes on.
        self.link.take("nothing")?;
        Ok("ok".to_owned())
    }

    fn spawn(&mut self, name: &str, listeners: usize, command: &[&str]) -> Outcome<String> {
        let output = File::create(self.directory.join(format!("{name}.out")))?;
        let listeners = (0..listeners).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<Vec<_>, _>>()?;
        let fds: Vec<BorrowedFd<'_>> = listeners.iter().map(AsFd::as_fd).collect();
        let mut env = vec![("PATH".to_owned(), "/usr/bin:/bin".to_owned())];
        if !fds.is_empty() {
            env.push(("LISTEN_FDS".to_owned(), fds.len().to_string()));
        }
        let spec = Spec {
            command: command.iter().map(|word| (*word).to_owned()).collect(),
            env,
            cwd: self.directory.clone(),
            listen_fds: fds.len(),
            open_files: Some(512),
            filter: Filter::None,
        };
        let (stdin, answer): (OwnedFd, _) = prepare_spawn(&spec, output.as_fd(), &fds)?;
        let child = self.link.spawn(name, stdin, vec![])?;
        let pid = child.pid;
        self.children.insert(name.to_owned(), child);
        self.runtime.block_on(answer.executed(LONG))?;
        Ok(pid.to_string())
    }

    fn take(&mut self, name: &str) -> Outcome<String> {
        let Some(fd) = self.link.take(name)? else { return Ok("missing".to_owned()) };
        if name.starts_with("pidfd:") {
            return Ok("pidfd".to_owned());
        }
        let listener = TcpListener::from(fd);
        let address = listener.local_addr()?.to_string();
        self.listeners.insert(name.to_owned(), listener);
        Ok(address)
    }
}

/// Finds the socket of the link, which the link does not give away, as a program gone mad would.
fn send_garbage() -> std::io::Result<()> {
    for entry in fs::read_dir("/proc/self/fd")?.flatten() {
        let is_socket = fs::read_link(entry.path()).is_ok_and(|to| to.to_string_lossy().starts_with("socket:"));
        let number = entry.file_name().to_string_lossy().parse::<i32>().unwrap_or(-1);
        if is_socket && number > 2 {
            let fd = rollout::sys::fd::adopt_inherited(number)?;
            // The other sockets get it too; nobody reads it there.
            let _ = rollout::sys::fd_pass::send(fd.as_fd(), b"GET / HTTP/1.1", &[]);
            std::mem::forget(fd);
        }
    }
    Ok(())
}
