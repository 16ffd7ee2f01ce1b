use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use outrider_config::model::{
    AccessLog, Comparison, ComparisonOp, JsonNode, LogFilter, LogFormat, LogSink, RuntimeInteger,
};
use outrider_core::format::{Format, FormatContext};
use outrider_core::stream::{Address, ConnInfo, StreamInfo};
use outrider_core::{ResponseFlags, stats::Registry};

use super::*;

fn info(code: u16) -> StreamInfo {
    let address = Address::Ip("127.0.0.1:1".parse::<SocketAddr>().unwrap());
    let conn = ConnInfo {
        id: 1,
        remote: address.clone(),
        direct_remote: address.clone(),
        local: address.clone(),
        direct_local: address,
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
    let mut info = StreamInfo::new(Rc::new(conn), None);
    info.response_code = Some(code);
    info.duration = Some(Duration::from_millis(40));
    info
}

fn to_file(format: LogFormat, filter: Option<LogFilter>, entries: &[StreamInfo]) -> String {
    let dir = std::env::temp_dir().join(format!("outrider-log-{}-{:p}", std::process::id(), entries));
    let sink = LogSink::File(dir.to_str().unwrap().into());
    let files = LogFiles::new(&Registry::new(), 1 << 20);
    let logger = AccessLogger::new(&[AccessLog { sink, format, filter }], &files).unwrap();
    for entry in entries {
        logger.log(&FormatContext::of(entry));
    }
    files.sync();
    let text = std::fs::read_to_string(&dir).unwrap();
    std::fs::remove_file(&dir).unwrap();
    text
}

#[test]
fn text_entries_pass_the_filter_and_reach_the_file() {
    let format = LogFormat::Text {
        format: Arc::new(Format::parse("%RESPONSE_CODE% %ROUTE_NAME%\n").unwrap()),
        omit_empty: false,
    };
    let at_least_500 =
        LogFilter::Status(Comparison { op: ComparisonOp::Ge, value: RuntimeInteger::fixed(500) });
    assert_eq!(to_file(format, Some(at_least_500), &[info(200), info(503), info(500)]), "503 -\n500 -\n");
}

#[test]
fn json_keeps_numbers_escapes_text_and_leaves_out_or_nulls_the_absent() {
    let node = |text: &str| JsonNode::Value(Format::parse(text).unwrap());
    let fields = JsonNode::Object(vec![
        ("code".into(), node("%RESPONSE_CODE%")),
        ("mixed".into(), node("\"%RESPONSE_CODE%\"")),
        ("route".into(), node("%ROUTE_NAME%")),
    ]);
    let format = |omit_empty| LogFormat::Json { fields: Arc::new(fields.clone()), omit_empty };
    assert_eq!(
        to_file(format(false), None, &[info(201)]),
        "{\"code\":201,\"mixed\":\"\\\"201\\\"\",\"route\":null}\n"
    );
    assert_eq!(to_file(format(true), None, &[info(201)]), "{\"code\":201,\"mixed\":\"\\\"201\\\"\"}\n");
}

#[test]
fn filters_look_at_flags_and_duration() {
    let mut failed = info(503);
    failed.flags.insert(ResponseFlags::NO_HEALTHY_UPSTREAM);
    let cx = FormatContext::of(&failed);
    let slow = LogFilter::Duration(Comparison { op: ComparisonOp::Ge, value: RuntimeInteger::fixed(40) });
    assert!(filter::passes(&slow, &cx));
    assert!(filter::passes(&LogFilter::Flags(ResponseFlags::NONE), &cx));
    assert!(!filter::passes(&LogFilter::Flags(ResponseFlags::NO_ROUTE_FOUND), &cx));
    assert!(!filter::passes(&LogFilter::And(vec![slow, LogFilter::Traceable]), &cx));
}

#[test]
fn a_file_that_cannot_be_opened_is_named() {
    let sink = LogSink::File("/nonexistent-directory/x.log".into());
    let format = LogFormat::Text { format: Arc::new(Format::parse("x").unwrap()), omit_empty: false };
    let error =
        AccessLogger::new(&[AccessLog { sink, format, filter: None }], &LogFiles::default()).unwrap_err();
    assert!(error.to_string().contains("/nonexistent-directory/x.log"), "{error}");
}
