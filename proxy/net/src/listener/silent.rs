//! Who was silent where: destinations whose servers speak first, as earlier connections showed.
//!
//! An inspector can tell nothing about a client that waits for the server: it learns so by `listener_filters_timeout` alone. Where the listener
//! goes on after that (`continue_on_listener_filters_timeout`), the next connection of the same client to the same destination waits
//! [`GRACE`] at most. The client is part of the key, so that nobody's silence decides how others are treated. Envoy has
//! nothing like it.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use outrider_core::stream::Address;
use tokio::time::Instant;

/// How long a client may still be silent that was so before. Who speaks first does so with the last packet of the handshake, or right
/// behind it, however far away.
pub(super) const GRACE: Duration = Duration::from_millis(10);
/// How long it is believed: then one connection waits the whole time again.
const BELIEVED: Duration = Duration::from_secs(600);
/// The most that is remembered, on each worker.
const MOST: usize = 1024;

/// The memory of one worker.
#[derive(Debug, Default)]
pub(super) struct Silent {
    since: HashMap<(IpAddr, SocketAddr), Instant>,
}

impl Silent {
    /// Whether the client was silent there.
    pub(super) fn knows(&self, client: &Address, destination: &Address, now: Instant) -> bool {
        let since = key(client, destination).and_then(|key| self.since.get(&key));
        since.is_some_and(|since| now.saturating_duration_since(*since) < BELIEVED)
    }

    /// The client was silent there all of the time.
    pub(super) fn learn(&mut self, client: &Address, destination: &Address, now: Instant) {
        let Some(key) = key(client, destination) else { return };
        if self.since.len() >= MOST && !self.since.contains_key(&key) {
            self.since.retain(|_, since| now.saturating_duration_since(*since) < BELIEVED);
            if self.since.len() >= MOST {
                // The eldest goes. It costs a look at all, once for each client that was waited for in vain.
                let eldest = self.since.iter().min_by_key(|(_, since)| **since).map(|(key, _)| *key);
                if let Some(eldest) = eldest {
                    self.since.remove(&eldest);
                }
            }
        }
        self.since.insert(key, now);
    }

    /// The client has spoken first.
    pub(super) fn forget(&mut self, client: &Address, destination: &Address) {
        if let Some(key) = key(client, destination) {
            self.since.remove(&key);
        }
    }
}

fn key(client: &Address, destination: &Address) -> Option<(IpAddr, SocketAddr)> {
    Some((client.ip()?.ip(), destination.ip()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Address {
        Address::Ip(text.parse().unwrap())
    }

    #[test]
    fn silence_is_one_clients_at_one_destination() {
        let (mut silent, now) = (Silent::default(), Instant::now());
        let (client, server) = (at("10.0.0.1:4711"), at("10.96.0.1:3306"));
        assert!(!silent.knows(&client, &server, now));
        silent.learn(&client, &server, now);
        assert!(silent.knows(&at("10.0.0.1:4712"), &server, now), "another connection of the same client");
        assert!(!silent.knows(&at("10.0.0.2:4711"), &server, now), "another client");
        assert!(!silent.knows(&client, &at("10.96.0.1:80"), now), "another destination");
        silent.forget(&at("10.0.0.1:1"), &server);
        assert!(!silent.knows(&client, &server, now), "it has spoken first");
    }

    #[test]
    fn it_is_tried_again_after_a_while() {
        let (mut silent, now) = (Silent::default(), Instant::now());
        let (client, server) = (at("[fd00::1]:4711"), at("[fd00::2]:3306"));
        silent.learn(&client, &server, now);
        assert!(silent.knows(&client, &server, now + BELIEVED - Duration::from_secs(1)));
        assert!(!silent.knows(&client, &server, now + BELIEVED));
    }

    #[test]
    fn there_is_an_end_to_what_is_remembered() {
        let (mut silent, start) = (Silent::default(), Instant::now());
        let server = at("10.96.0.1:3306");
        let client = |i: u32| Address::Ip(SocketAddr::new(std::net::Ipv4Addr::from_bits(i).into(), 1));
        for i in 0..3 * u32::try_from(MOST).unwrap() {
            silent.learn(&client(i), &server, start + Duration::from_millis(i.into()));
            assert!(silent.since.len() <= MOST);
            assert!(silent.knows(&client(i), &server, start + Duration::from_millis(i.into())));
        }
        assert!(!silent.knows(&client(0), &server, start), "the eldest went first");
    }

    proptest! {
        #[test]
        fn what_was_learnt_last_is_known(steps in proptest::collection::vec((0_u16..4, any::<bool>()), 1..64)) {
            let (mut silent, now) = (Silent::default(), Instant::now());
            let client = at("10.0.0.1:1");
            let server = |port: u16| Address::Ip(([10, 0, 0, 9], 1 + port).into());
            let mut model = std::collections::HashSet::new();
            for (port, learn) in steps {
                if learn {
                    silent.learn(&client, &server(port), now);
                    model.insert(port);
                } else {
                    silent.forget(&client, &server(port));
                    model.remove(&port);
                }
                for port in 0..4 {
                    prop_assert_eq!(silent.knows(&client, &server(port), now), model.contains(&port));
                }
            }
        }
    }
}
