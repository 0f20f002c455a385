//! The load client names every failure rightly: each of these servers misbehaves in one way.

#[path = "load/mod.rs"]
#[expect(dead_code, reason = "the load program and other tests use more of it")]
mod load;

use std::io;
use std::net::SocketAddr;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use load::mix::{Mix, Pool};
use load::report::{Class, Kind, Report};
use load::wire::{Connection, Idle};
use load::{Load, NotStarted};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

const WHOLE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nv1 - 1 w1\n";

/// A server of one connection at a time after another, each given to `treat`.
struct Server {
    address: SocketAddr,
    _stop: oneshot::Sender<()>,
    _thread: JoinHandle<()>,
}

impl Server {
    fn start<F, T>(treat: F) -> Self
    where
        F: Fn(TcpStream) -> T + Send + 'static,
        T: Future<Output = io::Result<()>> + Send + 'static,
    {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind a port");
        listener.set_nonblocking(true).expect("make it non-blocking");
        let address = listener.local_addr().expect("it has an address");
        let (stop, mut stopped) = oneshot::channel();
        let thread = thread::spawn(move || {
            runtime().block_on(async move {
                let listener = TcpListener::from_std(listener).expect("give it to the runtime");
                let mut connections = JoinSet::new();
                loop {
                    tokio::select! {
                        _ = &mut stopped => return,
                        accepted = listener.accept() => {
                            connections.spawn(treat(accepted.expect("accept").0));
                        }
                        Some(_) = connections.join_next() => {}
                    }
                }
            });
        });
        Self { address, _stop: stop, _thread: thread }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// The bytes of one request without a body; none when the client is gone.
async fn read_request(stream: &mut TcpStream) -> io::Result<usize> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut request).await? == 0 {
            break;
        }
    }
    Ok(request.len())
}

fn fresh() -> Mix {
    Mix { fresh: 50.0, patience: Duration::from_millis(300), ..Mix::default() }
}

/// The report after at least ten requests have ended.
fn report_of(address: SocketAddr, mix: Mix) -> Report {
    let running = Load::start(address, mix).expect("the address is loopback");
    assert!(running.wait_until(Duration::from_secs(30), |report| report.ok() + report.failures() >= 10));
    running.stop()
}

fn assert_all_are(class: Class, report: &Report) {
    assert_eq!(report.failures_of(class), report.sent(), "{report}");
    assert_eq!((report.ok(), report.failures()), (0, report.sent()), "{report}");
}

#[test]
fn a_port_where_nobody_listens_is_refused() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind a port");
    let address = listener.local_addr().expect("it has an address");
    drop(listener);
    assert_all_are(Class::Refused, &report_of(address, fresh()));
}

#[test]
fn a_full_accept_queue_is_a_connect_timeout() {
    runtime().block_on(async {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind("127.0.0.1:0".parse().expect("an address")).expect("bind a port");
        let listener = socket.listen(1).expect("listen");
        let address = listener.local_addr().expect("it has an address");
        // The queue holds one more than its length. Nobody accepts.
        let _first = TcpStream::connect(address).await.expect("the first fits");
        let _second = TcpStream::connect(address).await.expect("the second fits");
        let mix = Mix { connect_timeout: Duration::from_millis(200), ..fresh() };
        assert_all_are(Class::ConnectTimeout, &report_of(address, mix));
    });
}

#[test]
fn a_reset_before_the_answer_is_a_reset() {
    let server = Server::start(|mut stream| async move {
        read_request(&mut stream).await?;
        stream.set_zero_linger()
    });
    assert_all_are(Class::Reset, &report_of(server.address, fresh()));
}

#[test]
fn a_close_before_the_answer_is_an_eof() {
    let server = Server::start(|mut stream| async move { read_request(&mut stream).await.map(drop) });
    assert_all_are(Class::Eof, &report_of(server.address, fresh()));
}

#[test]
fn a_close_in_the_head_or_body_or_between_chunks_is_a_cut() {
    for part in ["HTTP/1.1 200 O", "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nv1 - 1 w1", CHUNKED_WITHOUT_END] {
        let server = Server::start(move |mut stream| async move {
            read_request(&mut stream).await?;
            stream.write_all(part.as_bytes()).await
        });
        assert_all_are(Class::Cut, &report_of(server.address, fresh()));
    }
}

const CHUNKED_WITHOUT_END: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\na\r\nv1 - 1 w1\n\r\n";

#[test]
fn a_reset_in_the_body_is_a_cut() {
    let server = Server::start(|mut stream| async move {
        read_request(&mut stream).await?;
        stream.write_all(&WHOLE[..WHOLE.len() - 1]).await?;
        // The reset does not destroy what the client's kernel has received already.
        stream.set_zero_linger()
    });
    assert_all_are(Class::Cut, &report_of(server.address, fresh()));
}

#[test]
fn a_server_that_never_answers_is_a_timeout() {
    let server = Server::start(|mut stream| async move {
        read_request(&mut stream).await?;
        stream.read_u8().await.map(drop)
    });
    assert_all_are(Class::Timeout, &report_of(server.address, fresh()));
}

#[test]
fn status_500_is_a_bad_status() {
    let server = Server::start(|mut stream| async move {
        read_request(&mut stream).await?;
        stream.write_all(b"HTTP/1.1 500 Oh\r\ncontent-length: 3\r\n\r\nno\n").await
    });
    let report = report_of(server.address, fresh());
    assert_all_are(Class::BadStatus, &report);
    let detail = &report.kinds[&Kind::Fresh].details[0].detail;
    assert_eq!(detail, "status 500: no");
}

#[test]
fn an_unknown_version_is_a_bad_body() {
    let server = Server::start(|mut stream| async move {
        read_request(&mut stream).await?;
        stream.write_all(WHOLE).await
    });
    let report = report_of(server.address, Mix { known: vec!["v2".to_owned()], ..fresh() });
    assert_all_are(Class::BadBody, &report);
    let report = report_of(server.address, Mix { known: vec!["v2".to_owned(), "v1".to_owned()], ..fresh() });
    assert_eq!(report.versions.get("v1"), Some(&report.sent()), "{report}");
}

#[test]
fn a_wrong_upload_length_and_a_short_stream_are_bad_bodies() {
    let server = Server::start(|mut stream| async move {
        while stream.read(&mut [0; 4096]).await? > 0 {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 12\r\n\r\n1 v1 - 1 w1\n").await?;
        }
        Ok(())
    });
    let report = report_of(server.address, Mix { upload: 20.0, stream: 20.0, ..fresh() });
    assert_eq!((report.ok(), report.failures_of(Class::BadBody)), (0, report.failures()), "{report}");
    assert!(report.kinds[&Kind::Stream].failures[&Class::BadBody] > 0, "{report}");
}

/// Answers one request per connection as if the connection would stay, and closes it `later`.
fn closes_idle(later: Duration) -> Server {
    Server::start(move |mut stream| async move {
        if read_request(&mut stream).await? > 0 {
            stream.write_all(WHOLE).await?;
            sleep(later).await;
        }
        Ok(())
    })
}

fn far() -> Mix {
    Mix { far: Pool { connections: 10, think: Duration::from_millis(60) }, ..Mix::default() }
}

#[test]
fn a_close_that_the_client_can_see_is_no_failure() {
    let server = closes_idle(Duration::ZERO);
    // Far longer than an answer takes on a busy host: the close is to be seen before the next request is due.
    let pool = || Pool { connections: 5, think: Duration::from_millis(600) };
    let kept = Mix { kept: pool(), ..Mix::default() };
    let far = Mix { far: pool(), ..Mix::default() };
    for (kind, mix) in [(Kind::Kept, kept), (Kind::Far, far)] {
        let report = report_of(server.address, mix);
        assert_eq!((report.failures(), report.ok()), (0, report.sent()), "{report}");
        assert!(report.kinds[&kind].closed_idle > 0, "{report}");
    }
}

/// The race that loopback hides. Due at 0, the first request on a connection arrives at 30 ms (10 for each of the three
/// ways); the server closes at 60 ms, when the next request sets out; it arrives at 70 ms and finds nobody.
#[test]
fn a_close_that_meets_a_request_on_its_way_is_a_failure_at_a_distance() {
    let server = closes_idle(Duration::from_millis(30));
    let running = Load::start(server.address, far()).expect("the address is loopback");
    assert!(running.wait_until(Duration::from_secs(30), |report| report.failures() >= 3), "{}", running.so_far());
    let report = running.stop();
    assert_eq!(report.failures(), report.failures_of(Class::Eof) + report.failures_of(Class::Reset), "{report}");
}

#[test]
fn a_client_at_a_distance_sees_a_close_only_when_it_has_arrived() {
    runtime().block_on(async {
        let ms = Duration::from_millis;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind a port");
        let address = listener.local_addr().expect("it has an address");
        let mut connection = Connection::open(address, ms(500), ms(5000)).await.expect("connect");
        drop(listener.accept().await.expect("accept"));
        let idle = connection.idle_until(Instant::now() + ms(400)).await;
        assert!(matches!(idle, Idle::Open), "{idle:?}");
        let idle = connection.idle_until(Instant::now() + ms(10_000)).await;
        assert!(matches!(idle, Idle::Closed), "{idle:?}");
    });
}

#[test]
fn a_close_that_was_announced_is_never_a_failure() {
    let server = Server::start(|mut stream| async move {
        if read_request(&mut stream).await? > 0 {
            let head = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 10\r\n\r\nv1 - 1 w1\n";
            stream.write_all(head).await?;
        }
        Ok(())
    });
    let report = report_of(server.address, far());
    assert_eq!((report.failures(), report.ok()), (0, report.sent()), "{report}");
    assert_eq!(report.kinds[&Kind::Far].closed_idle, 0, "{report}");
}

#[test]
fn stop_waits_for_what_is_under_way() {
    let server = Server::start(|mut stream| async move {
        read_request(&mut stream).await?;
        sleep(Duration::from_millis(200)).await;
        stream.write_all(WHOLE).await
    });
    let running = Load::start(server.address, Mix { patience: Duration::from_secs(10), ..fresh() }).expect("loopback");
    assert!(running.wait_until(Duration::from_secs(30), |report| report.sent() >= 5));
    let before = running.so_far();
    let after = running.stop();
    assert!(before.ok() < before.sent(), "{before}");
    assert_eq!(after.ok(), after.sent(), "{after}");
}

#[test]
fn two_reports_add_up() {
    let server = closes_idle(Duration::ZERO);
    let (one, two) = (report_of(server.address, fresh()), report_of(server.address, far()));
    let mut both = one.clone();
    both.merge(&two);
    assert_eq!((both.sent(), both.ok()), (one.sent() + two.sent(), one.ok() + two.ok()));
    assert_eq!(both.latency().max(), one.latency().max());
    let json = serde_json::to_value(&both).expect("a report is data");
    assert_eq!(json["kinds"]["far"]["sent"], two.sent());
}

#[test]
fn another_host_is_not_loaded() {
    let elsewhere = "192.0.2.1:80".parse().expect("an address");
    let refused = Load::start(elsewhere, fresh());
    assert!(matches!(refused, Err(NotStarted::NotLoopback(address)) if address == elsewhere));
}
