//! Header match: one matcher of each kind against the head of an ordinary request.

use std::hint::black_box;

use criterion::Criterion;
use http::{HeaderMap, HeaderName, HeaderValue};
use outrider_core::matcher::{
    HeadView, HeaderCheck, HeaderMatcher, HeaderRef, StringMatch, StringMatcher, full_regex,
};

/// What a browser behind an ambassador sends, more or less.
const REQUEST: [(&str, &str); 12] = [
    (
        "user-agent",
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0 Safari/537.36",
    ),
    ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
    ("accept-language", "en-GB,en;q=0.8,de;q=0.5"),
    ("accept-encoding", "gzip, deflate, br, zstd"),
    ("cookie", "session=0123456789abcdef0123456789abcdef; theme=dark"),
    ("x-request-id", "6fd3a5a0-6d2c-4c0f-9a57-2d0a3a4a1c55"),
    ("x-forwarded-for", "10.1.2.3"),
    ("x-forwarded-proto", "https"),
    ("x-user-id", "48151"),
    ("x-canary", "true"),
    ("content-type", "application/json"),
    ("cache-control", "no-cache"),
];

/// The headers of [`REQUEST`].
pub(crate) fn request_headers() -> HeaderMap {
    REQUEST
        .iter()
        .map(|&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
        .collect()
}

/// A view of a GET with these headers.
pub(crate) fn head<'a>(headers: &'a HeaderMap, path: &'a str) -> HeadView<'a> {
    HeadView { method: "GET", authority: "shop.example.com", path, scheme: "https", ..HeadView::of(headers) }
}

fn matcher(name: &str, check: HeaderCheck) -> HeaderMatcher {
    let name = HeaderRef::parse(name).expect("a header's name");
    HeaderMatcher { name, check, invert: false, treat_missing_as_empty: false }
}

fn value(matcher: StringMatch) -> HeaderCheck {
    HeaderCheck::Value(StringMatcher { matcher, ignore_case: false })
}

pub(crate) fn benchmarks(criterion: &mut Criterion) {
    let headers = request_headers();
    let head = head(&headers, "/api/v1/items/42?limit=10");
    let regex = full_regex("(?:.*; )?theme=(?:dark|light)(?:;.*)?").expect("a regular expression");
    let cases = [
        ("exact", matcher("x-canary", value(StringMatch::Exact("true".into())))),
        ("prefix", matcher("user-agent", value(StringMatch::Prefix("Mozilla/5.0".into())))),
        ("suffix", matcher("user-agent", value(StringMatch::Suffix("Safari/537.36".into())))),
        ("contains", matcher("cookie", value(StringMatch::Contains("theme=".into())))),
        ("regex", matcher("cookie", value(StringMatch::Regex(Box::new(regex))))),
        ("range", matcher("x-user-id", HeaderCheck::Range { start: 0, end: 100_000 })),
        ("present", matcher("x-request-id", HeaderCheck::Present(true))),
        ("method", matcher(":method", value(StringMatch::Exact("GET".into())))),
    ];
    let mut group = criterion.benchmark_group("header_match");
    for (name, matcher) in &cases {
        assert!(matcher.matches(&head), "{name} must match, or something else is measured");
        group.bench_function(*name, |bencher| bencher.iter(|| black_box(matcher).matches(black_box(&head))));
    }
    group.finish();
}
