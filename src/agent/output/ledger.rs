//! What is known of one service's output: who writes, what of it is half a line, and where lines go.
//!
//! Every read of a worker's pipe happens here, under the lock of the ledger, whoever asks for it: so the order of what a
//! worker wrote is kept, and what has been read is in the file when the lock is let go.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{self, Read};

use tokio::sync::broadcast;

use super::last_lines::LastLines;
use super::line::Head;
use super::mirror::Mirror;
use super::rotated::Rotated;
use super::split::Splitter;
use crate::sys::clock;
use crate::units::{ServiceName, Slot, WorkerId};
use crate::wire::api::LogLine;

/// Bytes of one worker per turn, after which the others have theirs. Two-byte lines make this the work of a
/// millisecond or so.
const TURN: usize = 16 * 1024;
/// The most that a pipe can hold for an ordinary user (/proc/sys/fs/pipe-max-size). Whatever is read of a dead worker's
/// pipe beyond it was written by somebody else.
const LARGEST_PIPE: usize = 1024 * 1024;
/// What is read at once when somebody asks for a living worker's last lines: an ordinary pipe.
const ORDINARY_PIPE: usize = 64 * 1024;
/// Lines that a follower may be behind (16 KiB each at the worst); after that it misses some and is told how many.
const FOLLOWERS_BOUND: usize = 256;
/// Workers whose last lines are remembered after their end: those of a rollout that fails.
const MOST_GONE: usize = 64;

/// One service's output.
#[derive(Debug)]
pub(super) struct Ledger {
    streams: BTreeMap<WorkerId, Stream>,
    /// Those that have ended, oldest first.
    gone: VecDeque<WorkerId>,
    pub(super) sinks: Sinks,
    /// One for all workers: it is empty between turns.
    scratch: Box<[u8]>,
}

/// One worker's output.
#[derive(Debug)]
struct Stream {
    slot: Slot,
    /// `None` once it is read to its end.
    pipe: Option<File>,
    splitter: Splitter,
    last: LastLines,
}

/// Where lines go.
#[derive(Debug)]
pub(super) struct Sinks {
    service: ServiceName,
    pub(super) file: Rotated,
    mirror: Mirror,
    followers: broadcast::Sender<LogLine>,
}

impl Ledger {
    pub(super) fn new(service: ServiceName, file: Rotated, mirror: Mirror) -> Self {
        let sinks = Sinks { service, file, mirror, followers: broadcast::Sender::new(FOLLOWERS_BOUND) };
        let scratch = vec![0; TURN].into_boxed_slice();
        Self { streams: BTreeMap::new(), gone: VecDeque::new(), sinks, scratch }
    }

    /// Begins to keep a worker's output. The pipe must not block.
    pub(super) fn add(&mut self, worker: WorkerId, slot: Slot, pipe: File) {
        let stream = Stream { slot, pipe: Some(pipe), splitter: Splitter::default(), last: LastLines::default() };
        self.streams.insert(worker, stream);
    }

    /// Reads once. 0: the end of it; `WouldBlock`: nothing now.
    pub(super) fn turn(&mut self, worker: WorkerId) -> io::Result<usize> {
        let Some(stream) = self.streams.get_mut(&worker) else { return Ok(0) };
        let Some(pipe) = &mut stream.pipe else { return Ok(0) };
        let read = pipe.read(&mut self.scratch)?;
        if read == 0 {
            stream.pipe = None;
            self.sinks.flush(worker, stream);
        } else {
            self.sinks.take(worker, stream, &self.scratch[..read]);
        }
        Ok(read)
    }

    /// Whether the worker has written half a line.
    pub(super) fn has_partial(&self, worker: WorkerId) -> bool {
        self.streams.get(&worker).is_some_and(|stream| !stream.splitter.partial().is_empty())
    }

    /// Takes the half line for a whole one.
    pub(super) fn flush(&mut self, worker: WorkerId) {
        if let Some(stream) = self.streams.get_mut(&worker) {
            self.sinks.flush(worker, stream);
        }
    }

    /// Takes all half lines for whole ones.
    pub(super) fn flush_all(&mut self) {
        for (worker, stream) in &mut self.streams {
            self.sinks.flush(*worker, stream);
        }
    }

    /// Takes what a worker has left in its pipe, and no more: others may still hold it and write.
    pub(super) fn end(&mut self, worker: WorkerId) {
        self.catch_up(worker, LARGEST_PIPE);
        let Some(stream) = self.streams.get_mut(&worker) else { return };
        stream.pipe = None;
        self.sinks.flush(worker, stream);
        self.gone.retain(|gone| *gone != worker);
        self.gone.push_back(worker);
        while self.gone.len() > MOST_GONE {
            let forgotten = self.gone.pop_front();
            forgotten.and_then(|worker| self.streams.remove(&worker));
        }
    }

    /// The last lines, with what the worker has just written.
    pub(super) fn last_lines(&mut self, worker: WorkerId, most: usize) -> Vec<String> {
        self.catch_up(worker, ORDINARY_PIPE);
        let stream = self.streams.get(&worker);
        stream.map_or_else(Vec::new, |stream| stream.last.read(most, stream.splitter.partial()))
    }

    pub(super) fn follow(&self) -> broadcast::Receiver<LogLine> {
        self.sinks.followers.subscribe()
    }

    fn catch_up(&mut self, worker: WorkerId, most: usize) {
        let mut taken = 0;
        while taken < most {
            match self.turn(worker) {
                Ok(0) => break,
                Ok(read) => taken += read,
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
                // Nothing there; or broken, which its task reports.
                Err(_) => break,
            }
        }
    }
}

impl Sinks {
    fn take(&mut self, worker: WorkerId, stream: &mut Stream, bytes: &[u8]) {
        let head = Head::new(clock::time_of_day(), stream.slot, worker);
        let last = &mut stream.last;
        stream.splitter.feed(bytes, |line| self.line(&head, last, line));
        self.file.flush();
    }

    fn flush(&mut self, worker: WorkerId, stream: &mut Stream) {
        let head = Head::new(clock::time_of_day(), stream.slot, worker);
        let last = &mut stream.last;
        stream.splitter.flush(|line| self.line(&head, last, line));
        self.file.flush();
    }

    fn line(&mut self, head: &Head, last: &mut LastLines, line: &[u8]) {
        let line = String::from_utf8_lossy(line);
        self.file.push(&head.text, &line);
        self.mirror.line(&self.service, head.slot, &line);
        last.push(&line);
        if self.followers.receiver_count() > 0 {
            // Fails only if the last follower has just left.
            let _told = self.followers.send(head.log_line(&line));
        }
    }
}
