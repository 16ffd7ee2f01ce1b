//! Requests that wait for a connection.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::lease::Lease;
use super::{Pool, PoolErrorKind};
use crate::breaker::Resource;
use crate::error::PoolError;

/// The place where a waiting request gets its answer.
#[derive(Default)]
pub(super) struct Waiter(RefCell<State>);

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
        if let State::Waiting(waker) = self.0.replace(State::Answered(answer)) {
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
            return Err(self.error(PoolErrorKind::Overflow, ""));
        }
        cluster.stats().upstream_rq_pending_total().inc();
        cluster.stats().upstream_rq_pending_active().inc();
        let waiter = Rc::new(Waiter::default());
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
            self.cluster.borrow().stats().upstream_rq_pending_failure_eject().inc();
            waiter.answer(Err(error.clone()));
        }
    }

    /// The one who waits longest, out of the queue.
    fn next_waiter(&self) -> Option<Rc<Waiter>> {
        let waiter = self.pending.borrow_mut().pop_front()?;
        self.left_queue();
        Some(waiter)
    }

    fn left_queue(&self) {
        let cluster = self.cluster.borrow();
        cluster.breakers().of(self.key.high).give(Resource::Pending);
        cluster.stats().upstream_rq_pending_active().dec();
    }
}

impl Future for Waiting {
    type Output = Result<Lease, PoolError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.waiter.0.borrow_mut();
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
        match self.waiter.0.replace(State::Done) {
            State::New | State::Waiting(_) => {
                let before = self.pool.pending.borrow().len();
                self.pool.pending.borrow_mut().retain(|waiter| !Rc::ptr_eq(waiter, &self.waiter));
                if self.pool.pending.borrow().len() < before {
                    self.pool.left_queue();
                    self.pool.cluster.borrow().stats().upstream_rq_cancelled().inc();
                }
            }
            // A lease that nobody took goes back to the pool by its own drop.
            State::Answered(_) | State::Done => {}
        }
    }
}
