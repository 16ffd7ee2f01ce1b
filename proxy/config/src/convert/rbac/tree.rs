//! Match trees of RBAC.

use std::collections::HashMap;
use std::net::IpAddr;

use ipnet::IpNet;
use outrider_core::cel::Place;
use outrider_core::matcher::HeaderRef;
use outrider_core::matching::{Branches, Input, InputMatcher, OnMatch, Predicate, Then, Tree};
use outrider_core::metadata_matcher::{MetadataMatcher, ValueMatcher};
use outrider_core::rbac::Leaf;
use outrider_proto::pb::envoy::config::core::v3::CidrRange;
use outrider_proto::pb::envoy::config::rbac::v3 as rbac_pb;
use outrider_proto::pb::envoy::extensions::matching::common_inputs::{network::v3 as net, ssl::v3 as ssl};
use outrider_proto::pb::envoy::extensions::matching::input_matchers as custom;
use outrider_proto::pb::envoy::r#type::matcher::v3 as type_pb;
use outrider_proto::pb::google::protobuf::Any;
use outrider_proto::pb::xds::core::v3::TypedExtensionConfig;
use outrider_proto::pb::xds::r#type::matcher::v3 as pb;
use outrider_proto::xds::{CelMatcher, HttpAttributesCelMatchInput};
use outrider_proto::{Path, any};

use super::{View, action_of};
use crate::convert::cx::{Cx, inert};
use crate::convert::scalar::{type_of, unpack};
use crate::convert::{address, cel, matcher, metadata};

/// Trees may hold trees, so deep; who writes the configuration must not be able to exhaust the stack.
const DEEPEST: usize = 32;

/// Reads match trees.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    pub(super) cx: &'a Cx,
    pub(super) view: View,
    pub(super) depth: usize,
}

impl Reader<'_> {
    /// The tree at `path`; `None`, and an error, when it is not usable.
    pub(super) fn tree(self, path: &Path<'_>, message: &pb::Matcher) -> Option<Tree<Leaf>> {
        use pb::matcher::{MatcherList, MatcherType};
        let pb::Matcher { on_no_match, matcher_type } = message;
        let otherwise = match on_no_match {
            Some(message) => Some(Box::new(self.on_match(&path.field("on_no_match"), message)?)),
            None => None,
        };
        let branches = match matcher_type {
            None => Branches::None,
            Some(MatcherType::MatcherList(MatcherList { matchers })) => {
                let path = path.field("matcher_list");
                let path = path.field("matchers");
                let all = matchers.iter().enumerate();
                let all: Vec<_> = all.map(|(i, message)| self.entry(&path.index(i), message)).collect();
                Branches::List(all.into_iter().collect::<Option<_>>()?)
            }
            Some(MatcherType::MatcherTree(message)) => self.map(&path.field("matcher_tree"), message)?,
        };
        Some(Tree { branches, otherwise })
    }

    fn on_match(self, path: &Path<'_>, message: &pb::matcher::OnMatch) -> Option<OnMatch<Leaf>> {
        use pb::matcher::on_match::OnMatch as Kind;
        let pb::matcher::OnMatch { keep_matching, on_match } = message;
        let then = match on_match {
            Some(Kind::Matcher(message)) => {
                let path = path.field("matcher");
                let inner = Reader { depth: self.depth + 1, ..self };
                if inner.depth > DEEPEST {
                    self.cx.refuse(&path, format!("trees are at most {DEEPEST} deep"));
                    return None;
                }
                Then::Tree(Box::new(inner.tree(&path, message)?))
            }
            Some(Kind::Action(message)) => Then::Action(self.leaf(&path.field("action"), message)?),
            None => {
                self.cx.error(path, "give one of matcher and action");
                return None;
            }
        };
        Some(OnMatch { then, keep_matching: *keep_matching })
    }

    fn leaf(self, path: &Path<'_>, message: &TypedExtensionConfig) -> Option<Leaf> {
        let (path, any) = self.typed(path, message)?;
        if !any::is::<rbac_pb::Action>(any) {
            let why = format!("{} is no action of RBAC; use envoy.config.rbac.v3.Action", type_of(any));
            self.cx.error(&path, why);
            return None;
        }
        let rbac_pb::Action { name, action } = unpack(self.cx, &path, any)?;
        if name.is_empty() {
            self.cx.error(&path.field("name"), "a name is needed");
        }
        Some(Leaf { name: name.into(), action: action_of(self.cx, &path, action) })
    }

    fn entry(
        self,
        path: &Path<'_>,
        message: &pb::matcher::matcher_list::FieldMatcher,
    ) -> Option<(Predicate, OnMatch<Leaf>)> {
        let pb::matcher::matcher_list::FieldMatcher { predicate, on_match } = message;
        let (Some(predicate), Some(on_match)) = (predicate, on_match) else {
            self.cx.error(path, "predicate and on_match are needed");
            return None;
        };
        let predicate = self.predicate(&path.field("predicate"), predicate);
        let on_match = self.on_match(&path.field("on_match"), on_match);
        Some((predicate?, on_match?))
    }

    fn map(self, path: &Path<'_>, message: &pb::matcher::MatcherTree) -> Option<Branches<Leaf>> {
        use pb::matcher::matcher_tree::{MatchMap, TreeType};
        let pb::matcher::MatcherTree { input, tree_type } = message;
        let input = self.input(&path.field("input"), input.as_ref());
        if matches!(input, Some(Input::Attributes)) {
            self.cx.error(
                &path.field("input"),
                "all attributes are no text; write a matcher_list with the matcher of CEL",
            );
        }
        let map = |field: &str, MatchMap { map }: &MatchMap| -> Option<HashMap<Box<str>, _>> {
            let path = path.field(field);
            let path = path.field("map");
            if map.is_empty() {
                self.cx.error(&path, "at least one entry is needed");
            }
            map.iter()
                .map(|(key, message)| Some((key.as_str().into(), self.on_match(&path.key(key), message)?)))
                .collect()
        };
        match tree_type {
            Some(TreeType::ExactMatchMap(message)) => {
                let map = map("exact_match_map", message);
                Some(Branches::Exact(input?, map?))
            }
            Some(TreeType::PrefixMatchMap(message)) => {
                let map = map("prefix_match_map", message);
                Some(Branches::Prefix(input?, map?.into_iter().collect()))
            }
            Some(TreeType::CustomMatch(_)) => {
                self.cx.refuse(
                    &path.field("custom_match"),
                    "trees of addresses and server names are not supported; write a matcher_list, with envoy.matching.matchers.ip for addresses",
                );
                None
            }
            None => {
                self.cx.error(path, "give one of exact_match_map and prefix_match_map");
                None
            }
        }
    }

    fn predicate(self, path: &Path<'_>, message: &pb::matcher::matcher_list::Predicate) -> Option<Predicate> {
        use pb::matcher::matcher_list::predicate::{MatchType, PredicateList};
        let inner = Reader { depth: self.depth + 1, ..self };
        if inner.depth > DEEPEST {
            self.cx.refuse(path, format!("predicates are at most {DEEPEST} deep"));
            return None;
        }
        let list = |field: &str, PredicateList { predicate }: &PredicateList| -> Option<Box<[Predicate]>> {
            let path = path.field(field);
            let path = path.field("predicate");
            if predicate.len() < 2 {
                self.cx.error(&path, "two predicates or more are needed");
            }
            let all = predicate.iter().enumerate();
            let all: Vec<_> = all.map(|(i, message)| inner.predicate(&path.index(i), message)).collect();
            all.into_iter().collect()
        };
        Some(match &message.match_type {
            Some(MatchType::OrMatcher(message)) => Predicate::OneOf(list("or_matcher", message)?),
            Some(MatchType::AndMatcher(message)) => Predicate::All(list("and_matcher", message)?),
            Some(MatchType::NotMatcher(message)) => {
                Predicate::Not(Box::new(inner.predicate(&path.field("not_matcher"), message)?))
            }
            Some(MatchType::SinglePredicate(message)) => {
                self.single(&path.field("single_predicate"), message)?
            }
            None => {
                self.cx.error(path, "a predicate is needed, such as single_predicate");
                return None;
            }
        })
    }

    fn single(
        self,
        path: &Path<'_>,
        message: &pb::matcher::matcher_list::predicate::SinglePredicate,
    ) -> Option<Predicate> {
        use pb::matcher::matcher_list::predicate::SinglePredicate;
        use pb::matcher::matcher_list::predicate::single_predicate::Matcher;
        let SinglePredicate { input, matcher: wanted } = message;
        let input = self.input(&path.field("input"), input.as_ref());
        let wanted = match wanted {
            Some(Matcher::ValueMatch(message)) => {
                let message = envoys(message);
                matcher::string(self.cx, &path.field("value_match"), &message).map(InputMatcher::Text)
            }
            Some(Matcher::CustomMatch(message)) => self.custom(&path.field("custom_match"), message),
            None => {
                self.cx.error(path, "give one of value_match and custom_match");
                None
            }
        };
        let (input, wanted) = (input?, wanted?);
        if matches!(input, Input::Metadata(_)) != matches!(wanted, InputMatcher::Value(..)) {
            self.cx.error(
                path,
                "dynamic metadata and the matcher of metadata go together, and with nothing else",
            );
        }
        if matches!(input, Input::Attributes) != matches!(wanted, InputMatcher::Expression(_)) {
            self.cx.error(
                path,
                "the input of attributes and the matcher of CEL go together, and with nothing else",
            );
        }
        Some(Predicate::Single(input, wanted))
    }

    fn custom(self, path: &Path<'_>, message: &TypedExtensionConfig) -> Option<InputMatcher> {
        let (path, any) = self.typed(path, message)?;
        let cx = self.cx;
        if any::is::<custom::ip::v3::Ip>(any) {
            let message: custom::ip::v3::Ip = unpack(cx, &path, any)?;
            let custom::ip::v3::Ip { cidr_ranges, stat_prefix } = &message;
            inert!(cx, path, "what is no address comes in no input here, so there is nothing to count"; stat_prefix);
            return Some(InputMatcher::Ip(self.nets(&path.field("cidr_ranges"), cidr_ranges)?));
        }
        if any::is::<custom::metadata::v3::Metadata>(any) {
            let custom::metadata::v3::Metadata { value, invert } = unpack(cx, &path, any)?;
            let Some(value) = value else {
                cx.error(&path.field("value"), "a matcher is needed");
                return None;
            };
            return Some(InputMatcher::Value(metadata::value(cx, &path.field("value"), &value)?, invert));
        }
        if any::is::<CelMatcher>(any) {
            // The description is for people.
            let CelMatcher { expr_match, description: _description } = unpack(cx, &path, any)?;
            let path = path.field("expr_match");
            let Some(message) = expr_match else {
                cx.error(&path, "an expression is needed");
                return None;
            };
            return cel::expression(cx, &path, &message, Place::Policy).map(InputMatcher::Expression);
        }
        cx.refuse(&path, format!("the matcher {} is not supported; write value_match", type_of(any)));
        None
    }

    fn nets(self, path: &Path<'_>, messages: &[CidrRange]) -> Option<Box<[IpNet]>> {
        let cidrs = address::cidrs(self.cx, path, messages);
        cidrs.iter().map(|cidr| IpNet::new(cidr.address as IpAddr, cidr.len).ok()).collect()
    }

    fn input(self, path: &Path<'_>, message: Option<&TypedExtensionConfig>) -> Option<Input> {
        let Some(message) = message else {
            self.cx.error(path, "an input is needed");
            return None;
        };
        let (path, any) = self.typed(path, message)?;
        if let Some(input) = self.of_connection(&path, any) {
            return input;
        }
        if self.view == View::Http {
            if any::is::<type_pb::HttpRequestHeaderMatchInput>(any) {
                let type_pb::HttpRequestHeaderMatchInput { header_name } = unpack(self.cx, &path, any)?;
                let Some(name) = HeaderRef::parse(&header_name) else {
                    let why = format!("{header_name:?} is not a header name");
                    self.cx.error(&path.field("header_name"), why);
                    return None;
                };
                return Some(Input::Header(name));
            }
            if any::is::<HttpAttributesCelMatchInput>(any) {
                return unpack(self.cx, &path, any).map(|HttpAttributesCelMatchInput {}| Input::Attributes);
            }
            if any::is::<net::DynamicMetadataInput>(any) {
                return self.metadata(&path, &unpack(self.cx, &path, any)?);
            }
        }
        self.cx.refuse(&path, format!("the input {} is not supported here", type_of(any)));
        None
    }

    /// What a connection has to tell; the outer `None` for another input.
    #[expect(clippy::option_option, reason = "another input, not usable, usable")]
    fn of_connection(self, path: &Path<'_>, any: &Any) -> Option<Option<Input>> {
        Some(if any::is::<net::DestinationIpInput>(any) {
            Some(Input::DestinationIp)
        } else if any::is::<net::DestinationPortInput>(any) {
            Some(Input::DestinationPort)
        } else if any::is::<net::SourceIpInput>(any) {
            Some(Input::SourceIp)
        } else if any::is::<net::SourcePortInput>(any) {
            Some(Input::SourcePort)
        } else if any::is::<net::DirectSourceIpInput>(any) {
            Some(Input::DirectSourceIp)
        } else if any::is::<net::ServerNameInput>(any) {
            Some(Input::ServerName)
        } else if any::is::<ssl::UriSanInput>(any) {
            Some(Input::UriSan)
        } else if any::is::<ssl::DnsSanInput>(any) {
            Some(Input::DnsSan)
        } else if any::is::<ssl::SubjectInput>(any) {
            Some(Input::Subject)
        } else if any::is::<net::FilterStateInput>(any) {
            unpack(self.cx, path, any).map(|net::FilterStateInput { key, field: _field }| {
                if key.is_empty() {
                    self.cx.error(&path.field("key"), "a key is needed");
                }
                self.cx.inert(path, "no filter here leaves such an object, so there is no value to match");
                Input::Absent
            })
        } else {
            return None;
        })
    }

    fn metadata(self, path: &Path<'_>, message: &net::DynamicMetadataInput) -> Option<Input> {
        use net::dynamic_metadata_input::{PathSegment, path_segment::Segment};
        let net::DynamicMetadataInput { filter, path: segments } = message;
        if filter.is_empty() || segments.is_empty() {
            self.cx.error(path, "filter and path are needed");
        }
        outrider_core::metadata::note_reader();
        let key = |PathSegment { segment }: &PathSegment| {
            segment.as_ref().map(|Segment::Key(key)| Box::from(key.as_str()))
        };
        let keys: Option<Box<[Box<str>]>> = segments.iter().map(key).collect();
        if keys.is_none() {
            self.cx.error(&path.field("path"), "each segment needs a key");
        }
        Some(Input::Metadata(Box::new(MetadataMatcher {
            namespace: filter.as_str().into(),
            path: keys?,
            value: ValueMatcher::Present(true),
            invert: false,
        })))
    }

    fn typed<'p, 'm>(
        self,
        path: &'p Path<'p>,
        message: &'m TypedExtensionConfig,
    ) -> Option<(Path<'p>, &'m Any)> {
        // The name is for people alone: extensions go by their type.
        let TypedExtensionConfig { name: _name, typed_config } = message;
        let path = path.field("typed_config");
        if typed_config.is_none() {
            self.cx.error(&path, "settings with their @type are needed");
        }
        Some((path, typed_config.as_ref()?))
    }
}

/// The matcher as Envoy's own API has it, which is the same.
fn envoys(message: &pb::StringMatcher) -> type_pb::StringMatcher {
    use pb::string_matcher::MatchPattern;
    use type_pb::string_matcher::MatchPattern as Envoys;
    let pb::StringMatcher { ignore_case, match_pattern } = message;
    let regex = |pb::RegexMatcher { regex, engine_type: _engine }: &pb::RegexMatcher| type_pb::RegexMatcher {
        regex: regex.clone(),
        engine_type: None,
    };
    let match_pattern = match_pattern.as_ref().map(|pattern| match pattern {
        MatchPattern::Exact(text) => Envoys::Exact(text.clone()),
        MatchPattern::Prefix(text) => Envoys::Prefix(text.clone()),
        MatchPattern::Suffix(text) => Envoys::Suffix(text.clone()),
        MatchPattern::Contains(text) => Envoys::Contains(text.clone()),
        MatchPattern::SafeRegex(message) => Envoys::SafeRegex(regex(message)),
        MatchPattern::Custom(_) => Envoys::Custom(Default::default()),
    });
    type_pb::StringMatcher { ignore_case: *ignore_case, match_pattern }
}
