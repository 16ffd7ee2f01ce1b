use std::sync::Arc;

use aws_lc_rs::digest::{Context as Hash, SHA256};
use outrider_config::model::{
    CommonTls, DataSource, DataSourceKind, DownstreamTls, TlsCertificate, TlsVersion, UpstreamTls,
    ValidationRef,
};
use outrider_core::stats::Registry;
use outrider_net::drain::DrainController;
use outrider_net::tls::{AlpnDefault, ClientTls, ServerTls, TlsTarget};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};

use super::*;
use crate::pipe;

/// A relay that runs in a task of its own, between a client and an upstream that the test plays.
struct Running {
    client: TcpStream,
    upstream: TcpStream,
    drain: DrainController,
    relay: tokio::task::JoinHandle<(End, u64, u64)>,
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
    let connect = TcpStream::connect(listener.local_addr().expect("an address"));
    let (accepted, connected) = tokio::join!(listener.accept(), connect);
    (accepted.expect("a connection").0, connected.expect("a connection"))
}

async fn start(idle: Option<Duration>, end: Option<Duration>) -> Running {
    let (downstream, client) = pair().await;
    let (ours, upstream) = pair().await;
    let drain = DrainController::new();
    let watch = drain.watch();
    let relay = tokio::task::spawn_local(async move {
        let (downstream, ours) = (IoStream::from_tcp(downstream), IoStream::from_tcp(ours));
        let end = end.map(|end| Instant::now() + end);
        let mut relay = Relay::new(downstream, ours, (0, 0), idle, end, watch);
        let mut counted = (0, 0);
        let end = relay.run(|received, sent| counted = (counted.0 + received, counted.1 + sent)).await;
        assert_eq!(counted, (relay.to_upstream.bytes, relay.to_downstream.bytes));
        match &end {
            End::Upstream(_) => relay.downstream.reset_on_close(),
            End::Downstream(_) => relay.upstream.reset_on_close(),
            _ => {}
        }
        (end, counted.0, counted.1)
    });
    Running { client, upstream, drain, relay }
}

fn local(test: impl Future<Output = ()> + 'static) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, test);
}

/// `len` bytes that repeat nowhere near.
fn noise(len: usize) -> Vec<u8> {
    let mut x = 0x9e37_79b9_7f4a_7c15_u64;
    let next = |_| {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        x as u8
    };
    (0..len).map(next).collect()
}

fn hash(bytes: &[u8]) -> Vec<u8> {
    let mut hash = Hash::new(&SHA256);
    hash.update(bytes);
    hash.finish().as_ref().to_vec()
}

#[test]
fn each_side_may_end_first_and_the_other_goes_on() {
    local(async {
        for client_first in [true, false] {
            let Running { mut client, mut upstream, relay, .. } = start(None, None).await;
            let (first, second) =
                if client_first { (&mut client, &mut upstream) } else { (&mut upstream, &mut client) };
            first.write_all(b"question").await.expect("written");
            first.shutdown().await.expect("an end");
            let mut question = String::new();
            second.read_to_string(&mut question).await.expect("read to the end");
            assert_eq!(question, "question");
            second.write_all(b"a longer answer").await.expect("written");
            second.shutdown().await.expect("an end");
            let mut answer = String::new();
            first.read_to_string(&mut answer).await.expect("read to the end");
            assert_eq!(answer, "a longer answer");
            let (end, received, sent) = relay.await.expect("ended");
            assert!(matches!(end, End::Finished), "{end:?}");
            assert_eq!((received, sent), if client_first { (8, 15) } else { (15, 8) });
        }
    });
}

#[test]
fn bulk_arrives_whole_by_splice_both_ways_at_once_and_pipes_go_back() {
    local(async {
        let Running { client, upstream, relay, .. } = start(None, None).await;
        let data = noise(24 << 20);
        let spliced = pipe::spliced();
        let exchange = async |stream: TcpStream, data: &[u8]| {
            let (mut read, mut write) = stream.into_split();
            let send = async {
                write.write_all(data).await.expect("written");
                write.shutdown().await.expect("an end");
            };
            let mut got = Vec::new();
            let (_, read) = tokio::join!(send, read.read_to_end(&mut got));
            read.expect("read to the end");
            hash(&got)
        };
        let (a, b) = tokio::join!(exchange(client, &data), exchange(upstream, &data));
        assert_eq!(a, hash(&data));
        assert_eq!(b, hash(&data));
        assert!(matches!(relay.await.expect("ended").0, End::Finished));
        let spliced = pipe::spliced() - spliced;
        assert!(spliced > (24 << 20), "only {spliced} bytes by splice");
        assert!(pipe::kept() >= 1);
    });
}

#[test]
fn a_slow_reader_holds_the_sender_back_and_loses_nothing() {
    local(async {
        let Running { client, mut upstream, relay, .. } = start(None, None).await;
        let chunk = noise(1 << 16);
        let mut sent = Vec::new();
        // Write until nothing moves: the kernel's buffers and one pipe are full.
        let mut quiet = 0;
        while quiet < 200 {
            match client.try_write(&chunk) {
                Ok(n) => {
                    sent.extend_from_slice(&chunk[..n]);
                    quiet = 0;
                }
                Err(_) => {
                    quiet += 1;
                    tokio::task::yield_now().await;
                }
            }
        }
        // Two sockets' send and receive buffers at their largest are 20 MB; the proxy itself adds a pipe.
        assert!(sent.len() < 24 << 20, "{} bytes were taken without a reader", sent.len());
        drop(client);
        let mut got = Vec::new();
        let write_end = upstream.read_to_end(&mut got);
        write_end.await.expect("read to the end");
        assert_eq!(hash(&got), hash(&sent));
        drop(upstream);
        relay.await.expect("ended");
    });
}

#[test]
fn small_messages_are_copied_and_no_pipe_is_taken() {
    local(async {
        let Running { mut client, mut upstream, relay, .. } = start(None, None).await;
        let spliced = pipe::spliced();
        for _ in 0..50 {
            let mut bytes = [0; 4];
            client.write_all(b"ping").await.expect("written");
            upstream.read_exact(&mut bytes).await.expect("read");
            upstream.write_all(b"pong").await.expect("written");
            client.read_exact(&mut bytes).await.expect("read");
            assert_eq!(&bytes, b"pong");
        }
        assert_eq!(pipe::spliced(), spliced);
        drop(client);
        drop(upstream);
        relay.await.expect("ended");
    });
}

#[test]
fn a_reset_is_passed_on_as_a_reset() {
    local(async {
        for from_client in [true, false] {
            let Running { client, upstream, relay, .. } = start(None, None).await;
            let (first, mut second) = if from_client { (client, upstream) } else { (upstream, client) };
            socket2::SockRef::from(&first).set_linger(Some(Duration::ZERO)).expect("linger");
            drop(first);
            let error = second.read(&mut [0; 8]).await.expect_err("a reset");
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
            let (end, ..) = relay.await.expect("ended");
            let right =
                if from_client { matches!(end, End::Downstream(_)) } else { matches!(end, End::Upstream(_)) };
            assert!(right, "{end:?}");
        }
    });
}

#[test]
fn silence_and_age_end_a_session_and_traffic_keeps_it() {
    local(async {
        let idle = Duration::from_millis(60);
        let Running { mut client, mut upstream, relay, .. } = start(Some(idle), None).await;
        let begun = Instant::now();
        let mut last = begun;
        // Three times the limit with a byte now and then: it stays.
        while begun.elapsed() < idle * 3 {
            last = Instant::now();
            client.write_all(b"x").await.expect("written");
            upstream.read_exact(&mut [0]).await.expect("read");
            tokio::task::yield_now().await;
        }
        let (end, ..) = relay.await.expect("ended");
        assert!(matches!(end, End::Idle), "{end:?}");
        assert!(last.elapsed() >= idle);
        let Running { client, relay, .. } = start(Some(Duration::from_secs(60)), Some(idle)).await;
        assert!(matches!(relay.await.expect("ended").0, End::TooLong));
        drop(client);
    });
}

#[test]
fn draining_leaves_a_session_alone_and_termination_ends_it() {
    local(async {
        let Running { mut client, mut upstream, drain, relay } = start(None, None).await;
        drain.start(Duration::from_secs(60), false);
        client.write_all(b"x").await.expect("written");
        upstream.read_exact(&mut [0]).await.expect("read");
        drain.terminate();
        assert!(matches!(relay.await.expect("ended").0, End::Terminated));
    });
}

#[test]
fn no_more_is_held_than_the_limit_allows() {
    local(async {
        let (downstream, client) = UnixStream::pair().expect("a pair");
        let (ours, upstream) = UnixStream::pair().expect("a pair");
        let mut direction = crate::direction::Direction::new(100);
        let (mut from, mut to) = (IoStream::from_unix(downstream), IoStream::from_unix(ours));
        // The reader reads nothing: what its socket does not take waits in the direction.
        let data = noise(8 << 20);
        let mut written = 0;
        for _ in 0..1_000_000 {
            match client.try_write(&data) {
                Ok(n) => written += n,
                Err(_) => {
                    let before = direction.bytes;
                    let poll = std::future::poll_fn(|cx| {
                        std::task::Poll::Ready(direction.poll(cx, &mut from, &mut to).is_pending())
                    });
                    assert!(poll.await, "the direction goes on");
                    if direction.bytes == before {
                        break;
                    }
                    client.writable().await.expect("room");
                }
            }
        }
        let mut taken = 0;
        let mut sink = vec![0; 1 << 20];
        while let Ok(n) = upstream.try_read(&mut sink) {
            taken += n as u64;
        }
        assert!(written > 1000 && direction.bytes - taken <= 100, "{} and {taken}", direction.bytes);
    });
}

#[test]
fn other_transports_are_copied() {
    local(async {
        let (downstream, mut client) = UnixStream::pair().expect("a pair");
        let (ours, mut upstream) = pair().await;
        let watch = DrainController::new();
        let drain = watch.watch();
        let relay = tokio::task::spawn_local(async move {
            let (downstream, ours) = (IoStream::from_unix(downstream), IoStream::from_tcp(ours));
            Relay::new(downstream, ours, (0, 0), None, None, drain).run(|_, _| {}).await
        });
        let data = noise(4 << 20);
        let expected = hash(&data);
        let send = async {
            client.write_all(&data).await.expect("written");
            client.shutdown().await.expect("an end");
        };
        let mut got = Vec::new();
        let (_, read) = tokio::join!(send, upstream.read_to_end(&mut got));
        read.expect("read to the end");
        assert_eq!(hash(&got), expected);
        drop(upstream);
        relay.await.expect("ended");
    });
}

/// Both ends of a TLS session.
async fn tls_pair() -> (IoStream, IoStream) {
    let key = rcgen::KeyPair::generate().expect("a key");
    let params = rcgen::CertificateParams::new(vec!["a.test".to_owned()]).expect("parameters");
    let cert = params.self_signed(&key).expect("a certificate").pem();
    let inline = |text: &str| DataSource {
        kind: DataSourceKind::Inline(text.as_bytes().into()),
        field: "test".into(),
    };
    let certificate =
        TlsCertificate { chain: inline(&cert), key: inline(&key.serialize_pem()), ocsp_staple: None };
    let common = |certificates| CommonTls {
        certificates,
        validation: ValidationRef::None,
        alpn: Vec::new(),
        min_version: TlsVersion::V12,
        max_version: TlsVersion::V13,
        cipher_suites: Vec::new(),
        curves: Vec::new(),
        key_log: None,
    };
    let server = DownstreamTls {
        common: common(vec![certificate.into()]),
        require_client_certificate: false,
        require_sni: false,
        full_scan_certs: false,
        disable_stateless_resumption: false,
        disable_stateful_resumption: false,
        session_timeout: None,
        session_ticket_keys: None,
    };
    let client = UpstreamTls {
        common: common(Vec::new()),
        sni: String::new(),
        auto_host_sni: false,
        auto_sni_san_validation: false,
        max_session_keys: 1,
    };
    let scope = Registry::new().scope("x.");
    let server = Arc::new(server).resolve(&|_| None).expect("static");
    let client = Arc::new(client).resolve(&|_| None).expect("static");
    let server = ServerTls::build(&server, &scope).expect("a server");
    let client = ClientTls::build(&client, AlpnDefault::None, &scope).expect("a client");
    let (a, b) = pair().await;
    let target = TlsTarget::default();
    let connect = client.connect(IoStream::from_tcp(b), &target);
    let (accepted, connected) = tokio::join!(server.accept(IoStream::from_tcp(a)), connect);
    (accepted.expect("a session").0, connected.expect("a session").0)
}

#[test]
fn tls_is_relayed_and_a_client_that_just_goes_loses_nothing() {
    local(async {
        let (downstream, mut client) = tls_pair().await;
        let (ours, mut upstream) = pair().await;
        let controller = DrainController::new();
        let drain = controller.watch();
        let relay = tokio::task::spawn_local(async move {
            Relay::new(downstream, IoStream::from_tcp(ours), (0, 0), None, None, drain).run(|_, _| {}).await
        });
        upstream.write_all(b"hello").await.expect("written");
        let mut hello = [0; 5];
        client.read_exact(&mut hello).await.expect("read");
        assert_eq!(&hello, b"hello");
        let data = noise(300_000);
        let expected = hash(&data);
        let send = async move {
            client.write_all(&data).await.expect("written");
            client.flush().await.expect("flushed");
            // No close_notify.
            drop(client);
        };
        let mut got = Vec::new();
        let (_, read) = tokio::join!(send, upstream.read_to_end(&mut got));
        read.expect("read to the end");
        assert_eq!(hash(&got), expected);
        drop(upstream);
        relay.await.expect("ended");
    });
}

#[test]
fn a_session_is_small() {
    assert!(size_of::<Relay>() <= 320, "{}", size_of::<Relay>());
}
