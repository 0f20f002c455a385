//! Lanes on real sockets: threads are the workers, and every connection says who served it.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream as StdStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::slice::from_ref;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rollout::agent::lanes::{Assigned, Damage, Lanes, LanesError, Made, Opening, Standing, What};
use rollout::config::settings::{Address, Listen, Mode};
use rollout::sys::clock::now;
use rollout::sys::fd::{Blocking, set_blocking};
use rollout::sys::listener::{listen as set_backlog, stop_listening};
use rollout::sys::poll::{For, wait};
use rollout::sys::tcp_info::listening;
use rollout::units::{LaneIndex, Moment, ServiceName, WorkerId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Notify;
use tokio::time::timeout;

const PATIENT: Duration = Duration::from_secs(20);
const HUNG: Duration = Duration::from_secs(5);

/// A worker that answers each connection's first byte with its own number.
struct Worker {
    stop: Option<std::io::PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    fn serve(worker: u64, fds: Vec<(String, OwnedFd)>) -> Self {
        let (stopped, stop) = std::io::pipe().expect("pipe");
        let sockets: Vec<_> = fds.into_iter().map(|(_, fd)| TcpListener::from(fd)).collect();
        let thread = thread::spawn(move || {
            let mut asked: Vec<_> = sockets.iter().map(|socket| (socket.as_fd(), For::Reading)).collect();
            asked.push((stopped.as_fd(), For::Reading));
            loop {
                let ready = wait(&asked, None).expect("poll");
                if ready.last().is_some_and(|stop| stop.reading) {
                    return;
                }
                for (socket, _) in sockets.iter().zip(ready).filter(|(_, ready)| ready.reading) {
                    match socket.accept() {
                        Ok((connection, _)) => answer(connection, worker),
                        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                        Err(error) => panic!("accept: {error}"),
                    }
                }
            }
        });
        Self { stop: Some(stop), thread: Some(thread) }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            assert!(thread.join().is_ok() || thread::panicking(), "a worker failed");
        }
    }
}

fn answer(mut connection: StdStream, worker: u64) {
    connection.set_nonblocking(false).expect("blocking");
    connection.set_read_timeout(Some(PATIENT)).expect("deadline");
    // A probe may say nothing and close.
    if connection.read(&mut [0]).is_ok_and(|read| read == 1) {
        connection.write_all(&worker.to_be_bytes()).expect("answer");
    }
}

/// One service's lanes as its agent and keeper have them.
struct Rig {
    lanes: Lanes,
    /// What the keeper holds.
    held: BTreeMap<String, OwnedFd>,
    disturbed: Arc<Notify>,
    to: SocketAddr,
}

fn steered(name: &str, at: &str) -> Listen {
    let at: SocketAddr = at.parse().expect("an address");
    let address = Address::Tcp { at, only_v6: at.is_ipv6() };
    Listen { name: name.to_owned(), address, mode: Mode::Steered, backlog: 1024, alias: None }
}

fn open(
    listen: &[Listen],
    workers: u16,
    held: &mut BTreeMap<String, OwnedFd>,
    inherited: &mut Vec<(String, OwnedFd)>,
    disturbed: &Arc<Notify>,
) -> Result<(Lanes, Vec<Made>), LanesError> {
    let service: ServiceName = "web".parse().expect("a name");
    Lanes::open(Opening { service: &service, listen, workers, held, inherited, disturbed: Arc::clone(disturbed) })
}

impl Rig {
    fn new(listen: &[Listen], workers: u16) -> Self {
        let disturbed = Arc::new(Notify::new());
        let (lanes, made) = open(listen, workers, &mut BTreeMap::new(), &mut vec![], &disturbed).expect("open");
        let to = match lanes.addresses().first().and_then(|at| at.parse::<SocketAddr>().ok()) {
            Some(at) if at.ip().is_unspecified() && at.is_ipv6() => {
                SocketAddr::new("::1".parse().expect("ip"), at.port())
            }
            Some(at) => at,
            None => "127.0.0.1:1".parse().expect("an address"),
        };
        let mut rig = Self { lanes, held: BTreeMap::new(), disturbed, to };
        rig.keep(made);
        rig
    }

    fn keep(&mut self, made: Vec<Made>) {
        for made in made {
            let name = made.keeper_name.clone();
            assert!(self.held.insert(made.keeper_name, made.fd).is_none(), "{name} is made once");
        }
    }

    fn assign(&mut self, worker: u64) -> Assigned {
        let mut assigned = self.lanes.assign(WorkerId(worker)).expect("assign");
        self.keep(std::mem::take(&mut assigned.made));
        assigned
    }

    /// A worker that serves, not yet admitted.
    fn start(&mut self, worker: u64) -> Worker {
        let assigned = self.assign(worker);
        Worker::serve(worker, assigned.fds)
    }

    fn admit(&mut self, worker: u64) {
        self.lanes.admit(WorkerId(worker)).expect("admit");
    }

    /// The agent dies and another one takes over what the keeper holds.
    fn recover(&mut self, listen: &[Listen], workers: u16) {
        let mut held = self.held.iter().map(|(name, fd)| (name.clone(), fd.try_clone().expect("take"))).collect();
        let opened = open(listen, workers, &mut held, &mut vec![], &self.disturbed).expect("recover");
        self.lanes = opened.0;
        self.keep(opened.1);
        assert!(held.is_empty(), "not used: {:?}", held.keys());
    }

    /// Every worker is reached by its own routes, and by no other's.
    async fn assert_routes_are_exact(&self, workers: impl IntoIterator<Item = u64>) {
        for worker in workers {
            let routes = self.lanes.routes(WorkerId(worker));
            assert!(!routes.is_empty(), "worker {worker} has no route");
            for route in routes {
                let connection = route.connect().await.expect("connect by route");
                if route.from.is_ipv6() {
                    connection.set_zero_linger().expect("no TIME_WAIT on the one marked port");
                }
                assert_eq!(ask(connection).await, Ok(worker), "{route:?}");
            }
        }
    }

    /// Who serves this many new connections.
    async fn count(&self, connections: usize) -> BTreeMap<u64, usize> {
        let mut served = BTreeMap::new();
        for _ in 0..connections {
            let worker = ask(connect(self.to).await).await.expect("an answer");
            *served.entry(worker).or_default() += 1;
        }
        served
    }

    async fn who_serves(&self, connections: usize) -> Vec<u64> {
        self.count(connections).await.into_keys().collect()
    }
}

async fn connect(to: SocketAddr) -> TcpStream {
    timeout(PATIENT, TcpStream::connect(to)).await.expect("in time").expect("connect")
}

/// Says something and gives back who answered.
async fn ask(mut connection: TcpStream) -> Result<u64, ErrorKind> {
    connection.write_all(b"?").await.map_err(|error| error.kind())?;
    let answer = timeout(PATIENT, connection.read_u64()).await.expect("an answer in time");
    answer.map_err(|error| error.kind())
}

/// Asks all of them before it waits for the first answer: a worker here serves one at a time, in any order.
async fn ask_all(mut connections: Vec<TcpStream>) -> Vec<u64> {
    for connection in &mut connections {
        connection.write_all(b"?").await.expect("ask");
    }
    let mut answers = vec![];
    for connection in &mut connections {
        let answer = timeout(PATIENT, connection.read_u64()).await.expect("an answer in time");
        answers.push(answer.expect("an answer"));
    }
    answers
}

fn lane_fd(assigned: &Assigned) -> OwnedFd {
    assigned.fds[0].1.try_clone().expect("duplicate")
}

/// IPv4, dual stack, IPv6 alone: the three ways to mark a connection.
fn families() -> [Listen; 3] {
    let mut dual = steered("http", "[::]:0");
    dual.address = Address::Tcp { at: "[::]:0".parse().expect("an address"), only_v6: false };
    [steered("http", "127.0.0.1:0"), dual, steered("http", "[::]:0")]
}

#[tokio::test]
async fn clients_wait_until_the_first_worker_is_admitted_and_are_served_then() {
    for listen in families() {
        let mut rig = Rig::new(&[listen], 2);
        let mut early = vec![];
        for _ in 0..20 {
            early.push(connect(rig.to).await);
        }
        let _worker = rig.start(7);
        rig.assert_routes_are_exact([7]).await;
        assert_eq!(rig.lanes.relayed(), 0);
        rig.admit(7);
        assert_eq!(ask_all(early).await, [7; 20]);
        assert_eq!(rig.lanes.relayed(), 20);
        assert_eq!(rig.count(20).await, BTreeMap::from([(7, 20)]));
        assert_eq!(rig.lanes.relayed(), 20, "nothing but the early ones went through the agent");
    }
}

#[tokio::test]
async fn an_excluded_worker_gets_none_of_a_thousand_connections_and_every_probe() {
    for listen in families() {
        let mut rig = Rig::new(&[listen], 4);
        let _workers: Vec<_> = (1..=4).map(|worker| rig.start(worker)).collect();
        (1..=3).for_each(|worker| rig.admit(worker));
        assert_eq!(rig.who_serves(500).await, [1, 2, 3]);
        rig.lanes.exclude(WorkerId(2)).expect("exclude");
        assert_eq!(rig.who_serves(1000).await, [1, 3]);
        for _ in 0..250 {
            rig.assert_routes_are_exact(1..=4).await;
        }
    }
}

#[tokio::test]
async fn what_waits_for_a_worker_that_died_is_served_by_another() {
    let mut rig = Rig::new(&[steered("http", "127.0.0.1:0")], 3);
    let dead = rig.assign(1);
    rig.admit(1);
    let mut clients = vec![];
    for _ in 0..50 {
        clients.push(connect(rig.to).await);
    }
    assert_eq!(rig.lanes.queued(WorkerId(1)), 50);
    assert!(!rig.lanes.is_settled(WorkerId(1)));
    let _other = rig.start(2);
    rig.admit(2);
    drop(dead);
    rig.lanes.vacate(WorkerId(1)).expect("vacate");
    assert_eq!(ask_all(clients).await, [2; 50]);
    assert_eq!(rig.lanes.relayed(), 50);
}

#[tokio::test]
async fn a_worker_that_gets_the_lane_of_one_that_died_does_not_get_its_clients() {
    let mut rig = Rig::new(&[steered("http", "127.0.0.1:0")], 2);
    let dead = rig.assign(1);
    rig.admit(1);
    let mut clients = vec![];
    for _ in 0..3 {
        clients.push(connect(rig.to).await);
    }
    let _other = rig.start(2);
    rig.admit(2);
    drop(dead);
    // Nothing is awaited in between: no task of the agent has seen the queue.
    rig.lanes.vacate(WorkerId(1)).expect("vacate");
    let next = rig.assign(3);
    assert_eq!(next.lane, Some(LaneIndex(1)), "the same lane");
    assert!(rig.lanes.is_settled(WorkerId(3)), "it is not even ready");
    let _next = Worker::serve(3, next.fds);
    assert_eq!(ask_all(clients).await, [2; 3]);
}

#[tokio::test]
async fn with_nobody_ready_the_queue_of_the_dead_waits_for_whoever_comes() {
    let mut rig = Rig::new(&[steered("http", "127.0.0.1:0")], 2);
    let dead = rig.assign(1);
    rig.admit(1);
    let client = connect(rig.to).await;
    drop(dead);
    rig.lanes.vacate(WorkerId(1)).expect("vacate");
    let late = connect(rig.to).await;
    let next = rig.assign(2);
    assert_eq!(next.lane, Some(LaneIndex(2)), "not the lane in which a client waits");
    let _next = Worker::serve(2, next.fds);
    rig.admit(2);
    assert_eq!(ask_all(vec![client, late]).await, [2, 2]);
}

#[tokio::test]
async fn stragglers_of_a_worker_that_was_told_to_stop_are_relayed_while_it_lives() {
    let mut rig = Rig::new(&[steered("http", "127.0.0.1:0")], 1);
    let stopping = rig.assign(1);
    rig.admit(1);
    let client = connect(rig.to).await;
    let _other = rig.start(2);
    rig.admit(2);
    rig.lanes.exclude(WorkerId(1)).expect("exclude");
    assert_eq!(rig.lanes.queued(WorkerId(1)), 1);
    rig.lanes.stopping(WorkerId(1)).expect("stopping");
    assert_eq!(ask(client).await, Ok(2));
    // One more, whose handshake ended late.
    let late = rig.lanes.routes(WorkerId(1))[0].connect().await.expect("connect");
    assert_eq!(ask(late).await, Ok(2));
    drop(stopping);
    rig.lanes.vacate(WorkerId(1)).expect("vacate");
    let assigned = rig.assign(3);
    assert_eq!(assigned.lane, Some(LaneIndex(1)), "the same lane");
    assert_eq!(assigned.damage, [], "its O_NONBLOCK was the agent's");
    let _next = Worker::serve(3, assigned.fds);
    rig.assert_routes_are_exact([2, 3]).await;
}

#[tokio::test]
async fn a_lane_goes_to_the_next_worker_as_good_as_new() {
    let mut rig = Rig::new(&[steered("http", "127.0.0.1:0")], 1);
    let assigned = rig.assign(1);
    let lane = lane_fd(&assigned);
    set_backlog(&lane, 1).expect("listen");
    set_blocking(&lane, Blocking::Fail).expect("fcntl");
    drop((assigned, lane));
    rig.lanes.vacate(WorkerId(1)).expect("vacate");
    let next = rig.assign(2);
    let damage = |what| Damage { listener: "http".to_owned(), what, by: Some(WorkerId(1)) };
    assert_eq!(next.damage, [damage(What::Backlog(1)), damage(What::NonBlocking)]);
    assert_eq!(next.lane, Some(LaneIndex(1)), "the same lane");
    let lane = TcpListener::from(lane_fd(&next));
    assert_eq!(listening(&lane).expect("ask").backlog, 1024);
    let (accepted, outcome) = tokio::sync::oneshot::channel();
    let worker = thread::spawn(move || accepted.send(lane.accept().map(drop).map_err(|error| error.kind())));
    let _client = rig.lanes.routes(WorkerId(2))[0].connect().await.expect("connect");
    let outcome = timeout(PATIENT, outcome).await.expect("in time").expect("an outcome");
    assert_eq!(outcome, Ok(()), "accept waits: O_NONBLOCK is gone");
    worker.join().expect("join").expect("sent");
}

#[tokio::test]
async fn lanes_that_were_shut_down_come_back_to_their_places_whatever_the_order() {
    for listen in families() {
        let mut rig = Rig::new(&[listen], 8);
        let workers: BTreeMap<u64, _> = (1..=8).map(|worker| (worker, rig.assign(worker))).collect();
        (1..=8).for_each(|worker| rig.admit(worker));
        for victims in [&[8][..], &[1], &[5, 2], &[2, 5], &[3, 8, 1, 4], &[1, 2, 3, 4]] {
            victims.iter().for_each(|victim| stop_listening(lane_fd(&workers[victim])).expect("shutdown"));
            let damage = rig.lanes.look(now(), HUNG).damage;
            let mut expected = victims.to_vec();
            expected.sort_unstable();
            let expected: Vec<_> = expected.into_iter().map(|victim| (What::Closed, Some(WorkerId(victim)))).collect();
            assert_eq!(damage.iter().map(|damage| (damage.what, damage.by)).collect::<Vec<_>>(), expected);
            for (worker, assigned) in &workers {
                let probe = rig.lanes.routes(WorkerId(*worker))[0].connect().await.expect("connect");
                probe.set_zero_linger().expect("no TIME_WAIT");
                assert_eq!(rig.lanes.queued(WorkerId(*worker)), 1, "lane of {worker} after {victims:?}");
                drop(TcpListener::from(lane_fd(assigned)).accept().expect("accept"));
            }
        }
    }
}

#[tokio::test]
async fn more_shutdowns_at_once_than_there_is_reserve_are_owned_up_to() {
    let mut rig = Rig::new(&[steered("http", "127.0.0.1:0")], 8);
    let workers: Vec<_> = (1..=8).map(|worker| rig.assign(worker)).collect();
    workers.iter().take(5).for_each(|worker| stop_listening(lane_fd(worker)).expect("shutdown"));
    let damage = rig.lanes.look(now(), HUNG).damage;
    assert!(damage.iter().any(|damage| damage.what == What::OrderLost), "{damage:?}");
    assert!(workers.iter().all(|worker| listening(lane_fd(worker)).expect("ask").open));
}

#[tokio::test]
async fn a_stopping_worker_that_shuts_its_lane_down_is_noticed_at_once() {
    let mut rig = Rig::new(&[steered("http", "127.0.0.1:0")], 2);
    let stopping = rig.assign(1);
    let _other = rig.start(2);
    rig.admit(2);
    rig.lanes.stopping(WorkerId(1)).expect("stopping");
    tokio::task::yield_now().await;
    stop_listening(lane_fd(&stopping)).expect("shutdown");
    timeout(PATIENT, rig.disturbed.notified()).await.expect("a notice");
    assert_eq!(rig.lanes.look(now(), HUNG).damage.len(), 1);
    rig.assert_routes_are_exact([2]).await;
    let straggler = rig.lanes.routes(WorkerId(1))[0].connect().await.expect("connect");
    assert_eq!(ask(straggler).await, Ok(2), "the lane is watched again");
}

#[tokio::test]
async fn new_connections_prefer_workers_with_an_empty_queue() {
    let mut rig = Rig::new(&[steered("http", "127.0.0.1:0")], 2);
    let _stuck = rig.assign(1);
    let _other = rig.start(2);
    rig.admit(1);
    let _waiting = connect(rig.to).await;
    rig.admit(2);
    let start = now();
    let look = rig.lanes.look(start, HUNG);
    assert_eq!(look.next, Some(start.after(Duration::from_millis(10))), "something waits");
    assert_eq!(rig.count(200).await, BTreeMap::from([(2, 200)]));
    assert_eq!(look.suspects, []);
    let later = start.after(HUNG);
    assert_eq!(rig.lanes.look(later, HUNG).suspects, [(WorkerId(1), HUNG)]);
    rig.lanes.exclude(WorkerId(1)).expect("exclude");
    let look = rig.lanes.look(later, HUNG);
    assert_eq!((look.next, look.suspects), (Some(later.after(Duration::from_secs(1))), vec![]), "all is quiet");
}

#[tokio::test]
async fn a_worker_whose_queue_is_empty_again_gets_its_share_again() {
    let mut rig = Rig::new(&[steered("http", "127.0.0.1:0")], 2);
    let slow = rig.assign(1);
    rig.admit(1);
    let _first = connect(rig.to).await;
    let _other = rig.start(2);
    rig.admit(2);
    rig.lanes.look(now(), HUNG);
    let _slow = Worker::serve(1, slow.fds);
    rig.assert_routes_are_exact([2]).await;
    drop(_first);
    rig.assert_routes_are_exact([1]).await;
    rig.lanes.look(now(), HUNG);
    assert_eq!(rig.who_serves(200).await, [1, 2]);
}

#[tokio::test]
async fn a_queue_that_was_emptied_in_between_makes_no_suspect() {
    let mut rig = Rig::new(&[steered("http", "127.0.0.1:0")], 1);
    let slow = rig.assign(1);
    rig.admit(1);
    let _first = connect(rig.to).await;
    let at = |seconds| Moment(0).after(Duration::from_secs(seconds));
    rig.lanes.look(at(0), HUNG);
    drop(TcpListener::from(lane_fd(&slow)).accept().expect("accept"));
    rig.lanes.look(at(4), HUNG);
    let _second = connect(rig.to).await;
    assert_eq!(rig.lanes.look(at(5), HUNG).suspects, []);
    assert_eq!(rig.lanes.look(at(9), HUNG).suspects, []);
    assert_eq!(rig.lanes.look(at(10), HUNG).suspects, [(WorkerId(1), HUNG)]);
}

#[tokio::test]
async fn lanes_are_added_while_old_workers_drain() {
    for listen in families() {
        let mut rig = Rig::new(&[listen], 2);
        let _workers: Vec<_> = (1..=9).map(|worker| rig.start(worker)).collect();
        rig.assert_routes_are_exact(1..=9).await;
        (1..=9).for_each(|worker| rig.admit(worker));
        assert_eq!(rig.who_serves(600).await.len(), 9, "all of them serve");
        rig.assert_routes_are_exact(1..=9).await;
    }
}

#[tokio::test]
async fn a_successor_takes_the_lanes_over_and_nothing_changes() {
    let listen = [steered("http", "127.0.0.1:0"), steered("admin", "127.0.0.1:0")];
    let mut rig = Rig::new(&listen, 3);
    let _workers: Vec<_> = (1..=5).map(|worker| rig.start(worker)).collect();
    (1..=2).for_each(|worker| rig.admit(worker));
    let before = rig.lanes.addresses();
    let held = rig.held.len();
    rig.recover(&listen, 3);
    assert_eq!((rig.lanes.addresses(), rig.held.len()), (before, held), "nothing is new");
    // Nobody is adopted yet: the kernel goes on by the old program.
    assert_eq!(rig.who_serves(100).await, [1, 2]);
    let names = ["http".to_owned(), "admin".to_owned()];
    for worker in 1..=5_u16 {
        let standing = if worker <= 2 { Standing::Admitted } else { Standing::Excluded };
        let lane = Some(LaneIndex(worker));
        rig.lanes.adopt(WorkerId(worker.into()), lane, standing, &names).expect("adopt");
    }
    for lane in [0, 5, 6, 600] {
        let bad = rig.lanes.adopt(WorkerId(9), Some(LaneIndex(lane)), Standing::Excluded, &names);
        assert!(matches!(bad, Err(LanesError::NoSuchLane { .. })), "{lane}: {bad:?}");
    }
    rig.lanes.adopted_all().expect("adopted");
    rig.assert_routes_are_exact(1..=5).await;
    assert_eq!(rig.who_serves(100).await, [1, 2]);
    rig.admit(4);
    assert_eq!(rig.who_serves(200).await, [1, 2, 4]);
    let _sixth = rig.start(6);
    rig.assert_routes_are_exact([6]).await;
    assert_eq!(rig.held.len(), held + 2, "a lane was added to each listener");
}

#[tokio::test]
async fn a_worker_that_died_while_there_was_no_agent_leaves_its_queue_to_the_others() {
    let listen = [steered("http", "127.0.0.1:0")];
    let mut rig = Rig::new(&listen, 2);
    let dead = rig.assign(1);
    rig.admit(1);
    let client = connect(rig.to).await;
    let _other = rig.start(2);
    drop(dead);
    rig.recover(&listen, 2);
    let has = ["http".to_owned()];
    rig.lanes.adopt(WorkerId(2), Some(LaneIndex(2)), Standing::Admitted, &has).expect("adopt");
    rig.lanes.adopted_all().expect("adopted");
    assert_eq!(ask(client).await, Ok(2));
}

#[tokio::test]
async fn listeners_come_and_go_without_a_gap() {
    let [http, admin] = [steered("http", "127.0.0.1:0"), steered("admin", "127.0.0.1:0")];
    let mut rig = Rig::new(from_ref(&http), 2);
    let old = rig.start(1);
    rig.admit(1);
    let made = rig.lanes.reconfigure(&[admin.clone(), http.clone()], 3).expect("add");
    rig.keep(made);
    let to: SocketAddr = rig.lanes.addresses()[0].parse().expect("admin's address");
    // The old worker does not have the new listener: its clients wait for one that has.
    let early = connect(to).await;
    assert_eq!(rig.lanes.queued(WorkerId(1)), 0);
    let new = rig.assign(2);
    assert_eq!(new.fds.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["admin", "http"]);
    let _new = Worker::serve(2, new.fds);
    rig.admit(2);
    assert_eq!(ask(early).await, Ok(2));
    rig.to = to;
    assert_eq!(rig.count(50).await, BTreeMap::from([(2, 50)]));

    let made = rig.lanes.reconfigure(from_ref(&admin), 3).expect("remove");
    assert!(made.is_empty());
    assert!(rig.lanes.take_dropped().is_empty(), "workers have it");
    assert_eq!(rig.lanes.addresses(), [to.to_string()]);
    drop(old);
    rig.lanes.vacate(WorkerId(1)).expect("vacate");
    assert!(rig.lanes.take_dropped().is_empty(), "the second worker has it, too");
    rig.recover(from_ref(&admin), 3);
    let both = ["admin".to_owned(), "http".to_owned()];
    rig.lanes.adopt(WorkerId(2), Some(LaneIndex(2)), Standing::Admitted, &both).expect("adopt");
    rig.lanes.adopted_all().expect("adopted");
    assert!(rig.lanes.take_dropped().is_empty(), "a successor knows who has it");
    rig.lanes.vacate(WorkerId(2)).expect("vacate");
    let dropped = rig.lanes.take_dropped();
    assert!(dropped.iter().all(|name| name.starts_with("lane:web:http:")), "{dropped:?}");
    assert!(dropped.len() >= 7 && dropped.iter().all(|name| rig.held.contains_key(name)), "{dropped:?}");
}

fn unix(path: &std::path::Path) -> Listen {
    let address = Address::Unix { path: path.to_owned(), mode: 0o600, owner: None };
    Listen { name: "unix".to_owned(), address, mode: Mode::Shared, backlog: 16, alias: None }
}

#[tokio::test]
async fn what_cannot_be_changed_is_refused_and_changes_nothing() {
    let http = steered("http", "127.0.0.1:0");
    let mut rig = Rig::new(from_ref(&http), 2);
    let shared = Listen { mode: Mode::Shared, ..http.clone() };
    let error = rig.lanes.reconfigure(&[shared], 2).expect_err("another mode");
    assert!(matches!(error, LanesError::ModeChanged { .. }), "{error}");
    let error = rig.lanes.reconfigure(&[steered("http", "127.0.0.2:0")], 2).expect_err("another address");
    assert!(matches!(error, LanesError::AddressChanged { .. }), "{error}");
    let taken = TcpListener::bind("127.0.0.1:0").expect("bind");
    let busy = steered("busy", &taken.local_addr().expect("address").to_string());
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("s");
    let error = rig.lanes.reconfigure(&[http.clone(), unix(&path), busy.clone()], 2).expect_err("in use");
    assert!(error.to_string().starts_with("listener \"busy\": listen on 127.0.0.1:"), "{error}");
    assert!(!path.exists(), "nothing is left behind");
    let error = open(&[unix(&path), busy], 2, &mut BTreeMap::new(), &mut vec![], &rig.disturbed).expect_err("in use");
    assert!(matches!(error, LanesError::Listener { .. }) && !path.exists(), "{error}");
    let error = rig.lanes.reconfigure(&[http], 5000).expect_err("too many");
    assert!(matches!(error, LanesError::TooMany { .. }), "{error}");
    let _worker = rig.start(1);
    rig.admit(1);
    assert_eq!(rig.count(10).await, BTreeMap::from([(1, 10)]));
}

#[tokio::test]
async fn shared_sockets_go_to_every_worker_and_survive_an_agent() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("s");
    let tcp = Listen { mode: Mode::Shared, ..steered("tcp", "127.0.0.1:0") };
    let listen = [unix(&path), tcp];
    let mut rig = Rig::new(&listen, 2);
    assert_eq!(rig.lanes.addresses()[0], format!("unix:{}", path.display()));
    assert!(rig.lanes.port().is_some_and(|port| port > 0));
    let [first, second] = [1, 2].map(|worker| rig.assign(worker));
    assert_eq!((first.lane, first.fds.len(), second.fds.len()), (None, 2, 2));
    assert_eq!(rig.lanes.look(now(), HUNG).next, None, "there is nothing to look at");
    let _client = UnixStream::connect(&path).expect("connect");
    UnixListener::from(lane_fd(&second)).accept().expect("accept");
    stop_listening(&first.fds[1].1).expect("shutdown");
    rig.lanes.vacate(WorkerId(1)).expect("vacate");
    assert!(listening(&second.fds[1].1).expect("ask").open, "it is open for all again");
    let before = rig.lanes.addresses();
    rig.recover(&listen, 2);
    assert_eq!(rig.lanes.addresses(), before);
    rig.lanes.remove_files();
    assert!(!path.exists());
}

#[tokio::test]
async fn inherited_sockets_become_lanes_if_they_can() {
    let disturbed = Arc::new(Notify::new());
    let alone = TcpListener::bind("127.0.0.1:0").expect("bind");
    let at = alone.local_addr().expect("address").to_string();
    let mut inherited = vec![("http".to_owned(), OwnedFd::from(alone))];
    let error = open(&[steered("http", &at)], 2, &mut BTreeMap::new(), &mut inherited, &disturbed);
    let error = error.expect_err("it has no SO_REUSEPORT").to_string();
    assert!(error.contains("ReusePort=yes") && error.contains("mode: shared"), "{error}");

    let socket = TcpSocket::new_v4().expect("socket");
    socket.set_reuseport(true).expect("SO_REUSEPORT");
    socket.bind("127.0.0.1:0".parse().expect("address")).expect("bind");
    let socket = socket.listen(16).expect("listen").into_std().expect("std");
    let at = socket.local_addr().expect("address");
    // By its address, whatever its name.
    let other = TcpListener::bind("127.0.0.1:0").expect("bind");
    let mut inherited = vec![("other".to_owned(), OwnedFd::from(other)), ("unknown".to_owned(), OwnedFd::from(socket))];
    let early = connect(at).await;
    let listen = [steered("http", &at.to_string())];
    let (lanes, made) = open(&listen, 2, &mut BTreeMap::new(), &mut inherited, &disturbed).expect("open");
    assert_eq!(inherited.len(), 1, "the other one is not ours");
    let mut rig = Rig { lanes, held: BTreeMap::new(), disturbed, to: at };
    rig.keep(made);
    let _worker = rig.start(1);
    rig.admit(1);
    assert_eq!(ask(early).await, Ok(1));
    assert_eq!(rig.count(50).await, BTreeMap::from([(1, 50)]));
    rig.assert_routes_are_exact([1]).await;
}

#[tokio::test]
async fn a_relayed_stream_is_whole_and_its_ends_are_its_own() {
    const SIZE: usize = 3_000_000;
    let mut rig = Rig::new(&[steered("http", "127.0.0.1:0")], 1);
    let mut client = connect(rig.to).await;
    let assigned = rig.assign(1);
    let lane = TcpListener::from(lane_fd(&assigned));
    // Answers only after the client has closed its half, as a program does that reads a request to its end.
    let worker = thread::spawn(move || {
        let (mut connection, _) = lane.accept().expect("accept");
        let mut request = vec![];
        connection.read_to_end(&mut request).expect("read");
        request.reverse();
        connection.write_all(&request).expect("write");
    });
    rig.admit(1);
    let request: Vec<u8> = (0..SIZE).map(|n| u8::try_from(n % 251).expect("small")).collect();
    client.write_all(&request).await.expect("write");
    client.shutdown().await.expect("half-close");
    let mut response = vec![];
    timeout(PATIENT, client.read_to_end(&mut response)).await.expect("in time").expect("read");
    let mut expected = request;
    expected.reverse();
    assert!(response == expected, "{} bytes came back", response.len());
    worker.join().expect("worker");
    assert_eq!(rig.lanes.relayed(), 1);
}
