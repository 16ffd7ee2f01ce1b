//! Messages in pieces: what is large stands in the response as it stands in the resource, shared with all other responses.

use std::collections::VecDeque;

use bytes::{BufMut as _, Bytes, BytesMut};
use outrider_proto::prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

use super::HEADER;

/// From how many bytes on a resource is a piece of its own; a smaller one is cheaper to copy.
const LARGE: usize = 4 << 10;

/// A message as gRPC frames it, in pieces.
pub(in super::super) type Framed = VecDeque<Bytes>;

/// Fields of a message, one after the other.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    done: Framed,
    open: BytesMut,
}

/// How many bytes a field of so many bytes takes.
pub(super) fn field(tag: u32, length: usize) -> usize {
    key_len(tag) + encoded_len_varint(length as u64) + length
}

impl Pieces {
    /// Begins a field of so many bytes; what is added next is in it.
    pub(super) fn begin(&mut self, tag: u32, length: usize) {
        encode_key(tag, WireType::LengthDelimited, &mut self.open);
        encode_varint(length as u64, &mut self.open);
    }

    /// Adds a text; none when it is empty, as protobuf has it.
    pub(super) fn text(&mut self, tag: u32, text: &str) {
        if !text.is_empty() {
            self.always(tag, text);
        }
    }

    /// Adds an element of a list of texts.
    pub(super) fn always(&mut self, tag: u32, text: &str) {
        self.begin(tag, text.len());
        self.open.extend_from_slice(text.as_bytes());
    }

    /// Adds a resource's content.
    pub(super) fn body(&mut self, tag: u32, body: &Bytes) {
        self.begin(tag, body.len());
        if body.len() < LARGE {
            self.open.extend_from_slice(body);
            return;
        }
        self.close();
        self.done.push_back(body.clone());
    }

    fn close(&mut self) {
        // Of its size, and no larger: it lives as long as the client takes to read it.
        let open = std::mem::take(&mut self.open);
        if !open.is_empty() {
            self.done.push_back(Bytes::copy_from_slice(&open));
        }
    }

    /// The whole message, with gRPC's head before it.
    pub(super) fn framed(mut self) -> Framed {
        self.close();
        let length: usize = self.done.iter().map(Bytes::len).sum();
        let mut head = BytesMut::with_capacity(HEADER);
        head.put_u8(0);
        // A response is cut long before it has four gigabytes; a client would refuse one that has.
        head.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
        match self.done.front_mut() {
            // One piece less, and one write less.
            Some(first) if first.len() < LARGE => {
                head.extend_from_slice(first);
                *first = head.freeze();
            }
            _ => self.done.push_front(head.freeze()),
        }
        self.done
    }
}
