//! The agent's end of its link to the keeper, and its end of each new worker's shim.
//!
//! Questions are synchronous: the keeper answers within microseconds and decides nothing. What the keeper tells in between
//! is queued for [`KeeperLink::next_event`].

use std::collections::VecDeque;
use std::env;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use tokio::time::timeout;

use crate::keeper::protocol::{Ask, ENV_OPEN_FILES, ENV_WATCHDOG_USEC, Inventory, Managed, Notice, Tell, VERSION};
use crate::keeper::spec::{NotExecuted, Spec};
use crate::sys::watched::Watched;
use crate::sys::{clock, fd, fd_pass, memfd};
use crate::units::{Exit, Signal};

/// A keeper that takes longer than this for an answer is stopped or gone.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// An inventory names a few fds per worker; this is room for some hundred thousand.
const INVENTORY_BOUND: usize = 64 * 1024 * 1024;

/// The link. After its first failure nothing goes over it any more, because question and answer could be out of step.
#[derive(Debug)]
pub struct KeeperLink {
    socket: OwnedFd,
    /// A duplicate, made by the first wait, which is the first time that a runtime is sure to be there.
    watched: Option<Watched>,
    /// Bounded by the number of children (each exits once) and of signals (each is queued once).
    events: VecDeque<KeeperEvent>,
    health: Health,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    Good,
    Broken,
}

/// What the keeper tells unasked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeeperEvent {
    /// A child is gone, its process group with it. Comes again to each agent until it is forgotten.
    Exited {
        /// Its name.
        child: String,
        /// How.
        exit: Exit,
    },
    /// The keeper got this signal, which is meant for the agent.
    Signalled(Signal),
    /// The keeper is gone, or does not make sense. Said again to each further call.
    Gone,
}

/// A child that was started.
#[derive(Debug)]
pub struct Spawned {
    /// A kernel detail.
    pub pid: i32,
    /// Readable when it has exited.
    pub pidfd: OwnedFd,
}

/// Why a child was not started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The keeper could not.
    #[error("keeper refused to start {child}: {cause}")]
    Refused {
        /// The child's name.
        child: String,
        /// The keeper's words.
        cause: String,
    },
    /// The keeper could not be asked.
    #[error("ask the keeper to start {child}")]
    Link {
        /// The child's name.
        child: String,
        /// Why.
        source: io::Error,
    },
}

impl KeeperLink {
    /// Takes the link that the keeper gave to this process as standard input, says hello, and learns what the keeper holds.
    ///
    /// # Errors
    /// Standard input is no such link, or the keeper is of another version.
    pub fn from_stdin() -> io::Result<(Self, Inventory)> {
        Self::greet(fd::take_stdin()?)
    }

    fn greet(socket: OwnedFd) -> io::Result<(Self, Inventory)> {
        let mut link = Self { socket, watched: None, events: VecDeque::new(), health: Health::Good };
        match link.ask(&Ask::Hello { version: VERSION }, None)? {
            (Tell::Welcome, Some(memfd)) => {
                let json = memfd::read(memfd, INVENTORY_BOUND)?;
                Ok((link, serde_json::from_slice(&json)?))
            }
            (Tell::Foreign { version }, _) => {
                let text = format!(
                    "keeper speaks version {version} of the protocol, this agent {VERSION}: stop the old `rollout run` first"
                );
                Err(io::Error::new(io::ErrorKind::Unsupported, text))
            }
            (tell, _) => Err(link.out_of_step(&tell)),
        }
    }

    /// Lets the keeper hold a duplicate of this fd under this name.
    ///
    /// # Errors
    /// The link is broken.
    pub fn put(&mut self, name: &str, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.tell(&Ask::Put { name: name.to_owned() }, Some(fd))
    }

    /// A duplicate of what the keeper holds under this name; `pidfd:<child>` for a child's pidfd.
    ///
    /// # Errors
    /// The link is broken.
    pub fn take(&mut self, name: &str) -> io::Result<Option<OwnedFd>> {
        match self.ask(&Ask::Take { name: name.to_owned() }, None)? {
            (Tell::Fd { .. }, Some(fd)) => Ok(Some(fd)),
            (Tell::Missing { .. }, _) => Ok(None),
            (tell, _) => Err(self.out_of_step(&tell)),
        }
    }

    /// Lets the keeper let go of a name.
    ///
    /// # Errors
    /// The link is broken.
    pub fn drop_fd(&mut self, name: &str) -> io::Result<()> {
        self.tell(&Ask::Drop { name: name.to_owned() }, None)
    }

    /// Starts a child on the fd that [`prepare_spawn`] made for it. It gets what is `managed` instead of what it binds, if its
    /// specification asks for the filter.
    ///
    /// # Errors
    /// The keeper cannot start it, or the link is broken.
    pub fn spawn(&mut self, child: &str, stdin: OwnedFd, managed: Vec<Managed>) -> Result<Spawned, SpawnError> {
        let broken = |source| SpawnError::Link { child: child.to_owned(), source };
        match self.ask(&Ask::Spawn { child: child.to_owned(), managed }, Some(stdin.as_fd())).map_err(broken)? {
            (Tell::Spawned { pid, .. }, Some(pidfd)) => Ok(Spawned { pid, pidfd }),
            (Tell::NotSpawned { child, error }, _) => Err(SpawnError::Refused { child, cause: error }),
            (tell, _) => Err(broken(self.out_of_step(&tell))),
        }
    }

    /// The exit of this child has been dealt with.
    ///
    /// # Errors
    /// The link is broken.
    pub fn forget(&mut self, child: &str) -> io::Result<()> {
        self.tell(&Ask::Forget { child: child.to_owned() }, None)
    }

    /// Tells the service manager, if there is one.
    ///
    /// # Errors
    /// The link is broken.
    pub fn notice(&mut self, notice: Notice) -> io::Result<()> {
        // A packet has a limit, and so has what a person reads in `systemctl status`.
        let notice = match notice {
            Notice::Status(text) => Notice::Status(text.chars().take(STATUS_BOUND).collect()),
            other @ (Notice::Ready
            | Notice::Reloading
            | Notice::ExtendTimeout { .. }
            | Notice::Stopping
            | Notice::Watchdog) => other,
        };
        self.tell(&Ask::Notice(notice), None)
    }

    /// From now on this agent is started again when it exits.
    ///
    /// # Errors
    /// The link is broken.
    pub fn in_charge(&mut self) -> io::Result<()> {
        self.tell(&Ask::InCharge, None)
    }

    /// Everything is stopped: when this agent exits, the keeper exits with this code.
    ///
    /// # Errors
    /// The link is broken.
    pub fn done(&mut self, code: u8) -> io::Result<()> {
        self.tell(&Ask::Done { code }, None)
    }

    /// The next thing that the keeper tells. Cancel-safe: what has arrived stays queued.
    pub async fn next_event(&mut self) -> KeeperEvent {
        loop {
            if let Some(event) = self.events.pop_front() {
                return event;
            }
            if self.health == Health::Broken {
                return KeeperEvent::Gone;
            }
            match self.receive_unasked().await {
                Ok(Some(packet)) => self.keep_unasked(&packet.bytes),
                Ok(None) | Err(_) => self.health = Health::Broken,
            }
        }
    }

    async fn receive_unasked(&mut self) -> io::Result<Option<fd_pass::Packet>> {
        let watched = match &mut self.watched {
            Some(watched) => watched,
            none => none.insert(Watched::new(fd::duplicate(&self.socket)?)?),
        };
        watched.read_with(fd_pass::receive).await
    }

    fn keep_unasked(&mut self, bytes: &[u8]) {
        match serde_json::from_slice(bytes) {
            Ok(tell) if self.queue(&tell) => {}
            // An answer without a question, or no protocol at all.
            Ok(_) | Err(_) => self.health = Health::Broken,
        }
    }

    /// Queues what is told unasked; `false` for an answer.
    fn queue(&mut self, tell: &Tell) -> bool {
        let event = match tell {
            Tell::Exited { child, exit } => KeeperEvent::Exited { child: child.clone(), exit: *exit },
            Tell::Signalled(signal) => KeeperEvent::Signalled(*signal),
            Tell::Welcome
            | Tell::Foreign { .. }
            | Tell::Fd { .. }
            | Tell::Missing { .. }
            | Tell::Spawned { .. }
            | Tell::NotSpawned { .. } => return false,
        };
        if !self.events.contains(&event) {
            self.events.push_back(event);
        }
        true
    }

    /// Sends what has no answer.
    fn tell(&mut self, ask: &Ask, fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        if self.health == Health::Broken {
            return Err(io::Error::new(io::ErrorKind::NotConnected, "the link to the keeper is broken"));
        }
        let bytes = serde_json::to_vec(ask)?;
        let deadline = clock::now().after(ANSWER_WITHIN);
        let sent = fd_pass::send_before(self.socket.as_fd(), &bytes, fd.as_slice(), deadline);
        self.broken_by(sent)
    }

    /// Sends a question and waits for its answer.
    fn ask(&mut self, ask: &Ask, fd: Option<BorrowedFd<'_>>) -> io::Result<(Tell, Option<OwnedFd>)> {
        self.tell(ask, fd)?;
        let deadline = clock::now().after(ANSWER_WITHIN);
        loop {
            let received = fd_pass::receive_before(self.socket.as_fd(), deadline);
            let received = received.and_then(|packet| packet.ok_or_else(|| io::ErrorKind::UnexpectedEof.into()));
            let packet = self.broken_by(received)?;
            let tell = serde_json::from_slice(&packet.bytes).map_err(io::Error::from);
            let tell = self.broken_by(tell)?;
            if !self.queue(&tell) {
                return Ok((tell, packet.fds.into_iter().next()));
            }
        }
    }

    fn broken_by<T>(&mut self, outcome: io::Result<T>) -> io::Result<T> {
        // A packet that is refused for its size was never sent: that is the caller's mistake, and the link is as it was.
        if outcome.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::InvalidInput) {
            self.health = Health::Broken;
        }
        outcome
    }

    fn out_of_step(&mut self, tell: &Tell) -> io::Error {
        self.health = Health::Broken;
        io::Error::new(io::ErrorKind::InvalidData, format!("the keeper answered another question: {tell:?}"))
    }
}

/// The longest status that is passed on, in characters.
const STATUS_BOUND: usize = 1000;

/// The soft limit of open files to start workers with: that of the keeper before it raised its own.
#[must_use]
pub fn open_files_at_start() -> Option<u64> {
    env::var(ENV_OPEN_FILES).ok()?.parse().ok()
}

/// How often the service manager wants a [`Notice::Watchdog`]: send them at half of this.
#[must_use]
pub fn watchdog_period() -> Option<Duration> {
    env::var(ENV_WATCHDOG_USEC).ok()?.parse().ok().map(Duration::from_micros)
}

/// Packs a worker's specification, its output and its fds for the shim: gives back the fd for [`KeeperLink::spawn`] and
/// where the shim answers. `fds` become 3, 4, …; [`Spec::listen_fds`] must be their number.
///
/// # Errors
/// There are too many fds, or none is free for this.
pub fn prepare_spawn(spec: &Spec, output: BorrowedFd<'_>, fds: &[BorrowedFd<'_>]) -> io::Result<(OwnedFd, ShimAnswer)> {
    let (ours, theirs) = fd_pass::pair()?;
    let memfd = memfd::sealed("rollout-spec", &serde_json::to_vec(spec)?)?;
    let mut all = vec![memfd.as_fd(), output];
    all.extend(fds);
    fd_pass::send(ours.as_fd(), b"spec", &all)?;
    Ok((theirs, ShimAnswer(ours)))
}

/// Where a shim says that it could not become its worker.
#[derive(Debug)]
pub struct ShimAnswer(OwnedFd);

impl ShimAnswer {
    /// Waits until the worker's program runs. A shim that dies without a word counts as that too: its exit is told by the
    /// keeper.
    ///
    /// # Errors
    /// The program could not be executed, or nothing was heard within this time.
    pub async fn executed(self, within: Duration) -> Result<(), NotExecuted> {
        let failed = |cause: String| NotExecuted { step: "start the worker's process".to_owned(), cause };
        let heard = async { Watched::new(self.0)?.read_with(fd_pass::receive).await };
        match timeout(within, heard).await {
            Ok(Ok(None)) => Ok(()),
            Ok(Ok(Some(packet))) => Err(serde_json::from_slice(&packet.bytes)
                .unwrap_or_else(|error| failed(format!("its answer makes no sense: {error}")))),
            Ok(Err(error)) => Err(failed(error.to_string())),
            Err(_) => Err(failed(format!("nothing was heard of it within {within:?}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The keeper's end, with `Welcome` already on its way.
    fn linked(inventory: &Inventory) -> (KeeperLink, Inventory, OwnedFd) {
        let (ours, theirs) = fd_pass::pair().expect("pair");
        let memfd = memfd::sealed("test", &serde_json::to_vec(inventory).expect("json")).expect("memfd");
        say(&theirs, &Tell::Welcome, Some(memfd.as_fd()));
        let (link, inventory) = KeeperLink::greet(ours).expect("greet");
        assert_eq!(heard(&theirs), Ask::Hello { version: VERSION });
        (link, inventory, theirs)
    }

    fn say(keeper: &OwnedFd, tell: &Tell, fd: Option<BorrowedFd<'_>>) {
        fd_pass::send(keeper.as_fd(), &serde_json::to_vec(tell).expect("json"), fd.as_slice()).expect("send");
    }

    fn heard(keeper: &OwnedFd) -> Ask {
        let packet = fd_pass::receive(keeper.as_fd()).expect("receive").expect("a packet");
        serde_json::from_slice(&packet.bytes).expect("an Ask")
    }

    fn exited(child: &str) -> Tell {
        Tell::Exited { child: child.to_owned(), exit: Exit::Code(0) }
    }

    fn exit_event(child: &str) -> KeeperEvent {
        KeeperEvent::Exited { child: child.to_owned(), exit: Exit::Code(0) }
    }

    #[tokio::test]
    async fn what_is_told_between_question_and_answer_waits_for_its_turn() {
        let inventory = Inventory { fds: vec!["lane".to_owned()], ..Inventory::default() };
        let (mut link, learnt, keeper) = linked(&inventory);
        assert_eq!(learnt, inventory);
        say(&keeper, &exited("w1"), None);
        say(&keeper, &Tell::Signalled(Signal::TERM), None);
        say(&keeper, &Tell::Missing { name: "lane".to_owned() }, None);
        say(&keeper, &exited("w2"), None);
        assert!(link.take("lane").expect("take").is_none());
        assert_eq!(link.next_event().await, exit_event("w1"));
        assert_eq!(link.next_event().await, KeeperEvent::Signalled(Signal::TERM));
        assert_eq!(link.next_event().await, exit_event("w2"));
    }

    #[tokio::test]
    async fn a_wait_that_is_given_up_loses_nothing() {
        let (mut link, _, keeper) = linked(&Inventory::default());
        for number in 0..20 {
            let child = format!("w{number}");
            // Polled once, given up, and only then is something there.
            assert!(timeout(Duration::ZERO, link.next_event()).await.is_err());
            say(&keeper, &exited(&child), None);
            assert_eq!(link.next_event().await, exit_event(&child));
        }
    }

    #[tokio::test]
    async fn what_the_keeper_said_before_it_died_is_heard_and_then_it_is_gone() {
        let (mut link, _, keeper) = linked(&Inventory::default());
        say(&keeper, &exited("w1"), None);
        drop(keeper);
        assert_eq!(link.next_event().await, exit_event("w1"));
        assert_eq!(link.next_event().await, KeeperEvent::Gone);
        assert_eq!(link.next_event().await, KeeperEvent::Gone);
        assert_eq!(link.take("lane").expect_err("gone").kind(), io::ErrorKind::NotConnected);
    }

    #[test]
    fn a_keeper_of_another_version_is_named() {
        let (ours, theirs) = fd_pass::pair().expect("pair");
        say(&theirs, &Tell::Foreign { version: 99 }, None);
        let error = KeeperLink::greet(ours).expect_err("foreign");
        assert!(error.to_string().contains("version 99"), "{error}");
    }

    #[test]
    fn an_answer_to_another_question_breaks_the_link() {
        let (mut link, _, keeper) = linked(&Inventory::default());
        say(&keeper, &Tell::Welcome, None);
        assert_eq!(link.take("lane").expect_err("out of step").kind(), io::ErrorKind::InvalidData);
        assert_eq!(link.forget("w1").expect_err("broken").kind(), io::ErrorKind::NotConnected);
    }

    #[test]
    fn a_name_that_is_too_long_is_refused_and_the_link_goes_on() {
        let (mut link, _, keeper) = linked(&Inventory::default());
        assert_eq!(link.drop_fd(&"x".repeat(20_000)).expect_err("long").kind(), io::ErrorKind::InvalidInput);
        link.in_charge().expect("still good");
        assert_eq!(heard(&keeper), Ask::InCharge);
    }
}
