//! A body that comes at a limited rate.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use crate::body::{BodyError, ResponseBody};

/// Between two pieces when there is more than the bucket has (Envoy: `StreamRateLimiter::DefaultFillInterval`).
const INTERVAL: Duration = Duration::from_millis(50);

/// A token bucket, a byte for each token. Sans-I/O: it is told the time.
#[derive(Debug)]
struct Bucket {
    /// Bytes in a second, and the most that it holds.
    rate: f64,
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    #[expect(clippy::cast_precision_loss, reason = "rates are far below 2^53")]
    fn new(kib: u64, now: Instant) -> Self {
        let rate = kib.saturating_mul(1024) as f64;
        Self { rate, tokens: (rate * INTERVAL.as_secs_f64()).floor(), filled: now }
    }

    /// Takes up to `wanted` tokens.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "whole numbers of bytes, at most as many as are wanted"
    )]
    fn take(&mut self, wanted: usize, now: Instant) -> usize {
        let since = now.saturating_duration_since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + since * self.rate).min(self.rate);
        self.filled = now;
        let taken = self.tokens.floor().min(wanted as f64);
        self.tokens -= taken;
        taken as usize
    }
}

/// A response's body at a limited rate.
pub(super) struct Limited {
    body: ResponseBody,
    bucket: Bucket,
    /// What has come and must wait.
    held: Bytes,
    /// What comes behind it.
    next: Option<Result<Frame<Bytes>, BodyError>>,
    wait: Option<Pin<Box<Sleep>>>,
}

impl Limited {
    /// `body` at `kib` KiB in a second.
    pub(super) fn new(body: ResponseBody, kib: u64) -> Self {
        let bucket = Bucket::new(kib, Instant::now());
        Self { body, bucket, held: Bytes::new(), next: None, wait: None }
    }
}

impl Body for Limited {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        loop {
            if let Some(wait) = &mut this.wait {
                ready!(wait.as_mut().poll(cx));
                this.wait = None;
            }
            if !this.held.is_empty() {
                let bytes = this.bucket.take(this.held.len(), Instant::now());
                let piece = this.held.split_to(bytes);
                if !this.held.is_empty() {
                    this.wait = Some(Box::pin(tokio::time::sleep(INTERVAL)));
                }
                if !piece.is_empty() {
                    return Poll::Ready(Some(Ok(Frame::data(piece))));
                }
                continue;
            }
            if let Some(next) = this.next.take() {
                return Poll::Ready(Some(next));
            }
            match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => this.held = data,
                    Err(other) => this.next = Some(Ok(other)),
                },
                other => return Poll::Ready(other),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.held.is_empty() && self.next.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let held = self.held.len() as u64;
        let inner = self.body.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower() + held);
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper + held);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_second_gives_more_than_the_rate_and_what_the_bucket_began_with(
            kib in 1_u64..64,
            steps in prop::collection::vec((0_u64..200, 0_usize..100_000), 1..100),
        ) {
            let mut now = Instant::now();
            let begin = now;
            let mut bucket = Bucket::new(kib, now);
            let mut total = 0;
            for (ms, wanted) in steps {
                now += Duration::from_millis(ms);
                let taken = bucket.take(wanted, now);
                prop_assert!(taken <= wanted);
                total += taken as u64;
                let elapsed = (now - begin).as_secs_f64() + INTERVAL.as_secs_f64();
                prop_assert!(total as f64 <= elapsed * (kib * 1024) as f64 + 1.0, "{total} in {elapsed}");
            }
        }
    }
}
