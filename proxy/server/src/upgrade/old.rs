//! The side of the process that hands over.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use outrider_core::stats::Registry;
use outrider_net::listener::Lent;
use outrider_upstream::Idle;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::children;
use super::starting::{Starting, ends};
use super::wire::{self, Hello, Link, Message, PROTOCOL, WireError};
use crate::control::Control;
use crate::dynamic::lock;

/// How long the next process may take not to listen.
const HEARD_WITHIN: Duration = Duration::from_secs(1);
/// How long workers may take to duplicate their sockets.
const LENT_WITHIN: Duration = Duration::from_secs(10);

/// Which process is to take over.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// What is run.
    pub(crate) binary: PathBuf,
    /// How long it may take until it is ready.
    pub(crate) limit: Duration,
}

/// Why this process goes on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpgradeError {
    /// Another upgrade has begun.
    #[error("another upgrade is under way: wait for its end")]
    Busy,
    /// This process does not serve yet.
    #[error("this process is not ready itself yet (see /ready of its admin interface): try again when it is")]
    NotLive,
    /// This process was told to end.
    #[error("this process drains: it was told to end, or to let its clients go")]
    Draining,
    /// The sockets cannot be duplicated.
    #[error("the listening sockets cannot be passed on: {0}")]
    Sockets(io::Error),
    /// The binary cannot be run.
    #[error(
        "{} cannot be run: {source} (is it there, in the file system of the proxy, and executable?)", .binary.display()
    )]
    Run {
        /// The binary.
        binary: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The new process ended.
    #[error("the new process ended before it was ready: {status}{said}")]
    Ended {
        /// How.
        status: ExitStatus,
        /// Its last words.
        said: String,
    },
    /// The new process took too long.
    #[error(
        "the new process was not ready within {limit:?} and was ended: give it longer with --timeout-s, or look what it \
         waits for{said}"
    )]
    Slow {
        /// How long it had.
        limit: Duration,
        /// Its last words.
        said: String,
    },
    /// Something else went wrong between the two.
    #[error("the new process was ended: {source}{said}")]
    Talk {
        /// What.
        source: WireError,
        /// Its last words.
        said: String,
    },
    /// A thread, or what it needs, cannot be had.
    #[error("{0}")]
    Resources(String),
}

/// What is heard of an upgrade.
pub(crate) enum Progress {
    /// It got so far.
    Step(String),
    /// It is over.
    Over(Result<Next, UpgradeError>),
}

/// What the next process is given.
struct Offer {
    hello: Hello,
    sockets: Vec<Lent>,
    identity: Option<(String, String)>,
    roots: Option<String>,
}

/// Starts the next process and hands over to it; what happens is told by the receiver. The process goes on whatever comes of
/// it: it is for the caller to stop accepting when all went well.
///
/// # Errors
/// Nothing was started.
pub(crate) async fn attempt(
    control: Arc<Control>,
    request: Request,
) -> Result<UnboundedReceiver<Progress>, UpgradeError> {
    if !control.state.live.load(Relaxed) {
        return Err(UpgradeError::NotLive);
    }
    if control.state.draining.load(Relaxed) {
        return Err(UpgradeError::Draining);
    }
    let offer = gather(&control).await.map_err(UpgradeError::Sockets)?;
    let (tell, told) = unbounded_channel();
    let thread = std::thread::Builder::new().name("upgrade".into());
    let spawned = thread.spawn(move || {
        let outcome = hand_over(&control, &request, offer, &tell);
        let _ = tell.send(Progress::Over(outcome));
    });
    spawned.map_err(|error| UpgradeError::Resources(format!("a thread cannot be started: {error}")))?;
    Ok(told)
}

/// Collects what the next process is given.
async fn gather(control: &Control) -> io::Result<Offer> {
    let mut sockets = Vec::new();
    for lent in &*lock(&control.upgrade.own) {
        sockets.push(Lent { place: lent.place.clone(), socket: lent.socket.try_clone()? });
    }
    let (mut identity, mut roots) = (None, None);
    if let (Some(agent), Some(config)) = (&*lock(&control.upgrade.agent), &control.model.identity) {
        let legacy = agent.lend()?;
        let place = identity_place(&config.socket);
        sockets.extend(legacy.socket.map(|socket| Lent { place, socket }));
        (identity, roots) = (legacy.identity, legacy.roots);
    }
    let (workers, mut given) = control.listeners.lend();
    for _ in 0..workers {
        let lent = tokio::time::timeout(LENT_WITHIN, given.recv()).await;
        let lent = lent.ok().flatten().ok_or_else(|| io::Error::other("a worker does not answer"))?;
        sockets.extend(lent?);
    }
    let hello = Hello {
        protocol: PROTOCOL,
        pid: std::process::id(),
        epoch: control.upgrade.epoch + 1,
        workers: control.workers,
        health_check_failed: control.state.health_check_failed.load(Relaxed),
        runtime: control.runtime.admin_entries(),
    };
    Ok(Offer { hello, sockets, identity, roots })
}

/// The place of the identity agent's socket.
pub(crate) fn identity_place(socket: &Path) -> String {
    format!("identity {}", socket.display())
}

fn hand_over(
    control: &Control,
    request: &Request,
    offer: Offer,
    tell: &UnboundedSender<Progress>,
) -> Result<Next, UpgradeError> {
    let deadline = Instant::now() + request.limit;
    let (link, theirs) = Link::pair().map_err(|error| UpgradeError::Resources(error.to_string()))?;
    let starting = Starting::spawn(&request.binary, theirs)?;
    let step = |text: String| {
        tracing::info!("upgrade: {text}");
        let _ = tell.send(Progress::Step(text));
    };
    step(format!("process {} runs {}", starting.child.id(), request.binary.display()));
    match talk(control, &link, offer, deadline, &step) {
        Ok(counted) => {
            Ok(Next { child: starting.child, link: Arc::new(link), counted, binary: request.binary.clone() })
        }
        Err(trouble) => {
            drop(link);
            Err(starting.end(trouble, request.limit))
        }
    }
}

/// Why there is no hand-over.
pub(super) enum Trouble {
    /// The two do not understand one another.
    Wire(WireError),
    /// This process was told to end meanwhile.
    Draining,
}

impl From<WireError> for Trouble {
    fn from(error: WireError) -> Self {
        Self::Wire(error)
    }
}

/// Gives the next process all it needs, and waits until it serves. What was counted until then.
fn talk(
    control: &Control,
    link: &Link,
    offer: Offer,
    deadline: Instant,
    step: &dyn Fn(String),
) -> Result<HashMap<Arc<str>, u64>, Trouble> {
    let left = || Some(deadline.saturating_duration_since(Instant::now()));
    link.limit(left(), left())?;
    let Offer { hello, sockets, identity, roots } = offer;
    link.send(&Message::Hello(hello), None)?;
    link.send(&Message::Stderr, Some(io::stderr().as_fd()))?;
    for Lent { place, socket } in &sockets {
        link.send(&Message::Socket(place.clone()), Some(socket.as_fd()))?;
    }
    if let Some((key, chain)) = identity {
        link.send(&Message::Identity { key, chain }, None)?;
    }
    if let Some(roots) = roots {
        link.send(&Message::Roots(roots), None)?;
    }
    link.send(&Message::Begin, None)?;
    step(format!("it has {} listening sockets and gets ready", sockets.len()));
    drop(sockets);
    expect(link, deadline, |said| matches!(said, Message::Ready))?;
    if control.state.draining.load(Relaxed) {
        return Err(Trouble::Draining);
    }
    let counted: HashMap<_, _> = control.registry.counters().into_iter().collect();
    for message in wire::counters(counted.iter().map(|(name, value)| (name.to_string(), *value))) {
        link.send(&message, None)?;
    }
    step("it is ready and takes over".into());
    link.send(&Message::Go, None)?;
    expect(link, deadline, |said| matches!(said, Message::Serving))?;
    link.limit(None, Some(HEARD_WITHIN))?;
    Ok(counted)
}

/// Waits for one message.
fn expect(link: &Link, deadline: Instant, wanted: impl Fn(&Message) -> bool) -> Result<(), WireError> {
    let left = deadline.saturating_duration_since(Instant::now());
    link.limit(Some(left), Some(left))?;
    let (said, _) = link.receive()?;
    if wanted(&said) { Ok(()) } else { Err(WireError::Unexpected) }
}

/// The process that took over.
#[derive(Debug)]
pub(crate) struct Next {
    child: Child,
    link: Arc<Link>,
    /// What it was told of our counters.
    counted: HashMap<Arc<str>, u64>,
    binary: PathBuf,
}

/// What is heard of the next process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// It hands over itself, so this one is to finish soon.
    Finish,
    /// It has ended.
    Gone,
}

impl Next {
    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it runs.
    pub(crate) fn binary(&self) -> &Path {
        &self.binary
    }

    /// What is heard of it from now on.
    pub(crate) fn listen(&self) -> UnboundedReceiver<Event> {
        let (tell, told) = unbounded_channel();
        let link = self.link.clone();
        let thread = std::thread::Builder::new().name("upgrade-next".into());
        let spawned = thread.spawn(move || {
            loop {
                let event = match link.receive() {
                    Ok((Message::Finish, _)) => Event::Finish,
                    Ok(_) => continue,
                    Err(_) => Event::Gone,
                };
                if tell.send(event).is_err() || event == Event::Gone {
                    return;
                }
            }
        });
        if let Err(error) = spawned {
            tracing::warn!(%error, "whether the next process lives is not known");
        }
        told
    }

    /// Tells it how many connections are left here.
    pub(crate) fn still_open(&self, connections: u64) {
        // It may be gone, which is heard otherwise.
        let _ = self.link.send(&Message::Connections(connections), None);
    }

    /// Gives it the idle connections to upstreams, as far as it listens.
    pub(crate) async fn give_idle(&self, control: &Control) {
        let (workers, mut given) = control.listeners.lend_idle();
        let mut count = 0;
        for _ in 0..workers {
            let Ok(Some(all)) = tokio::time::timeout(HEARD_WITHIN, given.recv()).await else { return };
            for Idle { place, socket } in all {
                // What is not taken is closed, as it would be without it.
                if self.link.send(&Message::Idle(place), Some(socket.as_fd())).is_err() {
                    return;
                }
                count += 1;
            }
        }
        tracing::info!("upgrade: {count} idle connections to upstreams are handed over");
    }

    /// After it has gone: whether somebody serves all the same, as it was followed by another.
    pub(crate) fn is_followed(&mut self) -> bool {
        // Our own child would be counted until it was asked for.
        let _ = ends(&mut self.child);
        !children().is_empty()
    }

    /// Gives it what was counted since it took over.
    pub(crate) fn leave(&self, registry: &Registry) {
        let since = |(name, value): (Arc<str>, u64)| {
            let told = self.counted.get(&name).copied().unwrap_or(0);
            // Somebody may have set the counters back to zero.
            let more = value.checked_sub(told).unwrap_or(value);
            (more > 0).then(|| (name.to_string(), more))
        };
        for message in wire::counters(registry.counters().into_iter().filter_map(since)) {
            if let Err(error) = self.link.send(&message, None) {
                tracing::debug!("what was counted last is lost: {error}");
                return;
            }
        }
    }
}
