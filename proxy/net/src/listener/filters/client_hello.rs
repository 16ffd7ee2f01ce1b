//! `tls_inspector`: server name and ALPN of a ClientHello (RFC 8446 section 4.1.2, RFC 6066 section 3,
//! RFC 7301 section 3.1), read without a TLS session.

use std::borrow::Cow;
use std::sync::Arc;

use super::{Accepted, FilterEnd, Inspected, PEEK_MAX, TlsInspectorStats, peek};

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const ALPN: u16 = 16;

/// What the first bytes of a connection are.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::listener) enum Hello {
    /// No ClientHello, or a broken one.
    NotTls,
    /// A ClientHello longer than we look at.
    TooBig,
    /// A ClientHello.
    Found {
        /// Lower case.
        server_name: Option<Arc<str>>,
        /// In the client's order.
        protocols: Vec<Arc<str>>,
    },
}

pub(super) async fn inspect(
    socket: &Accepted,
    seen: &mut Inspected,
    stats: &TlsInspectorStats,
) -> Result<(), FilterEnd> {
    let mut bytes = 0;
    let hello = peek(socket, |data| {
        bytes = data.len();
        parse(data)
    });
    match hello.await {
        Err(error) => {
            stats.connection_closed().inc();
            return Err(error.into());
        }
        Ok(Hello::NotTls) => stats.tls_not_found().inc(),
        Ok(Hello::TooBig) => {
            stats.client_hello_too_large().inc();
            return Err(FilterEnd::Refused);
        }
        Ok(Hello::Found { server_name, protocols }) => {
            stats.tls_found().inc();
            if protocols.is_empty() { stats.alpn_not_found() } else { stats.alpn_found() }.inc();
            if server_name.is_some() { stats.sni_found() } else { stats.sni_not_found() }.inc();
            seen.transport = "tls";
            seen.server_name = server_name;
            seen.protocols = protocols;
        }
    }
    stats.bytes_processed().record(bytes as u64);
    Ok(())
}

/// `None`: more bytes are needed.
pub(in crate::listener) fn parse(data: &[u8]) -> Option<Hello> {
    let message = match handshake_bytes(data) {
        Ok(message) => message,
        Err(undecided) => return undecided,
    };
    let Some(([CLIENT_HELLO, a, b, c], body)) = message.split_first_chunk::<4>() else {
        let not_hello = message.first().is_some_and(|kind| *kind != CLIENT_HELLO);
        return if not_hello { Some(Hello::NotTls) } else { more(data) };
    };
    let len = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
    if len > PEEK_MAX {
        return Some(Hello::TooBig);
    }
    let Some(body) = body.get(..len) else { return more(data) };
    Some(read_hello(body).unwrap_or(Hello::NotTls))
}

fn more(data: &[u8]) -> Option<Hello> {
    (data.len() >= PEEK_MAX).then_some(Hello::TooBig)
}

/// The handshake message's bytes that have come so far, out of their records. They are borrowed when one
/// record holds them all. `Err` when it is decided without them.
fn handshake_bytes(data: &[u8]) -> Result<Cow<'_, [u8]>, Option<Hello>> {
    let mut joined: Option<Vec<u8>> = None;
    let mut first: &[u8] = &[];
    let mut rest = data;
    while !rest.is_empty() {
        // The type and the major version are known to be wrong as early as they come.
        if rest.first() != Some(&HANDSHAKE) || rest.get(1).is_some_and(|major| *major != 3) {
            // Another record after part of a handshake message is a broken handshake as well.
            return Err(Some(Hello::NotTls));
        }
        let Some(([_, _, _, high, low], tail)) = rest.split_first_chunk::<5>() else { break };
        let len = usize::from(*high) << 8 | usize::from(*low);
        if len == 0 || len > (1 << 14) + 256 {
            return Err(Some(Hello::NotTls));
        }
        let (part, tail) = tail.split_at(len.min(tail.len()));
        match &mut joined {
            None if first.is_empty() => first = part,
            None => joined = Some([first, part].concat()),
            Some(all) => all.extend_from_slice(part),
        }
        let so_far = joined.as_deref().unwrap_or(first);
        // What follows the ClientHello (early data), or what is decided by its head, is not ours to judge.
        if let Some([kind, a, b, c]) = so_far.first_chunk::<4>() {
            let want = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
            if *kind != CLIENT_HELLO || want > PEEK_MAX || so_far.len() >= want + 4 {
                break;
            }
        }
        rest = tail;
    }
    Ok(joined.map_or(Cow::Borrowed(first), Cow::Owned))
}

fn read_hello(body: &[u8]) -> Option<Hello> {
    let mut hello = Reader(body);
    hello.take(2 + 32)?;
    hello.vec8()?;
    hello.vec16()?;
    hello.vec8()?;
    let (mut server_name, mut protocols) = (None, Vec::new());
    if hello.0.is_empty() {
        return Some(Hello::Found { server_name, protocols });
    }
    let mut extensions = Reader(hello.vec16()?);
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let mut content = Reader(extensions.vec16()?);
        match kind {
            SERVER_NAME => {
                let mut names = Reader(content.vec16()?);
                while !names.0.is_empty() {
                    let is_host = names.take(1)? == [0];
                    let name = names.vec16()?;
                    if is_host && server_name.is_none() {
                        let name = std::str::from_utf8(name).ok().filter(|name| !name.is_empty())?;
                        server_name = Some(name.to_ascii_lowercase().into());
                    }
                }
            }
            ALPN => {
                let mut names = Reader(content.vec16()?);
                while !names.0.is_empty() {
                    protocols.push(String::from_utf8_lossy(names.vec8()?).as_ref().into());
                }
            }
            _ => {}
        }
    }
    Some(Hello::Found { server_name, protocols })
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(n)?;
        self.0 = tail;
        Some(head)
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    fn vec8(&mut self) -> Option<&'a [u8]> {
        let len = *self.take(1)?.first()?;
        self.take(usize::from(len))
    }

    fn vec16(&mut self) -> Option<&'a [u8]> {
        let len = self.u16()?;
        self.take(usize::from(len))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A ClientHello as rustls writes it.
    fn hello(name: &str, alpn: &[&str]) -> Vec<u8> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
        let name = name.to_owned().try_into().expect("a name");
        let mut client = rustls::ClientConnection::new(Arc::new(config), name).expect("a client");
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).expect("bytes");
        bytes
    }

    fn found(name: Option<&str>, alpn: &[&str]) -> Option<Hello> {
        Some(Hello::Found {
            server_name: name.map(Into::into),
            protocols: alpn.iter().map(|p| (*p).into()).collect(),
        })
    }

    #[test]
    fn what_the_head_of_a_message_decides_stays_decided() {
        // Longer than is looked at; what comes behind is of another type.
        let long = [22, 3, 1, 0, 4, 1, 0xff, 0, 0];
        assert_eq!(parse(&long), Some(Hello::TooBig));
        assert_eq!(parse(&[&long[..], b"GET / HTTP/1.1"].concat()), Some(Hello::TooBig));
    }

    /// The same handshake message in records of `size` bytes.
    fn refragment(record: &[u8], size: usize) -> Vec<u8> {
        let fragment = |part: &[u8]| [&[22, 3, 1], &(part.len() as u16).to_be_bytes()[..], part].concat();
        record[5..].chunks(size).flat_map(fragment).collect()
    }

    #[test]
    fn names_and_protocols_are_read() {
        assert_eq!(
            parse(&hello("WWW.Example.com", &["h2", "istio"])),
            found(Some("www.example.com"), &["h2", "istio"])
        );
        assert_eq!(parse(&hello("10.0.0.1", &[])), found(None, &[]));
    }

    #[test]
    fn other_bytes_are_decided_at_once() {
        assert_eq!(parse(b"G"), Some(Hello::NotTls));
        assert_eq!(parse(&[22, 2]), Some(Hello::NotTls));
        assert_eq!(parse(&[22, 3, 1, 0, 4, 2, 0, 0, 0]), Some(Hello::NotTls));
        assert_eq!(parse(&[22, 3, 1, 0, 9, 1, 9, 0, 0]), Some(Hello::TooBig));
    }

    proptest! {
        #[test]
        fn every_cut_waits_and_every_fragmentation_reads_the_same(cut in 0_usize..10_000, size in 1_usize..300) {
            let whole = hello("a.example.com", &["h2"]);
            let expected = found(Some("a.example.com"), &["h2"]);
            let fragments = refragment(&whole, size);
            prop_assert_eq!(parse(&fragments), expected);
            prop_assert_eq!(parse(&fragments[..cut % fragments.len()]), None);
        }

        #[test]
        fn damage_never_panics(at in 0_usize..600, byte in any::<u8>()) {
            let mut bytes = hello("a.example.com", &["h2"]);
            let len = bytes.len();
            bytes[at % len] = byte;
            let _ = parse(&bytes);
        }
    }
}
