//! A downstream connection: its streams, its deadlines, and how it ends.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use outrider_core::rng;
use outrider_core::stream::{ConnInfo, Protocol};
use outrider_net::drain::{DrainPhase, DrainWatch};

use super::HcmWorker;
use crate::codec::h1::H1State;
use crate::stream::Stream;

/// No timer sleeps longer: a deadline that comes later is looked at again then.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);
/// An idle HTTP/1 connection gives its buffers back after this long.
const HIBERNATE_AFTER: Duration = Duration::from_secs(2);

/// A connection.
#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) hcm: Rc<HcmWorker>,
    pub(crate) info: Rc<ConnInfo>,
    pub(crate) drain: DrainWatch,
    /// HTTP/1.1 or HTTP/2, once the codec is known.
    pub(crate) protocol: Cell<Protocol>,
    /// What HTTP/1 needs beyond hyper.
    pub(crate) h1: H1State,
    /// The next response is to be the last (HTTP/1), or GOAWAY is to be sent (HTTP/2).
    pub(crate) draining: Cell<bool>,
    /// The transport is gone or about to be.
    pub(crate) gone: Cell<bool>,
    /// The proxy, and not the client, ends the connection.
    pub(crate) local_close: Cell<bool>,
    /// It is to end at once.
    cut: Cell<bool>,
    /// Its place in the worker's list.
    pub(crate) seat: Cell<usize>,
    streams: RefCell<Vec<Rc<Stream>>>,
    requests: Cell<u32>,
    idle_since: Cell<Instant>,
    drain_deadline: Cell<Option<Instant>>,
    /// When the driver's timer goes off.
    armed: Cell<Instant>,
    /// Set when the driver should look at the deadlines before its timer goes off.
    recheck: Cell<bool>,
    waker: RefCell<Option<Waker>>,
    /// When the turn of the HTTP/1 driver that runs began.
    turn: Cell<Instant>,
}

/// What the driver of a connection is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tick {
    /// Nothing before this.
    Wait(Instant),
    /// End the connection.
    End(Ending),
}

/// Why a connection is ended by the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It was idle for too long, or drained.
    Idle,
    /// The listener or the process ends.
    Terminated,
    /// A request's head took too long.
    HeaderTimeout,
    /// Not at all: its codec is put away until the next byte.
    Hibernate,
}

impl Conn {
    pub(crate) fn new(hcm: Rc<HcmWorker>, info: Rc<ConnInfo>, drain: DrainWatch) -> Rc<Self> {
        let now = Instant::now();
        let stats = &hcm.shared.stats;
        stats.downstream_cx_total().inc();
        stats.downstream_cx_active().inc();
        if info.tls.is_some() {
            stats.downstream_cx_ssl_total().inc();
            stats.downstream_cx_ssl_active().inc();
        }
        Rc::new(Self {
            hcm,
            info,
            drain,
            protocol: Cell::new(Protocol::Http11),
            h1: H1State::default(),
            draining: Cell::new(false),
            gone: Cell::new(false),
            local_close: Cell::new(false),
            cut: Cell::new(false),
            seat: Cell::new(0),
            streams: RefCell::default(),
            requests: Cell::new(0),
            idle_since: Cell::new(now),
            drain_deadline: Cell::new(None),
            armed: Cell::new(now + LONGEST_SLEEP),
            recheck: Cell::new(false),
            waker: RefCell::default(),
            turn: Cell::new(now),
        })
    }

    /// The HTTP/1 driver has its turn.
    pub(crate) fn begin_turn(&self) {
        self.turn.set(Instant::now());
    }

    /// The time. All that happens to an HTTP/1 connection happens in its driver's turns, and they are short: the
    /// clock is read once for each of them.
    pub(crate) fn now(&self) -> Instant {
        if self.h1.in_codec.get() { self.turn.get() } else { Instant::now() }
    }

    /// Whether this is HTTP/2.
    pub(crate) fn is_h2(&self) -> bool {
        self.protocol.get() == Protocol::Http2
    }

    /// How many streams run.
    pub(crate) fn active(&self) -> usize {
        self.streams.borrow().len()
    }

    /// The streams that run.
    pub(crate) fn running(&self) -> Vec<Rc<Stream>> {
        self.streams.borrow().clone()
    }

    /// Has the driver end the connection, whatever runs on it.
    pub(crate) fn cut(&self) {
        self.cut.set(true);
        self.look_again();
    }

    /// Takes a stream in. It counts for `max_requests_per_connection`.
    pub(crate) fn open(&self, stream: &Rc<Stream>) {
        let config = &self.hcm.shared.config;
        let mut streams = self.streams.borrow_mut();
        stream.slot.set(streams.len());
        streams.push(stream.clone());
        let requests = self.requests.get().saturating_add(1);
        self.requests.set(requests);
        if config.max_requests_per_connection != 0
            && requests >= config.max_requests_per_connection
            && !self.draining.get()
        {
            self.hcm.shared.stats.downstream_cx_max_requests_reached().inc();
            self.start_drain(Instant::now());
        }
    }

    /// Lets a stream go.
    pub(crate) fn close(&self, stream: &Stream) {
        let mut streams = self.streams.borrow_mut();
        let slot = stream.slot.get();
        if slot < streams.len() {
            streams.swap_remove(slot);
            if let Some(moved) = streams.get(slot) {
                moved.slot.set(slot);
            }
        }
        if streams.is_empty() {
            let now = self.now();
            self.idle_since.set(now);
            if self.h1.in_codec.get() {
                // The timer may be set for the request's own limits, far away. Set to this it stays for as long as
                // requests follow one another: it is set anew once in this time at most.
                self.want(now + HIBERNATE_AFTER);
            }
            if self.drain_deadline.get().is_some() {
                self.look_again();
            }
        }
    }

    /// Looks at the listener's drain state before a response is written: whether the connection is to end
    /// behind it.
    pub(crate) fn closes_after_response(&self) -> bool {
        if !self.draining.get()
            && self.drain.phase() != DrainPhase::Serving
            && rng::with(|rng| self.drain.should_close(rng))
        {
            self.hcm.shared.stats.downstream_cx_drain_close().inc();
            self.start_drain(Instant::now());
        }
        self.draining.get()
    }

    /// No more streams after those that run.
    pub(crate) fn start_drain(&self, now: Instant) {
        if !self.draining.replace(true) {
            self.drain_deadline.set(Some(now + self.hcm.shared.config.drain_timeout));
            self.look_again();
        }
    }

    /// `deadline` is to be kept: the driver's timer must not sleep past it.
    pub(crate) fn want(&self, deadline: Instant) {
        if deadline < self.armed.get() {
            self.look_again();
        }
    }

    fn look_again(&self) {
        if !self.recheck.replace(true)
            && let Some(waker) = self.waker.borrow().as_ref()
        {
            waker.wake_by_ref();
        }
    }

    /// Whether someone asked the driver to look at the deadlines. Asked by the driver on each of its turns.
    pub(crate) fn recheck(&self) -> bool {
        self.recheck.replace(false)
    }

    /// Remembers whom [`Conn::want`] wakes.
    pub(crate) fn register(&self, cx: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        if waker.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }

    /// Looks at all deadlines: ends streams whose time is over, and says what is to be done with the connection.
    pub(crate) fn tick(&self, now: Instant) -> Tick {
        let config = &self.hcm.shared.config;
        let mut next = now + LONGEST_SLEEP;
        // A stream that is told to end is woken, not run: the list does not change under this loop.
        for stream in self.streams.borrow().iter() {
            if let Some(deadline) = stream.check_deadlines(now) {
                next = next.min(deadline);
            }
        }
        if self.cut.get() || self.drain.phase() == DrainPhase::Terminated {
            return Tick::End(Ending::Terminated);
        }
        if let Some(longest) = config.max_connection_duration
            && !self.draining.get()
        {
            let end = self.info.accepted + longest;
            if now < end {
                next = next.min(end);
            } else {
                self.hcm.shared.stats.downstream_cx_max_duration_reached().inc();
                self.start_drain(now);
                self.recheck.set(false);
            }
        }
        if let (Some(limit), Some(started)) = (config.request_headers_timeout, self.h1.head_started.get()) {
            if now >= started + limit {
                return Tick::End(Ending::HeaderTimeout);
            }
            next = next.min(started + limit);
        }
        if self.active() == 0 {
            if matches!(self.drain.phase(), DrainPhase::Draining { ending: true, .. }) {
                if !self.is_h2() {
                    return Tick::End(Ending::Idle);
                }
                // GOAWAY first: hyper ends the connection once it is said.
                self.start_drain(now);
            }
            match self.tick_idle(now) {
                Tick::Wait(deadline) => next = next.min(deadline),
                end @ Tick::End(_) => return end,
            }
        }
        self.armed.set(next);
        Tick::Wait(next)
    }

    fn tick_idle(&self, now: Instant) -> Tick {
        let config = &self.hcm.shared.config;
        let idle_since = self.idle_since.get();
        let mut next = now + LONGEST_SLEEP;
        if let Some(end) = self.drain_deadline.get() {
            if now >= end {
                return Tick::End(Ending::Idle);
            }
            next = next.min(end);
        } else if let Some(timeout) = config.idle_timeout {
            if now < idle_since + timeout {
                next = next.min(idle_since + timeout);
            } else {
                self.hcm.shared.stats.downstream_cx_idle_timeout().inc();
                if !self.is_h2() {
                    return Tick::End(Ending::Idle);
                }
                self.start_drain(now);
                next = next.min(now + config.drain_timeout);
            }
        }
        if self.h1.in_codec.get() && self.h1.can_hibernate() {
            let sleepy = idle_since + HIBERNATE_AFTER;
            if now >= sleepy {
                return Tick::End(Ending::Hibernate);
            }
            next = next.min(sleepy);
        }
        Tick::Wait(next)
    }

    /// Counts the connection's end. `active` tells whether streams were cut off.
    pub(crate) fn finish(&self, active: bool) {
        let stats = &self.hcm.shared.stats;
        stats.downstream_cx_destroy().inc();
        let local = self.local_close.get();
        if local {
            stats.downstream_cx_destroy_local().inc();
        } else {
            stats.downstream_cx_destroy_remote().inc();
        }
        if active {
            stats.downstream_cx_destroy_active_rq().inc();
            if local {
                stats.downstream_cx_destroy_local_active_rq().inc();
            } else {
                stats.downstream_cx_destroy_remote_active_rq().inc();
            }
        }
        stats.downstream_cx_active().dec();
        if self.info.tls.is_some() {
            stats.downstream_cx_ssl_active().dec();
        }
        let length = self.info.accepted.elapsed().as_millis();
        stats.downstream_cx_length_ms().record(u64::try_from(length).unwrap_or(u64::MAX));
    }
}
