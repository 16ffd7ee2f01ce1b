//! The layer in front of a gRPC server: nobody gets through whose role has not what the method needs.

use std::future::{Ready, ready};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures_util::future::Either;
use http::{Request, Response, header::AUTHORIZATION};
use tonic::Status;
use tonic::body::Body;
use tower_layer::Layer;
use tower_service::Service;

use super::{Access, Authenticator, Identity, Peer, access_of};
use crate::api::audit::{Audit, Entry};

/// Makes [`Guarded`] services. Puts the caller's [`Identity`] into the request's extensions.
#[derive(Clone, Debug)]
pub struct Guard {
    authenticator: Arc<Authenticator>,
    audit: Option<Arc<Audit>>,
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
        Self { authenticator, audit }
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

impl<S> Service<Request<Body>> for Guarded<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Either<Ready<Result<Response<Body>, S::Error>>, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (mut parts, body) = request.into_parts();
        // Only this guard says who somebody is.
        parts.extensions.remove::<Identity>();
        match self.guard.admit(parts.uri.path(), &parts) {
            Ok(identity) => {
                if let Some(identity) = identity {
                    parts.extensions.insert(identity);
                }
                Either::Right(self.inner.call(Request::from_parts(parts, body)))
            }
            Err(status) => Either::Left(ready(Ok(status.into_http()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_fill_no_disk() {
        let throttle = Throttle::default();
        assert_eq!((0..1000).filter(|_| throttle.admits(7)).count(), 10);
        assert!(throttle.admits(8));
    }
}
