//! Listener filters.

use std::sync::Arc;

use outrider_proto::Path;
use outrider_proto::pb::envoy::config::listener::v3 as pb;
use outrider_proto::pb::envoy::extensions::filters::listener as ext;
use outrider_proto::pb::envoy::r#type::v3::Int32Range;
use outrider_proto::pb::google::protobuf::Any;

use super::cx::{Cx, UNSUPPORTED, inert, refuse};
use super::extension::{self, Found};
use super::scalar::{type_of, unpack};
use crate::model::{ListenerFilter, ListenerFilterKind, ListenerFilterMatch, ProxyProtocol};

/// Filters that other fields of the listener ask for.
pub(crate) struct Implied {
    /// `use_original_dst`
    pub(crate) original_dst: bool,
    /// `use_proxy_proto` of a filter chain.
    pub(crate) proxy_protocol: bool,
}

/// The listener filters in order, those that are implied and not written at the end.
pub(crate) fn filters(
    cx: &Cx,
    path: &Path<'_>,
    messages: &[pb::ListenerFilter],
    implied: &Implied,
) -> Vec<ListenerFilter> {
    let mut filters: Vec<ListenerFilter> =
        messages.iter().enumerate().filter_map(|(i, message)| filter(cx, &path.index(i), message)).collect();
    let mut imply = |wanted: bool, name: &str, kind: ListenerFilterKind| {
        let same =
            |filter: &ListenerFilter| std::mem::discriminant(&filter.kind) == std::mem::discriminant(&kind);
        if wanted && !filters.iter().any(same) {
            filters.push(ListenerFilter { name: Arc::from(name), disabled: None, kind });
        }
    };
    imply(implied.original_dst, "envoy.filters.listener.original_dst", ListenerFilterKind::OriginalDst);
    imply(
        implied.proxy_protocol,
        "envoy.filters.listener.proxy_protocol",
        ListenerFilterKind::ProxyProtocol(ProxyProtocol::default()),
    );
    filters
}

fn filter(cx: &Cx, path: &Path<'_>, message: &pb::ListenerFilter) -> Option<ListenerFilter> {
    use pb::listener_filter::ConfigType;
    let pb::ListenerFilter { name, filter_disabled, config_type } = message;
    let disabled =
        filter_disabled.as_ref().and_then(|message| predicate(cx, &path.field("filter_disabled"), message));
    let kind = match config_type {
        Some(ConfigType::TypedConfig(any)) => kind(cx, &path.field("typed_config"), any)?,
        Some(ConfigType::ConfigDiscovery(message)) => {
            let at = path.field("config_discovery");
            ListenerFilterKind::Discovered(extension::discovered(cx, &at, name, message, &TYPES, known)?)
        }
        None => {
            cx.error(path, format!("the listener filter {name:?} needs a typed_config with its @type"));
            return None;
        }
    };
    Some(ListenerFilter { name: Arc::from(name.as_str()), disabled, kind })
}

fn kind(cx: &Cx, path: &Path<'_>, any: &Any) -> Option<ListenerFilterKind> {
    let Found::Known(kind) = known(cx, path, any) else {
        cx.refuse(path, format!("the listener filter {} is not supported; remove it", type_of(any)));
        return None;
    };
    kind
}

/// The types of filters that a control plane may send.
const TYPES: [&str; 5] = [
    "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
    "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector",
    "envoy.extensions.filters.listener.original_dst.v3.OriginalDst",
    "envoy.extensions.filters.listener.original_src.v3.OriginalSrc",
    "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol",
];

/// The filter whose settings `any` carries.
pub(super) fn known(cx: &Cx, path: &Path<'_>, any: &Any) -> Found<ListenerFilterKind> {
    use outrider_proto::any::is;
    Found::Known(if is::<ext::tls_inspector::v3::TlsInspector>(any) {
        unpack(cx, path, any).map(|message| {
            tls_inspector(cx, path, &message);
            ListenerFilterKind::TlsInspector
        })
    } else if is::<ext::http_inspector::v3::HttpInspector>(any) {
        unpack(cx, path, any)
            .map(|ext::http_inspector::v3::HttpInspector {}| ListenerFilterKind::HttpInspector)
    } else if is::<ext::original_dst::v3::OriginalDst>(any) {
        unpack(cx, path, any).map(|ext::original_dst::v3::OriginalDst {}| ListenerFilterKind::OriginalDst)
    } else if is::<ext::original_src::v3::OriginalSrc>(any) {
        unpack(cx, path, any).map(|message| original_src(cx, path, &message))
    } else if is::<ext::proxy_protocol::v3::ProxyProtocol>(any) {
        unpack(cx, path, any)
            .map(|message| ListenerFilterKind::ProxyProtocol(proxy_protocol(cx, path, &message)))
    } else {
        return Found::Unknown;
    })
}

fn tls_inspector(cx: &Cx, path: &Path<'_>, message: &ext::tls_inspector::v3::TlsInspector) {
    let ext::tls_inspector::v3::TlsInspector {
        enable_ja3_fingerprinting,
        enable_ja4_fingerprinting,
        initial_read_buffer_size,
        close_connection_on_client_hello_parsing_errors,
        max_client_hello_size,
    } = message;
    for (field, value) in [
        ("enable_ja3_fingerprinting", enable_ja3_fingerprinting),
        ("enable_ja4_fingerprinting", enable_ja4_fingerprinting),
    ] {
        match value {
            Some(value) if value.value => cx.refuse(&path.field(field), UNSUPPORTED),
            Some(_) | None => {}
        }
    }
    inert!(cx, path, "how much is peeked at first; the buffer grows as needed"; initial_read_buffer_size);
    refuse!(cx, path, UNSUPPORTED; close_connection_on_client_hello_parsing_errors, max_client_hello_size);
}

fn original_src(
    cx: &Cx,
    path: &Path<'_>,
    message: &ext::original_src::v3::OriginalSrc,
) -> ListenerFilterKind {
    let ext::original_src::v3::OriginalSrc { bind_port, mark } = message;
    refuse!(cx, path, "the kernel chooses the port; remove it"; bind_port);
    ListenerFilterKind::OriginalSrc { mark: *mark }
}

fn proxy_protocol(
    cx: &Cx,
    path: &Path<'_>,
    message: &ext::proxy_protocol::v3::ProxyProtocol,
) -> ProxyProtocol {
    use outrider_proto::pb::envoy::config::core::v3::proxy_protocol_config::Version;
    let ext::proxy_protocol::v3::ProxyProtocol {
        rules,
        allow_requests_without_proxy_protocol,
        pass_through_tlvs,
        disallowed_versions,
        stat_prefix,
        tlv_location,
    } = message;
    refuse!(cx, path, "TLVs are not kept; remove it"; rules, pass_through_tlvs, tlv_location);
    let at = path.field("disallowed_versions");
    ProxyProtocol {
        allow_without: *allow_requests_without_proxy_protocol,
        disallowed_versions: disallowed_versions
            .iter()
            .enumerate()
            .filter_map(|(i, version)| match Version::try_from(*version) {
                Ok(Version::V1) => Some(1),
                Ok(Version::V2) => Some(2),
                Err(_) => {
                    cx.error(&at.index(i), format!("{version} is not a version: V1 or V2"));
                    None
                }
            })
            .collect(),
        stat_prefix: stat_prefix.clone(),
    }
}

/// A predicate on connections; `None`, and an error, when it is not usable.
fn predicate(
    cx: &Cx,
    path: &Path<'_>,
    message: &pb::ListenerFilterChainMatchPredicate,
) -> Option<ListenerFilterMatch> {
    use pb::listener_filter_chain_match_predicate::{MatchSet, Rule};
    let all = |path: &Path<'_>, rules: &[pb::ListenerFilterChainMatchPredicate]| {
        let path = path.field("rules");
        rules.iter().enumerate().filter_map(|(i, rule)| predicate(cx, &path.index(i), rule)).collect()
    };
    let pb::ListenerFilterChainMatchPredicate { rule } = message;
    match rule {
        Some(Rule::OrMatch(MatchSet { rules })) => {
            Some(ListenerFilterMatch::Or(all(&path.field("or_match"), rules)))
        }
        Some(Rule::AndMatch(MatchSet { rules })) => {
            Some(ListenerFilterMatch::And(all(&path.field("and_match"), rules)))
        }
        Some(Rule::NotMatch(rule)) => {
            Some(ListenerFilterMatch::Not(Box::new(predicate(cx, &path.field("not_match"), rule)?)))
        }
        Some(Rule::AnyMatch(_)) => Some(ListenerFilterMatch::Any),
        Some(Rule::DestinationPortRange(Int32Range { start, end })) => {
            match (u16::try_from(*start), u32::try_from(*end)) {
                (Ok(start), Ok(end)) if end <= 65_536 && u32::from(start) < end => {
                    Some(ListenerFilterMatch::DestinationPort { start, end })
                }
                _ => {
                    cx.error(
                        &path.field("destination_port_range"),
                        format!("{start}..{end} is not a range of ports"),
                    );
                    None
                }
            }
        }
        None => {
            cx.error(path, "a rule is needed, such as any_match");
            None
        }
    }
}
