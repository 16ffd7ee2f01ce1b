//! Bytes handed on from one port to another: to the status page in a namespace, and, where there are no namespaces, as the wire.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;

use super::network::Space;

/// More bytes than this are not kept.
const MOST: usize = 16 << 20;

/// What passed, in both directions.
#[derive(Clone, Debug, Default)]
pub(super) struct Passed(Arc<Mutex<Vec<u8>>>);

impl Passed {
    /// Forgets what passed until now.
    pub(super) fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// How many bytes passed.
    pub(super) fn bytes(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Whether some text is to be read in it.
    pub(super) fn with(&self, text: &str) -> bool {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        bytes.windows(text.len()).any(|it| it == text.as_bytes())
    }

    fn keep(&self, data: &[u8]) {
        let mut bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if bytes.len() < MOST {
            bytes.extend(data);
        }
    }
}

/// Hands connections to an address on to another one in some network, for as long as the demo runs. Gives the address.
pub(super) fn start(
    from: SocketAddr,
    space: &Space,
    to: SocketAddr,
    passed: Option<&Passed>,
) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind(from).with_context(|| format!("listening at {from}"))?;
    let address = listener.local_addr()?;
    let (space, passed) = (space.again()?, passed.cloned());
    std::thread::spawn(move || {
        while let Ok((client, _)) = listener.accept() {
            // A server that is not there yet shows in a connection that ends.
            let Ok(server) = space.connect(to) else { continue };
            for (from, to) in [(client.try_clone(), server.try_clone()), (Ok(server), Ok(client))] {
                let (Ok(from), Ok(to)) = (from, to) else { break };
                let passed = passed.clone();
                std::thread::spawn(move || pass(from, to, passed.as_ref()));
            }
        }
    });
    Ok(address)
}

fn pass(mut from: TcpStream, mut to: TcpStream, passed: Option<&Passed>) {
    let mut data = vec![0; 16 << 10];
    while let Ok(length @ 1..) = from.read(&mut data) {
        let data = data.get(..length).unwrap_or_default();
        if let Some(passed) = passed {
            passed.keep(data);
        }
        if to.write_all(data).is_err() {
            break;
        }
    }
    // The other side learns of the end; whoever is gone already needs not.
    let _ = to.shutdown(Shutdown::Write);
}
