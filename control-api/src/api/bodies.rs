//! What requests may hold of memory: while they come in, and until they are answered.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tonic::Status;
use tonic::body::Body;
use tower_layer::Layer;
use tower_service::Service;

use super::auth::{Access, access_of};
use super::server::LARGEST_REQUEST;

/// The method whose requests are large: it alone has objects in them.
const APPLY: &str = "/outrider.control.v1.Control/Apply";
/// Bytes of all that is applied at a time.
const APPLIED: usize = 8 * (LARGEST_REQUEST + SMALL);
/// Bytes of one request of another method.
const SMALL: usize = 64 * 1024;
/// Bytes of all of these at a time.
const ALL_SMALL: usize = 64 * 1024 * 1024;
/// How long a request may take to come in.
const PATIENCE: Duration = Duration::from_secs(120);

/// Makes [`Bodied`] services, which share their bounds.
#[derive(Clone, Debug)]
pub(super) struct Bodies {
    applied: Arc<Semaphore>,
    small: Arc<Semaphore>,
}

impl Bodies {
    /// With all of the room.
    pub(super) fn new() -> Self {
        Self { applied: Arc::new(Semaphore::new(APPLIED)), small: Arc::new(Semaphore::new(ALL_SMALL)) }
    }
}

impl<S> Layer<S> for Bodies {
    type Service = Bodied<S>;
    fn layer(&self, inner: S) -> Bodied<S> {
        Bodied { bodies: self.clone(), inner }
    }
}

/// A service whose requests have bounds. Those that need no role are left alone: they have others.
#[derive(Clone, Debug)]
pub(super) struct Bodied<S> {
    bodies: Bodies,
    inner: S,
}

impl<S> Service<Request<Body>> for Bodied<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let path = request.uri().path();
        if access_of(path) == Access::Open {
            return Box::pin(self.inner.call(request));
        }
        let (budget, most) = if path == APPLY {
            // A little more: what is too large is told so by the service itself.
            (&self.bodies.applied, LARGEST_REQUEST + SMALL)
        } else {
            (&self.bodies.small, SMALL)
        };
        let held = Arc::new(Held { budget: Arc::clone(budget), most, taken: Mutex::default() });
        let counting = Arc::clone(&held);
        let request = request.map(|body| {
            let deadline = Box::pin(tokio::time::sleep(PATIENCE));
            Body::new(Counted { body, held: counting, deadline })
        });
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            // Until here: what came in is larger still when it was read.
            drop(held);
            answer
        })
    }
}

/// What one request holds.
#[derive(Debug)]
struct Held {
    budget: Arc<Semaphore>,
    most: usize,
    taken: Mutex<(usize, Option<OwnedSemaphorePermit>)>,
}

impl Held {
    /// Takes room for some more bytes.
    fn take(&self, bytes: usize) -> Result<(), Status> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.0 = taken.0.saturating_add(bytes);
        if taken.0 > self.most {
            return Err(Status::resource_exhausted(format!(
                "the request has more than {} bytes, the most that this method takes",
                self.most
            )));
        }
        let more = u32::try_from(bytes).ok();
        let more = more.and_then(|bytes| Arc::clone(&self.budget).try_acquire_many_owned(bytes).ok());
        let Some(more) = more else {
            return Err(Status::resource_exhausted(
                "as much as this control plane takes at a time is being sent already; repeat it in a moment",
            ));
        };
        match &mut taken.1 {
            Some(permit) => permit.merge(more),
            none => *none = Some(more),
        }
        Ok(())
    }
}

/// A request's body that is counted as it comes in.
struct Counted {
    body: Body,
    held: Arc<Held>,
    deadline: Pin<Box<Sleep>>,
}

impl http_body::Body for Counted {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        if this.deadline.as_mut().poll(cx).is_ready() {
            let late = format!("the request was not there within {PATIENCE:?}");
            return Poll::Ready(Some(Err(Status::deadline_exceeded(late))));
        }
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
            && let Err(status) = this.held.take(data.len())
        {
            return Poll::Ready(Some(Err(status)));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::{FutureExt as _, StreamExt as _, stream};
    use http_body_util::{BodyExt as _, StreamBody};

    use super::*;

    /// A service that takes all of each request before it answers.
    #[derive(Clone)]
    struct Takes;

    impl Service<Request<Body>> for Takes {
        type Response = Response<Body>;
        type Error = Infallible;
        type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: Request<Body>) -> Self::Future {
            Box::pin(async move {
                Ok(match request.into_body().collect().await {
                    Ok(_) => Response::new(Body::empty()),
                    Err(status) => status.into_http(),
                })
            })
        }
    }

    #[tokio::test]
    async fn what_is_half_sent_has_bounds_and_is_given_back() {
        let mut bodied = Bodies::new().layer(Takes);
        let large = Bytes::from(vec![0; LARGEST_REQUEST + SMALL]);
        let mut call = |path: &str, bytes: usize| {
            let frames = stream::iter([Ok::<_, Status>(Frame::data(large.slice(..bytes)))]);
            let body = Body::new(StreamBody::new(frames.chain(stream::pending())));
            let mut request = Request::new(body);
            *request.uri_mut() = path.parse().unwrap();
            let mut answer = bodied.call(request);
            // The code of what is refused at once.
            let code = (&mut answer).now_or_never().map(|answer| {
                let answer = answer.unwrap();
                answer.headers()["grpc-status"].to_str().unwrap().to_owned()
            });
            (answer, code)
        };
        let exhausted = Some("8".to_owned());
        let get = "/outrider.control.v1.Control/Get";
        assert_eq!(call(get, SMALL + 1).1, exhausted, "nothing is applied by it");
        assert_eq!(call(get, SMALL).1, None);
        let mut held: Vec<_> = (0..8).map(|_| call(APPLY, LARGEST_REQUEST + SMALL)).collect();
        assert!(held.iter().all(|(_, code)| code.is_none()));
        assert_eq!(call(APPLY, 1).1, exhausted, "in all");
        assert_eq!(call(get, SMALL).1, None, "others read meanwhile");
        held.pop();
        assert_eq!(call(APPLY, 1).1, None);
    }
}
