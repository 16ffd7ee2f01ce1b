//! Policies: their permissions and principals.

use ipnet::IpNet;
use outrider_core::cel::Place;
use outrider_core::rbac::{Condition, MetadataFrom, Policy};
use outrider_core::san::SanMatcher;
use outrider_proto::Path;
use outrider_proto::pb::envoy::config::core::v3 as core_pb;
use outrider_proto::pb::envoy::config::rbac::v3 as pb;
use outrider_proto::pb::envoy::extensions::rbac::matchers::upstream_ip_port::v3::UpstreamIpPortMatcher;
use outrider_proto::pb::envoy::extensions::rbac::principals::mtls_authenticated::v3 as mtls_pb;
use outrider_proto::pb::envoy::r#type::matcher::v3 as type_pb;
use outrider_proto::pb::envoy::r#type::v3::Int32Range;
use outrider_proto::pb::google::protobuf::Any;
use outrider_proto::pb::xds::core::v3 as xds_pb;

use super::View;
use crate::convert::cx::{Cx, inert, refuse};
use crate::convert::scalar::{enumeration, type_of, unpack};
use crate::convert::{address, cel, matcher, metadata, validation};

/// A policy; `None`, and an error, when it is not usable.
pub(super) fn policy(
    cx: &Cx,
    path: &Path<'_>,
    name: &str,
    message: &pb::Policy,
    view: View,
) -> Option<Policy> {
    let pb::Policy { permissions, principals, condition, checked_condition, cel_config } = message;
    refuse!(cx, path, "not implemented, in Envoy neither, which takes no notice of it; write condition"; checked_condition);
    if condition.is_none() {
        inert!(cx, path, "the policy has no condition"; cel_config);
    }
    let condition = match condition {
        Some(message) => {
            let at = path.field("condition");
            Some(cel::parsed(cx, &at, message, cel_config.as_ref(), Place::Policy))
        }
        None => None,
    };
    let to = Reader { cx, view };
    let permission = to.one_of(&path.field("permissions"), permissions, Reader::permission);
    let principal = to.one_of(&path.field("principals"), principals, Reader::principal);
    let condition = match condition {
        Some(condition) => Some(condition?),
        None => None,
    };
    Some(Policy { name: name.into(), permission: permission?, principal: principal?, condition })
}

/// Reads conditions.
#[derive(Clone, Copy)]
struct Reader<'a> {
    cx: &'a Cx,
    view: View,
}

type Read<'r, T> = fn(Reader<'r>, &Path<'_>, &T) -> Option<Condition>;

impl<'r> Reader<'r> {
    /// All conditions of a list, which must not be empty. All are looked at before one that is not usable decides.
    fn list<T>(self, path: &Path<'_>, messages: &[T], read: Read<'r, T>) -> Option<Vec<Condition>> {
        if messages.is_empty() {
            self.cx.error(path, "at least one is needed; write any: true for all");
        }
        let list: Vec<_> =
            messages.iter().enumerate().map(|(i, message)| read(self, &path.index(i), message)).collect();
        list.into_iter().collect()
    }

    fn one_of<T>(self, path: &Path<'_>, messages: &[T], read: Read<'r, T>) -> Option<Condition> {
        self.list(path, messages, read).map(Condition::one_of)
    }

    fn permission(self, path: &Path<'_>, message: &pb::Permission) -> Option<Condition> {
        use pb::permission::{Rule, Set};
        let cx = self.cx;
        Some(match &message.rule {
            Some(Rule::AndRules(Set { rules })) => {
                let path = path.field("and_rules");
                Condition::all(self.list(&path.field("rules"), rules, Self::permission)?)
            }
            Some(Rule::OrRules(Set { rules })) => {
                let path = path.field("or_rules");
                self.one_of(&path.field("rules"), rules, Self::permission)?
            }
            Some(Rule::NotRule(rule)) => {
                Condition::Not(Box::new(self.permission(&path.field("not_rule"), rule)?))
            }
            Some(Rule::Any(value)) => self.any(path, *value),
            Some(Rule::Header(message)) => self.header(path, message)?,
            Some(Rule::UrlPath(message)) => self.url_path(path, message)?,
            Some(Rule::DestinationIp(message)) => {
                Condition::DestinationIp(self.net(&path.field("destination_ip"), message)?)
            }
            Some(Rule::DestinationPort(port)) => {
                if *port > 65535 {
                    cx.error(&path.field("destination_port"), format!("{port} is not a port"));
                }
                Condition::DestinationPort { start: *port, end: port.saturating_add(1) }
            }
            Some(Rule::DestinationPortRange(message)) => {
                self.ports(&path.field("destination_port_range"), message)?
            }
            Some(Rule::Metadata(message)) => self.dynamic(&path.field("metadata"), message)?,
            Some(Rule::SourcedMetadata(message)) => self.sourced(path, message)?,
            Some(Rule::RequestedServerName(message)) => {
                Condition::ServerName(matcher::string(cx, &path.field("requested_server_name"), message)?)
            }
            Some(Rule::Matcher(message)) => self.matcher(&path.field("matcher"), message)?,
            Some(Rule::UriTemplate(_)) => {
                cx.refuse(
                    &path.field("uri_template"),
                    "URI templates are not supported; write url_path with a safe_regex",
                );
                return None;
            }
            None => {
                cx.error(path, "a rule is needed; write any: true for all");
                return None;
            }
        })
    }

    fn principal(self, path: &Path<'_>, message: &pb::Principal) -> Option<Condition> {
        use pb::principal::{Authenticated, Identifier, Set};
        let cx = self.cx;
        Some(match &message.identifier {
            Some(Identifier::AndIds(Set { ids })) => {
                let path = path.field("and_ids");
                Condition::all(self.list(&path.field("ids"), ids, Self::principal)?)
            }
            Some(Identifier::OrIds(Set { ids })) => {
                let path = path.field("or_ids");
                self.one_of(&path.field("ids"), ids, Self::principal)?
            }
            Some(Identifier::NotId(id)) => {
                Condition::Not(Box::new(self.principal(&path.field("not_id"), id)?))
            }
            Some(Identifier::Any(value)) => self.any(path, *value),
            Some(Identifier::Authenticated(Authenticated { principal_name })) => {
                let path = path.field("authenticated");
                let path = path.field("principal_name");
                Condition::Authenticated(match principal_name {
                    Some(message) => Some(matcher::string(cx, &path, message)?),
                    None => None,
                })
            }
            Some(Identifier::SourceIp(message)) => {
                Condition::SourceIp(self.net(&path.field("source_ip"), message)?)
            }
            Some(Identifier::DirectRemoteIp(message)) => {
                Condition::DirectRemoteIp(self.net(&path.field("direct_remote_ip"), message)?)
            }
            Some(Identifier::RemoteIp(message)) => {
                Condition::RemoteIp(self.net(&path.field("remote_ip"), message)?)
            }
            Some(Identifier::Header(message)) => self.header(path, message)?,
            Some(Identifier::UrlPath(message)) => self.url_path(path, message)?,
            Some(Identifier::Metadata(message)) => self.dynamic(&path.field("metadata"), message)?,
            Some(Identifier::SourcedMetadata(message)) => self.sourced(path, message)?,
            Some(Identifier::FilterState(message)) => {
                self.filter_state(&path.field("filter_state"), message)?
            }
            Some(Identifier::Custom(message)) => self.custom(&path.field("custom"), message)?,
            None => {
                cx.error(path, "an identifier is needed; write any: true for all");
                return None;
            }
        })
    }

    fn any(self, path: &Path<'_>, value: bool) -> Condition {
        if !value {
            self.cx.error(&path.field("any"), "it must be true; write not_rule or not_id around it for none");
        }
        Condition::Any
    }

    fn header(
        self,
        path: &Path<'_>,
        message: &outrider_proto::pb::envoy::config::route::v3::HeaderMatcher,
    ) -> Option<Condition> {
        let path = path.field("header");
        if self.view == View::Connection {
            self.cx.error(&path, "a connection has no headers; use the HTTP filter envoy.filters.http.rbac");
        }
        Some(Condition::Header(Box::new(matcher::header(self.cx, &path, message)?)))
    }

    fn url_path(self, path: &Path<'_>, message: &type_pb::PathMatcher) -> Option<Condition> {
        let path = path.field("url_path");
        let path = path.field("path");
        let Some(type_pb::path_matcher::Rule::Path(message)) = &message.rule else {
            self.cx.error(&path, "a matcher is needed");
            return None;
        };
        Some(Condition::Path(matcher::string(self.cx, &path, message)?))
    }

    fn net(self, path: &Path<'_>, message: &core_pb::CidrRange) -> Option<IpNet> {
        let cidr = address::cidr(self.cx, path, message)?;
        IpNet::new(cidr.address, cidr.len).ok()
    }

    fn ports(self, path: &Path<'_>, message: &Int32Range) -> Option<Condition> {
        let Int32Range { start, end } = message;
        let bound = |field: &str, value: i32| match u32::try_from(value) {
            Ok(value @ 0..=65536) => Some(value),
            _ => {
                self.cx.error(&path.field(field), format!("{value} is not in 0 to 65536"));
                None
            }
        };
        let (start, end) = (bound("start", *start)?, bound("end", *end)?);
        if start >= end {
            self.cx.error(path, format!("no port is in {start} to {end}: the end is the first port behind"));
            return None;
        }
        Some(Condition::DestinationPort { start, end })
    }

    fn dynamic(self, path: &Path<'_>, message: &type_pb::MetadataMatcher) -> Option<Condition> {
        outrider_core::metadata::note_reader();
        let matcher = metadata::matcher(self.cx, path, message)?;
        Some(Condition::Metadata(MetadataFrom::Filters, Box::new(matcher)))
    }

    fn sourced(self, path: &Path<'_>, message: &pb::SourcedMetadata) -> Option<Condition> {
        let path = path.field("sourced_metadata");
        let pb::SourcedMetadata { metadata_matcher, metadata_source } = message;
        let at = path.field("metadata_matcher");
        let Some(message) = metadata_matcher else {
            self.cx.error(&at, "a matcher is needed");
            return None;
        };
        match enumeration::<pb::MetadataSource>(self.cx, &path, "metadata_source", *metadata_source) {
            pb::MetadataSource::Dynamic => self.dynamic(&at, message),
            pb::MetadataSource::Route => {
                let matcher = metadata::matcher(self.cx, &at, message)?;
                Some(Condition::Metadata(MetadataFrom::Route, Box::new(matcher)))
            }
        }
    }

    /// No filter here leaves an object that has text or an address, so there is none to match. What is asked for is judged
    /// all the same.
    fn filter_state(self, path: &Path<'_>, message: &type_pb::FilterStateMatcher) -> Option<Condition> {
        use type_pb::filter_state_matcher::Matcher;
        let type_pb::FilterStateMatcher { key, matcher: message } = message;
        if key.is_empty() {
            self.cx.error(&path.field("key"), "a key is needed");
        }
        match message {
            Some(Matcher::StringMatch(message)) => {
                matcher::string(self.cx, &path.field("string_match"), message)?;
            }
            Some(Matcher::AddressMatch(type_pb::AddressMatcher { ranges, invert_match: _invert })) => {
                let path = path.field("address_match");
                let path = path.field("ranges");
                for (i, range) in ranges.iter().enumerate() {
                    let xds_pb::CidrRange { address_prefix, prefix_len } = range.clone();
                    self.net(&path.index(i), &core_pb::CidrRange { address_prefix, prefix_len })?;
                }
            }
            None => self.cx.error(path, "give one of string_match and address_match"),
        }
        self.cx.inert(path, "no filter here leaves such an object, so it is absent and never matches");
        Some(Condition::Absent)
    }

    /// `envoy.rbac.matchers`
    fn matcher(self, path: &Path<'_>, message: &core_pb::TypedExtensionConfig) -> Option<Condition> {
        let (path, any) = self.typed(path, message)?;
        if !outrider_proto::any::is::<UpstreamIpPortMatcher>(any) {
            let why = format!("the matcher {} is not supported; remove the rule", type_of(any));
            self.cx.refuse(&path, why);
            return None;
        }
        let UpstreamIpPortMatcher { upstream_ip, upstream_port_range } = unpack(self.cx, &path, any)?;
        if let Some(message) = &upstream_ip {
            self.net(&path.field("upstream_ip"), message)?;
        }
        if upstream_ip.is_none() && upstream_port_range.is_none() {
            self.cx.error(&path, "give upstream_ip, upstream_port_range or both");
        }
        let why = "the upstream is known there only behind a dynamic forward proxy, which is not supported: it never matches";
        self.cx.inert(&path, why);
        Some(Condition::Absent)
    }

    /// `envoy.rbac.principals`
    fn custom(self, path: &Path<'_>, message: &core_pb::TypedExtensionConfig) -> Option<Condition> {
        let (path, any) = self.typed(path, message)?;
        if !outrider_proto::any::is::<mtls_pb::Config>(any) {
            let why = format!("the principal {} is not supported; remove it", type_of(any));
            self.cx.refuse(&path, why);
            return None;
        }
        let mtls_pb::Config { san_matcher, any_validated_client_certificate } = unpack(self.cx, &path, any)?;
        let matcher: Option<SanMatcher> = match &san_matcher {
            Some(message) => Some(validation::san(self.cx, &path.field("san_matcher"), message)?),
            None => None,
        };
        if matcher.is_some() == any_validated_client_certificate {
            self.cx.error(&path, "give one of san_matcher and any_validated_client_certificate: true");
        }
        Some(Condition::Mtls(matcher.map(Box::new)))
    }

    fn typed<'p, 'm>(
        self,
        path: &'p Path<'p>,
        message: &'m core_pb::TypedExtensionConfig,
    ) -> Option<(Path<'p>, &'m Any)> {
        // The name is for people alone: extensions go by their type.
        let core_pb::TypedExtensionConfig { name: _name, typed_config } = message;
        let path = path.field("typed_config");
        if typed_config.is_none() {
            self.cx.error(&path, "settings with their @type are needed");
        }
        Some((path, typed_config.as_ref()?))
    }
}
