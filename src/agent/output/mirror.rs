//! The agent's own stderr, as the place where all workers' lines come together: `web.1 | text`.
//!
//! A terminal or pipe that nobody reads blocks whoever writes to it, so only this thread does. It takes what is pending;
//! when that is full, lines are dropped and their number is said as soon as there is room. The files have them all.
//! The agent's own log lines should come through here, too (`say`): written directly, they would block the agent.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::units::{ServiceName, Slot};

/// Bytes that may be pending: what a terminal shows in some seconds. Twice that is the most that the mirror uses.
const MOST_PENDING: usize = 256 * 1024;

/// What happens to control characters in workers' lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Controls {
    /// Shown as `\x1b`: a worker shall not steer the terminal of whoever looks. Tabs stay.
    Escaped,
    /// Passed on, for pipes and files.
    Plain,
}

/// A handle on the one thread that writes to stderr. The thread ends when the last handle is gone and all is written.
#[derive(Debug, Clone)]
pub struct Mirror {
    desk: Arc<Desk>,
    controls: Controls,
}

/// Owned by the handles; tells the thread that they are gone.
#[derive(Debug)]
struct Desk(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Something is pending, was written, or the handles are gone.
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    pending: Vec<u8>,
    /// Lines dropped since `pending` became full.
    dropped: u64,
    thread: Thread,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Thread {
    Waiting,
    Writing,
    ToldToEnd,
}

impl Mirror {
    /// Mirrors to the agent's stderr.
    ///
    /// # Errors
    /// When stderr is closed or the thread cannot be started.
    pub fn to_stderr() -> io::Result<Self> {
        let stderr = io::stderr();
        let controls = if stderr.is_terminal() { Controls::Escaped } else { Controls::Plain };
        // Not through `Stderr`: its lock would be held while a write blocks.
        Self::to(File::from(stderr.as_fd().try_clone_to_owned()?), controls)
    }

    /// Mirrors to anything.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn to(sink: impl Write + Send + 'static, controls: Controls) -> io::Result<Self> {
        let state = State { pending: Vec::new(), dropped: 0, thread: Thread::Waiting };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let desk = Arc::new(Desk(Arc::clone(&shared)));
        // It has no other owner than the handles: while stderr blocks, nobody can wait for it.
        std::thread::Builder::new().name("mirror".to_owned()).spawn(move || shared.write_to(sink))?;
        Ok(Self { desk, controls })
    }

    /// Shows a worker's line, or drops it. Never blocks for longer than a copy takes.
    pub fn line(&self, service: &ServiceName, slot: Slot, line: &str) {
        self.add(|pending| {
            pending.extend_from_slice(service.as_str().as_bytes());
            pending.extend_from_slice(format!(".{slot} | ").as_bytes());
            match self.controls {
                Controls::Escaped => push_escaped(pending, line),
                Controls::Plain => pending.extend_from_slice(line.as_bytes()),
            }
            pending.push(b'\n');
        });
    }

    /// Shows a line of the agent itself, newline included, as it is; or drops it.
    pub fn say(&self, line: &[u8]) {
        self.add(|pending| pending.extend_from_slice(line));
    }

    /// Waits until all is written, but not for longer than this: for the end of the agent.
    pub fn finish(&self, within: Duration) {
        let shared = &self.desk.0;
        let is_busy = |state: &mut State| state.thread == Thread::Writing || state.has_work();
        // Too late is no different from done for the caller: it ends.
        drop(shared.changed.wait_timeout_while(shared.lock(), within, is_busy).unwrap_or_else(PoisonError::into_inner));
    }

    fn add(&self, append: impl FnOnce(&mut Vec<u8>)) {
        let shared = &self.desk.0;
        let mut state = shared.lock();
        let has_begun = !state.has_work();
        let before = state.pending.len();
        // Once a line was dropped, so are those that follow it, or the number would stand in the wrong place.
        if state.dropped == 0 {
            append(&mut state.pending);
        }
        if state.pending.len() > MOST_PENDING || state.dropped > 0 {
            state.pending.truncate(before);
            state.dropped += 1;
        }
        if has_begun {
            shared.changed.notify_all();
        }
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.thread = Thread::ToldToEnd;
        self.0.changed.notify_all();
    }
}

impl State {
    fn has_work(&self) -> bool {
        !self.pending.is_empty() || self.dropped > 0
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A line is pending whole or, after a panic, in part; neither breaks anything.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_to(&self, mut sink: impl Write) {
        let mut taken = Vec::new();
        // Lines that were taken and could not be written (stderr was closed, or is non-blocking and full).
        let mut failed = 0;
        while let Some(dropped) = self.take(&mut taken) {
            if sink.write_all(&taken).is_err() {
                failed += taken.iter().filter(|byte| **byte == b'\n').count() as u64;
            }
            let missing = failed + dropped;
            if missing > 0 {
                let said = format!("rollout: {missing} lines not shown here\n");
                failed = if sink.write_all(said.as_bytes()).is_ok() { 0 } else { missing };
            }
            // Nothing more can be done about a sink that cannot be flushed.
            let _flushed = sink.flush();
        }
    }

    /// Waits for work and swaps it into `taken`; gives the number of lines dropped after it. `None`: the end.
    fn take(&self, taken: &mut Vec<u8>) -> Option<u64> {
        taken.clear();
        let mut state = self.lock();
        if state.thread == Thread::Writing {
            state.thread = Thread::Waiting;
            self.changed.notify_all();
        }
        let is_idle = |state: &mut State| !state.has_work() && state.thread != Thread::ToldToEnd;
        let mut state = self.changed.wait_while(state, is_idle).unwrap_or_else(PoisonError::into_inner);
        if !state.has_work() {
            return None;
        }
        if state.thread == Thread::Waiting {
            state.thread = Thread::Writing;
        }
        std::mem::swap(&mut state.pending, taken);
        Some(std::mem::take(&mut state.dropped))
    }
}

fn push_escaped(out: &mut Vec<u8>, line: &str) {
    for character in line.chars() {
        if character.is_control() && character != '\t' {
            out.extend_from_slice(format!("\\x{:02x}", u32::from(character)).as_bytes());
        } else {
            out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// A sink that writes nothing until it is let go.
    pub(crate) struct Gate {
        let_go: Receiver<()>,
        is_open: bool,
        written: Sender<String>,
    }

    impl Gate {
        pub(crate) fn new() -> (Self, Sender<()>, Receiver<String>) {
            let (open, let_go) = channel();
            let (written, read) = channel();
            (Self { let_go, is_open: false, written }, open, read)
        }
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if !self.is_open {
                self.let_go.recv().map_err(io::Error::other)?;
                self.is_open = true;
            }
            let _read = self.written.send(String::from_utf8_lossy(bytes).into_owned());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    const LONG: Duration = Duration::from_secs(30);

    fn web() -> ServiceName {
        "web".parse().expect("a name")
    }

    #[test]
    fn lines_have_their_service_and_slot_in_front() {
        let (gate, open, read) = Gate::new();
        let mirror = Mirror::to(gate, Controls::Plain).expect("started");
        mirror.line(&web(), Slot(1), "hello\x1b[1m");
        mirror.say(b"rollout: said\n");
        open.send(()).expect("open");
        mirror.finish(LONG);
        assert_eq!(read.try_iter().collect::<String>(), "web.1 | hello\x1b[1m\nrollout: said\n");
    }

    #[test]
    fn control_characters_do_not_reach_a_terminal() {
        let (gate, open, read) = Gate::new();
        let mirror = Mirror::to(gate, Controls::Escaped).expect("started");
        open.send(()).expect("open");
        mirror.line(&web(), Slot(1), "a\tb\x1b[2J\r\u{9b}€");
        mirror.finish(LONG);
        assert_eq!(read.try_iter().collect::<String>(), "web.1 | a\tb\\x1b[2J\\x0d\\x9b€\n");
    }

    #[test]
    fn a_blocked_sink_costs_lines_not_memory_and_the_number_is_said() {
        let (gate, open, read) = Gate::new();
        let mirror = Mirror::to(gate, Controls::Plain).expect("started");
        let total = 100_000;
        for n in 0..total {
            mirror.line(&web(), Slot(1), &n.to_string());
        }
        assert!(mirror.desk.0.lock().pending.len() <= MOST_PENDING);
        open.send(()).expect("open");
        mirror.finish(LONG);
        let text: String = read.try_iter().collect();
        let shown = text.lines().filter(|line| line.starts_with("web.1 | ")).count();
        let said = text.lines().last().expect("something is shown");
        assert_eq!(said, format!("rollout: {} lines not shown here", total - shown));
        mirror.line(&web(), Slot(1), "back");
        mirror.finish(LONG);
        assert_eq!(read.try_iter().collect::<String>(), "web.1 | back\n");
    }

    #[test]
    fn finishing_gives_up_on_a_blocked_sink_and_the_thread_ends_with_its_handles() {
        let (gate, open, read) = Gate::new();
        let mirror = Mirror::to(gate, Controls::Plain).expect("started");
        mirror.say(b"last words\n");
        mirror.finish(Duration::from_millis(10));
        drop(mirror);
        open.send(()).expect("open");
        assert_eq!(read.recv_timeout(LONG).as_deref(), Ok("last words\n"));
        assert!(read.recv_timeout(LONG).is_err(), "the sink is dropped when the thread ends");
    }
}
