//! Session tickets: keys of the configuration, bound to what decided about the session.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use outrider_config::model::{DownstreamTls, Resolved};
use rustls::server::ProducesTickets;

use super::TlsError;
use super::cert::sha256;
use super::source::Content;

const KEY_LEN: usize = 80;
const NAME_LEN: usize = 16;
const NONCE_LEN: usize = 12;
/// How long a ticket of configured keys is good for when `session_timeout` is not set; BoringSSL's default.
const DEFAULT_LIFETIME: Duration = Duration::from_secs(7200);

/// Tickets under keys that several proxies share. A ticket is the key's name, a nonce, and the session under
/// AES-256-GCM; `context` is authenticated with it, so that a session begun under other certificates or
/// other rules of verification is never resumed (BoringSSL's session id context does the same).
struct SharedKeys {
    keys: Vec<([u8; NAME_LEN], RandomizedNonceKey)>,
    context: [u8; 32],
    lifetime: Duration,
}

/// Puts the time into tickets of another producer: they are refused after `lifetime`.
struct Timed {
    inner: Arc<dyn ProducesTickets>,
    lifetime: Duration,
}

/// The producer for `tls`; `None` when tickets are off.
///
/// # Errors
/// A key of the configuration cannot be read or is not 80 bytes long.
pub(super) fn producer(
    tls: &Resolved<DownstreamTls>,
    context: [u8; 32],
) -> Result<Option<Arc<dyn ProducesTickets>>, TlsError> {
    if tls.disable_stateless_resumption {
        return Ok(None);
    }
    if !tls.ticket_keys().is_empty() {
        let mut keys = Vec::new();
        for source in tls.ticket_keys() {
            let content = Content::read(source)?;
            keys.push(shared_key(&content)?);
        }
        let lifetime = tls.session_timeout.unwrap_or(DEFAULT_LIFETIME);
        let inner = Arc::new(SharedKeys { keys, context, lifetime });
        return Ok(Some(Arc::new(Timed { inner, lifetime })));
    }
    // Random keys of this very context, rotated every six hours: nothing else can open them.
    let own = rustls::crypto::aws_lc_rs::Ticketer::new().map_err(|error| TlsError::Config {
        field: "session_ticket_keys".into(),
        reason: format!("no random key could be made: {error}"),
    })?;
    Ok(Some(match tls.session_timeout {
        Some(lifetime) => Arc::new(Timed { inner: own, lifetime }),
        None => own,
    }))
}

fn shared_key(content: &Content<'_>) -> Result<([u8; NAME_LEN], RandomizedNonceKey), TlsError> {
    let bytes = content.bytes();
    if bytes.len() != KEY_LEN {
        return Err(content.wrong(format!("a ticket key of {} bytes; it must have {KEY_LEN}", bytes.len())));
    }
    let (name, secret) = bytes.split_first_chunk::<NAME_LEN>().ok_or_else(|| content.wrong("too short"))?;
    let key = RandomizedNonceKey::new(&AES_256_GCM, &sha256(secret))
        .map_err(|_| content.wrong("a ticket key that cannot be used"))?;
    Ok((*name, key))
}

impl ProducesTickets for SharedKeys {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(self.lifetime.as_secs()).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let (name, key) = self.keys.first()?;
        let mut sealed = plain.to_vec();
        let nonce = key.seal_in_place_append_tag(Aad::from(&self.context), &mut sealed).ok()?;
        Some([&name[..], nonce.as_ref(), &sealed].concat())
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = cipher.split_first_chunk::<NAME_LEN>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let (_, key) = self.keys.iter().find(|(known, _)| known == name)?;
        let mut sealed = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let plain = key.open_in_place(nonce, Aad::from(&self.context), &mut sealed).ok()?;
        Some(plain.to_vec())
    }
}

impl ProducesTickets for Timed {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(self.lifetime.as_secs()).unwrap_or(u32::MAX).min(self.inner.lifetime())
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.inner.encrypt(&[&now().to_be_bytes()[..], plain].concat())
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        let plain = self.inner.decrypt(cipher)?;
        let (issued, plain) = plain.split_first_chunk::<8>()?;
        let age = now().checked_sub(u64::from_be_bytes(*issued))?;
        (age <= self.lifetime.as_secs()).then(|| plain.to_vec())
    }
}

impl fmt::Debug for SharedKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedKeys").field("keys", &self.keys.len()).finish_non_exhaustive()
    }
}

impl fmt::Debug for Timed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timed").field("lifetime", &self.lifetime).finish_non_exhaustive()
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(names: &[u8], context: u8, lifetime: u64) -> Timed {
        let key = |n: &u8| {
            let key = RandomizedNonceKey::new(&AES_256_GCM, &[*n; 32]).expect("a key");
            ([*n; NAME_LEN], key)
        };
        let lifetime = Duration::from_secs(lifetime);
        let inner = SharedKeys { keys: names.iter().map(key).collect(), context: [context; 32], lifetime };
        Timed { inner: Arc::new(inner), lifetime }
    }

    #[test]
    fn a_ticket_opens_under_any_shared_key_in_the_same_context_alone() {
        let ticket = keys(&[1], 7, 100).encrypt(b"session").expect("a ticket");
        assert_eq!(keys(&[2, 1], 7, 100).decrypt(&ticket).as_deref(), Some(&b"session"[..]));
        assert_eq!(keys(&[2], 7, 100).decrypt(&ticket), None);
        assert_eq!(keys(&[1], 8, 100).decrypt(&ticket), None);
        for i in 0..ticket.len() {
            let mut damaged = ticket.clone();
            damaged[i] ^= 1;
            assert_eq!(keys(&[1], 7, 100).decrypt(&damaged), None);
            assert_eq!(keys(&[1], 7, 100).decrypt(&ticket[..i]), None);
        }
    }

    #[test]
    fn an_old_ticket_is_refused() {
        let producer = keys(&[1], 7, 100);
        let old = [&(now() - 101).to_be_bytes()[..], b"session"].concat();
        let ticket = producer.inner.encrypt(&old).expect("a ticket");
        assert_eq!(producer.decrypt(&ticket), None);
    }
}
