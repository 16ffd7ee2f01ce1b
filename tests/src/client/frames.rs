//! HTTP/2 by hand: frames that no library would send, and a reading of what comes back.

/// The connection preface and an empty SETTINGS frame.
#[must_use]
pub fn preface() -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(4, 0, 0, b""));
    bytes
}

/// A frame: type, flags, stream and payload.
#[must_use]
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    let mut bytes = vec![length[1], length[2], length[3], kind, flags];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A HEADERS frame (END_HEADERS, and END_STREAM if `end`), fields as literals without indexing.
#[must_use]
pub fn headers(stream: u32, end: bool, fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            // HPACK string: no Huffman, 7-bit length prefix (RFC 7541, 5.2).
            let length = text.len();
            if length < 127 {
                block.push(u8::try_from(length).unwrap_or(0));
            } else {
                block.push(127);
                let mut rest = length - 127;
                while rest >= 128 {
                    block.push(u8::try_from(rest % 128).unwrap_or(0) | 128);
                    rest /= 128;
                }
                block.push(u8::try_from(rest).unwrap_or(0));
            }
            block.extend_from_slice(text.as_bytes());
        }
    }
    frame(1, if end { 5 } else { 4 }, stream, &block)
}

/// What matters of a stream of frames: one line for each HEADERS, RST_STREAM and GOAWAY, and the end of a DATA.
#[must_use]
pub fn digest(mut bytes: &[u8]) -> Vec<String> {
    let mut lines = Vec::new();
    while let [l0, l1, l2, kind, flags, s0, s1, s2, s3, rest @ ..] = bytes {
        let length = u32::from_be_bytes([0, *l0, *l1, *l2]) as usize;
        let stream = u32::from_be_bytes([*s0 & 0x7f, *s1, *s2, *s3]);
        let payload = rest.get(..length).unwrap_or(rest);
        let code = |at: usize| {
            payload
                .get(at..at + 4)
                .and_then(|b| <[u8; 4]>::try_from(b).ok())
                .map_or_else(|| "?".into(), |b| format!("{:?}", h2::Reason::from(u32::from_be_bytes(b))))
        };
        match kind {
            0 if flags & 1 == 1 => lines.push(format!("stream {stream} ends with data")),
            1 => lines.push(format!(
                "stream {stream} headers, status {}{}",
                status(payload),
                if flags & 1 == 1 { ", ends" } else { "" }
            )),
            3 => lines.push(format!("stream {stream} reset {}", code(0))),
            7 => lines.push(format!("goaway {}", code(4))),
            _ => {}
        }
        bytes = rest.get(length..).unwrap_or_default();
    }
    lines
}

/// The status at the head of a header block, as far as it can be told without decoding Huffman.
fn status(block: &[u8]) -> String {
    // A block may begin with changes of the table's size (001xxxxx).
    let first = block.iter().find(|b| **b & 0xe0 != 0x20).copied().unwrap_or(0);
    match first {
        0x88 => "200".into(),
        0x89 => "204".into(),
        0x8a => "206".into(),
        0x8b => "304".into(),
        0x8c => "400".into(),
        0x8d => "404".into(),
        0x8e => "500".into(),
        _ => "other".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::{digest, frame, headers};

    #[test]
    fn a_digest_tells_statuses_resets_and_goaways() {
        let mut bytes = frame(1, 5, 1, &[0x8c]);
        bytes.extend(frame(3, 0, 3, &1_u32.to_be_bytes()));
        bytes.extend(frame(7, 0, 0, &[0, 0, 0, 1, 0, 0, 0, 0]));
        assert_eq!(
            digest(&bytes),
            ["stream 1 headers, status 400, ends", "stream 3 reset PROTOCOL_ERROR", "goaway NO_ERROR"]
        );
    }

    #[test]
    fn long_values_get_a_long_length() {
        let value = "x".repeat(300);
        let bytes = headers(1, true, &[("a", &value)]);
        assert_eq!(bytes.len(), 9 + 1 + 2 + 3 + 300);
    }
}
