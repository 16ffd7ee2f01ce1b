//! The open connections of a worker, for the day on which policies change while requests run on them.
//!
//! A request costs nothing here: streams are found by their connections, and each connection has a seat.

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use super::HcmWorker;
use super::conn::Conn;
use crate::filter::Review;
use crate::routing::{RoutePlace, RouteSlot, ScopeSlot};

/// How many streams are looked at in one turn: the worker's requests come between.
const TURN: usize = 64;
/// Seats that stay when most have left.
const SPARE: usize = 64;

thread_local! {
    static OPEN: RefCell<Seats<Conn>> = const { RefCell::new(Seats(Vec::new())) };
}

/// What is open, in no order. Nothing of it is kept alive.
#[derive(Debug)]
struct Seats<T>(Vec<Weak<T>>);

impl<T> Seats<T> {
    /// Takes `one` in; it is to remember its seat.
    fn enter(&mut self, one: &Rc<T>) -> usize {
        self.0.push(Rc::downgrade(one));
        self.0.len() - 1
    }

    /// Frees the seat of `one`. The last of all takes it, if another sat there: it is to remember that.
    fn leave(&mut self, one: &T, seat: usize) -> Option<Rc<T>> {
        if !self.0.get(seat).is_some_and(|known| std::ptr::eq(known.as_ptr(), one)) {
            return None;
        }
        self.0.swap_remove(seat);
        let room = self.0.len().max(SPARE);
        if self.0.capacity() > 4 * room {
            self.0.shrink_to(2 * room);
        }
        self.0.get(seat)?.upgrade()
    }
}

/// Takes a connection in.
pub(crate) fn enter(conn: &Rc<Conn>) {
    conn.seat.set(OPEN.with_borrow_mut(|open| open.enter(conn)));
}

/// Lets a connection go.
pub(crate) fn leave(conn: &Conn) {
    let moved = OPEN.try_with(|open| open.borrow_mut().leave(conn, conn.seat.get()));
    if let Ok(Some(moved)) = moved {
        moved.seat.set(conn.seat.get());
    }
}

/// What changed.
#[derive(Debug, Clone)]
pub enum Change {
    /// Connection managers have successors.
    Managers,
    /// The table in this place.
    Table(Arc<RouteSlot>),
    /// The scopes in this place.
    Scopes(Arc<ScopeSlot>),
}

impl Change {
    /// Whether it concerns the connections of which `began` is the first connection manager.
    fn concerns(&self, began: &Rc<HcmWorker>) -> bool {
        let latest = began.latest();
        if !latest.shared.has_policies() {
            return false;
        }
        match (self, &latest.shared.routes) {
            (Self::Managers, _) => !Rc::ptr_eq(&latest, began),
            (Self::Table(slot), RoutePlace::One(known)) => Arc::ptr_eq(slot, known),
            (Self::Table(slot), RoutePlace::Scoped(known)) => {
                known.load().scopes().iter().any(|scope| Arc::ptr_eq(slot, &scope.routes))
            }
            (Self::Scopes(slot), RoutePlace::Scoped(known)) => Arc::ptr_eq(slot, known),
            (Self::Scopes(_), RoutePlace::One(_)) => false,
        }
    }
}

/// Asks the policies in force now about the requests that run on this worker and that `change` concerns: those that they
/// would refuse are ended, all others know nothing of it. Goes on in the background.
pub fn review(change: &Change) {
    let concerned = |conn: &Weak<Conn>| {
        conn.upgrade().is_some_and(|conn| conn.active() > 0 && change.concerns(&conn.hcm))
    };
    let conns: Vec<_> =
        OPEN.with_borrow(|open| open.0.iter().filter(|&conn| concerned(conn)).cloned().collect());
    if !conns.is_empty() {
        // Streams that began under a successor were judged by it.
        tokio::task::spawn_local(ask(conns, matches!(change, Change::Managers)));
    }
}

async fn ask(conns: Vec<Weak<Conn>>, before_successors: bool) {
    let mut review = Review::default();
    let (mut refused, mut turn) = (0_u64, 0);
    for conn in conns {
        let streams = conn.upgrade().map(|conn| conn.running()).unwrap_or_default();
        for stream in streams {
            let judged = before_successors && Rc::ptr_eq(&stream.hcm.latest(), &stream.hcm);
            if judged || !stream.is_under_review() {
                continue;
            }
            refused += u64::from(review.end_if_refused(&stream));
            turn += 1;
            if turn >= TURN {
                turn = 0;
                drop(stream);
                tokio::task::yield_now().await;
            }
        }
    }
    if refused > 0 {
        tracing::info!(refused, "requests are ended that the new policies would not let through");
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn everybody_has_a_seat_until_they_leave(steps in prop::collection::vec(any::<Option<u8>>(), 0..300)) {
            let mut seats: Seats<Cell<usize>> = Seats(Vec::new());
            let mut here: Vec<Rc<Cell<usize>>> = Vec::new();
            for step in steps {
                match step {
                    // Some leave twice: the second time changes nothing.
                    Some(which) if !here.is_empty() => {
                        let gone = here.swap_remove(usize::from(which) % here.len());
                        let seat = gone.get();
                        for _ in 0..2 {
                            if let Some(moved) = seats.leave(&gone, seat) {
                                moved.set(seat);
                            }
                        }
                    }
                    _ => {
                        let one = Rc::new(Cell::new(0));
                        one.set(seats.enter(&one));
                        here.push(one);
                    }
                }
                prop_assert_eq!(seats.0.len(), here.len());
                for one in &here {
                    prop_assert!(seats.0.get(one.get()).is_some_and(|seat| std::ptr::eq(seat.as_ptr(), &**one)));
                }
            }
        }
    }

    #[test]
    fn seats_of_a_crowd_that_has_left_are_given_back() {
        let mut seats: Seats<Cell<usize>> = Seats(Vec::new());
        let crowd: Vec<_> = (0..10_000).map(|_| Rc::new(Cell::new(0))).collect();
        crowd.iter().for_each(|one| one.set(seats.enter(one)));
        for one in &crowd {
            if let Some(moved) = seats.leave(one, one.get()) {
                moved.set(one.get());
            }
        }
        assert!(seats.0.is_empty() && seats.0.capacity() <= 4 * SPARE);
    }
}
