//! The lane program: classic BPF on a `SO_REUSEPORT` group (`SO_ATTACH_REUSEPORT_CBPF`, socket(7)) that picks the lane
//! of each new connection. Needs no privilege. Attaching replaces the old program at once for the whole group;
//! handshakes that have begun keep their lane.
//!
//! The program first looks for the agent's own mark, which leads to exactly one lane, and else chooses at random among
//! the admitted lanes: a random number below the sum of the weights goes down a binary tree, so that 500 lanes cost
//! 9 comparisons. Lanes next to each other with equal weights need no tree at all: their number is computed.
//!
//! A member's place in its group is the order of `listen(2)`. What the program returns is a *place*.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;

use nix::sys::socket::{setsockopt, sockopt};

use crate::units::LaneIndex;

/// How the agent's own connections are told from those of clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// The source is `127.114.x.y`, which means lane `x*256 + y`. No other host can send from 127/8.
    Ipv4,
    /// The source is `::1`, the traffic class [`MARK_CLASS`], and the source port `MARK_PORTS + lane`. The class
    /// is there for hosts whose ephemeral ports reach into the marked range.
    Ipv6,
}

/// The traffic class of marked IPv6 connections: a DSCP from the pool for local use (RFC 2474), no ECN bits.
pub const MARK_CLASS: u8 = 0b1011_1100;
/// The source port of a marked IPv6 connection to lane 0: above the ephemeral ports of a default kernel.
const MARK_PORTS: u16 = 61_440;
/// How many lanes can be marked in IPv6: the ports from [`MARK_PORTS`] to the last.
pub const MAX_LANES: u16 = 4096;
/// How many lanes can be admitted at once. With different weights the program has 3 kernel instructions per lane; before
/// Linux 6.8 `net.core.optmem_max` allows about 2,500.
pub const MAX_ADMITTED: usize = 768;
/// The last address of 127.114.0.0/16 comes long after this, so both marks reach every lane.
const MARK_NETWORK: u32 = 0x7f72_0000;

impl Mark {
    /// The source that leads to a lane; port 0 means any port.
    #[must_use]
    pub fn source(self, lane: LaneIndex) -> SocketAddr {
        match self {
            Self::Ipv4 => (IpAddr::V4(Ipv4Addr::from_bits(MARK_NETWORK | u32::from(lane.0))), 0).into(),
            Self::Ipv6 => (IpAddr::V6(Ipv6Addr::LOCALHOST), MARK_PORTS.saturating_add(lane.0)).into(),
        }
    }
}

/// A lane that takes new connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admitted {
    /// Its place in the group.
    pub place: u16,
    /// Its share of new connections is this part of the sum of all. Zero gets none.
    pub weight: u16,
}

/// What the program of one group is built from.
#[derive(Debug, Clone, Copy)]
pub struct Table<'a> {
    /// The mark that reaches this listener from this host.
    pub mark: Mark,
    /// The place of each lane, by its index. A mark for a lane that is not here is no mark.
    pub places: &'a [u16],
    /// Who takes clients; at most [`MAX_ADMITTED`] of them are looked at.
    pub admitted: &'a [Admitted],
    /// The place that gets clients while nobody is admitted.
    pub waiting_room: u16,
}

/// One instruction of classic BPF (`struct sock_filter`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    code: u16,
    jump_true: u8,
    jump_false: u8,
    value: u32,
}

// linux/bpf_common.h and linux/filter.h; the negative offsets are taken as the kernel does, as unsigned.
const LOAD_WORD: u16 = 0x20;
const LOAD_HALF: u16 = 0x28;
const LOAD_BYTE: u16 = 0x30;
const ADD: u16 = 0x04;
const AND: u16 = 0x54;
const SHIFT_RIGHT: u16 = 0x74;
const MODULO: u16 = 0x94;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_AT_LEAST: u16 = 0x35;
const RETURN_VALUE: u16 = 0x06;
const RETURN_ACCUMULATOR: u16 = 0x16;
const NETWORK: u32 = libc::SKF_NET_OFF.cast_unsigned();
const RANDOM: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_RANDOM).cast_unsigned();

fn plain(code: u16, value: u32) -> Instruction {
    Instruction { code, jump_true: 0, jump_false: 0, value }
}

/// The program of a group.
#[must_use]
pub fn selector(table: &Table<'_>) -> Vec<Instruction> {
    let marked = marked(table);
    let mut program = match table.mark {
        Mark::Ipv4 => behind_v4_mark(marked),
        Mark::Ipv6 => behind_v6_mark(marked),
    };
    program.extend(chosen(table));
    program
}

/// With the lane of a mark in the accumulator: its place. Falls off its end if there is no such lane.
fn marked(table: &Table<'_>) -> Vec<Instruction> {
    let mut found = vec![];
    for (lane, place) in table.places.iter().enumerate().filter(|(lane, place)| *lane != usize::from(**place)) {
        let lane = u32::try_from(lane).unwrap_or(u32::MAX);
        found.push(Instruction { code: JUMP_EQUAL, jump_true: 0, jump_false: 1, value: lane });
        found.push(plain(RETURN_VALUE, u32::from(*place)));
    }
    let lanes = u32::try_from(table.places.len()).unwrap_or(u32::MAX);
    found.push(Instruction { code: JUMP_AT_LEAST, jump_true: 1, jump_false: 0, value: lanes });
    found.push(plain(RETURN_ACCUMULATOR, 0));
    found
}

/// `then` runs for a source in 127.114/16 with its low half in the accumulator; every other packet jumps behind it.
fn behind_v4_mark(then: Vec<Instruction>) -> Vec<Instruction> {
    let tests = [
        (plain(LOAD_BYTE, NETWORK), None),
        (plain(SHIFT_RIGHT, 4), Some(4)),
        (plain(LOAD_WORD, NETWORK + 12), None),
        (plain(AND, 0xffff_0000), Some(MARK_NETWORK)),
        (plain(LOAD_WORD, NETWORK + 12), None),
        (plain(AND, 0xffff), None),
    ];
    only_if(&tests, then)
}

/// `then` runs for a TCP packet from `::1` with the mark's class and a port from [`MARK_PORTS`] on.
fn behind_v6_mark(then: Vec<Instruction>) -> Vec<Instruction> {
    let tests = [
        (plain(LOAD_HALF, NETWORK), None),
        // Version and class; the low four bits are the flow label's.
        (plain(SHIFT_RIGHT, 4), Some(0x600 | u32::from(MARK_CLASS))),
        (plain(LOAD_BYTE, NETWORK + 6), Some(6)),
        (plain(LOAD_WORD, NETWORK + 8), Some(0)),
        (plain(LOAD_WORD, NETWORK + 12), Some(0)),
        (plain(LOAD_WORD, NETWORK + 16), Some(0)),
        (plain(LOAD_WORD, NETWORK + 20), Some(1)),
        // A lower port wraps around to a number that no lane has.
        (plain(LOAD_HALF, NETWORK + 40), None),
        (plain(ADD, u32::from(MARK_PORTS).wrapping_neg()), None),
    ];
    only_if(&tests, then)
}

/// Computes; where a value is given, goes on only if the accumulator is that.
fn only_if(tests: &[(Instruction, Option<u32>)], then: Vec<Instruction>) -> Vec<Instruction> {
    let mut program = then;
    for (compute, expected) in tests.iter().rev() {
        if let Some(value) = expected {
            // Jumps over two instructions at most: `JUMP` alone has room for the rest of the way.
            let away = u32::try_from(program.len()).unwrap_or(u32::MAX);
            let test = Instruction { code: JUMP_EQUAL, jump_true: 1, jump_false: 0, value: *value };
            program.splice(0..0, [*compute, test, plain(JUMP, away)]);
        } else {
            program.insert(0, *compute);
        }
    }
    program
}

/// Lanes side by side with equal weights: `from..from + share` of the random numbers.
#[derive(Debug, Clone, Copy)]
struct Run {
    from: u32,
    share: u32,
    place: u16,
    lanes: u32,
}

/// Chooses among the admitted lanes.
fn chosen(table: &Table<'_>) -> Vec<Instruction> {
    let runs = runs(table.admitted);
    let Some(last) = runs.last() else {
        return vec![plain(RETURN_VALUE, u32::from(table.waiting_room))];
    };
    let sum = last.from + last.share;
    let mut program = vec![plain(LOAD_WORD, RANDOM), plain(MODULO, sum)];
    program.extend(tree(&runs));
    program
}

fn runs(admitted: &[Admitted]) -> Vec<Run> {
    let mut admitted: Vec<_> = admitted.iter().copied().filter(|one| one.weight > 0).take(MAX_ADMITTED).collect();
    admitted.sort_unstable_by_key(|one| one.place);
    let unit = admitted.iter().fold(0, |unit, one| common_divisor(unit, one.weight)).max(1);
    let mut runs: Vec<Run> = vec![];
    let mut from = 0;
    for one in admitted {
        let share = u32::from(one.weight / unit);
        match runs.last_mut() {
            // Only shares of 1 can be computed: with a larger one, a number would have to be divided first.
            Some(run)
                if share == 1 && run.share == run.lanes && u32::from(run.place) + run.lanes == u32::from(one.place) =>
            {
                run.share += 1;
                run.lanes += 1;
            }
            Some(_) | None => runs.push(Run { from, share, place: one.place, lanes: 1 }),
        }
        from += share;
    }
    runs
}

fn common_divisor(a: u16, b: u16) -> u16 {
    if b == 0 { a } else { common_divisor(b, a % b) }
}

/// A binary tree over the runs; each path ends in a return.
fn tree(runs: &[Run]) -> Vec<Instruction> {
    match runs {
        [] => vec![],
        [run] if run.lanes == 1 => vec![plain(RETURN_VALUE, u32::from(run.place))],
        [run] if u32::from(run.place) == run.from => vec![plain(RETURN_ACCUMULATOR, 0)],
        [run] => {
            vec![plain(ADD, u32::from(run.place).wrapping_sub(run.from)), plain(RETURN_ACCUMULATOR, 0)]
        }
        runs => {
            let (low, high) = runs.split_at(runs.len() / 2);
            let middle = high.first().map_or(0, |run| run.from);
            let (low, high) = (tree(low), tree(high));
            let mut program = match u8::try_from(low.len()) {
                Ok(away) => vec![Instruction { code: JUMP_AT_LEAST, jump_true: away, jump_false: 0, value: middle }],
                // A conditional jump reaches 255 instructions, `JUMP` all of them.
                Err(_) => vec![
                    Instruction { code: JUMP_AT_LEAST, jump_true: 0, jump_false: 1, value: middle },
                    plain(JUMP, u32::try_from(low.len()).unwrap_or(u32::MAX)),
                ],
            };
            program.extend(low);
            program.extend(high);
            program
        }
    }
}

/// Gives a group its program. `member` is any socket of the group, or the bound socket that will be its first.
///
/// # Errors
/// The kernel has no reuseport programs, or no memory for this one (`net.core.optmem_max`).
pub fn attach(member: impl AsFd, program: &[Instruction]) -> io::Result<()> {
    let mut filter: Vec<libc::sock_filter> = program
        .iter()
        .map(|one| libc::sock_filter { code: one.code, jt: one.jump_true, jf: one.jump_false, k: one.value })
        .collect();
    let len = u16::try_from(filter.len()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // The kernel copies the program before the call returns; `filter` lives until then.
    let program = libc::sock_fprog { len, filter: filter.as_mut_ptr() };
    Ok(setsockopt(&member, sockopt::AttachReusePortCbpf, &program)?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::OwnedFd;

    use proptest::prelude::*;

    use super::*;
    use crate::sys::listener::{Family, Place, Sharing, bind_tcp, listen, place_of, reached_at};
    use crate::sys::tcp_info::listening;

    /// A packet as far as the program sees it.
    #[derive(Debug, Clone, Copy)]
    struct Packet {
        network: [u8; 60],
        random: u32,
    }

    fn v4(source: Ipv4Addr) -> Packet {
        let mut network = [0; 60];
        network[0] = 0x45;
        network[12..16].copy_from_slice(&source.octets());
        Packet { network, random: 0 }
    }

    fn v6(source: Ipv6Addr, port: u16, class: u8) -> Packet {
        let mut network = [0; 60];
        network[0] = 0x60 | (class >> 4);
        network[1] = (class << 4) | 0x0f; // some flow label
        network[6] = 6;
        network[8..24].copy_from_slice(&source.octets());
        network[40..42].copy_from_slice(&port.to_be_bytes());
        Packet { network, random: 0 }
    }

    /// Runs the program as the kernel would, and refuses what the kernel would refuse.
    fn run(program: &[Instruction], packet: Packet) -> (u32, usize) {
        assert!(program.len() <= 4096, "{} instructions", program.len());
        let (mut accumulator, mut at, mut steps) = (0_u32, 0_usize, 0);
        let bytes = |from: u32, count: usize| {
            let from = usize::try_from(from - NETWORK).expect("a network offset");
            packet.network[from..from + count].iter().fold(0, |word, byte| (word << 8) | u32::from(*byte))
        };
        loop {
            let Instruction { code, jump_true, jump_false, value } = program[at];
            (at, steps) = (at + 1, steps + 1);
            match code {
                LOAD_WORD if value == RANDOM => accumulator = packet.random,
                LOAD_WORD => accumulator = bytes(value, 4),
                LOAD_HALF => accumulator = bytes(value, 2),
                LOAD_BYTE => accumulator = bytes(value, 1),
                ADD => accumulator = accumulator.wrapping_add(value),
                AND => accumulator &= value,
                SHIFT_RIGHT => accumulator >>= value,
                MODULO => accumulator %= value,
                JUMP => at += value as usize,
                JUMP_EQUAL => at += usize::from(if accumulator == value { jump_true } else { jump_false }),
                JUMP_AT_LEAST => at += usize::from(if accumulator >= value { jump_true } else { jump_false }),
                RETURN_VALUE => return (value, steps),
                RETURN_ACCUMULATOR => return (accumulator, steps),
                other => panic!("no such instruction: {other:#x}"),
            }
        }
    }

    fn in_order(lanes: u16) -> Vec<u16> {
        (0..lanes).collect()
    }

    const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);

    proptest! {
        #[test]
        fn only_admitted_lanes_are_chosen_each_by_its_weight(
            weights in proptest::collection::btree_map(1_u16..1000, 0_u16..5, 0..400),
            mark in prop_oneof![Just(Mark::Ipv4), Just(Mark::Ipv6)],
        ) {
            let admitted: Vec<_> = weights.iter().map(|(&place, &weight)| Admitted { place, weight }).collect();
            let places = in_order(1000);
            let program = selector(&Table { mark, places: &places, admitted: &admitted, waiting_room: 0 });
            // The unit is at most 4 and all weights divided by it are below 5, so this goes through every number.
            let sum: u32 = weights.values().map(|weight| u32::from(*weight)).sum();
            let mut hits = BTreeMap::<u16, u32>::new();
            for random in 0..sum.max(1) {
                let (place, _) = run(&program, Packet { random, ..v4(CLIENT) });
                *hits.entry(u16::try_from(place).expect("a place")).or_default() += 1;
            }
            let expected: BTreeMap<_, _> = if sum == 0 {
                BTreeMap::from([(0, 1)])
            } else {
                weights.iter().filter(|(_, weight)| **weight > 0).map(|(&place, &weight)| (place, u32::from(weight))).collect()
            };
            prop_assert_eq!(hits, expected);
        }

        #[test]
        fn a_mark_leads_to_its_lane_and_to_no_other(lane in any::<u16>(), lanes in 1_u16..MAX_LANES, moved in any::<u16>()) {
            let mut places = in_order(lanes);
            places.swap(usize::from(moved % lanes), usize::from(lanes - 1));
            let admitted = [Admitted { place: 7777, weight: 1 }];
            let expected = places.get(usize::from(lane)).map_or(7777, |place| u32::from(*place));
            let table = |mark| Table { mark, places: &places, admitted: &admitted, waiting_room: 0 };
            let SocketAddr::V4(from) = Mark::Ipv4.source(LaneIndex(lane)) else { panic!("IPv4") };
            prop_assert_eq!(run(&selector(&table(Mark::Ipv4)), v4(*from.ip())).0, expected);
            if lane < MAX_LANES {
                let from = Mark::Ipv6.source(LaneIndex(lane)).port();
                let program = selector(&table(Mark::Ipv6));
                prop_assert_eq!(run(&program, v6(Ipv6Addr::LOCALHOST, from, MARK_CLASS)).0, expected);
                prop_assert_eq!(run(&program, v6(Ipv6Addr::LOCALHOST, from, 0)).0, 7777, "without the class");
                prop_assert_eq!(run(&program, v6("fd00::1".parse().expect("address"), from, MARK_CLASS)).0, 7777, "from elsewhere");
            }
        }

        #[test]
        fn clients_cannot_mark_themselves(source in any::<u32>(), port in any::<u16>(), class in any::<u8>()) {
            let places = in_order(64);
            let admitted = [Admitted { place: 9, weight: 1 }];
            let source4 = Ipv4Addr::from_bits(source);
            prop_assume!(source4.octets()[0] != 127);
            let table = |mark| Table { mark, places: &places, admitted: &admitted, waiting_room: 0 };
            prop_assert_eq!(run(&selector(&table(Mark::Ipv4)), v4(source4)).0, 9);
            let source6 = Ipv6Addr::from_bits(u128::from(source) << 64 | 1);
            prop_assume!(source != 0);
            prop_assert_eq!(run(&selector(&table(Mark::Ipv6)), v6(source6, port, class)).0, 9);
        }
    }

    #[test]
    fn the_largest_program_fits_the_kernel_and_a_choice_stays_short() {
        // No two lanes side by side, no two weights equal: nothing can be computed.
        let places = in_order(MAX_LANES);
        let admitted: Vec<_> = (0..1000).map(|n| Admitted { place: 4 * n, weight: 1000 + n }).collect();
        let program = selector(&Table { mark: Mark::Ipv6, places: &places, admitted: &admitted, waiting_room: 0 });
        assert!(program.len() < 1600, "{}", program.len());
        let longest = (0..2_000_000).step_by(997).map(|random| run(&program, Packet { random, ..v4(CLIENT) }).1).max();
        assert!(longest < Some(40), "{longest:?} instructions");
        let group = Group::new("127.0.0.1:0", Family::Both, 2, &program);
        attach(&group.lanes[1], &program).expect("replace it");
    }

    /// A real group whose lanes nobody accepts from.
    struct Group {
        lanes: Vec<OwnedFd>,
        to: SocketAddr,
    }

    impl Group {
        fn new(at: &str, family: Family, lanes: u16, program: &[Instruction]) -> Self {
            let first = bind_tcp(at.parse().expect("address"), family, Sharing::Founds).expect("found");
            attach(&first, program).expect("attach before listening");
            listen(&first, 1024).expect("listen");
            let Place::Tcp(at) = place_of(&first).expect("place") else { panic!("TCP") };
            let mut group = Self { lanes: vec![first], to: reached_at(at, family) };
            for _ in 1..lanes {
                let next = bind_tcp(at, family, Sharing::Joins).expect("join");
                listen(&next, 1024).expect("listen");
                group.lanes.push(next);
            }
            group
        }

        /// Which lanes have something queued, and how much; empties them.
        fn take(&self) -> BTreeMap<usize, u32> {
            let mut found = BTreeMap::new();
            for (place, lane) in self.lanes.iter().enumerate() {
                let queued = listening(lane).expect("ask").queued;
                let listener = TcpListener::from(lane.try_clone().expect("duplicate"));
                (0..queued).for_each(|_| drop(listener.accept().expect("accept")));
                if queued > 0 {
                    found.insert(place, queued);
                }
            }
            found
        }
    }

    fn connect_from(from: SocketAddr, to: SocketAddr) -> TcpStream {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(async {
            let socket = if from.is_ipv4() { tokio::net::TcpSocket::new_v4() } else { tokio::net::TcpSocket::new_v6() };
            let socket = socket.expect("socket");
            socket.set_reuseaddr(true).expect("reuse");
            if from.is_ipv6() {
                socket.set_tclass_v6(u32::from(MARK_CLASS)).expect("class");
            }
            socket.bind(from).expect("bind to the mark");
            socket.connect(to).await.expect("connect").into_std().expect("std")
        })
    }

    #[test]
    fn the_kernel_steers_as_the_program_says() {
        let places = in_order(70);
        let admitted: Vec<_> = [3, 4, 5, 40, 69].map(|place| Admitted { place, weight: 1 }).to_vec();
        for (at, family, mark) in [
            ("127.0.0.1:0", Family::Both, Mark::Ipv4),
            ("0.0.0.0:0", Family::Both, Mark::Ipv4),
            ("[::]:0", Family::Both, Mark::Ipv4),
            ("[::]:0", Family::OnlyV6, Mark::Ipv6),
            ("[::1]:0", Family::OnlyV6, Mark::Ipv6),
        ] {
            let program = selector(&Table { mark, places: &places, admitted: &[], waiting_room: 0 });
            let group = Group::new(at, family, 70, &program);
            let clients: Vec<_> = (0..20).map(|_| TcpStream::connect(group.to).expect("connect")).collect();
            assert_eq!(group.take(), BTreeMap::from([(0, 20)]), "{at}: nobody is admitted");
            let program = selector(&Table { mark, places: &places, admitted: &admitted, waiting_room: 0 });
            attach(&group.lanes[33], &program).expect("attach to any member");
            for lane in [0, 1, 40, 68, 69] {
                let _probe = connect_from(mark.source(LaneIndex(lane)), group.to);
                assert_eq!(group.take(), BTreeMap::from([(usize::from(lane), 1)]), "{at}: marked {lane}");
            }
            let _foreign = connect_from(mark.source(LaneIndex(70)), group.to);
            drop(clients);
            let _clients: Vec<_> = (0..500).map(|_| TcpStream::connect(group.to).expect("connect")).collect();
            let found = group.take();
            assert_eq!(found.keys().copied().collect::<Vec<_>>(), [3, 4, 5, 40, 69], "{at}");
            // 100 each with a standard deviation of 9.
            assert!(found.values().all(|count| (40..200).contains(count)), "{at}: {found:?}");
        }
    }
}
