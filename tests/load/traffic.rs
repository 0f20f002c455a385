//! The kinds of traffic, each sent in its own rhythm.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::Wanted;
use super::mix::{Mix, Pool};
use super::report::{Failure, Kind, Recorder};
use super::wire::{After, Answer, Connection, Idle, Pieces, Request, bad_body};

/// Half of the emulated round trip.
const FAR: Duration = Duration::from_millis(10);

/// Lines of a streamed answer per second, and pieces of an upload.
const PER_SECOND: u64 = 20;

struct Client {
    address: SocketAddr,
    mix: Mix,
    recorder: Arc<Recorder>,
}

/// Sends until `wanted` says that it is enough, then waits for what is under way.
pub(crate) fn run(
    address: SocketAddr,
    mix: Mix,
    recorder: Arc<Recorder>,
    wanted: watch::Receiver<Wanted>,
) -> io::Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let mut kinds = JoinSet::new();
        let client = Arc::new(Client { address, mix, recorder });
        let mix = &client.mix;
        for (kind, rate) in
            [(Kind::Fresh, mix.fresh), (Kind::Slow, mix.slow), (Kind::Upload, mix.upload), (Kind::Stream, mix.stream)]
        {
            if rate > 0.0 {
                kinds.spawn(paced(Arc::clone(&client), kind, Duration::from_secs_f64(1.0 / rate), wanted.clone()));
            }
        }
        for (kind, pool, distance) in [(Kind::Kept, mix.kept, Duration::ZERO), (Kind::Far, mix.far, FAR)] {
            for index in 0..pool.connections {
                // Spread over the think time, so that the rate is steady.
                let first = Instant::now() + pool.think * index / pool.connections;
                kinds.spawn(kept(Arc::clone(&client), kind, pool, distance, first, wanted.clone()));
            }
        }
        while let Some(ended) = kinds.join_next().await {
            ended.expect("a kind of traffic does not panic");
        }
        Ok(())
    })
}

/// A request on a new connection each time that one is due.
async fn paced(client: Arc<Client>, kind: Kind, every: Duration, mut wanted: watch::Receiver<Wanted>) {
    let mut due = interval(every);
    // Late ticks are made up for: the rate is a promise.
    due.set_missed_tick_behavior(MissedTickBehavior::Burst);
    // Each ends at its deadline, so there are never more than the rate times that.
    let mut under_way = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            _ = wanted.wait_for(|wanted| *wanted == Wanted::End) => break,
            _ = due.tick() => {
                let client = Arc::clone(&client);
                under_way.spawn(async move { client.alone(kind).await });
            }
            Some(ended) = under_way.join_next() => ended.expect("a request does not panic"),
        }
    }
    while let Some(ended) = under_way.join_next().await {
        ended.expect("a request does not panic");
    }
}

/// Requests on one connection, which is opened again whenever it was closed.
async fn kept(
    client: Arc<Client>,
    kind: Kind,
    pool: Pool,
    distance: Duration,
    mut due: Instant,
    mut wanted: watch::Receiver<Wanted>,
) {
    let mut connection: Option<Connection> = None;
    loop {
        let idle = async {
            match &mut connection {
                Some(connection) => connection.idle_until(due).await,
                None => {
                    sleep_until(due).await;
                    Idle::Open
                }
            }
        };
        let idle = tokio::select! {
            biased;
            _ = wanted.wait_for(|wanted| *wanted == Wanted::End) => return,
            idle = idle => idle,
        };
        match idle {
            Idle::Open => {
                let begin = Instant::now();
                client.recorder.sent(kind);
                let end = client.on_kept(kind, distance, &mut connection).await;
                if end.is_err() {
                    connection = None;
                }
                client.recorder.ended(kind, begin, end);
                // One connection carries one request at a time: what is late is not made up for.
                due = (due + pool.think).max(Instant::now());
            }
            Idle::Closed => {
                client.recorder.closed_idle(kind);
                connection = None;
            }
            Idle::Disturbed(failure) => {
                client.recorder.sent(kind);
                client.recorder.ended(kind, Instant::now(), Err(failure));
                connection = None;
            }
        }
    }
}

impl Client {
    /// One request on a connection of its own.
    async fn alone(&self, kind: Kind) {
        let begin = Instant::now();
        self.recorder.sent(kind);
        let end = async {
            let mut connection = Connection::open(self.address, Duration::ZERO, self.mix.connect_timeout).await?;
            self.exchange(kind, After::Close, &mut connection).await.map(|(version, _)| version)
        };
        self.recorder.ended(kind, begin, end.await);
    }

    /// One request on a kept connection, which is opened if it is not there and dropped if the server wants that.
    async fn on_kept(&self, kind: Kind, distance: Duration, kept: &mut Option<Connection>) -> Result<String, Failure> {
        let connection = match kept {
            Some(connection) => connection,
            None => kept.insert(Connection::open(self.address, distance, self.mix.connect_timeout).await?),
        };
        let (version, after) = self.exchange(kind, After::Keep, connection).await?;
        if after == After::Close {
            *kept = None;
        }
        Ok(version)
    }

    async fn exchange(
        &self,
        kind: Kind,
        after: After,
        connection: &mut Connection,
    ) -> Result<(String, After), Failure> {
        let (path, body, takes) = match kind {
            Kind::Fresh | Kind::Kept | Kind::Far => ("/".to_owned(), None, Duration::ZERO),
            Kind::Slow => (format!("/slow?ms={}", Mix::SLOW.as_millis()), None, Mix::SLOW),
            Kind::Upload => ("/upload".to_owned(), Some(upload()), Mix::UPLOAD),
            Kind::Stream => {
                (format!("/stream?ms={}&every={}", Mix::STREAM.as_millis(), 1000 / PER_SECOND), None, Mix::STREAM)
            }
        };
        let answer = connection.exchange(&Request { path, after, body }, takes + self.mix.patience).await?;
        let version = self.check(kind, &answer)?;
        Ok((version, answer.after))
    }

    /// The version that gave this answer, if the answer is whole.
    fn check(&self, kind: Kind, answer: &Answer) -> Result<String, Failure> {
        let wrong = |what: &str| bad_body(&format!("{what}: {:?}", answer.body.chars().take(80).collect::<String>()));
        let line = match kind {
            Kind::Fresh | Kind::Kept | Kind::Far | Kind::Slow => answer.body.as_str(),
            Kind::Upload => {
                let sent = upload().count * upload().size;
                answer.body.strip_prefix(&format!("{sent} ")).ok_or_else(|| wrong("not the length of the upload"))?
            }
            Kind::Stream => {
                let expected = PER_SECOND * Mix::STREAM.as_secs();
                let mut numbered = (1..).zip(answer.body.lines());
                if !numbered.all(|(number, line)| line.starts_with(&format!("{number} ")))
                    || u64::try_from(answer.body.lines().count()) != Ok(expected)
                {
                    return Err(wrong("not the lines of the stream"));
                }
                answer.body.lines().last().and_then(|line| line.split_once(' ')).map_or("", |(_, line)| line)
            }
        };
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [version, _slot, _pid, _worker]
                if self.mix.known.is_empty() || self.mix.known.iter().any(|known| known == version) =>
            {
                Ok(version.to_owned())
            }
            _ => Err(wrong("no known version answered")),
        }
    }
}

fn upload() -> Pieces {
    let count = PER_SECOND * u64::try_from(Mix::UPLOAD.as_millis()).unwrap_or(0) / 1000;
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    Pieces { count, size: 4096, pause: Duration::from_millis(1000 / PER_SECOND) }
}
