//! Listeners as their clients see them: real sockets, a handler that tells what it got.

#![expect(clippy::expect_used, reason = "a test that cannot go on fails")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use outrider_config::model::{
    FilterChain, FilterChainMatch, ListenerAddress, ListenerFilterKind, ListenerFilterMatch, NO_LIMIT,
    ProxyProtocol, RuntimeInteger, SocketAddress,
};
use outrider_core::stats::Registry;
use outrider_net::listener::{GlobalConnections, Inherited, ListenerShared, Sockets};
use outrider_telemetry::access_log::LogFiles;
use support::listen::{Worker, address, chain, listener, local, named, talk};
use support::{Authority, Wish, dns, downstream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[test]
fn a_connection_gets_its_handler_and_is_counted_until_it_ends() {
    local(async {
        let worker = Worker::new(None);
        let (_listener, to) = worker.start(listener(named("only"), vec![]));
        let to = to.expect("an address");
        let mut stream = TcpStream::connect(to).await.expect("a connection");
        let mut answer = [0; 11];
        stream.read_exact(&mut answer).await.expect("an answer");
        assert_eq!(&answer, b"chain=only ");
        assert_eq!(worker.registry.value("listener.test.downstream_cx_active"), Some(1));
        assert_eq!(worker.registry.value("listener.test.worker_0.downstream_cx_active"), Some(1));
        let peer = worker.seen.borrow()[0].remote.ip();
        assert_eq!(peer, Some(stream.local_addr().expect("an address")));
        drop(stream);
        worker.wait_for("listener.test.downstream_cx_destroy", 1).await;
        worker.wait_for("listener.test.downstream_cx_active", 0).await;
    });
}

#[test]
fn inspectors_tell_tls_http_and_other_bytes_apart_and_leave_them_unread() {
    local(async {
        let worker = Worker::new(None);
        let protocol = |name: &str, protocol: &str| {
            let protocols = vec![protocol.into()];
            chain(name, FilterChainMatch { application_protocols: protocols, ..Default::default() })
        };
        let tls = FilterChainMatch { transport_protocol: "tls".into(), ..Default::default() };
        let chains = vec![
            protocol("h1", "http/1.1"),
            protocol("h2", "h2c"),
            chain("tls", tls),
            chain("other", FilterChainMatch::default()),
        ];
        let filters = vec![ListenerFilterKind::TlsInspector, ListenerFilterKind::HttpInspector];
        let (_listener, to) = worker.start(listener(chains, filters));
        let to = to.expect("an address");
        assert_eq!(talk(to, &[b"GET", b" / HTTP/1.1\r", b"\n\r\n"]).await, "chain=h1 GET / HTTP/1.1\r\n\r\n");
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        assert!(talk(to, &[&preface[..7], &preface[7..]]).await.starts_with("chain=h2 PRI"));
        assert_eq!(talk(to, &[b"*1\r\n"]).await, "chain=other *1\r\n");
        worker.wait_for("tls_inspector.tls_not_found", 3).await;
        worker.wait_for("http_inspector.http11_found", 1).await;
        // An unfinished hello, then the end: there is nothing to decide any more.
        talk(to, &[&[22, 3, 1, 0, 200, 1]]).await;
        worker.wait_for("listener.test.downstream_listener_filter_remote_close", 1).await;
    });
}

#[test]
fn the_sni_chooses_the_chain_whose_certificate_is_shown() {
    local(async {
        let worker = Worker::new(None);
        let ca = Authority::new("root");
        let secure = |name: &str| {
            let leaf = ca.leaf(Wish { names: vec![dns(name)], ..Wish::default() });
            let matches = FilterChainMatch { server_names: vec![name.into()], ..Default::default() };
            let plain = chain(name, matches);
            Arc::new(FilterChain { tls: Some(Arc::new(downstream(&[&leaf]))), ..(*plain).clone() })
        };
        let chains = vec![secure("a.test"), secure("b.test")];
        let (_listener, to) = worker.start(listener(chains, vec![ListenerFilterKind::TlsInspector]));
        let to = to.expect("an address");
        let scope = worker.registry.scope("cluster.c.");
        let client = outrider_net::tls::ClientTls::build(
            &std::sync::Arc::new(support::upstream(&[])).resolve(&|_| None).expect("static"),
            outrider_net::tls::AlpnDefault::None,
            &scope,
        )
        .expect("a client");
        let ask = async |sni: &str| {
            let stream = TcpStream::connect(to).await.expect("a connection");
            let target = outrider_net::tls::TlsTarget { sni: Some(sni), ..Default::default() };
            client.connect(outrider_net::io::IoStream::from_tcp(stream), &target).await
        };
        let (mut stream, info) = ask("b.test").await.expect("a session");
        assert_eq!(info.peer.expect("a certificate").dns_sans, ["b.test"]);
        let mut answer = [0; 13];
        stream.read_exact(&mut answer).await.expect("an answer");
        assert_eq!(&answer, b"chain=b.test ");
        assert_eq!(worker.seen.borrow()[0].sni.as_deref(), Some("b.test"));
        assert!(ask("c.test").await.is_err());
        worker.wait_for("listener.test.no_filter_chain_match", 1).await;
        worker.wait_for("listener.test.ssl.handshake", 1).await;
    });
}

#[test]
fn a_proxy_header_is_taken_out_and_names_the_client() {
    local(async {
        let worker = Worker::new(None);
        let filter = |allow_without| {
            ListenerFilterKind::ProxyProtocol(ProxyProtocol { allow_without, ..Default::default() })
        };
        let (_strict, to) = worker.start(listener(named("p"), vec![filter(false)]));
        let to = to.expect("an address");
        let header = b"PROXY TCP4 1.2.3.4 5.6.7.8 999 80\r\n";
        assert_eq!(talk(to, &[&header[..9], &header[9..], b"data"]).await, "chain=p data");
        {
            let seen = worker.seen.borrow();
            assert_eq!(seen[0].remote.to_string(), "1.2.3.4:999");
            assert_eq!((seen[0].local.to_string().as_str(), seen[0].local_restored), ("5.6.7.8:80", true));
            assert_eq!(seen[0].direct_local.ip(), Some(to));
        }
        assert!(!talk(to, &[b"data"]).await.contains("chain"));
        worker.wait_for("listener.test.downstream_listener_filter_error", 1).await;
        worker.wait_for("proxy_proto.not_found_disallowed", 1).await;
        let (_lenient, to) = worker.start(listener(named("q"), vec![filter(true)]));
        assert_eq!(talk(to.expect("an address"), &[b"data"]).await, "chain=q data");
    });
}

#[test]
fn use_original_dst_hands_over_to_the_listener_of_the_address() {
    local(async {
        let worker = Worker::new(None);
        let filters = vec![ListenerFilterKind::ProxyProtocol(ProxyProtocol::default())];
        let mut front = listener(named("front"), filters);
        front.use_original_dst = true;
        let mut exact = listener(named("exact"), vec![]);
        (exact.bind_to_port, exact.addresses) = (false, vec![address("10.0.0.1:80")]);
        let mut wild = listener(named("wild"), vec![ListenerFilterKind::HttpInspector]);
        (wild.bind_to_port, wild.addresses) = (false, vec![address("0.0.0.0:80")]);
        wild.stat_prefix = "wild".into();
        let (_front, to) = worker.start(front);
        let (_exact, none) = worker.start(exact);
        let (wild, _) = worker.start(wild);
        assert_eq!(none, None);
        let to = to.expect("an address");
        assert_eq!(talk(to, &[b"PROXY TCP4 9.9.9.9 10.0.0.1 1 80\r\n", b"x"]).await, "chain=exact x");
        assert_eq!(talk(to, &[b"PROXY TCP4 9.9.9.9 10.0.0.2 1 80\r\n", b"x y"]).await, "chain=wild x y");
        assert_eq!(talk(to, &[b"PROXY TCP4 9.9.9.9 10.0.0.2 1 81\r\n", b"x"]).await, "chain=front x");
        worker.wait_for("listener.wild.downstream_cx_total", 1).await;
        drop(wild);
        assert_eq!(talk(to, &[b"PROXY TCP4 9.9.9.9 10.0.0.2 1 80\r\n", b"x"]).await, "chain=front x");
        worker.wait_for("listener.wild.downstream_cx_active", 0).await;
    });
}

#[test]
fn filters_time_out_and_predicates_switch_them_off() {
    local(async {
        let worker = Worker::new(None);
        let mut closing = listener(named("c"), vec![ListenerFilterKind::TlsInspector]);
        closing.stat_prefix = "closing".into();
        let mut going_on = listener(named("g"), vec![ListenerFilterKind::HttpInspector]);
        going_on.continue_on_listener_filters_timeout = true;
        let short = Some(Duration::from_millis(20));
        (closing.listener_filters_timeout, going_on.listener_filters_timeout) = (short, short);
        let mut off = listener(named("o"), vec![ListenerFilterKind::TlsInspector]);
        let not_zero = ListenerFilterMatch::DestinationPort { start: 1, end: 65536 };
        off.listener_filters[0].disabled = Some(ListenerFilterMatch::And(vec![not_zero]));
        let mut streams = Vec::new();
        let mut running = Vec::new();
        for listener in [closing, going_on, off] {
            let (listener, to) = worker.start(listener);
            running.push(listener);
            streams.push(TcpStream::connect(to.expect("an address")).await.expect("a connection"));
        }
        let mut answers = Vec::new();
        for mut stream in streams {
            let mut bytes = [0; 8];
            answers.push((stream.read(&mut bytes).await.ok(), bytes[0], bytes[6]));
        }
        assert_eq!(answers, [(Some(0), 0, 0), (Some(8), b'c', b'g'), (Some(8), b'c', b'o')]);
        worker.wait_for("listener.closing.downstream_pre_cx_timeout", 1).await;
        worker.wait_for("listener.test.downstream_pre_cx_timeout", 1).await;
    });
}

#[test]
fn who_was_silent_once_is_not_waited_for_again() {
    local(async {
        let worker = Worker::new(None);
        let http = FilterChainMatch { application_protocols: vec!["http/1.1".into()], ..Default::default() };
        let chains = vec![chain("http", http), chain("other", FilterChainMatch::default())];
        let mut listener =
            listener(chains, vec![ListenerFilterKind::TlsInspector, ListenerFilterKind::HttpInspector]);
        listener.continue_on_listener_filters_timeout = true;
        listener.listener_filters_timeout = Some(Duration::from_millis(100));
        let (_listener, to) = worker.start(listener);
        let to = to.expect("an address");
        let silent = async || {
            let mut stream = TcpStream::connect(to).await.expect("a connection");
            let mut answer = [0; 12];
            stream.read_exact(&mut answer).await.expect("the server speaks first");
            assert_eq!(&answer, b"chain=other ");
        };
        let timeouts = "listener.test.downstream_pre_cx_timeout";
        for _ in 0..5 {
            silent().await;
        }
        assert_eq!(worker.registry.value(timeouts), Some(1), "only the first was waited for");
        assert_eq!(worker.registry.value("listener.test.outrider.known_silent"), Some(4));
        // The same client may speak first as well. On a busy machine its request may come too late, and it is taken for silent.
        let mut answer = String::new();
        for _ in 0..100 {
            answer = talk(to, &[b"GET / HTTP/1.1\r\n\r\n"]).await;
            if answer.starts_with("chain=http ") {
                break;
            }
        }
        assert_eq!(answer, "chain=http GET / HTTP/1.1\r\n\r\n");
        // That is learnt, too.
        silent().await;
        assert_eq!(worker.registry.value(timeouts), Some(2));
    });
}

#[test]
fn a_client_that_has_said_half_a_word_is_not_taken_for_silent() {
    local(async {
        let worker = Worker::new(None);
        let mut listener = listener(named("any"), vec![ListenerFilterKind::HttpInspector]);
        listener.continue_on_listener_filters_timeout = true;
        listener.listener_filters_timeout = Some(Duration::from_millis(50));
        let (_listener, to) = worker.start(listener);
        for times in 1..=2 {
            let mut stream = TcpStream::connect(to.expect("an address")).await.expect("a connection");
            stream.write_all(b"GE").await.expect("written");
            let mut answer = [0; 12];
            stream.read_exact(&mut answer).await.expect("an answer");
            assert_eq!(&answer, b"chain=any GE");
            assert_eq!(worker.registry.value("listener.test.downstream_pre_cx_timeout"), Some(times));
        }
        assert_eq!(worker.registry.value("listener.test.outrider.known_silent"), None);
    });
}

#[test]
fn limits_turn_connections_away_and_count_them() {
    local(async {
        let worker = Worker::new(Some(2));
        let mut limited = listener(named("l"), vec![]);
        limited.connection_limit = RuntimeInteger::fixed(1);
        let (_limited, to) = worker.start(limited);
        let (_open, other) = worker.start(listener(named("o"), vec![]));
        let (to, other) = (to.expect("an address"), other.expect("an address"));
        let first = TcpStream::connect(to).await.expect("a connection");
        worker.wait_for("listener.test.downstream_cx_active", 1).await;
        assert!(!talk(to, &[]).await.contains("chain"));
        worker.wait_for("listener.test.downstream_cx_overflow", 1).await;
        let _second = TcpStream::connect(other).await.expect("a connection");
        worker.wait_for("listener.test.downstream_cx_active", 2).await;
        assert!(!talk(other, &[]).await.contains("chain"));
        worker.wait_for("listener.test.downstream_global_cx_overflow", 1).await;
        drop(first);
        worker.wait_for("listener.test.downstream_cx_active", 1).await;
        assert_eq!(talk(to, &[b"x"]).await, "chain=l x");
    });
}

#[test]
fn a_stopped_listener_serves_who_has_connected_and_refuses_who_comes_later() {
    local(async {
        let worker = Worker::new(None);
        let (listener, to) = worker.start(listener(named("s"), vec![]));
        let to = to.expect("an address");
        // Both are in the accept queue or served; neither is lost.
        let waiting = std::net::TcpStream::connect(to).expect("a connection");
        waiting.set_nonblocking(true).expect("nonblocking");
        let mut waiting = TcpStream::from_std(waiting).expect("a stream");
        listener.stop_accepting();
        let mut answer = [0; 8];
        waiting.read_exact(&mut answer).await.expect("an answer");
        assert_eq!(&answer, b"chain=s ");
        assert!(TcpStream::connect(to).await.is_err());
    });
}

#[test]
fn sockets_pass_on_with_the_clients_that_wait_in_them() {
    local(async {
        let worker = Worker::new(None);
        let (before, address) = worker.start(listener(named("s"), vec![]));
        let to = address.expect("an address");
        let inherited = Inherited::default();
        for lent in before.lend().expect("duplicates") {
            inherited.add(lent);
        }
        before.stop_accepting();
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(before.lend().expect("nothing").is_empty(), "a listener that stopped lends a socket");
        // Nobody accepts: it waits in the socket's queue.
        let waiting = std::net::TcpStream::connect(to).expect("a connection");
        waiting.set_nonblocking(true).expect("non-blocking");
        let (_after, address) = worker.start_after(listener(named("s"), vec![]), &inherited);
        assert_eq!(address, Some(to), "another socket was opened");
        assert!(inherited.close().is_empty());
        let mut waiting = TcpStream::from_std(waiting).expect("a stream");
        let mut answer = [0; 8];
        waiting.read_exact(&mut answer).await.expect("an answer");
        assert_eq!(&answer, b"chain=s ");
    });
}

#[test]
fn a_port_in_use_is_an_error_that_says_how_to_mend_it() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a socket");
    let address_text = taken.local_addr().expect("an address").to_string();
    let mut config = listener(named("x"), vec![]);
    config.addresses = vec![address(&address_text)];
    let global = GlobalConnections::new(NO_LIMIT);
    let shared = ListenerShared::build(
        Arc::new(config),
        &Registry::new(),
        &LogFiles::default(),
        &global,
        &|_| None,
        None,
    )
    .expect("a listener");
    let error = Sockets::bind(&shared, 2, &Inherited::default()).expect_err("taken").to_string();
    assert!(error.starts_with(&format!("listener \"test\": cannot listen on {address_text}: ")), "{error}");
    assert!(error.contains("another process listens there"), "{error}");
}

#[test]
fn unix_sockets_are_listened_on_with_their_mode_and_abstract_ones_too() {
    use std::os::unix::fs::PermissionsExt;

    local(async {
        let worker = Worker::new(None);
        let dir = std::env::temp_dir().join(format!("outrider-net-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a directory");
        let path = dir.join("socket").to_string_lossy().into_owned();
        std::fs::write(&path, "left over").expect("a file");
        let abstract_name = format!("@outrider-net-{}", std::process::id());
        let pipe = |path: &str, mode| ListenerAddress {
            address: SocketAddress::Pipe { path: path.into(), mode },
            ..address("127.0.0.1:0")
        };
        let mut config = listener(named("u"), vec![]);
        config.addresses = vec![pipe(&path, 0o600), pipe(&abstract_name, 0)];
        let (_listener, _) = worker.start(config);
        let mode = std::fs::metadata(&path).expect("a socket").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let mut abstract_path = abstract_name.clone();
        abstract_path.replace_range(..1, "\0");
        for name in [path.as_str(), abstract_path.as_str()] {
            let mut stream = tokio::net::UnixStream::connect(name).await.expect("a connection");
            let mut answer = [0; 8];
            stream.read_exact(&mut answer).await.expect("an answer");
            assert_eq!(&answer, b"chain=u ");
        }
        assert_eq!(worker.seen.borrow()[0].local.to_string(), path);
        assert_eq!(worker.seen.borrow()[1].local.to_string(), abstract_name);
        std::fs::remove_dir_all(dir).expect("removed");
    });
}

#[test]
fn a_secret_that_one_chain_cannot_use_is_in_force_for_the_others_and_narrows_them() {
    use outrider_config::model::{
        ConfigSource, DynamicSecret, Secret, SecretKind, SecretRef, TlsCertificate, ValidationRef,
    };
    use support::{inline, trusting};

    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let own = old.leaf(Wish::default());
    let secret = |name: &str| Arc::new(DynamicSecret { name: name.into(), source: ConfigSource::default() });
    let chain = |name: &str, certificate: Option<Arc<DynamicSecret>>| {
        let mut tls = downstream(&[&own]);
        tls.require_client_certificate = true;
        tls.common.validation = ValidationRef::Dynamic { default: Arc::default(), secret: secret("roots") };
        if let Some(certificate) = certificate {
            tls.common.certificates = vec![SecretRef::Dynamic(certificate)];
        }
        let plain = FilterChain::clone(&support::listen::chain(
            name,
            FilterChainMatch { server_names: vec![name.into()], ..Default::default() },
        ));
        Arc::new(FilterChain { tls: Some(Arc::new(tls)), ..plain })
    };
    // The first chain cannot be built any more: its certificate is gone by the time the roots change.
    let listener = listener(vec![chain("first", Some(secret("own"))), chain("second", None)], vec![]);
    let roots = |authority: &Authority| SecretKind::Validation(trusting(authority));
    let certificate = || {
        let (chain, key) = (inline(&own.cert), inline(&own.key));
        SecretKind::Certificate(TlsCertificate { chain, key, ocsp_staple: None })
    };
    let found = |name: &str, kind| Some(Arc::new(Secret { name: name.into(), kind, watched: None }));
    let shared = ListenerShared::build(
        Arc::new(listener),
        &Registry::new(),
        &LogFiles::default(),
        &GlobalConnections::new(NO_LIMIT),
        &|wanted| found(&wanted.name, if &*wanted.name == "own" { certificate() } else { roots(&old) }),
        None,
    )
    .expect("a listener");
    let (narrowed, errors) = shared.renew_tls(&secret("roots"), &|wanted| {
        if &*wanted.name == "own" { None } else { found(&wanted.name, roots(&new)) }
    });
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(errors[0].to_string().contains("first"), "{}", errors[0]);
    let second = shared.tls_slot(1).expect("TLS");
    assert!(narrowed.len() == 1 && Arc::ptr_eq(&narrowed[0], second), "the second's sessions are judged");
}
