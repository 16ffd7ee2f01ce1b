//! What fuzz targets call: what reads an upstream's answer.

use bytes::Bytes;
use http::{HeaderMap, Method};

use super::{chunked as coding, head};

/// Reads `data` as an HTTP/1 response with its body; the number tells outcomes apart.
pub fn http1_response(data: &[u8]) -> u64 {
    let bytes = Bytes::copy_from_slice(data);
    let mut outcome = 0;
    for (n, method) in [Method::GET, Method::HEAD, Method::CONNECT].iter().enumerate() {
        outcome = outcome * 31 + n as u64 + one(&bytes, method);
    }
    outcome
}

fn one(bytes: &Bytes, method: &Method) -> u64 {
    match head::read(bytes, method, 100, HeaderMap::new()) {
        Err(_) => 1,
        Ok(None) => 2,
        Ok(Some(found)) => {
            let body = bytes.slice(found.len..);
            let class = u64::from(found.status.as_u16() / 100) + 10 * u64::from(found.keep_alive);
            3 + class * 100
                + match found.extent {
                    head::Extent::Chunked => 10 + chunked(body),
                    head::Extent::Length(_) => 4,
                    head::Extent::Close => 5,
                    head::Extent::Upgrade => 6,
                }
        }
    }
}

/// Whole, and byte by byte: both must find the same.
fn chunked(mut body: Bytes) -> u64 {
    let single = body.clone();
    let mut whole = coding::Decoder::new();
    let mut found = Vec::new();
    let end = loop {
        match whole.step(&mut body) {
            Ok(coding::Piece::Data(data)) => found.extend_from_slice(&data),
            Ok(coding::Piece::More) => break 0,
            Ok(coding::Piece::End(trailers)) => {
                break 1 + trailers.map_or(0, |fields| 1 + fields.len().min(3) as u64);
            }
            Err(_) => break 9,
        }
    };
    let mut apart = coding::Decoder::new();
    let mut again = Vec::new();
    let mut end_apart = 0;
    'bytes: for at in 0..single.len() {
        let mut byte = single.slice(at..=at);
        loop {
            match apart.step(&mut byte) {
                Ok(coding::Piece::Data(data)) => again.extend_from_slice(&data),
                Ok(coding::Piece::More) => break,
                Ok(coding::Piece::End(trailers)) => {
                    end_apart = 1 + trailers.map_or(0, |fields| 1 + fields.len().min(3) as u64);
                    break 'bytes;
                }
                Err(_) => {
                    end_apart = 9;
                    break 'bytes;
                }
            }
        }
    }
    assert_eq!((end, &found), (end_apart, &again), "cuts do not matter");
    end
}
