//! The keeper's end of its link to one agent. Never waits for the agent.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::protocol::{Ask, Tell};
use super::table::Table;
use crate::sys::{fd_pass, poll};
use crate::units::Signal;

/// Answers that wait for room in the socket. An agent asks one question at a time, so more than a few means that it does
/// not read; then its next questions wait in the socket. Exits and signals are not in here: they are state (`table.rs`,
/// `run.rs`) and become packets when there is room.
const UNSENT_BOUND: usize = 64;

/// One agent's link.
#[derive(Debug)]
pub(super) struct Link {
    socket: OwnedFd,
    unsent: VecDeque<(Tell, Option<OwnedFd>)>,
    greeting: Greeting,
    room: Room,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Greeting {
    /// Nothing is told to an agent that has not said hello.
    Awaited,
    Done,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Room {
    Some,
    None,
}

/// What came from the agent.
#[derive(Debug)]
pub(super) enum Heard {
    /// Nothing more for now.
    Nothing,
    /// It asks.
    Ask(Ask, Vec<OwnedFd>),
    /// The link is closed, and everything that was sent on it has been heard.
    End,
    /// Not the protocol; the reason.
    Garbage(String),
}

impl Link {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self { socket, unsent: VecDeque::new(), greeting: Greeting::Awaited, room: Room::Some }
    }

    /// What to wait for on [`Link::as_fd`].
    pub(super) fn awaits(&self) -> poll::For {
        match (self.unsent.len() >= UNSENT_BOUND, self.room) {
            (true, _) => poll::For::Writing,
            (false, Room::None) => poll::For::Both,
            (false, Room::Some) => poll::For::Reading,
        }
    }

    /// The next packet from the agent.
    pub(super) fn hear(&self) -> Heard {
        if self.unsent.len() >= UNSENT_BOUND {
            return Heard::Nothing;
        }
        self.hear_last_words()
    }

    /// The next packet from an agent that is dead, whatever it has not read.
    pub(super) fn hear_last_words(&self) -> Heard {
        match fd_pass::receive(self.socket.as_fd()) {
            Ok(Some(packet)) => match serde_json::from_slice(&packet.bytes) {
                Ok(ask) => Heard::Ask(ask, packet.fds),
                Err(error) => Heard::Garbage(error.to_string()),
            },
            Ok(None) => Heard::End,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Heard::Nothing,
            Err(error) => Heard::Garbage(error.to_string()),
        }
    }

    /// The agent has said hello: from now on it is told things.
    pub(super) fn greet(&mut self) {
        self.greeting = Greeting::Done;
    }

    /// Answers. Sent by the next [`Link::send`].
    pub(super) fn answer(&mut self, tell: Tell, fd: Option<OwnedFd>) {
        self.unsent.push_back((tell, fd));
    }

    /// Sends what there is room for: answers first (a child must be known as spawned before it is known as exited), then
    /// exits, then signals.
    ///
    /// # Errors
    /// A packet cannot be sent to this agent, and never will be.
    pub(super) fn send(&mut self, table: &mut Table, signals: &mut BTreeSet<Signal>) -> io::Result<()> {
        self.room = Room::Some;
        while let Some((tell, fd)) = self.unsent.front() {
            if !self.send_one(tell, fd.as_ref().map(AsFd::as_fd))? {
                self.room = Room::None;
                return Ok(());
            }
            self.unsent.pop_front();
        }
        if self.greeting == Greeting::Awaited {
            return Ok(());
        }
        while let Some((name, exit)) = table.next_untold() {
            let child = name.to_owned();
            if !self.send_one(&Tell::Exited { child: child.clone(), exit }, None)? {
                self.room = Room::None;
                return Ok(());
            }
            table.told(&child);
        }
        while let Some(signal) = signals.first().copied() {
            if !self.send_one(&Tell::Signalled(signal), None)? {
                self.room = Room::None;
                return Ok(());
            }
            signals.remove(&signal);
        }
        Ok(())
    }

    /// `false`: no room now.
    fn send_one(&self, tell: &Tell, fd: Option<BorrowedFd<'_>>) -> io::Result<bool> {
        let bytes = serde_json::to_vec(tell)?;
        match fd_pass::send(self.socket.as_fd(), &bytes, fd.as_slice()) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            // The agent has left; the next `hear` says so. Nothing is marked as told, so its successor hears it.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::fd;
    use crate::units::Exit;

    fn linked() -> (Link, OwnedFd) {
        let (ours, theirs) = fd_pass::pair().expect("pair");
        (Link::new(ours), theirs)
    }

    fn told(theirs: &OwnedFd) -> Vec<Tell> {
        let mut told = Vec::new();
        while let Ok(Some(packet)) = fd_pass::receive(theirs.as_fd()) {
            told.push(serde_json::from_slice(&packet.bytes).expect("a Tell"));
        }
        told
    }

    fn missing(number: usize) -> Tell {
        Tell::Missing { name: format!("{number}") }
    }

    #[test]
    fn nothing_but_answers_is_told_before_hello() {
        let (mut link, theirs) = linked();
        let (mut table, mut signals) = (Table::default(), BTreeSet::from([Signal::TERM]));
        link.answer(missing(1), None);
        link.send(&mut table, &mut signals).expect("send");
        assert_eq!(told(&theirs), [missing(1)]);
        link.greet();
        link.send(&mut table, &mut signals).expect("send");
        assert_eq!(told(&theirs), [Tell::Signalled(Signal::TERM)]);
        assert!(signals.is_empty());
    }

    #[test]
    fn an_agent_that_does_not_read_is_not_waited_for_and_misses_nothing() {
        let (mut link, theirs) = linked();
        let (mut table, mut signals) = (Table::default(), BTreeSet::new());
        link.greet();
        table.add_child("late".to_owned(), 7, fd::pipe().expect("pipe").0);
        let mut count = 0;
        while link.awaits() == poll::For::Reading {
            link.answer(missing(count), None);
            link.send(&mut table, &mut signals).expect("send");
            count += 1;
        }
        assert_eq!(link.awaits(), poll::For::Both, "the socket is full");
        table.exited("late", Exit::Code(0));
        signals.insert(Signal::TERM);
        link.send(&mut table, &mut signals).expect("send");
        assert!(table.next_untold().is_some() && !signals.is_empty(), "kept until there is room");
        let mut heard = told(&theirs).len();
        link.send(&mut table, &mut signals).expect("send");
        let rest = told(&theirs);
        heard += rest.len();
        assert_eq!(heard, count + 2);
        assert!(rest.ends_with(&[
            Tell::Exited { child: "late".to_owned(), exit: Exit::Code(0) },
            Tell::Signalled(Signal::TERM)
        ]));
    }

    #[test]
    fn questions_wait_while_too_many_answers_do() {
        let (mut link, theirs) = linked();
        fd_pass::send(theirs.as_fd(), br#""in_charge""#, &[]).expect("send");
        for number in 0..UNSENT_BOUND {
            link.answer(missing(number), None);
        }
        assert!(matches!(link.hear(), Heard::Nothing));
        assert_eq!(link.awaits(), poll::For::Writing);
        link.send(&mut Table::default(), &mut BTreeSet::new()).expect("send");
        assert!(matches!(link.hear(), Heard::Ask(Ask::InCharge, fds) if fds.is_empty()));
    }

    #[test]
    fn what_is_not_the_protocol_is_garbage() {
        let (link, theirs) = linked();
        fd_pass::send(theirs.as_fd(), b"GET / HTTP/1.1", &[]).expect("send");
        assert!(matches!(link.hear(), Heard::Garbage(_)));
        drop(theirs);
        assert!(matches!(link.hear(), Heard::End));
    }
}
