//! `envoy.filters.network.rbac`

use std::sync::Arc;

use outrider_core::rbac::Names;
use outrider_proto::Path;
use outrider_proto::pb::envoy::extensions::filters::network::rbac::v3 as pb;

use super::cx::Cx;
use super::rbac::{View, engine};
use super::scalar::{duration, enumeration};
use crate::model::NetworkRbac;

/// The filter at `path`.
pub(crate) fn filter(cx: &Cx, path: &Path<'_>, message: &pb::Rbac) -> NetworkRbac {
    use pb::rbac::EnforcementType;
    let pb::Rbac {
        rules,
        matcher,
        shadow_rules,
        shadow_matcher,
        shadow_rules_stat_prefix,
        stat_prefix,
        enforcement_type,
        delay_deny,
    } = message;
    if stat_prefix.is_empty() {
        cx.error(&path.field("stat_prefix"), "a prefix for the stats is needed");
    }
    if enumeration::<EnforcementType>(cx, path, "enforcement_type", *enforcement_type)
        == EnforcementType::Continuous
    {
        let why = "nothing that policies for connections look at changes while one is open, so each is judged once, and counted once";
        cx.inert(&path.field("enforcement_type"), why);
    }
    let (rules, matcher) = (("rules", rules.as_ref()), ("matcher", matcher.as_ref()));
    let shadow_rules = ("shadow_rules", shadow_rules.as_ref());
    let shadow_matcher = ("shadow_matcher", shadow_matcher.as_ref());
    NetworkRbac {
        stat_prefix: Arc::from(stat_prefix.as_str()),
        enforced: engine(cx, path, rules, matcher, View::Connection),
        enforced_names: Names::enforced(""),
        shadow: engine(cx, path, shadow_rules, shadow_matcher, View::Connection),
        shadow_names: Names::shadow(shadow_rules_stat_prefix),
        delay_deny: duration(cx, path, "delay_deny", delay_deny).unwrap_or_default(),
    }
}
