//! `AuthorizationPolicy`: who may do what at a workload, as RBAC filters in front of it.
//!
//! The order is Istio's: what is logged, what is denied, what is allowed. The kinds of conditions that only HTTP has cannot be seen on other
//! connections: a rule that denies is applied by what can be seen, one that allows does not match.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use k8s_openapi::api::core::v1::Pod;
use outrider_proto::pb::envoy::config::core::v3::CidrRange;
use outrider_proto::pb::envoy::config::listener::v3 as listener;
use outrider_proto::pb::envoy::config::rbac::v3 as pb;
use outrider_proto::pb::envoy::config::route::v3::{HeaderMatcher, header_matcher::HeaderMatchSpecifier};
use outrider_proto::pb::envoy::extensions::filters::http::rbac::v3::Rbac as HttpRbac;
use outrider_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use outrider_proto::pb::envoy::extensions::filters::network::rbac::v3::Rbac as NetworkRbac;
use outrider_proto::pb::envoy::r#type::matcher::v3::{
    PathMatcher, RegexMatcher, StringMatcher, path_matcher, string_matcher::MatchPattern,
};
use regex::escape;

use super::jwt;
use crate::attach::ir::Target;
use crate::model::own::{Action, AuthorizationPolicy, Operation, Rule, Source, ip_block};
use crate::model::{Key, Typed as _};
use crate::translate::Context;
use crate::translate::wire::{any_sorted, uint};
use crate::world::{Proxy, World};

/// The name of the filter for HTTP.
pub const HTTP_FILTER: &str = "envoy.filters.http.rbac";

/// In which order actions are taken.
const ORDER: [Action; 3] = [Action::Log, Action::Deny, Action::Allow];

/// Whom policies select: pods of a namespace by their labels.
#[derive(Clone, Copy, Debug)]
pub struct Workload<'w> {
    /// The namespace, whose policies count.
    pub namespace: &'w str,
    /// The labels, which selectors look at. `None`: nobody says them.
    pub labels: Option<&'w BTreeMap<String, String>>,
}

/// A proxy's labels. What its pod says counts, then what the proxy says; `None` where neither says anything.
pub fn labels(world: &World, proxy: &Proxy) -> Option<BTreeMap<String, String>> {
    match world.get::<Pod>(&proxy.namespace, &proxy.pod) {
        Some(pod) => Some(pod.metadata.labels.clone().unwrap_or_default()),
        None => Some(proxy.labels.clone()).filter(|labels| !labels.is_empty()),
    }
}

/// The HTTP filters that enforce the policies of a workload. Rules say themselves which ports they are for.
pub fn http_filters(context: &Context, workload: Workload<'_>) -> Vec<hcm::HttpFilter> {
    let one = |rules: pb::Rbac| hcm::HttpFilter {
        name: HTTP_FILTER.to_owned(),
        config_type: Some(hcm::http_filter::ConfigType::TypedConfig(any_sorted(&HttpRbac {
            rules: Some(rules),
            ..Default::default()
        }))),
        ..Default::default()
    };
    let tokens = jwt::filter(&context.world, &of_workload(context, workload));
    let rules = ORDER.iter().flat_map(|action| rules(context, workload, *action, true)).map(one);
    tokens.into_iter().chain(rules).collect()
}

/// What turns revoked identities away, in front of all else that a connection meets: nothing when none is revoked. No policy lets them in.
pub fn revoked(world: &World) -> Option<listener::Filter> {
    let exactly = |uri: &str| {
        let name =
            StringMatcher { match_pattern: Some(MatchPattern::Exact(uri.to_owned())), ..Default::default() };
        let name = pb::principal::Authenticated { principal_name: Some(name) };
        principal(Is::That(pb::principal::Identifier::Authenticated(name)))
    };
    let principals: Vec<_> = world.revoked().into_iter().map(exactly).collect();
    if principals.is_empty() {
        return None;
    }
    let policy = pb::Policy { permissions: vec![permission(Is::Anything)], principals, ..Default::default() };
    let rules = pb::Rbac {
        action: pb::rbac::Action::Deny as i32,
        policies: HashMap::from([("revoked".to_owned(), policy)]),
        ..Default::default()
    };
    let config = NetworkRbac { rules: Some(rules), stat_prefix: "revoked.".to_owned(), ..Default::default() };
    Some(listener::Filter {
        name: "envoy.filters.network.rbac".to_owned(),
        config_type: Some(listener::filter::ConfigType::TypedConfig(any_sorted(&config))),
    })
}

/// What the policies of a workload fetch the keys of issuers from.
pub fn keys(context: &Context, workload: Workload<'_>) -> BTreeSet<Target> {
    jwt::targets(&of_workload(context, workload))
}

/// The policies that are for a workload, as far as anybody knows.
fn of_workload<'c>(context: &'c Context, workload: Workload<'_>) -> Vec<(&'c Key, &'c AuthorizationPolicy)> {
    let listed = context.policies.authorization.get(workload.namespace).into_iter().flatten();
    let all = listed.filter_map(|object| Some((&object.key, AuthorizationPolicy::of(&object.body)?)));
    all.filter(|(_, policy)| selected(policy, workload)).collect()
}

/// The same for connections that are not HTTP.
pub fn network_filters(context: &Context, workload: Workload<'_>) -> Vec<listener::Filter> {
    let one = |rules: pb::Rbac| listener::Filter {
        name: "envoy.filters.network.rbac".to_owned(),
        config_type: Some(listener::filter::ConfigType::TypedConfig(any_sorted(&NetworkRbac {
            rules: Some(rules),
            stat_prefix: "tcp.".to_owned(),
            ..Default::default()
        }))),
    };
    ORDER.iter().flat_map(|action| rules(context, workload, *action, false)).map(one).collect()
}

/// The rules of all policies with an action for a workload; none when there is no such policy. Of several that come of one action, all
/// must let something pass.
fn rules(context: &Context, workload: Workload<'_>, action: Action, http: bool) -> Vec<pb::Rbac> {
    let mut all = of_workload(context, workload);
    all.retain(|(_, policy)| policy.spec.action == action);
    let view = View { deny: action == Action::Deny, http };
    if workload.labels.is_none() && action == Action::Allow {
        // Which of those with a selector are for this workload, nobody knows. Those for all are, whatever else is; what passes these
        // passes with any of the others as well. Where there are none, something passes for certain when each one lets it.
        let (chosen, common): (Vec<_>, Vec<_>) =
            all.iter().copied().partition(|(_, policy)| policy.spec.selector.is_some());
        if common.is_empty() {
            return chosen.iter().map(|one| view.rbac(action, std::slice::from_ref(one))).collect();
        }
        all = common;
    }
    if all.is_empty() { Vec::new() } else { vec![view.rbac(action, &all)] }
}

/// Whether a policy is for a workload, as far as anybody knows.
fn selected(policy: &AuthorizationPolicy, workload: Workload<'_>) -> bool {
    match (&policy.spec.selector, workload.labels) {
        (None, _) => true,
        (Some(selector), Some(labels)) => selector.matches(labels),
        (Some(_), None) => policy.spec.action != Action::Log,
    }
}

/// A condition: of `That`s, which are permissions or principals.
enum Is<T> {
    Anything,
    That(T),
    All(Vec<Self>),
    OneOf(Vec<Self>),
    Not(Box<Self>),
}

impl<T> Is<T> {
    fn not(it: Self) -> Self {
        Self::Not(Box::new(it))
    }

    fn nothing() -> Self {
        Self::not(Self::Anything)
    }
}

fn permission(it: Is<pb::permission::Rule>) -> pb::Permission {
    use pb::permission::{Rule, Set};
    let set = |list: Vec<Is<Rule>>| Set { rules: list.into_iter().map(permission).collect() };
    let rule = match it {
        Is::Anything => Rule::Any(true),
        Is::That(rule) => rule,
        Is::All(mut list) if list.len() == 1 => return permission(list.remove(0)),
        Is::All(list) if list.is_empty() => Rule::Any(true),
        Is::All(list) => Rule::AndRules(set(list)),
        Is::OneOf(mut list) if list.len() == 1 => return permission(list.remove(0)),
        Is::OneOf(list) if list.is_empty() => return permission(Is::nothing()),
        Is::OneOf(list) => Rule::OrRules(set(list)),
        Is::Not(it) => Rule::NotRule(Box::new(permission(*it))),
    };
    pb::Permission { rule: Some(rule) }
}

fn principal(it: Is<pb::principal::Identifier>) -> pb::Principal {
    use pb::principal::{Identifier, Set};
    let set = |list: Vec<Is<Identifier>>| Set { ids: list.into_iter().map(principal).collect() };
    let identifier = match it {
        Is::Anything => Identifier::Any(true),
        Is::That(identifier) => identifier,
        Is::All(mut list) if list.len() == 1 => return principal(list.remove(0)),
        Is::All(list) if list.is_empty() => Identifier::Any(true),
        Is::All(list) => Identifier::AndIds(set(list)),
        Is::OneOf(mut list) if list.len() == 1 => return principal(list.remove(0)),
        Is::OneOf(list) if list.is_empty() => return principal(Is::nothing()),
        Is::OneOf(list) => Identifier::OrIds(set(list)),
        Is::Not(it) => Identifier::NotId(Box::new(principal(*it))),
    };
    pb::Principal { identifier: Some(identifier) }
}

/// For whom rules are written.
#[derive(Clone, Copy)]
struct View {
    /// What they match is refused.
    deny: bool,
    /// What passes is HTTP.
    http: bool,
}

impl View {
    /// The rules of these policies. One that nothing can match is left out; an `Allow` without rules refuses everything.
    fn rbac(self, action: Action, policies: &[(&Key, &AuthorizationPolicy)]) -> pb::Rbac {
        let mut out = HashMap::new();
        for (key, policy) in policies {
            for (index, rule) in policy.spec.rules.iter().enumerate() {
                if let Some(rule) = self.rule(rule) {
                    out.insert(format!("ns[{}]-policy[{}]-rule[{index}]", key.namespace, key.name), rule);
                }
            }
        }
        let action = match action {
            Action::Allow => pb::rbac::Action::Allow,
            Action::Deny => pb::rbac::Action::Deny,
            Action::Log => pb::rbac::Action::Log,
        };
        pb::Rbac { action: action as i32, policies: out, ..Default::default() }
    }

    /// A rule; `None` when nothing can match it here.
    fn rule(self, rule: &Rule) -> Option<pb::Policy> {
        use pb::permission::Rule as Permission;
        let headers = rule.when.iter().map(|condition| {
            let values = |list: &[String]| -> Vec<_> {
                list.iter().map(|it| Is::That(Permission::Header(header(&condition.header, it)))).collect()
            };
            both(values(&condition.values), values(&condition.not_values))
        });
        let headers = self.visible(!rule.when.is_empty(), headers.flatten().collect())?;
        let operations: Vec<_> = rule.to.iter().filter_map(|it| self.operation(it)).collect();
        if operations.is_empty() && !rule.to.is_empty() {
            return None;
        }
        let mut permissions = headers;
        if !operations.is_empty() {
            permissions.push(Is::OneOf(operations));
        }
        let principals = rule.from.iter().map(|it| principal(self.source(it)));
        Some(pb::Policy {
            permissions: vec![permission(Is::All(permissions))],
            principals: if rule.from.is_empty() {
                vec![principal(Is::Anything)]
            } else {
                principals.collect()
            },
            ..Default::default()
        })
    }

    /// Conditions that only HTTP has, when there are any: `None` when they cannot be seen and the rule must not match for it.
    fn visible<T>(self, any: bool, conditions: Vec<Is<T>>) -> Option<Vec<Is<T>>> {
        match (any && !self.http, self.deny) {
            (false, _) => Some(conditions),
            (true, true) => Some(Vec::new()),
            (true, false) => None,
        }
    }

    fn operation(self, it: &Operation) -> Option<Is<pb::permission::Rule>> {
        use pb::permission::Rule;
        let hosts =
            |list: &[String]| -> Vec<_> { list.iter().map(|it| Is::That(Rule::Header(host(it)))).collect() };
        let methods = |list: &[String]| -> Vec<_> {
            list.iter().map(|it| Is::That(Rule::Header(header(":method", it)))).collect()
        };
        let paths = |list: &[String]| -> Vec<_> { list.iter().map(|it| path(it)).collect() };
        let mut http = both(hosts(&it.hosts), hosts(&it.not_hosts));
        http.extend(both(methods(&it.methods), methods(&it.not_methods)));
        http.extend(both(paths(&it.paths), paths(&it.not_paths)));
        let mut all = self.visible(!http.is_empty(), http)?;
        let ports = |list: &[u16]| -> Vec<_> {
            list.iter().map(|it| Is::That(Rule::DestinationPort(u32::from(*it)))).collect()
        };
        all.extend(both(ports(&it.ports), ports(&it.not_ports)));
        Some(Is::All(all))
    }

    fn source(self, it: &Source) -> Is<pb::principal::Identifier> {
        let names = |list: &[String]| -> Vec<_> { list.iter().map(|it| identity(&spiffe(it))).collect() };
        let spaces = |list: &[String]| -> Vec<_> {
            list.iter().map(|it| identity(&format!("spiffe://[^/]+/ns/{}/.+", glob(it, "[^/]")))).collect()
        };
        let wanted = |mut list: Vec<_>| {
            if self.deny && !list.is_empty() {
                // Who shows no identity could be the one that is not to get in.
                list.push(Is::not(identity(ANYBODY)));
            }
            list
        };
        let mut all = both(wanted(names(&it.principals)), names(&it.not_principals));
        all.extend(both(wanted(spaces(&it.namespaces)), spaces(&it.not_namespaces)));
        let unwanted = !it.not_principals.is_empty() || !it.not_namespaces.is_empty();
        if unwanted && !self.deny {
            // Not to be somebody, one has to be somebody: who is unknown is not let in for it.
            all.push(identity(ANYBODY));
        }
        all.extend(self.tokens(it));
        let blocks = |list: &[String], negative: bool| -> Vec<_> {
            list.iter().map(|it| self.block(it, negative)).collect()
        };
        all.extend(both(blocks(&it.ip_blocks, false), blocks(&it.not_ip_blocks, true)));
        Is::All(all)
    }

    /// Whom tokens are about, which HTTP alone has: elsewhere `Allow` does not match for it, and `Deny` by what else can be seen.
    fn tokens(self, it: &Source) -> Vec<Is<pb::principal::Identifier>> {
        let (wanted, unwanted) = (&it.request_principals, &it.not_request_principals);
        let some = !wanted.is_empty() || !unwanted.is_empty();
        if some && !self.http {
            return if self.deny { Vec::new() } else { vec![Is::nothing()] };
        }
        let about = |list: &[String]| -> Vec<_> { list.iter().map(|it| token(it)).collect() };
        let mut whom = about(wanted);
        if self.deny && !whom.is_empty() {
            whom.push(Is::not(token("*")));
        }
        let mut all = both(whom, about(unwanted));
        if !unwanted.is_empty() && !self.deny {
            all.push(token("*"));
        }
        all
    }

    /// Addresses. What cannot be read, which validation does not let through, never lets anybody in.
    fn block(self, text: &str, negative: bool) -> Is<pb::principal::Identifier> {
        match ip_block(text) {
            Some(block) => Is::That(pb::principal::Identifier::DirectRemoteIp(CidrRange {
                address_prefix: block.network().to_string(),
                prefix_len: Some(uint(u32::from(block.prefix_len()))),
            })),
            None if self.deny != negative => Is::Anything,
            None => Is::nothing(),
        }
    }
}

/// One of the first, where there are any, and none of the others.
fn both<T>(wanted: Vec<Is<T>>, unwanted: Vec<Is<T>>) -> Vec<Is<T>> {
    let mut out = Vec::new();
    if !wanted.is_empty() {
        out.push(Is::OneOf(wanted));
    }
    if !unwanted.is_empty() {
        out.push(Is::not(Is::OneOf(unwanted)));
    }
    out
}

/// Any identity.
const ANYBODY: &str = "spiffe://.+";

/// The identity of a peer, by a regular expression for all of it. Without a certificate there is none.
fn identity(regex: &str) -> Is<pb::principal::Identifier> {
    Is::That(pb::principal::Identifier::Authenticated(pb::principal::Authenticated {
        principal_name: Some(matching(regex)),
    }))
}

/// Whom a verified token is about: `ISSUER/SUBJECT`, or `*`.
fn token(about: &str) -> Is<pb::principal::Identifier> {
    let (issuer, subject) = about.rsplit_once('/').unwrap_or((about, "*"));
    let claim =
        |name: &str, wanted: &str| Is::That(jwt::claim(name, Some(wanted).filter(|it| *it != "*").map(text)));
    let mut all = vec![claim("iss", issuer)];
    if subject != "*" {
        all.push(claim("sub", subject));
    }
    Is::All(all)
}

fn spiffe(text: &str) -> String {
    format!("spiffe://{}", glob(text, "."))
}

/// A text with a `*` in front or at the end, as a regular expression; `any`: what the star stands for.
fn glob(text: &str, any: &str) -> String {
    if text == "*" {
        return format!("{any}+");
    }
    if let Some(rest) = text.strip_prefix('*') {
        return format!("{any}*{}", escape(rest));
    }
    match text.strip_suffix('*') {
        Some(rest) => format!("{}{any}*", escape(rest)),
        None => escape(text),
    }
}

fn matching(regex: &str) -> StringMatcher {
    let regex = RegexMatcher { regex: regex.to_owned(), ..Default::default() };
    StringMatcher { match_pattern: Some(MatchPattern::SafeRegex(regex)), ..Default::default() }
}

/// A host, in any case, with the port or the dot that a client may put at its end: who is refused by the name of a host shall not get
/// by with another way to write it.
fn host(text: &str) -> HeaderMatcher {
    let has_port = text.rsplit_once(':').is_some_and(|(_, port)| port.chars().all(|c| c.is_ascii_digit()));
    let tail = if has_port || text.ends_with('*') { "" } else { "\\.?(:[0-9]+)?" };
    let matcher = matching(&format!("(?i){}{tail}", glob(text, ".")));
    HeaderMatcher {
        name: ":authority".to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(matcher)),
        ..Default::default()
    }
}

/// A header by its value, with a `*` in front or at the end; `*` alone: it is there.
fn header(name: &str, value: &str) -> HeaderMatcher {
    let specifier = match value {
        "*" => HeaderMatchSpecifier::PresentMatch(true),
        value => HeaderMatchSpecifier::StringMatch(text(value)),
    };
    HeaderMatcher { name: name.to_lowercase(), header_match_specifier: Some(specifier), ..Default::default() }
}

fn path(value: &str) -> Is<pb::permission::Rule> {
    if value == "*" {
        return Is::Anything;
    }
    Is::That(pb::permission::Rule::UrlPath(PathMatcher { rule: Some(path_matcher::Rule::Path(text(value))) }))
}

fn text(value: &str) -> StringMatcher {
    let pattern = if let Some(suffix) = value.strip_prefix('*') {
        MatchPattern::Suffix(suffix.to_owned())
    } else if let Some(prefix) = value.strip_suffix('*') {
        MatchPattern::Prefix(prefix.to_owned())
    } else {
        MatchPattern::Exact(value.to_owned())
    };
    StringMatcher { match_pattern: Some(pattern), ..Default::default() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_pattern_is_an_expression_that_matches_what_it_says(inner in "[ -~&&[^*]]{1,12}", extra in "[a-z]{0,4}") {
            let full = |regex: String| regex::Regex::new(&format!("^(?:{regex})$")).unwrap();
            let (longer, before) = (format!("{inner}{extra}"), format!("{extra}{inner}"));
            let (front, back) = (format!("*{inner}"), format!("{inner}*"));
            prop_assert!(full(glob(&inner, ".")).is_match(&inner));
            prop_assert_eq!(full(glob(&inner, ".")).is_match(&longer), extra.is_empty());
            prop_assert!(full(glob(&back, ".")).is_match(&longer));
            prop_assert!(full(glob(&front, ".")).is_match(&before));
        }
    }
}
