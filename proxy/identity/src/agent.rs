//! The agent's life: issue, serve, renew, for ever.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use outrider_config::model::{AgentCredential, IdentityAgent};
use outrider_control_proto::identity::TrustBundle;
use outrider_core::rng::{self, Rng as _};
use outrider_core::stats::Scope;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::authority::{Authority, AuthorityError, pems};
use crate::keep::{Identity, Place, seconds, whole};
use crate::serve::{self, Served};
use crate::stats::AgentStats;

/// Waits after failures: the first, and the longest.
const WAITS: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));
/// The clock and the join token are looked at this often: a machine that slept finds that a renewal is due, and a new token is used.
const LOOK: Duration = Duration::from_secs(5);
/// Parts of a certificate's life that are left when it is told that it was not renewed, in percent.
const WARNINGS: [u32; 3] = [50, 20, 5];

/// Why the agent does not start.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The socket cannot be bound.
    #[error("socket {path}: {reason}")]
    Socket {
        /// Where.
        path: String,
        /// What is wrong.
        reason: std::io::Error,
    },
    /// The folder for the identity cannot be used.
    #[error("state_dir {path}: {reason}")]
    State {
        /// Where.
        path: String,
        /// What is wrong.
        reason: std::io::Error,
    },
}

/// What an agent leaves to the one of the process after it: it goes on where the other ended.
#[derive(Default)]
pub struct Legacy {
    /// The listening socket: readers that come meanwhile wait in it.
    pub socket: Option<OwnedFd>,
    /// The key and the certificate chain, PEM, where there is a certificate.
    pub identity: Option<(String, String)>,
    /// The roots, PEM, where they are known.
    pub roots: Option<String>,
}

impl std::fmt::Debug for Legacy {
    /// Never shows the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Legacy").field("socket", &self.socket).finish_non_exhaustive()
    }
}

/// An agent at work. It goes on when this is dropped.
pub struct Running {
    task: JoinHandle<()>,
    listener: OwnedFd,
    served: watch::Receiver<Served>,
    identity: watch::Receiver<Option<Arc<Identity>>>,
}

impl std::fmt::Debug for Running {
    /// Never shows the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running").field("listener", &self.listener).finish_non_exhaustive()
    }
}

impl Running {
    /// What the agent of the next process needs to go on in the place of this one.
    ///
    /// # Errors
    /// The process has no more files.
    pub fn lend(&self) -> std::io::Result<Legacy> {
        let identity = self.identity.borrow().clone();
        Ok(Legacy {
            socket: Some(self.listener.try_clone()?),
            identity: identity.map(|it| (it.key.clone(), it.chain.clone())),
            roots: self.served.borrow().present_roots(),
        })
    }

    /// Ends the agent: nothing is renewed any more, and readers find the next one behind the same socket.
    pub fn stop(self) {
        self.task.abort();
    }
}

/// The identity agent.
#[derive(Debug)]
pub struct Agent {
    config: IdentityAgent,
    place: Option<Place>,
    served: watch::Sender<Served>,
    stats: AgentStats,
    /// What is in use, for whoever speaks to the control plane with it.
    identity: watch::Sender<Option<Arc<Identity>>>,
    /// How many of [`WARNINGS`] were given for the present certificate.
    warned: usize,
    /// What the file of the join token was when a certificate was got, or refused, with what is in it.
    token: Option<SystemTime>,
}

impl Agent {
    /// Binds the socket and begins; what is served comes when it is there. To be called on a tokio runtime, which it then lives on.
    /// Goes on with what the agent of the process before this one left, where it did.
    ///
    /// # Errors
    /// The socket or the folder cannot be used.
    pub fn start(config: IdentityAgent, scope: Scope, legacy: Legacy) -> Result<Running, AgentError> {
        let place = config.state_dir.clone().map(|dir| {
            let path = dir.display().to_string();
            Place::new(dir).map_err(|reason| AgentError::State { path, reason })
        });
        let place = place.transpose()?;
        let failed = |reason| AgentError::Socket { path: config.socket.display().to_string(), reason };
        let bound = match legacy.socket {
            Some(socket) => adopt(socket),
            None => bind(&config.socket),
        };
        let listener = bound.map_err(failed)?;
        let kept = listener.as_fd().try_clone_to_owned().map_err(failed)?;
        let (served, watching) = watch::channel(Served::default());
        tokio::spawn(serve::run(listener, watching));
        let mut agent = Self {
            config,
            place,
            served,
            stats: AgentStats::new(scope),
            identity: watch::Sender::new(None),
            warned: 0,
            token: None,
        };
        if let Some(roots) = &legacy.roots {
            agent.served.send_modify(|served| served.roots(roots));
        }
        let left = legacy.identity.and_then(|(key, chain)| {
            let left = whole(key, chain);
            left.inspect_err(|reason| {
                tracing::warn!(reason, "the identity of the process before is not usable")
            })
            .ok()
        });
        // With what was kept a new one is asked for, where the token was good for one time; the roots have to come, too.
        if let Some(identity) = left.or_else(|| agent.place.as_ref().and_then(Place::restore)) {
            tracing::info!(identity = identity.name, "the kept identity is in use");
            agent.take(identity);
            agent.token = agent.stamp();
        }
        let (served, identity) = (agent.served.subscribe(), agent.identity.subscribe());
        let task = tokio::task::spawn_local(agent.run());
        Ok(Running { task, listener: kept, served, identity })
    }

    async fn run(mut self) {
        let (bundles, mut bundle) = watch::channel(None);
        // Ends with the agent.
        let mut following = JoinSet::new();
        following.spawn(follow(self.config.clone(), self.identity.subscribe(), bundles));
        let mut due = SystemTime::now();
        let mut failures = 0_u32;
        loop {
            let wait = due.duration_since(SystemTime::now()).unwrap_or_default();
            tokio::select! {
                () = tokio::time::sleep(wait.min(LOOK)) => {}
                Ok(()) = bundle.changed() => {
                    let newest = bundle.borrow_and_update().clone();
                    if let Some(newest) = newest {
                        self.trust(&newest);
                    }
                    continue;
                }
            }
            let stamp = self.stamp();
            // Whoever writes another token wants another identity, or an end of the troubles with the one before.
            let by_token = stamp.is_some() && stamp != self.token;
            if SystemTime::now() < due && (failures > 0 || !by_token) {
                continue;
            }
            let present = self.identity.borrow().clone();
            let wait = match Authority(&self.config).issue(present.as_deref(), by_token).await {
                Ok((identity, bundle)) => {
                    failures = 0;
                    self.token = stamp;
                    self.stats.issued().inc();
                    tracing::info!(
                        identity = identity.name,
                        until = seconds(identity.not_after),
                        "certified"
                    );
                    self.keep(&identity);
                    // Roots first: a certificate that nobody here can verify is of no use.
                    self.trust(&bundle);
                    let renew_at = identity.renew_at;
                    // With a clock that is ahead the time to renew may have come already: no reason to ask again and again.
                    let life = identity.not_after.duration_since(identity.not_before).unwrap_or_default();
                    self.take(identity);
                    renew_at.duration_since(SystemTime::now()).unwrap_or_default().max(WAITS.0).max(life / 10)
                }
                Err(error) => {
                    failures = failures.saturating_add(1);
                    self.stats.failed().inc();
                    if error.is_final() {
                        self.token = stamp;
                    }
                    let wait = pause(failures);
                    self.complain(&error, wait);
                    wait
                }
            };
            due = SystemTime::now() + wait;
        }
    }

    /// When the join token was written, where there is one.
    fn stamp(&self) -> Option<SystemTime> {
        let AgentCredential::JoinToken(path) = &self.config.credential else { return None };
        std::fs::metadata(path).and_then(|it| it.modified()).ok()
    }

    /// Puts an identity into use.
    fn take(&mut self, identity: Identity) {
        self.stats.not_after_seconds().set(seconds(identity.not_after));
        self.served.send_modify(|served| served.certificate(&identity.chain, &identity.key));
        self.warned = 0;
        self.identity.send_replace(Some(Arc::new(identity)));
    }

    /// Puts roots into use. An empty bundle is a mistake of somebody: with it nobody could be verified.
    fn trust(&self, bundle: &TrustBundle) {
        if bundle.roots.is_empty() {
            tracing::error!("the control plane sent a trust bundle without a root; the one in use stays");
            return;
        }
        self.stats.bundle_updates().inc();
        self.stats.roots().set(bundle.roots.len() as u64);
        self.served.send_modify(|served| served.roots(&pems(&bundle.roots)));
    }

    fn keep(&self, identity: &Identity) {
        let Some(place) = &self.place else { return };
        if let Err(error) = place.store(identity) {
            tracing::error!(dir = %place.dir().display(), %error, "the identity cannot be kept; it is in use all the same");
        }
    }

    /// Tells that there is no new certificate, the louder the less is left of the one in use.
    fn complain(&mut self, error: &AuthorityError, wait: Duration) {
        let address = &*self.config.address;
        let Some(identity) = self.identity.borrow().clone() else {
            tracing::warn!(address, %error, ?wait, "no certificate yet, so nothing is ready that needs one");
            return;
        };
        let life = seconds(identity.not_after).saturating_sub(seconds(identity.not_before)).max(1);
        let left = seconds(identity.not_after).saturating_sub(seconds(SystemTime::now()));
        let percent = u32::try_from(left * 100 / life).unwrap_or(u32::MAX);
        let due = WARNINGS.iter().filter(|at| percent <= **at).count();
        if due > self.warned || left == 0 {
            self.warned = due;
            tracing::error!(address, %error, identity = identity.name, seconds_left = left, "the certificate was not renewed");
        } else {
            tracing::debug!(address, %error, ?wait, "the certificate was not renewed");
        }
    }
}

/// A random time below a bound that doubles with each failure.
fn pause(failures: u32) -> Duration {
    let bound = WAITS.0.saturating_mul(1 << failures.min(10)).min(WAITS.1);
    // Never nothing, and never all at once: a thousand pods start together.
    bound / 4 + Duration::from_millis(rng::with(|rng| rng.below(bound.as_millis() as u64 * 3 / 4)))
}

/// Keeps a stream of trust bundles open, as the workload that this is: a stranger's connection would be closed.
async fn follow(
    config: IdentityAgent,
    mut identity: watch::Receiver<Option<Arc<Identity>>>,
    bundles: watch::Sender<Option<TrustBundle>>,
) {
    let mut failures = 0_u32;
    loop {
        // The first bundle comes with the first certificate; the stream tells what changes then.
        let Ok(present) = identity.wait_for(Option::is_some).await.map(|it| it.clone()) else { return };
        let failed = match Authority(&config).watch(present.as_deref()).await {
            Ok(mut stream) => loop {
                match stream.message().await {
                    Ok(Some(bundle)) => {
                        failures = 0;
                        if bundles.send(Some(bundle)).is_err() {
                            return;
                        }
                    }
                    Ok(None) => break "the stream has ended".to_owned(),
                    Err(status) => break status.message().to_owned(),
                }
            },
            Err(error) => error.to_string(),
        };
        failures = failures.saturating_add(1);
        let wait = pause(failures);
        tracing::debug!(error = failed, ?wait, "no stream of trust bundles");
        tokio::time::sleep(wait).await;
    }
}

/// The socket of the agent before this one, which listens already.
fn adopt(socket: OwnedFd) -> std::io::Result<UnixListener> {
    let listener = std::os::unix::net::UnixListener::from(socket);
    listener.set_nonblocking(true)?;
    UnixListener::from_std(listener)
}

/// Binds a unix socket for this user and group. One that is left of an earlier process is replaced, one that is in use is not.
fn bind(path: &Path) -> std::io::Result<UnixListener> {
    use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir)?;
    }
    if std::fs::symlink_metadata(path).is_ok_and(|it| it.file_type().is_socket()) {
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(std::io::Error::new(std::io::ErrorKind::AddrInUse, "another agent serves there"));
        }
        std::fs::remove_file(path)?;
    }
    let listener = UnixListener::bind(path)?;
    // Whoever can connect gets the key.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn pauses_grow_to_a_minute_and_are_never_nothing() {
        for failures in 1..40 {
            let bound = WAITS.0.saturating_mul(1 << failures.min(10)).min(WAITS.1);
            let pause = pause(failures);
            assert!(pause >= bound / 4 && pause <= bound, "{failures}: {pause:?}");
        }
    }

    #[test]
    fn what_an_agent_leaves_never_shows_its_key() {
        let legacy = Legacy { identity: Some(("PRIVATE".into(), "chain".into())), ..Legacy::default() };
        assert!(!format!("{legacy:?}").contains("PRIVATE"));
    }

    #[tokio::test]
    async fn a_socket_that_was_left_is_replaced_and_one_in_use_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/sds");
        let first = bind(&path).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode & 0o007, 0, "others may ask for the key: {mode:o}");
        assert_eq!(bind(&path).unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
        drop(first);
        bind(&path).unwrap();
        // What is no socket is not ours to remove.
        let file = dir.path().join("file");
        std::fs::write(&file, "kept").unwrap();
        assert!(bind(&file).is_err());
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "kept");
    }
}
