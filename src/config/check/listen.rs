//! Rules of `listen`.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::config::human::{Endpoint, LONGEST_SOCKET_PATH};
use crate::config::problem::{At, Problems};
use crate::config::raw;
use crate::config::read::{self, Count, Field, List, Permissions, Switch, Text, first_at};
use crate::config::settings::{Address, Alias, Handover, Listen, Mode};

use super::{Surroundings, absolute};

/// As the kernel's own limit of the queue of connections that wait (net.core.somaxconn) has been since 5.4.
const BACKLOG: u32 = 4096;
/// What fits into the kernel's counter on every supported version.
const LONGEST_BACKLOG: u32 = 65_535;
const SOCKET_MODE: u32 = 0o660;

/// The addresses of all services so far, and where they were written.
#[derive(Default)]
pub(super) struct Taken(Vec<(Address, At)>);

pub(super) fn check(
    field: &Field<List<raw::Listener>>,
    handover: Handover,
    around: &Surroundings<'_>,
    taken: &mut Taken,
    problems: &mut Problems<'_>,
) -> Vec<Listen> {
    let mut listen = Vec::new();
    let mut names = Names::given(field, problems);
    for (raw, at) in field.value().map_or(&[][..], |List { good, .. }| good) {
        let Some((endpoint, address_at)) = raw.address.given() else {
            if raw.address.is_absent() {
                problems.add(at, "a listener needs an address: write address: 8080");
            }
            continue;
        };
        let address = address(raw, endpoint, around, problems);
        taken.add(&address, address_at, problems);
        let name = match raw.name.value() {
            Some(Text(name)) => name.clone(),
            None => names.default(&address),
        };
        let alias = alias(raw, &address, handover, around, problems);
        let (mode, backlog) = (mode(raw, &address, problems), backlog(raw, problems));
        listen.push(Listen { name, address, mode, backlog, alias });
    }
    listen
}

fn address(
    raw: &raw::Listener,
    endpoint: &Endpoint,
    around: &Surroundings<'_>,
    problems: &mut Problems<'_>,
) -> Address {
    let mut refuse = |at: Option<&At>, message: &str| {
        if let Some(at) = at {
            problems.add(at, message);
        }
    };
    if !matches!(endpoint, Endpoint::Tcp(SocketAddr::V6(_))) {
        refuse(raw.only_v6.at(), "only an IPv6 address like [::]:8080 has this: remove it");
    }
    if !matches!(endpoint, Endpoint::Unix(_)) {
        let message = "only a Unix socket with a path (unix:/run/web.sock) has this: remove it";
        refuse(raw.socket_mode.at(), message);
        refuse(raw.owner.at(), message);
    }
    match endpoint {
        Endpoint::Tcp(at) => Address::Tcp { at: *at, only_v6: raw.only_v6.value().is_some_and(|Switch(is_on)| *is_on) },
        Endpoint::Abstract(name) => Address::Abstract { name: name.clone() },
        Endpoint::Unix(path) => {
            let path = absolute(path, around);
            if path.as_os_str().len() > LONGEST_SOCKET_PATH {
                let message =
                    format!("{} is too long for a Unix socket: at most {LONGEST_SOCKET_PATH} bytes", path.display());
                refuse(raw.address.at(), &message);
            }
            let owner = raw.owner.value().map(|Text(owner)| owner.clone());
            let is_owner = |text: &str| text.split(':').count() <= 2 && text.split(':').all(|part| !part.is_empty());
            if owner.as_deref().is_some_and(|owner| !is_owner(owner)) {
                refuse(raw.owner.at(), "write user or user:group");
            }
            Address::Unix { path, mode: raw.socket_mode.value().map_or(SOCKET_MODE, |Permissions(bits)| *bits), owner }
        }
    }
}

fn mode(raw: &raw::Listener, address: &Address, problems: &mut Problems<'_>) -> Mode {
    let is_tcp = matches!(address, Address::Tcp { .. });
    if let (Some((Mode::Steered, at)), false) = (raw.mode.given(), is_tcp) {
        problems.add(at, "a Unix socket cannot be steered, only TCP can: write shared, or remove mode");
    }
    raw.mode.value().copied().unwrap_or(if is_tcp { Mode::Steered } else { Mode::Shared })
}

fn alias(
    raw: &raw::Listener,
    address: &Address,
    handover: Handover,
    around: &Surroundings<'_>,
    problems: &mut Problems<'_>,
) -> Option<Alias> {
    let (alias, at) = raw.r#as.given()?;
    if handover == Handover::ListenFds {
        problems
            .add(at, "says what the program itself binds, which nobody looks at: write handover: auto, or remove it");
    }
    match (alias, address) {
        (read::Alias::Port(port), Address::Tcp { .. }) => Some(Alias::Port(*port)),
        (read::Alias::Path(path), Address::Unix { .. } | Address::Abstract { .. }) => {
            Some(Alias::Path(absolute(path, around)))
        }
        (read::Alias::Port(_), _) => {
            problems.add(at, "a port cannot stand for a Unix socket: write unix:/path");
            None
        }
        (read::Alias::Path(_), _) => {
            problems.add(at, "a path cannot stand for a TCP port: write the port that the program binds");
            None
        }
    }
}

fn backlog(raw: &raw::Listener, problems: &mut Problems<'_>) -> u32 {
    let Some((Count(backlog), at)) = raw.backlog.given() else {
        return BACKLOG;
    };
    if !(1..=LONGEST_BACKLOG).contains(backlog) {
        problems.add(at, format!("must be between 1 and {LONGEST_BACKLOG}"));
    }
    *backlog
}

impl Taken {
    fn add(&mut self, address: &Address, at: &At, problems: &mut Problems<'_>) {
        if let Some((_, earlier)) = self.0.iter().find(|(earlier, _)| is_same(earlier, address)) {
            problems.add(at, format!("this address is listened on twice{}: remove one", first_at(earlier)));
        } else if let Some((_, earlier)) = self.0.iter().find(|(earlier, _)| is_covered(earlier, address)) {
            let message = format!(
                "[::] listens on IPv4 too, and 0.0.0.0 with this port is also listed{}: remove 0.0.0.0, or write only_v6: true for [::]",
                first_at(earlier)
            );
            problems.add(at, message);
        } else {
            self.0.push((address.clone(), at.clone()));
        }
    }
}

fn is_same(one: &Address, other: &Address) -> bool {
    match (one, other) {
        // Port 0 is another port each time.
        (Address::Tcp { at: one, .. }, Address::Tcp { at: other, .. }) => one == other && one.port() != 0,
        (Address::Unix { path: one, .. }, Address::Unix { path: other, .. }) => one == other,
        (Address::Abstract { name: one }, Address::Abstract { name: other }) => one == other,
        _ => false,
    }
}

/// One is the dual-stack wildcard, the other the IPv4 wildcard, on one port.
fn is_covered(one: &Address, other: &Address) -> bool {
    let dual = |address: &Address| match address {
        Address::Tcp { at, only_v6: false } if at.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Some(at.port()),
        Address::Tcp { .. } | Address::Unix { .. } | Address::Abstract { .. } => None,
    };
    let v4 = |address: &Address| match address {
        Address::Tcp { at, .. } if at.ip() == IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Some(at.port()),
        Address::Tcp { .. } | Address::Unix { .. } | Address::Abstract { .. } => None,
    };
    let meet = |dual: Option<u16>, v4: Option<u16>| dual.is_some() && dual == v4 && dual != Some(0);
    meet(dual(one), v4(other)) || meet(dual(other), v4(one))
}

/// The names of one service's listeners.
struct Names(HashSet<String>);

impl Names {
    /// Those that were given; each must be unique and fit into `LISTEN_FDNAMES`.
    fn given(field: &Field<List<raw::Listener>>, problems: &mut Problems<'_>) -> Self {
        let mut names = HashSet::new();
        let listeners = field.value().map_or(&[][..], |List { good, .. }| good);
        for (Text(name), at) in listeners.iter().filter_map(|(raw, _)| raw.name.given()) {
            if !is_fd_name(name) {
                let message = "not a name for a socket: up to 255 printable ASCII characters, no ':' or space";
                problems.add(at, message);
            }
            if !names.insert(name.clone()) {
                problems.add(at, format!("another listener of this service is called {name:?}: choose another name"));
            }
        }
        Self(names)
    }

    /// The port or the file name; with a number behind it if that is taken (`0.0.0.0:80` and `127.0.0.1:80`).
    fn default(&mut self, address: &Address) -> String {
        let plain = match address {
            Address::Tcp { at, .. } => at.port().to_string(),
            Address::Unix { path, .. } => path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned(),
            Address::Abstract { name } => name.clone(),
        };
        let plain: String = plain.chars().map(|c| if c.is_ascii_graphic() && c != ':' { c } else { '_' }).collect();
        let mut name = plain.clone();
        let mut number = 1;
        while !self.0.insert(name.clone()) {
            number += 1;
            name = format!("{plain}-{number}");
        }
        name
    }
}

/// What sd_listen_fds_with_names(3) takes.
fn is_fd_name(name: &str) -> bool {
    (1..=255).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':')
}
