//! `x-request-id`: a UUID, version 4, whose fourteenth digit carries the trace decision.

use http::{HeaderMap, HeaderValue};
use outrider_core::rng::Rng;

use super::names::X_REQUEST_ID;

/// A fresh UUID. Its version digit stays 4, which stands for 'not traced'.
pub(crate) fn generate(rng: &impl Rng) -> [u8; 36] {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    const DASHES: [usize; 4] = [8, 13, 18, 23];
    let high = (rng.next_u64() & !0xf000) | 0x4000;
    let low = (rng.next_u64() & !(0b11 << 62)) | (0b10 << 62);
    let mut digits = (u128::from(high) << 64) | u128::from(low);
    let mut text = [b'-'; 36];
    for (position, place) in text.iter_mut().enumerate() {
        if !DASHES.contains(&position) {
            *place = HEX[(digits >> 124) as usize & 15];
            digits <<= 4;
        }
    }
    text
}

/// Makes an id where there is none, and a new one when the request comes from outside and `preserve` does not
/// forbid it. A kept id of an edge request loses its trace decision.
pub(crate) fn apply(
    headers: &mut HeaderMap,
    seen: bool,
    edge: bool,
    preserve: bool,
    pack_trace: bool,
    rng: &impl Rng,
) {
    let present = if seen { headers.get(X_REQUEST_ID).filter(|id| !id.is_empty()) } else { None };
    match present {
        Some(id) if !edge || preserve => {
            if edge
                && pack_trace
                && let Some(cleared) = without_trace(id)
            {
                headers.insert(X_REQUEST_ID, cleared);
            }
        }
        _ => {
            if let Ok(id) = HeaderValue::from_bytes(&generate(rng)) {
                headers.insert(X_REQUEST_ID, id);
            }
        }
    }
}

/// `id` with 'not traced' in its trace digit; `None` when it is no UUID or says so already.
fn without_trace(id: &HeaderValue) -> Option<HeaderValue> {
    let mut text: [u8; 36] = id.as_bytes().try_into().ok()?;
    if !matches!(text[14], b'9' | b'a' | b'b') {
        return None;
    }
    text[14] = b'4';
    HeaderValue::from_bytes(&text).ok()
}

#[cfg(test)]
mod tests {
    use outrider_core::rng::FastRng;

    use super::*;

    #[test]
    fn an_id_is_a_version_4_uuid() {
        let rng = FastRng::seeded(3);
        for _ in 0..100 {
            let id = generate(&rng);
            let text = std::str::from_utf8(&id).unwrap();
            assert_eq!(text.split('-').map(str::len).collect::<Vec<_>>(), [8, 4, 4, 4, 12]);
            assert_eq!(id[14], b'4');
            assert!(matches!(id[19], b'8' | b'9' | b'a' | b'b'));
        }
    }

    #[test]
    fn an_edge_replaces_the_clients_id_unless_told_to_keep_it() {
        const THEIRS: &str = "6dea6ee6-d3e0-9d2f-8a5c-2f6f2f8d2c10";
        let run = |id: Option<&'static str>, edge, preserve| {
            let mut headers = HeaderMap::new();
            if let Some(id) = id {
                headers.insert(X_REQUEST_ID, HeaderValue::from_static(id));
            }
            apply(&mut headers, id.is_some(), edge, preserve, true, &FastRng::seeded(1));
            headers[X_REQUEST_ID].to_str().unwrap().to_owned()
        };
        assert_eq!(run(Some(THEIRS), false, false), THEIRS);
        assert_ne!(run(Some(THEIRS), true, false), THEIRS);
        assert_eq!(run(Some(THEIRS), true, true), THEIRS.replace("-9d2f", "-4d2f"));
        assert_eq!(run(Some("abc"), true, true), "abc");
        assert_eq!(run(None, false, true).len(), 36);
        assert_eq!(run(Some(""), false, true).len(), 36);
    }
}
