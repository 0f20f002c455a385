//! Reads the workers' pipes of one service.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::unix::pipe;
use tokio::sync::broadcast;
use tokio::task::{AbortHandle, JoinSet};
use tracing::{error, warn};

use super::kept::Kept;
use super::ledger::Ledger;
use super::mirror::Mirror;
use super::rotated::Rotated;
use crate::config::settings::Logs;
use crate::units::{ServiceName, Slot, WorkerId};
use crate::wire::api::LogLine;

/// How long half a line waits for its other half. After that it counts as a line: it may be a prompt, or the last words of
/// a worker that hangs, and an agent that is killed would lose it.
const PARTIAL_WAIT: Duration = Duration::from_millis(200);

/// Why output cannot be captured or read back.
#[derive(Debug, thiserror::Error)]
pub enum OutputError {
    /// The directory or a file in it.
    #[error("worker output cannot be kept in {}: check the state directory", dir.display())]
    Files {
        /// `<state>/<service>/logs`.
        dir: PathBuf,
        /// The system's word on it.
        source: io::Error,
    },
    /// A worker's pipe.
    #[error("the output of worker {worker} cannot be read")]
    Pipe {
        /// Whose.
        worker: WorkerId,
        /// The system's word on it.
        source: io::Error,
    },
}

/// The output of one service's workers. Dropping it stops the reading; what is in the pipes stays there.
#[derive(Debug)]
pub struct Output {
    dir: PathBuf,
    /// Never held across an await; with one runtime thread it is never waited for.
    ledger: Arc<Mutex<Ledger>>,
    readers: BTreeMap<WorkerId, AbortHandle>,
    /// One per worker whose pipe is open.
    tasks: JoinSet<()>,
}

impl Output {
    /// Keeps output in `dir` (`<state>/<service>/logs`), which is made if need be.
    ///
    /// # Errors
    /// When the directory or the newest file cannot be opened.
    pub fn open(dir: &Path, logs: Logs, service: ServiceName, mirror: Mirror) -> Result<Self, OutputError> {
        let files = Rotated::open(dir, logs).map_err(|source| OutputError::Files { dir: dir.to_owned(), source })?;
        let ledger = Arc::new(Mutex::new(Ledger::new(service, files, mirror)));
        Ok(Self { dir: dir.to_owned(), ledger, readers: BTreeMap::new(), tasks: JoinSet::new() })
    }

    /// Begins to read the pipe of a worker, new or adopted. The read end is made non-blocking; the worker's end is another
    /// open file description and is not touched. Needs the runtime.
    ///
    /// # Errors
    /// When it is not the read end of a pipe or cannot be watched.
    pub fn attach(&mut self, worker: WorkerId, slot: Slot, pipe: OwnedFd) -> Result<(), OutputError> {
        let broken = |source| OutputError::Pipe { worker, source };
        let watched = pipe::Receiver::from_owned_fd(pipe).map_err(broken)?;
        // One fd says when to read, the other is read: the runtime lets its own be read only after an event, and the last
        // words of a worker whose exit is known already must not wait for one.
        let pipe = watched.as_fd().try_clone_to_owned().map_err(broken)?;
        self.detached(worker);
        self.ledger().add(worker, slot, File::from(pipe));
        let task = read_on(Arc::clone(&self.ledger), worker, watched);
        self.readers.insert(worker, self.tasks.spawn(task));
        Ok(())
    }

    /// The worker is gone: takes what it left in the pipe and closes it, whoever else may still hold the other end. When this
    /// returns, everything the worker wrote is kept, and among its last lines.
    pub fn detached(&mut self, worker: WorkerId) {
        if let Some(reader) = self.readers.remove(&worker) {
            reader.abort();
            self.ledger().end(worker);
        }
        while let Some(ended) = self.tasks.try_join_next() {
            if let Err(cause) = ended
                && cause.is_panic()
            {
                error!(dir = %self.dir.display(), %cause, "reading worker output ended in a panic");
            }
        }
    }

    /// The last lines of a worker, oldest first, at most `most` and at most 20: also for a while after it is gone.
    #[must_use]
    pub fn last_lines(&self, worker: WorkerId, most: usize) -> Vec<String> {
        self.ledger().last_lines(worker, most)
    }

    /// Every later line of every worker. A reader that is too slow misses lines and is told how many.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<LogLine> {
        self.ledger().follow()
    }

    /// What is kept now, to be read on another thread.
    ///
    /// # Errors
    /// When a file is there and cannot be opened.
    pub fn kept(&self) -> Result<Kept, OutputError> {
        let paths = self.ledger().sinks.file.paths();
        Kept::open(paths).map_err(|source| self.files(source))
    }

    /// What is kept, and everything after it: no line is missing between the two, and none is in both.
    ///
    /// # Errors
    /// When a file is there and cannot be opened.
    pub fn follow(&self) -> Result<(Kept, broadcast::Receiver<LogLine>), OutputError> {
        let ledger = self.ledger();
        let kept = Kept::open(ledger.sinks.file.paths()).map_err(|source| self.files(source))?;
        Ok((kept, ledger.follow()))
    }

    /// The last kept lines (of one slot), oldest first. Reads files: better `kept` and another thread for many lines.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn read(&self, lines: usize, slot: Option<Slot>) -> Result<Vec<LogLine>, OutputError> {
        self.kept()?.read(lines, slot).map_err(|source| self.files(source))
    }

    /// Opens the newest file anew (SIGUSR1): somebody has moved it away.
    ///
    /// # Errors
    /// When it cannot be opened; the old one stays in use.
    pub fn reopen(&self) -> Result<(), OutputError> {
        self.ledger().sinks.file.reopen().map_err(|source| self.files(source))
    }

    /// Takes other limits, from a configuration that was read again.
    ///
    /// # Errors
    /// When files beyond them cannot be removed; they hold nevertheless.
    pub fn limit(&self, logs: Logs) -> Result<(), OutputError> {
        self.ledger().sinks.file.limit(logs).map_err(|source| self.files(source))
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.ledger)
    }

    fn files(&self, source: io::Error) -> OutputError {
        OutputError::Files { dir: self.dir.clone(), source }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        // The next agent cannot know that it begins in the middle of a line.
        self.ledger().flush_all();
    }
}

fn lock(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    // After a panic some lines may be missing; the next are worth more than that.
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads until the end of the pipe. Each read is one turn: other tasks have theirs in between.
async fn read_on(ledger: Arc<Mutex<Ledger>>, worker: WorkerId, pipe: pipe::Receiver) {
    loop {
        let outcome = match readable(&ledger, worker, &pipe).await {
            Ok(()) => pipe.try_io(|| lock(&ledger).turn(worker)),
            Err(cause) => Err(cause),
        };
        match outcome {
            Ok(0) => return,
            Ok(_) => tokio::task::yield_now().await,
            Err(cause) if matches!(cause.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(cause) => {
                warn!(%worker, %cause, "the output of a worker cannot be read any more");
                return lock(&ledger).flush(worker);
            }
        }
    }
}

/// Waits until there may be something to read; meanwhile a half line may become a whole one.
async fn readable(ledger: &Mutex<Ledger>, worker: WorkerId, pipe: &pipe::Receiver) -> io::Result<()> {
    if lock(ledger).has_partial(worker) {
        if let Ok(ready) = tokio::time::timeout(PARTIAL_WAIT, pipe.readable()).await {
            return ready;
        }
        lock(ledger).flush(worker);
    }
    pipe.readable().await
}

#[cfg(test)]
mod tests {
    use std::io::{PipeWriter, Write};

    use super::super::mirror::Controls;
    use super::super::mirror::tests::Gate;
    use super::super::split::LONGEST_LINE;
    use super::*;

    const LOGS: Logs = Logs { max_size: 1024 * 1024, files: 2 };
    const LONG: Duration = Duration::from_secs(60);

    struct Rig {
        dir: tempfile::TempDir,
        output: Output,
    }

    impl Rig {
        fn new() -> Self {
            Self::mirroring_to(Mirror::to(io::sink(), Controls::Plain).expect("started"))
        }

        fn mirroring_to(mirror: Mirror) -> Self {
            let dir = tempfile::tempdir().expect("a temporary directory");
            let output = Self::open(&dir, mirror);
            Self { dir, output }
        }

        fn open(dir: &tempfile::TempDir, mirror: Mirror) -> Output {
            Output::open(dir.path(), LOGS, "web".parse().expect("a name"), mirror).expect("opened")
        }

        /// A worker in the slot of its own number.
        fn worker(&mut self, number: u32) -> (WorkerId, PipeWriter) {
            let (read, write) = io::pipe().expect("a pipe");
            let worker = WorkerId(u64::from(number));
            self.output.attach(worker, Slot(number), read.into()).expect("attached");
            (worker, write)
        }

        /// Waits until every pipe has been read to its end.
        async fn all_read(&mut self) {
            let all = async { while self.output.tasks.join_next().await.is_some() {} };
            tokio::time::timeout(LONG, all).await.expect("every pipe ends");
        }

        fn lines(&self) -> Vec<String> {
            texts(self.output.read(usize::MAX, None).expect("read"))
        }
    }

    fn texts(lines: Vec<LogLine>) -> Vec<String> {
        lines.into_iter().map(|line| line.line).collect()
    }

    async fn next(feed: &mut broadcast::Receiver<LogLine>) -> LogLine {
        tokio::time::timeout(LONG, feed.recv()).await.expect("a line comes").expect("and none was missed")
    }

    /// Writes until the reader is gone or `total` bytes are written.
    fn flood(mut pipe: PipeWriter, total: usize) -> std::thread::JoinHandle<usize> {
        let block = [&[b'y'; 1023][..], b"\n"].concat().repeat(64);
        std::thread::spawn(move || {
            let mut written = 0;
            while written < total && pipe.write_all(&block).is_ok() {
                written += block.len();
            }
            written
        })
    }

    #[tokio::test]
    async fn lines_are_kept_with_their_slot_and_worker_and_followers_see_them() {
        let mut rig = Rig::new();
        let mut feed = rig.output.subscribe();
        let (_, mut one) = rig.worker(1);
        let (_, mut two) = rig.worker(2);
        one.write_all(b"hello\nfrom \xff one\r\n").expect("written");
        assert_eq!([next(&mut feed).await.line, next(&mut feed).await.line], ["hello", "from \u{fffd} one"]);
        two.write_all(b"hello from two\n").expect("written");
        let line = next(&mut feed).await;
        assert_eq!((line.slot, line.worker.as_str()), (Slot(2), "w2"));
        assert_eq!(rig.output.read(10, Some(Slot(2))).expect("read"), [line]);
        assert_eq!(texts(rig.output.read(2, None).expect("read")), ["from \u{fffd} one", "hello from two"]);
    }

    #[tokio::test]
    async fn what_is_kept_and_what_comes_are_one_sequence() {
        let mut rig = Rig::new();
        let (_, mut pipe) = rig.worker(1);
        let mut feed = rig.output.subscribe();
        pipe.write_all(b"before\n").expect("written");
        next(&mut feed).await;
        let (kept, mut coming) = rig.output.follow().expect("opened");
        pipe.write_all(b"after\n").expect("written");
        assert_eq!(next(&mut coming).await.line, "after");
        assert_eq!(texts(kept.read(10, None).expect("read")), ["before"]);
    }

    #[tokio::test]
    async fn half_a_line_is_a_line_when_nothing_follows() {
        let mut rig = Rig::new();
        let mut feed = rig.output.subscribe();
        let (_, mut pipe) = rig.worker(1);
        pipe.write_all(b"password: ").expect("written");
        assert_eq!(next(&mut feed).await.line, "password: ");
        pipe.write_all(b"last words").expect("written");
        drop(pipe);
        assert_eq!(next(&mut feed).await.line, "last words");
    }

    #[tokio::test]
    async fn a_dead_workers_last_lines_are_there_at_once_although_others_hold_its_pipe() {
        let mut rig = Rig::new();
        let (worker, mut pipe) = rig.worker(1);
        let grandchild = pipe.try_clone().expect("cloned");
        pipe.write_all(b"starting\npanic: no database\nhalf").expect("written");
        drop(pipe);
        // No await since: the runtime has had no chance to see an event.
        rig.output.detached(worker);
        assert_eq!(rig.output.last_lines(worker, 2), ["panic: no database", "half"]);
        assert_eq!(rig.lines(), ["starting", "panic: no database", "half"]);
        rig.all_read().await;
        drop(grandchild);
    }

    #[tokio::test]
    async fn a_living_workers_last_lines_include_what_it_has_just_written() {
        let mut rig = Rig::new();
        let (worker, mut pipe) = rig.worker(1);
        pipe.write_all(b"one\ntwo\nconnecting to").expect("written");
        assert_eq!(rig.output.last_lines(worker, 20), ["one", "two", "connecting to"]);
        pipe.write_all(b" database\n").expect("written");
        assert_eq!(rig.output.last_lines(worker, 1), ["connecting to database"]);
        assert!(rig.output.last_lines(WorkerId(9), 20).is_empty(), "nobody knows this one");
    }

    #[tokio::test]
    async fn the_next_agent_reads_on_where_this_one_stopped() {
        let mut rig = Rig::new();
        let (read, mut pipe) = io::pipe().expect("a pipe");
        let held_by_keeper = read.try_clone().expect("cloned");
        rig.output.attach(WorkerId(1), Slot(1), read.into()).expect("attached");
        let mut feed = rig.output.subscribe();
        pipe.write_all(b"first\nhalf").expect("written");
        next(&mut feed).await;
        let Rig { dir, output } = rig;
        drop(output);
        pipe.write_all(b" a line\nmeanwhile\n").expect("nobody reads, but the pipe is open");
        let output = Rig::open(&dir, Mirror::to(io::sink(), Controls::Plain).expect("started"));
        let mut rig = Rig { dir, output };
        rig.output.attach(WorkerId(1), Slot(1), held_by_keeper.into()).expect("attached");
        drop(pipe);
        rig.all_read().await;
        assert_eq!(rig.lines(), ["first", "half", " a line", "meanwhile"]);
    }

    #[tokio::test]
    async fn a_flood_grows_neither_files_nor_queues() {
        let (gate, _never_opened, _) = Gate::new();
        let mut rig = Rig::mirroring_to(Mirror::to(gate, Controls::Plain).expect("started"));
        let mut slow_follower = rig.output.subscribe();
        let (worker, pipe) = rig.worker(1);
        let total = 200 * 1024 * 1024;
        let writer = flood(pipe, total);
        rig.all_read().await;
        assert_eq!(writer.join().expect("no panic"), total);
        let files = std::fs::read_dir(rig.dir.path()).expect("read");
        let sizes: Vec<u64> = files.map(|file| file.and_then(|file| file.metadata()).expect("there").len()).collect();
        assert!(sizes.len() == 2 && sizes.iter().all(|size| *size <= LOGS.max_size), "{sizes:?}");
        assert_eq!(rig.output.last_lines(worker, 100).iter().map(String::len).sum::<usize>(), 8 * 1023);
        assert!(!rig.output.ledger().has_partial(worker));
        assert!(matches!(slow_follower.recv().await, Err(broadcast::error::RecvError::Lagged(_))));
        assert!(slow_follower.len() <= 256);
    }

    #[tokio::test]
    async fn a_line_without_end_is_kept_in_pieces() {
        let mut rig = Rig::new();
        let (_, mut pipe) = rig.worker(1);
        let writer = std::thread::spawn(move || pipe.write_all(&[b'x'; 10 * LONGEST_LINE]).expect("written"));
        rig.all_read().await;
        writer.join().expect("no panic");
        let lengths: Vec<usize> = rig.lines().iter().map(String::len).collect();
        assert_eq!(lengths, [LONGEST_LINE; 10]);
    }

    #[tokio::test]
    async fn a_quiet_worker_is_heard_beside_one_that_floods() {
        let mut rig = Rig::new();
        let (loud, pipe) = rig.worker(1);
        let mut feed = rig.output.subscribe();
        let writer = flood(pipe, usize::MAX);
        next(&mut feed).await;
        let (_, mut pipe) = rig.worker(2);
        let heard = async {
            for n in 0..200 {
                writeln!(pipe, "line {n}").expect("written");
                // Looking at `last_lines` would read the pipe itself.
                let said = format!("line {n}");
                while rig.output.read(1, Some(Slot(2))).expect("read").first().map(|line| &line.line) != Some(&said) {
                    tokio::task::yield_now().await;
                }
            }
        };
        tokio::time::timeout(LONG, heard).await.expect("it has its turns");
        rig.output.detached(loud);
        rig.output.tasks.shutdown().await;
        assert!(writer.join().expect("no panic") > 1024 * 1024, "the other one wrote all the time");
    }

    #[tokio::test]
    async fn a_blocked_mirror_keeps_nothing_from_the_files() {
        let (gate, open, shown) = Gate::new();
        let mirror = Mirror::to(gate, Controls::Plain).expect("started");
        let mut rig = Rig::mirroring_to(mirror.clone());
        let (_, mut pipe) = rig.worker(1);
        let writer = std::thread::spawn(move || {
            for n in 0..20_000 {
                writeln!(pipe, "line {n}").expect("written");
            }
        });
        rig.all_read().await;
        writer.join().expect("no panic");
        assert_eq!(rig.lines().len(), 20_000);
        open.send(()).expect("open");
        mirror.finish(LONG);
        let shown: String = shown.try_iter().collect();
        assert!(shown.starts_with("web.1 | line 0\n") && shown.ends_with(" lines not shown here\n"));
    }

    #[tokio::test]
    async fn only_the_read_end_of_a_pipe_is_taken() {
        let mut rig = Rig::new();
        let (_read, write) = io::pipe().expect("a pipe");
        let refused = rig.output.attach(WorkerId(1), Slot(1), write.into()).expect_err("the wrong end");
        assert_eq!(refused.to_string(), "the output of worker w1 cannot be read");
    }

    #[tokio::test]
    async fn workers_that_are_gone_are_forgotten_in_time() {
        let mut rig = Rig::new();
        for number in 1..=100 {
            let (worker, mut pipe) = rig.worker(number);
            writeln!(pipe, "I am {number}").expect("written");
            rig.output.detached(worker);
        }
        assert!(rig.output.last_lines(WorkerId(1), 1).is_empty());
        assert_eq!(rig.output.last_lines(WorkerId(100), 1), ["I am 100"]);
        rig.all_read().await;
    }
}
