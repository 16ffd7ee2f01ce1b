//! The chunked coding of a response's body (RFC 9112, section 7.1), byte by byte: a state machine without I/O.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

/// Bytes that chunk extensions may take in one body, and trailers in all.
const MAX_EXTENSIONS: usize = 16 * 1024;
const MAX_TRAILERS: usize = 60 * 1024;

/// Where the decoder stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before the first digit of a size.
    Start,
    /// In a size.
    Size,
    /// Behind a size, where white space may stand.
    Space,
    /// In an extension.
    Extension,
    /// Behind a size line's CR.
    SizeLf,
    /// In a chunk's data.
    Data,
    /// Behind the data.
    DataCr,
    /// Behind the data's CR.
    DataLf,
    /// In the trailer section; it ends with an empty line.
    Trailers,
    /// Behind all of it.
    Done,
}

/// What a step found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// Data.
    Data(Bytes),
    /// The end, with trailers if there are any.
    End(Option<HeaderMap>),
    /// All input is used up.
    More,
}

/// What was read is not the chunked coding, or too much of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// The decoder of one body.
#[derive(Debug)]
pub(super) struct Decoder {
    state: State,
    /// What is left of the chunk.
    size: u64,
    extensions: usize,
    trailers: Vec<u8>,
}

impl Decoder {
    pub(super) const fn new() -> Self {
        Self { state: State::Start, size: 0, extensions: 0, trailers: Vec::new() }
    }

    /// Takes what it can from the front of `input`.
    pub(super) fn step(&mut self, input: &mut Bytes) -> Result<Piece, Malformed> {
        loop {
            if self.state == State::Data {
                if input.is_empty() {
                    return Ok(Piece::More);
                }
                let take = usize::try_from(self.size).unwrap_or(usize::MAX).min(input.len());
                self.size -= take as u64;
                if self.size == 0 {
                    self.state = State::DataCr;
                }
                return Ok(Piece::Data(input.split_to(take)));
            }
            if self.state == State::Trailers {
                return self.trailer_section(input);
            }
            let Some(byte) = input.first().copied() else { return Ok(Piece::More) };
            bytes::Buf::advance(input, 1);
            self.byte(byte)?;
        }
    }

    fn byte(&mut self, byte: u8) -> Result<(), Malformed> {
        self.state = match (self.state, byte) {
            (State::Start | State::Size, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = char::from(byte).to_digit(16).unwrap_or(0);
                let size = self.size.checked_mul(16).and_then(|size| size.checked_add(u64::from(digit)));
                self.size = size.ok_or(Malformed)?;
                State::Size
            }
            (State::Size | State::Space, b' ' | b'\t') => State::Space,
            (State::Size | State::Space, b';') => State::Extension,
            (State::Size | State::Space | State::Extension, b'\r') => State::SizeLf,
            (State::Extension, byte) if byte != b'\n' => {
                self.extensions += 1;
                if self.extensions > MAX_EXTENSIONS {
                    return Err(Malformed);
                }
                State::Extension
            }
            (State::SizeLf, b'\n') if self.size == 0 => State::Trailers,
            (State::SizeLf, b'\n') => State::Data,
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Start,
            _ => return Err(Malformed),
        };
        Ok(())
    }

    fn trailer_section(&mut self, input: &mut Bytes) -> Result<Piece, Malformed> {
        while let Some(byte) = input.first().copied() {
            bytes::Buf::advance(input, 1);
            self.trailers.push(byte);
            if self.trailers.len() > MAX_TRAILERS {
                return Err(Malformed);
            }
            if self.trailers == b"\r\n" {
                self.state = State::Done;
                return Ok(Piece::End(None));
            }
            if self.trailers.ends_with(b"\r\n\r\n") {
                self.state = State::Done;
                return parse_trailers(&self.trailers).map(|trailers| Piece::End(Some(trailers)));
            }
        }
        Ok(Piece::More)
    }
}

fn parse_trailers(bytes: &[u8]) -> Result<HeaderMap, Malformed> {
    let mut fields = [httparse::EMPTY_HEADER; 64];
    match httparse::parse_headers(bytes, &mut fields) {
        Ok(httparse::Status::Complete((_, fields))) => fields
            .iter()
            .map(|field| {
                let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Malformed)?;
                let value = HeaderValue::from_bytes(field.value).map_err(|_| Malformed)?;
                Ok((name, value))
            })
            .collect(),
        _ => Err(Malformed),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The data, the trailers at the end if that came, and what was left over.
    type Decoded = (Vec<u8>, Option<Option<HeaderMap>>, Vec<u8>);

    /// Decodes `pieces`, given one after the other.
    fn decode(pieces: &[&[u8]]) -> Result<Decoded, Malformed> {
        let (mut decoder, mut data) = (Decoder::new(), Vec::new());
        for piece in pieces {
            let mut input = Bytes::copy_from_slice(piece);
            loop {
                match decoder.step(&mut input)? {
                    Piece::Data(bytes) => data.extend_from_slice(&bytes),
                    Piece::More => break,
                    Piece::End(trailers) => return Ok((data, Some(trailers), input.to_vec())),
                }
            }
        }
        Ok((data, None, Vec::new()))
    }

    #[test]
    fn chunks_are_joined_and_what_follows_is_left() {
        let (data, end, rest) = decode(&[b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\nHTTP"]).unwrap();
        assert_eq!((data.as_slice(), end, rest.as_slice()), (&b"abcde"[..], Some(None), &b"HTTP"[..]));
    }

    #[test]
    fn trailers_are_read() {
        let (_, end, _) = decode(&[b"0\r\nA: b\r\n", b"c:d\r\n\r\n"]).unwrap();
        let trailers = end.flatten().unwrap();
        assert_eq!((&trailers["a"], &trailers["c"]), (&"b".parse().unwrap(), &"d".parse().unwrap()));
    }

    #[test]
    fn what_is_not_chunked_is_refused() {
        for text in
            ["x\r\n", "\r\n", "3\r\nabcd", "3\nabc", "1ffffffffffffffff\r\n", "3;\nabc", "0\r\n a\r\n\r\n"]
        {
            assert_eq!(decode(&[text.as_bytes()]), Err(Malformed), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn cuts_do_not_matter(body in prop::collection::vec(any::<u8>(), 0..200), chunk in 1_usize..40, cut in 1_usize..20) {
            let mut coded = Vec::new();
            for part in body.chunks(chunk) {
                coded.extend_from_slice(format!("{:X}\r\n", part.len()).as_bytes());
                coded.extend_from_slice(part);
                coded.extend_from_slice(b"\r\n");
            }
            coded.extend_from_slice(b"0\r\n\r\n");
            let pieces: Vec<&[u8]> = coded.chunks(cut).collect();
            let (data, end, rest) = decode(&pieces).unwrap();
            prop_assert_eq!(data, body);
            prop_assert_eq!(end, Some(None));
            prop_assert!(rest.is_empty());
        }

        #[test]
        fn anything_is_read_without_panic(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..30), 0..6)) {
            let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
            let _ = decode(&pieces);
        }
    }
}
