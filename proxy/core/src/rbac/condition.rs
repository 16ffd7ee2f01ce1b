//! Permissions and principals.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::cel::View;
use crate::matcher::{HeadView, HeaderMatcher, StringMatcher};
use crate::metadata::Metadata;
use crate::metadata_matcher::MetadataMatcher;
use crate::san::SanMatcher;
use crate::stream::{Address, ConnInfo, StreamInfo};

/// What is known of what asks.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// Its connection.
    pub conn: &'a ConnInfo,
    /// Its stream.
    pub stream: &'a StreamInfo,
    /// The request's head; an empty one for a connection that is not HTTP.
    pub head: HeadView<'a>,
    /// The metadata of the route.
    pub route: Option<&'a Metadata>,
}

/// Where metadata is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetadataFrom {
    /// What filters said (dynamic metadata).
    Filters,
    /// The route's; without a route nothing matches, inverted or not.
    Route,
}

/// A permission or a principal of a policy.
#[derive(Debug, Clone)]
pub enum Condition {
    /// `any`
    Any,
    /// `and_rules`, `and_ids`
    All(Box<[Condition]>),
    /// `or_rules`, `or_ids`
    OneOf(Box<[Condition]>),
    /// `not_rule`, `not_id`
    Not(Box<Condition>),
    /// `header`
    Header(Box<HeaderMatcher>),
    /// `url_path`: the path without query and fragment.
    Path(StringMatcher),
    /// `destination_ip`
    DestinationIp(IpNet),
    /// `destination_port`, `destination_port_range`: in `start..end`.
    DestinationPort {
        /// The first port.
        start: u32,
        /// The first port behind.
        end: u32,
    },
    /// `requested_server_name`; the empty name where there is none.
    ServerName(StringMatcher),
    /// `metadata`, `sourced_metadata`
    Metadata(MetadataFrom, Box<MetadataMatcher>),
    /// `filter_state` and the kinds of matchers that ask for an object that no filter here leaves: it is not there.
    Absent,
    /// `authenticated`: the connection is TLS and, where there is a matcher, a URI or DNS name of the client's certificate
    /// or its subject matches. A client without a certificate has the empty subject.
    Authenticated(Option<StringMatcher>),
    /// `mtls_authenticated`: the client's certificate was verified and has such a name, where one is asked for.
    Mtls(Option<Box<SanMatcher>>),
    /// `source_ip`: the connection's remote address.
    SourceIp(IpNet),
    /// `direct_remote_ip`: the remote address on the socket.
    DirectRemoteIp(IpNet),
    /// `remote_ip`: what the request's head says of the client, if that is trusted.
    RemoteIp(IpNet),
}

impl Condition {
    /// All of `conditions`; a single one stands for itself.
    pub fn all(mut conditions: Vec<Self>) -> Self {
        match conditions.len() {
            1 => conditions.remove(0),
            _ => Self::All(conditions.into()),
        }
    }

    /// One of `conditions`; a single one stands for itself.
    pub fn one_of(mut conditions: Vec<Self>) -> Self {
        match conditions.len() {
            1 => conditions.remove(0),
            _ => Self::OneOf(conditions.into()),
        }
    }

    /// Whether the head of a request, or the route that it takes, has a say in it.
    pub(super) fn reads_head(&self) -> bool {
        match self {
            Self::All(conditions) | Self::OneOf(conditions) => conditions.iter().any(Self::reads_head),
            Self::Not(one) => one.reads_head(),
            Self::Header(_) | Self::Path(_) | Self::Metadata(MetadataFrom::Route, _) => true,
            Self::Any
            | Self::DestinationIp(_)
            | Self::DestinationPort { .. }
            | Self::ServerName(_)
            | Self::Metadata(MetadataFrom::Filters, _)
            | Self::Absent
            | Self::Authenticated(_)
            | Self::Mtls(_)
            | Self::SourceIp(_)
            | Self::DirectRemoteIp(_)
            | Self::RemoteIp(_) => false,
        }
    }

    /// Whether it holds for `facts`.
    pub fn matches(&self, facts: &Facts<'_>) -> bool {
        match self {
            Self::Any => true,
            Self::All(all) => all.iter().all(|one| one.matches(facts)),
            Self::OneOf(any) => any.iter().any(|one| one.matches(facts)),
            Self::Not(one) => !one.matches(facts),
            Self::Header(matcher) => matcher.matches(&facts.head),
            Self::Path(matcher) => facts.path().is_some_and(|path| matcher.matches(path)),
            Self::DestinationIp(net) => within(net, &facts.conn.local),
            Self::DestinationPort { start, end } => facts
                .conn
                .local
                .ip()
                .is_some_and(|address| (*start..*end).contains(&u32::from(address.port()))),
            Self::ServerName(matcher) => matcher.matches(facts.conn.sni.as_deref().unwrap_or_default()),
            Self::Metadata(MetadataFrom::Filters, matcher) => {
                matcher.matches(facts.stream.dynamic.as_deref())
            }
            Self::Metadata(MetadataFrom::Route, matcher) => {
                facts.route.is_some_and(|metadata| matcher.matches(Some(metadata)))
            }
            Self::Absent => false,
            Self::Authenticated(matcher) => facts.is_named(matcher.as_ref()),
            Self::Mtls(matcher) => facts.is_verified(matcher.as_deref()),
            Self::SourceIp(net) => within(net, &facts.conn.remote),
            Self::DirectRemoteIp(net) => within(net, &facts.conn.direct_remote),
            Self::RemoteIp(net) => within(net, facts.stream.remote()),
        }
    }
}

impl<'a> Facts<'a> {
    /// What expressions see of it.
    pub(crate) fn view(&self) -> View<'a> {
        View {
            stream: self.stream,
            request: Some(self.head),
            response: None,
            trailers: None,
            route: self.route,
        }
    }

    /// The path without query and fragment; `None` for none.
    pub(super) fn path(&self) -> Option<&str> {
        let end = self.head.path.find(['?', '#']).unwrap_or(self.head.path.len());
        self.head.path.get(..end).filter(|_| !self.head.path.is_empty())
    }

    /// The first parameter `name` of the query, as it stands there.
    pub(crate) fn query(&self, name: &str) -> Option<&'a str> {
        let (_, query) = self.head.path.split_once('?')?;
        let query = query.split('#').next()?;
        let mut pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        pairs.find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// Calls `f` with each name by which the client may be known.
    pub(super) fn each_name(&self, mut f: impl FnMut(&str)) {
        let Some(tls) = &self.conn.tls else { return };
        let Some(certificate) = tls.peer.as_deref() else { return f("") };
        certificate.uri_sans.iter().chain(&certificate.dns_sans).for_each(|name| f(name));
        f(&certificate.subject);
    }

    fn is_named(&self, matcher: Option<&StringMatcher>) -> bool {
        let Some(tls) = &self.conn.tls else { return false };
        let Some(matcher) = matcher else { return true };
        let Some(certificate) = tls.peer.as_deref() else { return matcher.matches("") };
        let mut names = certificate.uri_sans.iter().chain(&certificate.dns_sans);
        names.any(|name| matcher.matches(name)) || matcher.matches(&certificate.subject)
    }

    fn is_verified(&self, matcher: Option<&SanMatcher>) -> bool {
        let Some(tls) = self.conn.tls.as_ref().filter(|tls| tls.peer_verified) else { return false };
        let certificate = tls.peer.as_deref();
        certificate.is_some_and(|certificate| matcher.is_none_or(|matcher| matcher.matches(certificate)))
    }
}

/// Whether `address` is in `net`; one of the other IP version, or of none, is not.
fn within(net: &IpNet, address: &Address) -> bool {
    match (net, address.ip().map(|address| address.ip())) {
        (IpNet::V4(net), Some(IpAddr::V4(address))) => net.contains(&address),
        (IpNet::V6(net), Some(IpAddr::V6(address))) => net.contains(&address),
        _ => false,
    }
}
