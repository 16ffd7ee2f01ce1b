//! Requests that wait for a connection.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;
use std::task::{Context, Poll, Waker};

use super::lease::Lease;
use super::{Pool, PoolErrorKind, Version};
use crate::breaker::Resource;
use crate::error::PoolError;

/// The place where a waiting request gets its answer.
pub(super) struct Waiter {
    state: RefCell<State>,
    cluster: Version,
    high: bool,
}

#[derive(Default)]
enum State {
    #[default]
    New,
    Waiting(Waker),
    Answered(Result<Lease, PoolError>),
    Done,
}

/// A request in the queue. Dropping it leaves the queue.
pub(super) struct Waiting {
    pool: Rc<Pool>,
    waiter: Rc<Waiter>,
}

impl Waiter {
    fn answer(&self, answer: Result<Lease, PoolError>) {
        if let State::Waiting(waker) = self.state.replace(State::Answered(answer)) {
            waker.wake();
        }
    }
}

impl Pool {
    /// Joins the queue, and begins a connection for it where that is due.
    pub(super) fn enqueue(self: &Rc<Self>) -> Result<Waiting, PoolError> {
        let cluster = self.cluster.borrow().clone();
        if cluster.breakers().of(self.key.high).take(Resource::Pending).is_err() {
            cluster.stats().upstream_rq_pending_overflow().inc();
            return Err(self.error(PoolErrorKind::PendingOverflow, ""));
        }
        cluster.stats().upstream_rq_pending_total().inc();
        cluster.stats().upstream_rq_pending_active().inc();
        self.state.rq_pending_active.fetch_add(1, Relaxed);
        let waiter = Rc::new(Waiter { state: RefCell::default(), cluster, high: self.key.high });
        self.pending.borrow_mut().push_back(waiter.clone());
        let waiting = Waiting { pool: self.clone(), waiter };
        self.connect_for_pending();
        Ok(waiting)
    }

    /// Gives connections that are ready to those who wait.
    pub(super) fn serve_pending(self: &Rc<Self>) {
        while !self.pending.borrow().is_empty() {
            let Some(lease) = self.take_ready() else { break };
            match self.next_waiter() {
                Some(waiter) => waiter.answer(lease),
                None => break,
            }
        }
    }

    /// Fails all who wait: the connection that was begun for them could not be made.
    pub(super) fn fail_pending(self: &Rc<Self>, error: &PoolError) {
        while let Some(waiter) = self.next_waiter() {
            waiter.cluster.stats().upstream_rq_pending_failure_eject().inc();
            waiter.answer(Err(error.clone()));
        }
    }

    /// The one who waits longest, out of the queue.
    fn next_waiter(&self) -> Option<Rc<Waiter>> {
        let waiter = self.pending.borrow_mut().pop_front()?;
        self.left_queue(&waiter);
        Some(waiter)
    }

    fn left_queue(&self, waiter: &Waiter) {
        waiter.cluster.breakers().of(waiter.high).give(Resource::Pending);
        waiter.cluster.stats().upstream_rq_pending_active().dec();
        self.state.rq_pending_active.fetch_sub(1, Relaxed);
    }
}

impl Future for Waiting {
    type Output = Result<Lease, PoolError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.waiter.state.borrow_mut();
        match std::mem::replace(&mut *state, State::Done) {
            State::Answered(answer) => Poll::Ready(answer),
            State::Waiting(waker) if waker.will_wake(cx.waker()) => {
                *state = State::Waiting(waker);
                Poll::Pending
            }
            _ => {
                *state = State::Waiting(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        match self.waiter.state.replace(State::Done) {
            State::New | State::Waiting(_) => {
                let before = self.pool.pending.borrow().len();
                self.pool.pending.borrow_mut().retain(|waiter| !Rc::ptr_eq(waiter, &self.waiter));
                if self.pool.pending.borrow().len() < before {
                    self.pool.left_queue(&self.waiter);
                    self.waiter.cluster.stats().upstream_rq_cancelled().inc();
                }
            }
            // A lease that nobody took goes back to the pool by its own drop.
            State::Answered(_) | State::Done => {}
        }
    }
}
