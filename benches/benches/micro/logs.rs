//! Access logs: Envoy's default text format and a JSON entry of the same fields, for an ordinary request.

use std::hint::black_box;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion};
use http::{HeaderMap, HeaderValue};
use outrider_core::format::{Format, FormatContext};
use outrider_core::matcher::HeadView;
use outrider_core::stream::{Address, ConnInfo, Protocol, StreamInfo};

use crate::headers::{head, request_headers};

/// The format that Envoy uses when none is configured.
const DEFAULT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" \
    %RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% \
    %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \
    \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\"\n";

fn address(text: &str) -> Address {
    Address::Ip(text.parse().expect("an address"))
}

/// A finished stream.
fn stream() -> StreamInfo {
    let conn = ConnInfo {
        id: 7,
        remote: address("10.1.2.3:40000"),
        direct_remote: address("10.1.2.3:40000"),
        local: address("10.9.9.9:443"),
        direct_local: address("10.9.9.9:443"),
        local_restored: false,
        source: None,
        sni: Some(Arc::from("shop.example.com")),
        tls: None,
        filter_chain: Arc::from(""),
        origin: Default::default(),
        handshake: None,
        reset: Default::default(),
        accepted: Instant::now(),
        termination_details: std::cell::OnceCell::new(),
        transport_failure: std::cell::OnceCell::new(),
    };
    let mut info = StreamInfo::new(Rc::new(conn), Some(Protocol::Http2));
    info.duration = Some(Duration::from_millis(12));
    info.response_code = Some(200);
    info.details = "via_upstream".into();
    info.bytes_sent = 4_096;
    info.upstream.cluster = Some(Arc::from("items"));
    info.upstream.host = Some(address("10.4.4.4:8080"));
    info
}

pub(crate) fn benchmarks(criterion: &mut Criterion) {
    let request = request_headers();
    let response: HeaderMap =
        [(http::HeaderName::from_static("x-envoy-upstream-service-time"), HeaderValue::from_static("11"))]
            .into_iter()
            .collect();
    let info = stream();
    let cx = FormatContext {
        request: Some(head(&request, "/api/v1/items/42?limit=10")),
        response: Some(HeadView { status: "200", ..HeadView::of(&response) }),
        ..FormatContext::of(&info)
    };
    let format = Format::parse(DEFAULT).expect("Envoy's format");
    let mut entry = Vec::new();
    format.write(&cx, false, &mut entry);
    let text = String::from_utf8_lossy(&entry);
    assert!(text.contains("\"GET /api/v1/items/42?limit=10 HTTP/2\" 200 - 0 4096 12 11"), "{text}");

    let mut group = criterion.benchmark_group("access_log");
    group.bench_function("text", |bencher| {
        bencher.iter_batched_ref(
            || Vec::with_capacity(1_024),
            |out| format.write(black_box(&cx), false, out),
            BatchSize::SmallInput,
        );
    });
    group.finish();
}
