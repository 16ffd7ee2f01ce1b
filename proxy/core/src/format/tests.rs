use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use super::*;
use crate::ResponseFlags;
use crate::stream::{Address, ConnInfo, Protocol, StreamInfo};

fn info() -> StreamInfo {
    let ip = |text: &str| Address::Ip(text.parse::<SocketAddr>().unwrap());
    let conn = ConnInfo {
        id: 9,
        remote: ip("10.0.0.1:4000"),
        direct_remote: ip("10.0.0.2:4001"),
        local: ip("127.0.0.1:80"),
        direct_local: ip("127.0.0.1:80"),
        local_restored: false,
        source: None,
        sni: None,
        tls: None,
        filter_chain: "".into(),
        origin: Default::default(),
        handshake: None,
        reset: Default::default(),
        accepted: Instant::now(),
        termination_details: std::cell::OnceCell::new(),
        transport_failure: std::cell::OnceCell::new(),
    };
    let mut info = StreamInfo::new(Rc::new(conn), Some(Protocol::Http11));
    info.start_time = UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
    info.response_code = Some(503);
    info.flags =
        ResponseFlags::UPSTREAM_CONNECTION_FAILURE.union(ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED);
    info.duration = Some(Duration::from_micros(2_500));
    info.bytes_sent = 12;
    info.generation = 7;
    info
}

fn written(format: &str) -> String {
    let mut headers = http::HeaderMap::new();
    headers.insert("x-a", "one".parse().unwrap());
    headers.append("x-a", "two".parse().unwrap());
    let info = info();
    let request = HeadView { method: "GET", path: "/p?q=1&r=2", authority: "host", ..HeadView::of(&headers) };
    let cx = FormatContext { request: Some(request), ..FormatContext::of(&info) };
    let mut out = Vec::new();
    Format::parse(format).unwrap().write(&cx, false, &mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn operators_write_what_envoy_writes() {
    for (format, expected) in [
        ("[%START_TIME%]", "[2023-11-14T22:13:20.123Z]"),
        ("%START_TIME(%Y/%m/%d %H:%M:%S.%3f %s)%", "2023/11/14 22:13:20.123 1700000000"),
        ("%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%", "GET /p?q=1&r=2 HTTP/1.1"),
        ("%REQ(x-a)% %REQ(x-a):2% %REQ(absent)%", "one,two on -"),
        ("%REQ_WITHOUT_QUERY(:path)% %QUERY_PARAM(r)%", "/p 2"),
        (
            "%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_FLAGS_LONG%",
            "503 URX,UF UpstreamRetryLimitExceeded,UpstreamConnectionFailure",
        ),
        ("%DURATION% %BYTES_SENT% %RESPONSE_DURATION%", "2 12 -"),
        (
            "%DOWNSTREAM_REMOTE_ADDRESS% %DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_LOCAL_PORT%",
            "10.0.0.1:4000 10.0.0.2 80",
        ),
        ("%OUTRIDER_GENERATION%", "7"),
        ("100%% %UPSTREAM_HOST% %DOWNSTREAM_TLS_VERSION%", "100% - -"),
    ] {
        assert_eq!(written(format), expected, "{format}");
    }
}

#[test]
fn bad_formats_say_what_and_where() {
    for (format, offset, part) in [
        ("ab %NOPE%", 3, "%NOPE% is not an operator"),
        ("%REQ(x", 0, "closing parenthesis"),
        ("%PROTOCOL", 0, "no closing %"),
        ("%REQ%", 0, "needs an argument"),
        ("5% off", 1, "write %% for a percent sign"),
        ("%PROTOCOL(x)%", 0, "takes no argument"),
    ] {
        let error = Format::parse(format).unwrap_err();
        assert_eq!(error.offset, offset, "{format}");
        assert!(error.message.contains(part), "{format}: {}", error.message);
    }
}

#[test]
fn a_format_knows_what_it_reads() {
    assert!(Format::parse("%REQ(a)%").unwrap().reads_request());
    assert!(!Format::parse("%DURATION%").unwrap().reads_request());
    assert!(Format::parse("%DURATION%").unwrap().is_number());
    assert_eq!(Format::parse("plain 1%%").unwrap().as_literal(), Some("plain 1%"));
}
