//! The one timer of a connection: armed for the earliest deadline that is known, and never reset because a byte
//! moved. When it goes off, deadlines that have moved meanwhile are found again.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::time::Sleep;

use super::conn::{Conn, Ending, Tick};

/// A timer. Nothing is registered before its first use.
#[derive(Debug, Default)]
pub(crate) struct Timer {
    sleep: Option<Pin<Box<Sleep>>>,
    /// It knows its task since it was set last: looking at it is all there is to do.
    registered: bool,
}

impl Timer {
    pub(crate) const fn new() -> Self {
        Self { sleep: None, registered: false }
    }

    /// Looks whether the timer went off or `conn` asks for it; if so, `tick` says what is due. Ready when the
    /// connection is to end.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        conn: &Conn,
        mut tick: impl FnMut(Instant) -> Tick,
    ) -> Poll<Ending> {
        let mut due = conn.recheck() || self.sleep.is_none();
        loop {
            if !due && let Some(sleep) = &mut self.sleep {
                if self.registered {
                    due = sleep.is_elapsed();
                } else {
                    due = sleep.as_mut().poll(cx).is_ready();
                    self.registered = true;
                }
            }
            if !due {
                return Poll::Pending;
            }
            match tick(Instant::now()) {
                Tick::End(ending) => return Poll::Ready(ending),
                Tick::Wait(until) => match &mut self.sleep {
                    Some(sleep) => sleep.as_mut().reset(until.into()),
                    None => self.sleep = Some(Box::pin(tokio::time::sleep_until(until.into()))),
                },
            }
            self.registered = false;
            due = conn.recheck();
        }
    }
}
