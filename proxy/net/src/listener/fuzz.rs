//! What fuzz targets call: what reads the first bytes of a connection, and rules that hold for any bytes.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use super::filters::{PEEK_MAX, client_hello, proxy_protocol as proxy};

/// Reads `data` as a PROXY protocol header; the number tells outcomes apart.
///
/// # Panics
/// What was decided of a part is decided otherwise of more.
pub fn proxy_protocol(data: &[u8]) -> u64 {
    decided_early(data, proxy::parse)
}

/// Reads `data` as a ClientHello; the number tells outcomes apart.
///
/// # Panics
/// What was decided of a part is decided otherwise of more.
pub fn client_hello(data: &[u8]) -> u64 {
    decided_early(data.get(..PEEK_MAX).unwrap_or(data), client_hello::parse)
}

/// The outcome of all of `data`, having seen that of its parts: bytes come as the network cuts them.
fn decided_early<T: PartialEq + std::fmt::Debug>(data: &[u8], parse: impl Fn(&[u8]) -> Option<T>) -> u64 {
    let whole = parse(data);
    let mut decided = None;
    // Every cut of what is short, some of what is long.
    let step = (data.len() / 64).max(1);
    for cut in (0..data.len()).step_by(step) {
        let now = parse(data.get(..cut).unwrap_or_default());
        assert!(decided.is_none() || decided == now, "{decided:?} became {now:?} at {cut}");
        decided = now;
    }
    assert!(decided.is_none() || decided == whole, "{decided:?} became {whole:?}");
    let mut hasher = DefaultHasher::new();
    // Values are many; the shape of them is what differs.
    let shape: String = format!("{whole:?}").chars().filter(|c| c.is_alphabetic()).take(40).collect();
    shape.hash(&mut hasher);
    hasher.finish()
}
