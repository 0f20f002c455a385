//! The keeper's answers to workers that bind for themselves: they get their lane, whether or not there is an agent.
//!
//! A worker's door is a socket on which its shim sends the fd where the worker's calls arrive. Until then a call waits in
//! the kernel. Whoever makes a call — a thread, a child, a grandchild — is answered from what the worker was started with;
//! which fd is a lane is never remembered but compared, because fds are closed, duplicated and passed on unseen.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::log::log;
use super::protocol::{Managed, ManagedAt};
use super::table::Table;
use crate::sys::fd_pass;
use crate::sys::intercept::caller::{self, Asked};
use crate::sys::intercept::calls::{Answer, Call, Calls, Next, What};
use crate::sys::intercept::socket::{self, Kind};
use crate::sys::listener::{self, Place};

/// Calls answered before the loop looks at signals and the dead again.
const CALLS_PER_TURN: usize = 64;

/// All workers whose calls are answered.
#[derive(Debug, Default)]
pub(super) struct Interceptors {
    /// By the child's name. Outlives the child as long as somebody can call: an answer that never comes is an error there.
    by_child: BTreeMap<String, Interceptor>,
    /// What was said already: each reason once, not for every worker.
    said: BTreeSet<String>,
}

#[derive(Debug)]
struct Interceptor {
    hears: Hears,
    managed: Vec<Managed>,
}

#[derive(Debug)]
enum Hears {
    /// The shim has not sent anything yet.
    Door(OwnedFd),
    Calls(Calls),
}

impl Interceptors {
    /// A child was started that has the other end of this door.
    pub(super) fn add(&mut self, child: String, door: OwnedFd, managed: Vec<Managed>) {
        self.by_child.insert(child, Interceptor { hears: Hears::Door(door), managed });
    }

    /// The child has exited. Whoever of its descendants is still there gets no lane any more: that may be another worker's.
    pub(super) fn exited(&mut self, child: &str) {
        if let Some(interceptor) = self.by_child.get_mut(child) {
            interceptor.managed.clear();
        }
    }

    /// What to wait for.
    pub(super) fn fds(&self) -> impl Iterator<Item = (&str, BorrowedFd<'_>)> {
        self.by_child.iter().map(|(child, interceptor)| (child.as_str(), interceptor.hears.as_fd()))
    }

    /// Takes what came from this child. Never waits.
    pub(super) fn tend(&mut self, child: &str, table: &Table) {
        let Some(interceptor) = self.by_child.get_mut(child) else { return };
        let over = match &interceptor.hears {
            Hears::Door(door) => match hear(door) {
                Heard::Calls(calls) => {
                    interceptor.hears = Hears::Calls(calls);
                    return;
                }
                Heard::Nothing => return,
                Heard::Refusal(why) => {
                    if self.said.insert(why.clone()) {
                        log(format_args!("{child} gets its sockets by LISTEN_FDS alone, not for its bind(): {why}"));
                    }
                    true
                }
                Heard::End => true,
            },
            Hears::Calls(calls) => answer_some(calls, &interceptor.managed, table).unwrap_or_else(|error| {
                log(format_args!("cannot answer the calls of {child} any more: {error}"));
                true
            }),
        };
        if over {
            self.by_child.remove(child);
        }
    }
}

impl AsFd for Hears {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Door(door) => door.as_fd(),
            Self::Calls(calls) => calls.as_fd(),
        }
    }
}

enum Heard {
    Calls(Calls),
    Refusal(String),
    Nothing,
    End,
}

fn hear(door: &OwnedFd) -> Heard {
    match fd_pass::receive(door.as_fd()) {
        Ok(Some(mut packet)) => match packet.fds.pop() {
            Some(calls) => Heard::Calls(Calls::new(calls)),
            None => Heard::Refusal(String::from_utf8_lossy(&packet.bytes).into_owned()),
        },
        // A shim that failed before it had a filter; it says why to the agent.
        Ok(None) => Heard::End,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Heard::Nothing,
        Err(error) => Heard::Refusal(error.to_string()),
    }
}

/// `true`: nobody is left who could call.
fn answer_some(calls: &Calls, managed: &[Managed], table: &Table) -> io::Result<bool> {
    for _ in 0..CALLS_PER_TURN {
        match calls.next()? {
            Next::Call(call) => calls.answer(&call, answer(calls, &call, managed, table))?,
            Next::Nothing => return Ok(false),
            Next::Over => return Ok(true),
        }
    }
    // If more is waiting, poll finds it.
    Ok(false)
}

fn answer(calls: &Calls, call: &Call, managed: &[Managed], table: &Table) -> Answer {
    let lanes = Lanes { managed, table };
    match call.what {
        // A small backlog must not shorten the lane's queue, and its shutdown would end it for good.
        What::Listen | What::Shutdown => match caller::fd_of(call).and_then(socket::identity) {
            Ok(identity) if lanes.have(identity) => Answer::Succeed,
            // What is not ours, is no socket, or may not be looked at.
            Ok(_) | Err(_) => Answer::GoOn,
        },
        What::Bind { address, length } => {
            let Ok(asked) = caller::address(call, address, length) else { return Answer::GoOn };
            if !lanes.manage(&asked) {
                return Answer::GoOn;
            }
            put_lane(calls, call, &asked, &lanes).unwrap_or_else(|error| {
                // Let through, its socket could join those of the lanes and get a share of every worker's clients.
                log(format_args!(
                    "cannot put a lane in the place of {asked:?}, which process {} binds: {error}",
                    call.thread
                ));
                Answer::AddressInUse
            })
        }
    }
}

fn put_lane(calls: &Calls, call: &Call, asked: &Asked, lanes: &Lanes<'_>) -> io::Result<Answer> {
    let theirs = caller::fd_of(call)?;
    // A call that a signal started anew has its lane already.
    if lanes.have(socket::identity(&theirs)?) {
        return Ok(Answer::Succeed);
    }
    let Some(lane) = lanes.best(asked, socket::kind(&theirs)?) else { return Ok(Answer::GoOn) };
    let on_exec = caller::on_exec(call)?;
    // Only now is it sure that all of this was said about the caller, and not about another process with its number.
    if !calls.waits(call) {
        return Ok(Answer::GoOn);
    }
    socket::carry_over(&theirs, lane)?;
    calls.put_in_place(call, lane, on_exec)?;
    Ok(Answer::Succeed)
}

/// What one worker may have.
struct Lanes<'a> {
    managed: &'a [Managed],
    table: &'a Table,
}

impl<'a> Lanes<'a> {
    fn sockets(&self) -> impl Iterator<Item = (&'a ManagedAt, BorrowedFd<'a>)> {
        let table = self.table;
        self.managed.iter().filter_map(move |managed| Some((&managed.at, table.named(&managed.socket)?)))
    }

    fn have(&self, identity: u64) -> bool {
        self.sockets().any(|(_, lane)| socket::identity(lane).is_ok_and(|lane| lane == identity))
    }

    fn manage(&self, asked: &Asked) -> bool {
        self.managed.iter().any(|managed| is_at(&managed.at, asked))
    }

    /// The lane for a socket of this kind: of its own family if there is one, of its address if several are left.
    fn best(&self, asked: &Asked, theirs: Kind) -> Option<BorrowedFd<'a>> {
        let fitting = self.sockets().filter(|(at, _)| is_at(at, asked)).filter_map(|(_, lane)| {
            let misfit = misfit(theirs, socket::kind(lane).ok()?)?;
            Some(((misfit, distance(asked, lane)), lane))
        });
        fitting.min_by_key(|(rank, _)| *rank).map(|(_, lane)| lane)
    }
}

fn is_at(at: &ManagedAt, asked: &Asked) -> bool {
    match (at, asked) {
        (ManagedAt::Port(port), Asked::Ip(asked)) => *port == asked.port(),
        (ManagedAt::Path(path), Asked::Path(asked)) => path == asked,
        (ManagedAt::Abstract(name), Asked::Abstract(asked)) => name.as_bytes() == asked,
        (ManagedAt::Port(_) | ManagedAt::Path(_) | ManagedAt::Abstract(_), _) => false,
    }
}

/// How far what a program made is from what it would get; `None`: it would be something else altogether, like packets.
///
/// The other family is better than none: what is listened on is the configuration's business, and a program that also
/// binds `[::]` where only `0.0.0.0` is listened on would otherwise bind it for real, as the first worker and the only one.
fn misfit(theirs: Kind, lane: Kind) -> Option<u8> {
    match (theirs, lane) {
        (Kind::Ip4, Kind::Ip4) | (Kind::Unix, Kind::Unix) => Some(0),
        (Kind::Ip6 { only: theirs }, Kind::Ip6 { only: lane }) => Some(u8::from(theirs != lane)),
        (Kind::Ip4, Kind::Ip6 { only: false }) | (Kind::Ip6 { only: false }, Kind::Ip4) => Some(2),
        (Kind::Ip4, Kind::Ip6 { only: true }) | (Kind::Ip6 { only: true }, Kind::Ip4) => Some(3),
        (Kind::Ip4 | Kind::Ip6 { .. } | Kind::Unix | Kind::Other, _) => None,
    }
}

/// Which of several listeners with one port: 0 if it has the very address.
fn distance(asked: &Asked, lane: BorrowedFd<'_>) -> u8 {
    let ip = |at: &SocketAddr| -> IpAddr { at.ip().to_canonical() };
    match (asked, listener::place_of(lane)) {
        (Asked::Ip(asked), Ok(Place::Tcp(at))) => u8::from(ip(asked) != ip(&at)),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn table(listeners: &[(&str, &str)]) -> Table {
        let mut table = Table::default();
        for (name, at) in listeners {
            table.put((*name).to_owned(), TcpListener::bind(at).expect("bind").into());
        }
        table
    }

    fn port(port: u16, socket: &str) -> Managed {
        Managed { at: ManagedAt::Port(port), socket: socket.to_owned() }
    }

    fn asked(at: &str) -> Asked {
        Asked::Ip(at.parse().expect("address"))
    }

    fn chosen(lanes: &Lanes<'_>, at: &str, theirs: Kind) -> Option<String> {
        let lane = lanes.best(&asked(at), theirs)?;
        let is_it = |managed: &&Managed| {
            lanes.table.named(&managed.socket).map(|fd| socket::identity(fd).expect("socket"))
                == Some(socket::identity(lane).expect("socket"))
        };
        lanes.managed.iter().find(is_it).map(|managed| managed.socket.clone())
    }

    #[test]
    fn a_port_is_managed_whatever_the_address_and_other_ports_are_not() {
        let table = table(&[("web", "127.0.0.1:0")]);
        let lanes = Lanes { managed: &[port(80, "web")], table: &table };
        assert!(lanes.manage(&asked("0.0.0.0:80")) && lanes.manage(&asked("[::1]:80")));
        assert!(!lanes.manage(&asked("0.0.0.0:81")) && !lanes.manage(&Asked::Other));
        assert_eq!(chosen(&lanes, "[::]:80", Kind::Ip6 { only: false }).as_deref(), Some("web"));
        assert_eq!(chosen(&lanes, "0.0.0.0:80", Kind::Other), None, "packets");
    }

    #[test]
    fn the_own_family_comes_first_and_then_the_own_address() {
        let table = table(&[("any", "0.0.0.0:0"), ("lo", "127.0.0.1:0"), ("six", "[::1]:0")]);
        let lanes = Lanes { managed: &[port(80, "six"), port(80, "any"), port(80, "lo")], table: &table };
        assert_eq!(chosen(&lanes, "127.0.0.1:80", Kind::Ip4).as_deref(), Some("lo"));
        assert_eq!(chosen(&lanes, "0.0.0.0:80", Kind::Ip4).as_deref(), Some("any"));
        assert_eq!(chosen(&lanes, "[::]:80", Kind::Ip6 { only: false }).as_deref(), Some("six"));
    }

    #[test]
    fn a_lane_is_known_by_any_of_its_fds() {
        let table = table(&[("web", "127.0.0.1:0")]);
        let lanes = Lanes { managed: &[port(80, "web")], table: &table };
        let again = table.named("web").expect("held").try_clone_to_owned().expect("duplicate");
        assert!(lanes.have(socket::identity(again).expect("socket")));
        let other = TcpListener::bind("127.0.0.1:0").expect("bind");
        assert!(!lanes.have(socket::identity(other).expect("socket")));
    }
}
