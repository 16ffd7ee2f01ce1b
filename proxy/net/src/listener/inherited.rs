//! Listening sockets that pass from one process to the next, with clients waiting in their queues.

use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use outrider_config::model::{Listener, SocketAddress};

/// A duplicate of a listening socket, for the process after this one.
#[derive(Debug)]
pub struct Lent {
    /// What the socket is for, in words that the next process finds it by.
    pub place: String,
    /// The socket.
    pub socket: OwnedFd,
}

/// The listening sockets of the process before this one, until somebody takes them.
#[derive(Debug, Default)]
pub struct Inherited(Mutex<HashMap<String, VecDeque<OwnedFd>>>);

impl Inherited {
    /// Adds a socket. Those of one place are taken in the order in which they came.
    pub fn add(&self, lent: Lent) {
        self.lock().entry(lent.place).or_default().push_back(lent.socket);
    }

    /// Takes at most `most` sockets of a place: one for each worker.
    pub fn take(&self, place: &str, most: usize) -> VecDeque<OwnedFd> {
        let mut all = self.lock();
        let Some(here) = all.get_mut(place) else { return VecDeque::new() };
        let most = most.min(here.len());
        let taken = here.drain(..most).collect();
        if here.is_empty() {
            all.remove(place);
        }
        taken
    }

    /// Closes what nobody took; the places of it.
    pub fn close(&self) -> Vec<String> {
        let mut places: Vec<_> = self.lock().drain().map(|(place, _)| place).collect();
        places.sort();
        places
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, VecDeque<OwnedFd>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of the address at `index` of `listener`: the address, with the listener's name where the kernel chose the port.
pub(super) fn place(listener: &Listener, index: usize) -> String {
    match listener.addresses.get(index).map(|address| &address.address) {
        Some(SocketAddress::Ip(ip)) if ip.port() == 0 => format!("{ip} {} {index}", listener.name),
        Some(address) => address.to_string(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn lent(place: &str) -> (Lent, std::net::SocketAddr) {
        let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = socket.local_addr().expect("an address");
        (Lent { place: place.to_owned(), socket: socket.into() }, address)
    }

    #[test]
    fn sockets_are_taken_in_order_once_and_the_rest_is_closed() {
        let inherited = Inherited::default();
        let (first, at_first) = lent("a");
        let (second, at_second) = lent("a");
        let (other, at_other) = lent("b");
        for one in [first, second, other] {
            inherited.add(one);
        }
        let taken = |most| {
            let sockets = inherited.take("a", most).into_iter().map(TcpListener::from);
            sockets.map(|socket| socket.local_addr().expect("an address")).collect::<Vec<_>>()
        };
        assert_eq!(taken(1), [at_first]);
        assert_eq!(taken(8), [at_second]);
        assert!(taken(8).is_empty());
        assert!(inherited.take("nowhere", 1).is_empty());
        assert_eq!(inherited.close(), ["b"]);
        assert!(TcpListener::bind(at_other).is_ok(), "a socket that nobody took stays open");
    }
}
