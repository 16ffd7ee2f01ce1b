//! What is written is what clients read, and what is read is what clients write, however it is cut into frames.

use bytes::Bytes;
use futures_util::stream;
use http_body::Frame;
use http_body_util::StreamBody;
use outrider_proto::pb::envoy::config::cluster::v3::Cluster;
use outrider_proto::pb::envoy::service::discovery::v3 as xds;
use outrider_proto::prost::Message as _;
use proptest::prelude::*;

use super::{Delta, Framed, HEADER, Incoming, Protocol, Whole};
use crate::ads::session::Due;
use crate::translate::{Resource, Type};

/// One response: a resource that is large among small ones, and one whose name is empty.
fn due(sizes: &[usize], removed: &[&str]) -> Due {
    let resource = |(index, size): (usize, &usize)| {
        let name = "x".repeat(*size);
        Resource::new(&index.to_string(), &Cluster { name, ..Default::default() })
    };
    Due {
        kind: Type::Cluster,
        nonce: "7".into(),
        version: "00ff".into(),
        resources: sizes.iter().enumerate().map(resource).collect(),
        removed: removed.iter().map(|name| (*name).into()).collect(),
    }
}

fn content(framed: Framed) -> Vec<u8> {
    let all: Vec<u8> = framed.into_iter().flatten().collect();
    let (head, content) = all.split_first_chunk::<HEADER>().unwrap();
    assert_eq!(head[0], 0);
    assert_eq!(u32::from_be_bytes(head[1..].try_into().unwrap()) as usize, content.len());
    content.to_vec()
}

const URL: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";

proptest! {
    #[test]
    fn responses_read_as_those_of_the_api(sizes in prop::collection::vec(prop_oneof![0..300_usize, 3900..9000_usize], 0..6)) {
        let due = due(&sizes, &["three", ""]);
        let read = xds::DeltaDiscoveryResponse::decode(&*content(Delta::write(&due, "here"))).unwrap();
        prop_assert_eq!((&*read.system_version_info, &*read.nonce, &*read.type_url), ("00ff", "7", URL));
        prop_assert_eq!(read.removed_resources, ["three", ""]);
        prop_assert_eq!(read.control_plane.unwrap().identifier, "here");
        prop_assert_eq!(read.resources.len(), sizes.len());
        for (read, sent) in read.resources.iter().zip(&due.resources) {
            prop_assert_eq!((&*read.name, &read.version), (&*sent.name, &sent.version_text()));
            let any = read.resource.as_ref().unwrap();
            prop_assert_eq!((&*any.type_url, &*any.value), (URL, &*sent.body));
        }

        let read = xds::DiscoveryResponse::decode(&*content(Whole::write(&due, "here"))).unwrap();
        prop_assert_eq!((&*read.version_info, &*read.nonce, &*read.type_url), ("00ff", "7", URL));
        prop_assert_eq!(read.control_plane.unwrap().identifier, "here");
        prop_assert_eq!(read.resources.len(), sizes.len());
        for (any, sent) in read.resources.iter().zip(&due.resources) {
            prop_assert_eq!((&*any.type_url, &*any.value), (URL, &*sent.body));
        }
    }
}

#[test]
fn a_large_resource_is_not_copied_into_a_response() {
    let due = due(&[10, 100_000, 10], &[]);
    let shared = due.resources[1].body.as_ptr();
    let pieces = Delta::write(&due, "here");
    assert_eq!(pieces.len(), 3, "what is before it, it, and what is after it");
    assert_eq!(pieces[1].as_ptr(), shared);
}

fn request(names: usize, nonce: usize) -> xds::DiscoveryRequest {
    let resource_names = (0..names).map(|number| format!("outbound|80||service-{number}")).collect();
    xds::DiscoveryRequest { resource_names, response_nonce: nonce.to_string(), ..Default::default() }
}

fn framed(message: &xds::DiscoveryRequest) -> Vec<u8> {
    let body = message.encode_to_vec();
    let mut out = vec![0];
    out.extend(u32::try_from(body.len()).unwrap().to_be_bytes());
    out.extend(body);
    out
}

fn incoming(frames: Vec<Bytes>) -> Incoming<xds::DiscoveryRequest> {
    let frames = frames.into_iter().map(|data| Ok::<_, tonic::Status>(Frame::data(data)));
    Incoming::new(tonic::body::Body::new(StreamBody::new(stream::iter(frames))))
}

/// All messages, and how it ended.
fn read_all(frames: Vec<Bytes>) -> (Vec<xds::DiscoveryRequest>, Option<tonic::Status>) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let (mut incoming, mut out) = (incoming(frames), Vec::new());
        loop {
            match incoming.message().await {
                Ok(Some(message)) => out.push(message),
                Ok(None) => return (out, None),
                Err(status) => return (out, Some(status)),
            }
        }
    })
}

proptest! {
    #[test]
    fn requests_are_read_however_they_are_cut(
        sizes in prop::collection::vec(prop_oneof![Just(0_usize), 1..5_usize, 400..900_usize], 0..6),
        cuts in prop::collection::vec(1..3000_usize, 0..20),
        missing in 0..4_usize,
    ) {
        let messages: Vec<_> = sizes.iter().enumerate().map(|(nonce, names)| request(*names, nonce)).collect();
        let mut bytes: Vec<u8> = messages.iter().flat_map(framed).collect();
        let cut_off = missing > 0 && bytes.len() > missing;
        if cut_off {
            bytes.truncate(bytes.len() - missing);
        }
        let (mut rest, mut frames) = (Bytes::from(bytes), Vec::new());
        for cut in cuts {
            frames.push(rest.split_to(cut.min(rest.len())));
        }
        frames.push(rest);
        let (read, ended) = read_all(frames);
        prop_assert_eq!(ended.is_some(), cut_off);
        let whole = messages.len() - usize::from(cut_off);
        prop_assert_eq!(&read[..], &messages[..whole]);
    }
}

#[test]
fn what_is_no_message_ends_the_stream_with_a_reason() {
    let told = |bytes: &[u8]| read_all(vec![Bytes::copy_from_slice(bytes)]).1.unwrap();
    assert!(told(&[1, 0, 0, 0, 0]).message().contains("compressed"));
    let large = told(&[0, 0xff, 0xff, 0xff, 0xff]);
    assert_eq!(large.code(), tonic::Code::OutOfRange);
    assert!(large.message().contains("4294967295 bytes, 4194304 at most"), "{large}");
    assert!(told(&[0, 0, 0, 0, 1, 0xff]).message().contains("cannot be read"));
}

#[tokio::test]
async fn memory_of_a_large_message_is_given_back() {
    let large = Bytes::from(framed(&request(5000, 1)));
    let small = Bytes::from(framed(&request(1, 2)));
    let mut incoming = incoming(vec![large, small.slice(..3), small.slice(3..)]);
    assert_eq!(incoming.message().await.unwrap().unwrap().resource_names.len(), 5000);
    assert!(incoming.buffer.capacity() <= 8 << 10, "{}", incoming.buffer.capacity());
    assert_eq!(incoming.message().await.unwrap().unwrap().resource_names.len(), 1);
}
