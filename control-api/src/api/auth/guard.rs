//! The layer in front of a gRPC server: nobody gets through whose role has not what the method needs.

use std::future::{Future, Ready, ready};
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::Either;
use http::{Request, Response, header::AUTHORIZATION};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;
use tonic::body::Body;
use tower_layer::Layer;
use tower_service::Service;

use super::incoming::{Addresses, Place};
use super::{Access, Authenticator, Identity, Peer, access_of};
use crate::api::audit::{Audit, Entry};

/// Makes [`Guarded`] services. Puts the caller's [`Identity`] into the request's extensions.
#[derive(Clone, Debug)]
pub struct Guard {
    authenticator: Arc<Authenticator>,
    audit: Option<Arc<Audit>>,
    strangers: Arc<Strangers>,
}

/// Calls of those who have not said who they are: their messages are held while they come in.
#[derive(Debug)]
struct Strangers {
    all: Arc<Semaphore>,
    addresses: Arc<Addresses>,
}

/// Such calls at a time, in all.
const STRANGERS: usize = 2048;
/// Such calls at a time of one address (of IPv6: one network of 64 bits).
const OF_ONE: usize = 512;
/// How long such a call may take until it is answered.
const PATIENCE: Duration = Duration::from_secs(30);
/// Health checks are not counted, as whoever fills the places must not have this process ended. Their messages are small.
const HEALTH: &str = "/grpc.health.v1.Health/";

impl Strangers {
    fn place(&self, peer: Option<&Peer>) -> Result<(OwnedSemaphorePermit, Option<Place>), Box<Status>> {
        let address = peer.and_then(|peer| peer.address).map(|address| address.ip());
        let own = match address {
            Some(address) => Some(self.addresses.place(address, OF_ONE).ok_or_else(|| {
                Status::resource_exhausted(format!(
                    "{OF_ONE} calls without a credential are under way from this address already; come back later"
                ))
            })?),
            None => None,
        };
        let place = Arc::clone(&self.all).try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!(
                "{STRANGERS} calls without a credential are under way already; come back later"
            ))
        })?;
        Ok((place, own))
    }
}

/// Lines about refusals of one in one second: nobody fills a disk by what they may not do.
const REFUSALS: u32 = 10;

/// Counts what happens in a second.
#[derive(Debug, Default)]
pub struct Throttle(Mutex<(i64, u32)>);

impl Throttle {
    /// Whether there is room for one more in this second.
    pub fn admits(&self, now: i64) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.0 != now {
            *state = (now, 0);
        }
        state.1 = state.1.saturating_add(1);
        state.1 <= REFUSALS
    }
}

impl Guard {
    /// One that asks here, and writes down who was refused a write.
    pub fn new(authenticator: Arc<Authenticator>, audit: Option<Arc<Audit>>) -> Self {
        let strangers = Strangers { all: Arc::new(Semaphore::new(STRANGERS)), addresses: Arc::default() };
        Self { authenticator, audit, strangers: Arc::new(strangers) }
    }

    fn admit(&self, path: &str, request: &http::request::Parts) -> Result<Option<Identity>, Box<Status>> {
        let access = access_of(path);
        if access == Access::Open {
            return Ok(None);
        }
        let peer = request.extensions.get::<Peer>();
        let authorization = request.headers.get(AUTHORIZATION).map(http::HeaderValue::as_bytes);
        let identity = self.authenticator.identify(authorization, peer);
        let refused = match &identity {
            Ok(identity) if identity.role.may(access) => None,
            Ok(identity) => Some(Status::permission_denied(format!(
                "{} has the role {}, and {path} needs {}; ask an administrator for another token",
                identity.name,
                identity.role,
                access.needs()
            ))),
            Err(status) => Some(status.clone()),
        };
        let Some(status) = refused else {
            if let Some(peer) = peer {
                peer.introduced.store(true, Ordering::Relaxed);
            }
            return Ok(identity.ok());
        };
        let address = peer.and_then(|peer| peer.address);
        tracing::debug!(path, peer = ?address, status = status.message(), "refused");
        if access == Access::Write
            && let Some(audit) = &self.audit
        {
            let verb = path.rsplit('/').next().unwrap_or_default();
            let entry = Entry::new(identity.as_ref().ok(), address, &verb.to_lowercase());
            // It is refused anyway: nobody waits for the disk.
            audit.refuse_soon(&entry, &status);
        }
        Err(Box::new(status))
    }
}

impl<S> Layer<S> for Guard {
    type Service = Guarded<S>;
    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded { guard: self.clone(), inner }
    }
}

/// A service behind a [`Guard`].
#[derive(Clone, Debug)]
pub struct Guarded<S> {
    guard: Guard,
    inner: S,
}

/// A call that has a place among those of strangers until it is answered.
type Counted<E> = Pin<Box<dyn Future<Output = Result<Response<Body>, E>> + Send>>;

impl<S> Service<Request<Body>> for Guarded<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<Ready<Result<Response<Body>, S::Error>>, Either<S::Future, Counted<S::Error>>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (mut parts, body) = request.into_parts();
        // Only this guard says who somebody is.
        parts.extensions.remove::<Identity>();
        let refused = |status: Box<Status>| Either::Left(ready(Ok(status.into_http())));
        let path = parts.uri.path();
        let place = match self.guard.admit(path, &parts) {
            Ok(Some(identity)) => {
                parts.extensions.insert(identity);
                None
            }
            Ok(None) if path.starts_with(HEALTH) => None,
            Ok(None) => match self.guard.strangers.place(parts.extensions.get::<Peer>()) {
                Ok(place) => Some(place),
                Err(status) => return refused(status),
            },
            Err(status) => return refused(status),
        };
        let answer = self.inner.call(Request::from_parts(parts, body));
        Either::Right(match place {
            None => Either::Left(answer),
            Some(place) => {
                let counted: Counted<S::Error> = Box::pin(async move {
                    let answer = tokio::time::timeout(PATIENCE, answer).await;
                    drop(place);
                    let late = || Status::deadline_exceeded(format!("it was not done within {PATIENCE:?}"));
                    answer.unwrap_or_else(|_| Ok(late().into_http()))
                });
                Either::Right(counted)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    /// A service that waits for the rest of each request, which never comes.
    #[derive(Clone)]
    struct Waits;

    impl Service<Request<Body>> for Waits {
        type Response = Response<Body>;
        type Error = std::convert::Infallible;
        type Future = std::future::Pending<Result<Response<Body>, Self::Error>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Request<Body>) -> Self::Future {
            std::future::pending()
        }
    }

    #[tokio::test]
    async fn half_sent_calls_of_strangers_are_few_and_leave_room_for_other_addresses() {
        let mut guarded = Guard::new(Arc::new(Authenticator::insecure()), None).layer(Waits);
        let mut call = |address: &str, path: &str| {
            let mut request = Request::new(Body::empty());
            *request.uri_mut() = path.parse().unwrap();
            let address = Some(address.parse().unwrap());
            request.extensions_mut().insert(Peer { address, ..Peer::default() });
            let mut future = guarded.call(request);
            // The code of what is refused at once.
            let code = (&mut future).now_or_never().map(|answer| {
                let answer = answer.unwrap();
                answer.headers()["grpc-status"].to_str().unwrap().to_owned()
            });
            (future, code)
        };
        let issue = "/outrider.identity.v1.Identity/Issue";
        let exhausted = Some("8".to_owned());
        let mut held: Vec<_> = (0..OF_ONE).map(|_| call("192.0.2.1:1", issue)).collect();
        assert!(held.iter().all(|(_, code)| code.is_none()));
        assert_eq!(call("192.0.2.1:2", issue).1, exhausted);
        assert_eq!(call("192.0.2.2:1", issue).1, None);
        assert_eq!(call("192.0.2.1:2", "/grpc.health.v1.Health/Check").1, None);
        assert_eq!(call("192.0.2.1:2", "/outrider.control.v1.Control/Apply").1, None, "somebody's");
        held.pop();
        assert_eq!(call("192.0.2.1:2", issue).1, None);
        for host in 3..=5 {
            held.extend((0..OF_ONE).map(|_| call(&format!("192.0.2.{host}:1"), issue)));
        }
        held.push(call("192.0.2.1:2", issue));
        assert_eq!(call("192.0.2.6:1", issue).1, exhausted, "in all");
        assert_eq!(call("192.0.2.6:1", "/grpc.health.v1.Health/Check").1, None);
    }

    #[test]
    fn strangers_fill_no_disk() {
        let throttle = Throttle::default();
        assert_eq!((0..1000).filter(|_| throttle.admits(7)).count(), 10);
        assert!(throttle.admits(8));
    }
}
