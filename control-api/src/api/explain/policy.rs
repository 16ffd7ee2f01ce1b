//! Who may do what before a request is routed: the RBAC filters in its way. The client's identity is not known here, so a policy
//! is said to allow, to deny, or to depend on who asks.

use std::collections::BTreeMap;

use outrider_proto::any;
use outrider_proto::pb::envoy::config::listener::v3::{Filter, filter::ConfigType};
use outrider_proto::pb::envoy::config::rbac::v3::{
    Permission, Policy, Principal, Rbac, permission::Rule, principal::Identifier, rbac::Action,
};
use outrider_proto::pb::envoy::config::route::v3::Route;
use outrider_proto::pb::envoy::extensions::filters::http::rbac::v3::{Rbac as HttpRbac, RbacPerRoute};
use outrider_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, http_filter,
};
use outrider_proto::pb::envoy::extensions::filters::network::rbac::v3::Rbac as NetworkRbac;

use super::matching::{header, string};
use super::{Asked, Story};

/// The policies in a chain of network filters; a verdict where one ends it for certain.
pub(super) fn network(filters: &[Filter], asked: &Asked, story: &mut Story) -> Option<String> {
    for filter in filters {
        if let Some(ConfigType::TypedConfig(config)) = &filter.config_type
            && let Ok(rbac) = any::unpack::<NetworkRbac>(config)
            && let Some(reason) = tell(rbac.rules.as_ref(), asked, story)
        {
            return Some(format!("the connection is closed: {reason}"));
        }
    }
    None
}

/// The policies of a connection manager, and of a route where it has its own; a verdict where one ends it for certain.
pub(super) fn http(
    manager: &HttpConnectionManager,
    route: Option<&Route>,
    asked: &Asked,
    story: &mut Story,
) -> Option<String> {
    for filter in &manager.http_filters {
        let Some(http_filter::ConfigType::TypedConfig(config)) = &filter.config_type else { continue };
        let Ok(rbac) = any::unpack::<HttpRbac>(config) else { continue };
        let own = route.and_then(|route| route.typed_per_filter_config.get(&filter.name));
        let own = own.and_then(|own| any::unpack::<RbacPerRoute>(own).ok());
        let rules = match &own {
            Some(own) => own.rbac.as_ref().and_then(|it| it.rules.as_ref()),
            None => rbac.rules.as_ref(),
        };
        if let Some(reason) = tell(rules, asked, story) {
            return Some(format!("403 {reason}"));
        }
    }
    None
}

/// What one filter's policies say; why the request ends here, where that is certain.
fn tell(rules: Option<&Rbac>, asked: &Asked, story: &mut Story) -> Option<String> {
    let rules = rules?;
    let action = Action::try_from(rules.action).unwrap_or_default();
    let verb = match action {
        Action::Allow => "allows it",
        Action::Deny => "denies it",
        Action::Log => "logs it",
    };
    let (mut matched, mut denied) = (false, None);
    for (name, policy) in rules.policies.iter().collect::<BTreeMap<_, _>>() {
        let judged = judge(policy, asked);
        let (taken, reason) = match judged {
            Some(true) => (true, verb.to_owned()),
            Some(false) => (false, "is not about this request".to_owned()),
            None => (true, format!("{verb} if the client is one of those it names")),
        };
        matched |= taken;
        if judged == Some(true) && action == Action::Deny {
            denied.get_or_insert_with(|| format!("denied by {name}"));
        }
        story.step("policy", name, Some(name), taken, reason);
    }
    if action == Action::Allow && !matched {
        denied = Some("there are policies that allow, and none of them allows this".to_owned());
    }
    denied
}

/// Whether a policy is about the request; `None`: that depends on the client.
fn judge(policy: &Policy, asked: &Asked) -> Option<bool> {
    let permitted = any_of(policy.permissions.iter().map(|it| permission(it, asked)));
    all_of([permitted, any_of(policy.principals.iter().map(|it| principal(it, asked)))])
}

fn any_of(all: impl IntoIterator<Item = Option<bool>>) -> Option<bool> {
    let mut open = false;
    for one in all {
        match one {
            Some(true) => return Some(true),
            Some(false) => {}
            None => open = true,
        }
    }
    if open { None } else { Some(false) }
}

fn all_of(all: impl IntoIterator<Item = Option<bool>>) -> Option<bool> {
    any_of(all.into_iter().map(|it| it.map(|it| !it))).map(|it| !it)
}

fn permission(wanted: &Permission, asked: &Asked) -> Option<bool> {
    match wanted.rule.as_ref()? {
        Rule::Any(any) => Some(*any),
        Rule::AndRules(set) => all_of(set.rules.iter().map(|it| permission(it, asked))),
        Rule::OrRules(set) => any_of(set.rules.iter().map(|it| permission(it, asked))),
        Rule::NotRule(rule) => permission(rule, asked).map(|it| !it),
        Rule::Header(matcher) => Some(header(matcher, asked).is_none()),
        Rule::UrlPath(matcher) => path(matcher, asked),
        Rule::DestinationPort(port) if asked.port != 0 => Some(*port == u32::from(asked.port)),
        _ => None,
    }
}

fn principal(wanted: &Principal, asked: &Asked) -> Option<bool> {
    match wanted.identifier.as_ref()? {
        Identifier::Any(any) => Some(*any),
        Identifier::AndIds(set) => all_of(set.ids.iter().map(|it| principal(it, asked))),
        Identifier::OrIds(set) => any_of(set.ids.iter().map(|it| principal(it, asked))),
        Identifier::NotId(id) => principal(id, asked).map(|it| !it),
        Identifier::Header(matcher) => Some(header(matcher, asked).is_none()),
        Identifier::UrlPath(matcher) => path(matcher, asked),
        _ => None,
    }
}

fn path(
    matcher: &outrider_proto::pb::envoy::r#type::matcher::v3::PathMatcher,
    asked: &Asked,
) -> Option<bool> {
    use outrider_proto::pb::envoy::r#type::matcher::v3::path_matcher::Rule;
    let Rule::Path(matcher) = matcher.rule.as_ref()?;
    string(matcher).map(|(takes, _)| takes(&asked.path))
}
