//! The side of the process that takes over.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::{Context as _, bail};
use outrider_identity::Legacy;
use outrider_net::listener::Lent;
use outrider_upstream::Idle;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::wire::{Hello, Link, Message, PROTOCOL, WireError};
use crate::control::Control;

/// How long the process before may take to give what it has: it begins before this one does.
const GIVEN_WITHIN: Duration = Duration::from_secs(30);
/// How long it may take not to listen.
const HEARD_WITHIN: Duration = Duration::from_secs(5);
/// How long idle connections to upstreams wait for requests that want them: nobody watches them meanwhile.
const WANTED_WITHIN: Duration = Duration::from_secs(10);
/// Why a process that was started to take over does not.
const GONE: &str = "the process before this one has gone, or goes on itself";
/// So many sockets are taken at most: no process has so many files.
const MOST_SOCKETS: usize = 1 << 20;

/// What the process before this one gave, and the way to talk to it.
pub(crate) struct TakeOver {
    pub(super) hello: Hello,
    link: Arc<Link>,
    sockets: Vec<Lent>,
    stderr: Option<OwnedFd>,
    identity: Option<(String, String)>,
    roots: Option<String>,
    said: UnboundedReceiver<Said>,
}

/// What the process before says later.
enum Said {
    Counters(Vec<(String, u64)>),
    Go,
    Connections(u64),
}

impl std::fmt::Debug for TakeOver {
    /// Never shows the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TakeOver").field("hello", &self.hello).finish_non_exhaustive()
    }
}

impl TakeOver {
    /// Takes what the process before gives, over standard input. Blocks until all is there.
    ///
    /// # Errors
    /// There is no such process, or it speaks another version of this.
    pub(crate) fn receive() -> anyhow::Result<Self> {
        let link = Link::of_stdin().context("standard input")?;
        let not_started = "--take-over is for a process that `outrider upgrade` starts";
        link.limit(Some(GIVEN_WITHIN), Some(HEARD_WITHIN)).context(not_started)?;
        let Message::Hello(hello) = link.receive().context(not_started)?.0 else { bail!(not_started) };
        if hello.protocol != PROTOCOL {
            bail!(
                "the process before this one hands over by version {} of the protocol, this one takes over by version \
                 {PROTOCOL}: restart the proxy instead",
                hello.protocol
            );
        }
        let (speaker, said) = unbounded_channel();
        let mut given = Self {
            hello,
            link: Arc::new(link),
            sockets: Vec::new(),
            stderr: None,
            identity: None,
            roots: None,
            said,
        };
        given.collect().context("what the process before this one has cannot be taken over")?;
        given.link.limit(None, Some(HEARD_WITHIN))?;
        let link = given.link.clone();
        let thread = std::thread::Builder::new().name("take-over".into());
        thread.spawn(move || listen(&link, &speaker)).context("a thread cannot be started")?;
        Ok(given)
    }

    fn collect(&mut self) -> Result<(), WireError> {
        loop {
            match self.link.receive()? {
                (Message::Socket(place), Some(socket)) if self.sockets.len() < MOST_SOCKETS => {
                    self.sockets.push(Lent { place, socket });
                }
                (Message::Stderr, file) => self.stderr = file,
                (Message::Identity { key, chain }, _) => self.identity = Some((key, chain)),
                (Message::Roots(roots), _) => self.roots = Some(roots),
                (Message::Begin, _) => return Ok(()),
                _ => return Err(WireError::Unexpected),
            }
        }
    }

    /// How many workers there are to be: one for each socket of an address, so that no client waits in a queue that nobody
    /// looks at. `wanted` is what the command line says.
    pub(crate) fn workers(&self, wanted: Option<usize>) -> usize {
        if let Some(wanted) = wanted.filter(|wanted| *wanted != self.hello.workers) {
            tracing::warn!(
                "{} workers, as in the process before; --concurrency {wanted} is for the next start",
                self.hello.workers
            );
        }
        self.hello.workers.max(1)
    }

    /// The listening sockets.
    pub(crate) fn sockets(&mut self) -> Vec<Lent> {
        std::mem::take(&mut self.sockets)
    }

    /// What the identity agent before had, but for its socket.
    pub(crate) fn identity(&mut self) -> Legacy {
        Legacy { socket: None, identity: self.identity.take(), roots: self.roots.take() }
    }

    /// What the admin interface was told that is in memory alone.
    pub(crate) fn tell(&self, control: &Control) {
        control.state.health_check_failed.store(self.hello.health_check_failed, Relaxed);
        let runtime = &self.hello.runtime;
        if !runtime.is_empty() {
            let pairs = runtime.iter().map(|(key, text)| (key.as_str(), text.as_str()));
            if let Err(error) = control.runtime.modify(pairs) {
                tracing::warn!("runtime values of the process before are lost: {error}");
            }
        }
    }

    /// Waits until the process before is gone. It has nothing to say until this one is ready.
    pub(crate) async fn lost(&mut self) -> anyhow::Error {
        while self.said.recv().await.is_some() {}
        anyhow::anyhow!(GONE)
    }

    /// Says that this process is ready, takes over what was counted, and waits until it may let clients in.
    ///
    /// # Errors
    /// The process before went, or changed its mind.
    pub(crate) async fn ready(&mut self, control: &Control) -> anyhow::Result<()> {
        tracing::info!("ready to take over from process {}", self.hello.pid);
        self.link.send(&Message::Ready, None).context("the process before this one")?;
        loop {
            match self.said.recv().await {
                Some(Said::Counters(counters)) => add(control, &counters),
                Some(Said::Go) => break,
                Some(Said::Connections(_)) => {}
                None => bail!(GONE),
            }
        }
        // So far the other one listened, to tell what went wrong.
        if let Some(stderr) = self.stderr.take()
            && let Err(error) = rustix::stdio::dup2_stderr(&stderr)
        {
            tracing::error!(%error, "the log goes through the process before this one, and is lost when that ends");
        }
        Ok(())
    }

    /// Says that clients are let in, and follows what the process before does until it has ended.
    pub(crate) fn serving(self, control: Arc<Control>) -> Before {
        if let Err(error) = self.link.send(&Message::Serving, None) {
            tracing::warn!("the process before this one does not hear that this one serves: {error}");
        }
        let unused = control.listeners.inherited.close();
        if !unused.is_empty() {
            tracing::info!("addresses that the process before listened on and nobody does now: {unused:?}");
        }
        tokio::task::spawn_local(async {
            tokio::time::sleep(WANTED_WITHIN).await;
            let unused = outrider_upstream::close_parked();
            tracing::debug!("{unused} idle connections of the process before were not used");
        });
        let before = Before(self.link);
        let (mut news, pid) = (self.said, self.hello.pid);
        tokio::task::spawn_local(async move {
            let gauge = || control.server_stats.parent_connections();
            while let Some(said) = news.recv().await {
                match said {
                    Said::Counters(counters) => add(&control, &counters),
                    Said::Connections(open) => gauge().set(open),
                    Said::Go => {}
                }
            }
            gauge().set(0);
            tracing::info!("process {pid}, the one before this, has handed over all it had");
        });
        before
    }
}

/// The process before this one, while this one serves.
#[derive(Debug)]
pub(crate) struct Before(Arc<Link>);

impl Before {
    /// Asks it to finish soon: a third process is there.
    pub(crate) fn finish(&self) {
        // It is gone, most of the time.
        let _ = self.0.send(&Message::Finish, None);
    }
}

fn add(control: &Control, counters: &[(String, u64)]) {
    for (name, value) in counters {
        control.registry.add(name, *value);
    }
}

/// Passes on what the process before says, until it is gone.
fn listen(link: &Link, speaker: &UnboundedSender<Said>) {
    loop {
        let said = match link.receive() {
            Ok((Message::Counters(counters), _)) => Said::Counters(counters),
            Ok((Message::Go, _)) => Said::Go,
            Ok((Message::Connections(open), _)) => Said::Connections(open),
            Ok((Message::Idle(place), Some(socket))) => {
                outrider_upstream::park(Idle { place, socket });
                continue;
            }
            Ok(_) => continue,
            Err(WireError::Gone) => return,
            Err(error) => {
                tracing::error!("the process before this one cannot be understood: {error}");
                return;
            }
        };
        if speaker.send(said).is_err() {
            return;
        }
    }
}
