//! A crowd of clients that ask all the time, each on a connection of its own, and count what goes wrong.
//!
//! A client that loses its connection makes another one and goes on: what it lost is counted, so that the same crowd
//! serves a test, in which nothing may be lost, and a comparison.

mod session;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::Result;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};

use self::session::{Next, Session};
use crate::{client::TlsOptions, lock, wait};

/// How long one exchange may take.
const LIMIT: Duration = Duration::from_secs(10);

/// How many failures of a kind of client are kept in words.
const KEPT: usize = 5;

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Client {
    /// `GET /` over HTTP/1.1, one at a time on a connection that is kept.
    Http1,
    /// `GET /` over HTTP/2, four at a time on a connection.
    Http2,
    /// Unary gRPC calls on a connection.
    Grpc,
    /// One gRPC stream that goes on for ever, a message there and back at a time.
    GrpcStream,
    /// One WebSocket at `/ws` that goes on for ever, likewise.
    WebSocket,
}

impl Client {
    /// All kinds.
    pub const ALL: [Self; 5] = [Self::Http1, Self::Http2, Self::Grpc, Self::GrpcStream, Self::WebSocket];

    /// A name for tables.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http1 => "h1",
            Self::Http2 => "h2",
            Self::Grpc => "gRPC",
            Self::GrpcStream => "gRPC stream",
            Self::WebSocket => "WebSocket",
        }
    }
}

/// What the clients of a kind have done, and what became of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Exchanges that ended as they should.
    pub done: u64,
    /// Exchanges that failed, and connections that could not be made.
    pub failed: u64,
    /// Connections that the proxy closed, or announced that it would.
    pub closed: u64,
    /// The first failures, in words.
    pub troubles: Vec<String>,
}

/// The clients; they end with this.
#[derive(Debug)]
pub struct Crowd {
    members: Vec<Member>,
    stop: watch::Sender<bool>,
}

#[derive(Debug)]
struct Member {
    client: Client,
    counts: Arc<Counts>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Counts {
    rounds: AtomicU64,
    done: AtomicU64,
    failed: AtomicU64,
    closed: AtomicU64,
    troubles: Mutex<Vec<String>>,
}

impl Crowd {
    /// Starts so many clients of each kind against a port of this machine, over TLS where `tls` says how. Each begins an
    /// exchange every `pace`, or when the one before has ended.
    #[must_use]
    pub fn start(port: u16, tls: Option<&TlsOptions>, clients: &[(Client, usize)], pace: Duration) -> Self {
        let (stop, stopped) = watch::channel(false);
        let mut members = Vec::new();
        for &(client, count) in clients {
            for _ in 0..count {
                let counts = Arc::new(Counts::default());
                let place = (port, tls.cloned());
                let task = tokio::spawn(live(client, place, pace, counts.clone(), stopped.clone()));
                members.push(Member { client, counts, task });
            }
        }
        Self { members, stop }
    }

    /// Waits until every client has begun and ended an exchange since now.
    ///
    /// # Errors
    /// One does not get so far.
    pub async fn round(&self) -> Result<()> {
        // What runs now may have begun before: the one after it has not.
        let goals: Vec<_> =
            self.members.iter().map(|member| (member, member.counts.rounds.load(Relaxed) + 2)).collect();
        let end = 2 * LIMIT;
        for (member, goal) in goals {
            let what = format!("the {} client", member.client.name());
            wait::until(&what, end, async || Ok((member.counts.rounds.load(Relaxed) >= goal).then_some(())))
                .await?;
        }
        Ok(())
    }

    /// What the clients of one kind have done so far.
    #[must_use]
    pub fn tally(&self, client: Client) -> Tally {
        let mut sum = Tally::default();
        for Member { counts, .. } in self.members.iter().filter(|member| member.client == client) {
            sum.done += counts.done.load(Relaxed);
            sum.failed += counts.failed.load(Relaxed);
            sum.closed += counts.closed.load(Relaxed);
            sum.troubles.extend(lock(&counts.troubles).iter().cloned());
        }
        sum.troubles.truncate(KEPT);
        sum
    }

    /// Lets what runs end, then ends the clients.
    ///
    /// # Errors
    /// A client panicked.
    pub async fn leave(&mut self) -> Result<()> {
        self.stop.send_replace(true);
        for member in &mut self.members {
            (&mut member.task).await?;
        }
        Ok(())
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.members.iter().for_each(|member| member.task.abort());
    }
}

impl Counts {
    fn trouble(&self, since: Instant, error: &anyhow::Error) {
        self.failed.fetch_add(1, Relaxed);
        let mut troubles = lock(&self.troubles);
        if troubles.len() < KEPT {
            troubles.push(format!("after {:.3} s: {error:#}", since.elapsed().as_secs_f64()));
        }
    }
}

/// One client: one connection, and another one when it is lost.
async fn live(
    client: Client,
    (port, tls): (u16, Option<TlsOptions>),
    pace: Duration,
    counts: Arc<Counts>,
    mut stopped: watch::Receiver<bool>,
) {
    let started = Instant::now();
    let mut tick = interval(pace.max(Duration::from_millis(1)));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        match wait::within("a connection", LIMIT, Session::open(client, port, tls.as_ref())).await {
            Ok(mut session) => loop {
                tick.tick().await;
                if *stopped.borrow() {
                    return;
                }
                let next = wait::within("an exchange", LIMIT, session.exchange()).await;
                match &next {
                    Ok(Next::Lost) => {}
                    Ok(_) => _ = counts.done.fetch_add(1, Relaxed),
                    Err(error) => counts.trouble(started, error),
                }
                counts.rounds.fetch_add(1, Relaxed);
                if !matches!(next, Ok(Next::GoesOn)) {
                    counts.closed.fetch_add(1, Relaxed);
                    break;
                }
            },
            Err(error) => {
                counts.trouble(started, &error.context("connecting"));
                counts.rounds.fetch_add(1, Relaxed);
                let pause = sleep_until(Instant::now() + Duration::from_millis(100));
                tokio::select! { () = pause => {}, _ = stopped.changed() => {} }
            }
        }
        if *stopped.borrow() {
            return;
        }
    }
}
