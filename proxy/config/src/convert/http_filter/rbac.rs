//! `envoy.filters.http.rbac`

use std::sync::Arc;

use outrider_core::rbac::Names;
use outrider_proto::Path;
use outrider_proto::pb::envoy::extensions::filters::http::rbac::v3 as pb;

use crate::convert::cx::Cx;
use crate::convert::rbac::{View, engine};
use crate::model::Rbac;

/// The filter at `path`.
pub(super) fn filter(cx: &Cx, path: &Path<'_>, message: &pb::Rbac) -> Rbac {
    let pb::Rbac {
        rules,
        rules_stat_prefix,
        matcher,
        shadow_rules,
        shadow_matcher,
        shadow_rules_stat_prefix,
        track_per_rule_stats,
    } = message;
    let (rules, matcher) = (("rules", rules.as_ref()), ("matcher", matcher.as_ref()));
    let shadow_rules = ("shadow_rules", shadow_rules.as_ref());
    let shadow_matcher = ("shadow_matcher", shadow_matcher.as_ref());
    Rbac {
        enforced: engine(cx, path, rules, matcher, View::Http),
        enforced_names: Names::enforced(rules_stat_prefix),
        shadow: engine(cx, path, shadow_rules, shadow_matcher, View::Http),
        shadow_names: Names::shadow(shadow_rules_stat_prefix),
        per_rule: *track_per_rule_stats,
    }
}

/// What a route says in the filter's place; `None` turns it off.
pub(super) fn per_route(cx: &Cx, path: &Path<'_>, message: &pb::RbacPerRoute) -> Option<Arc<Rbac>> {
    let pb::RbacPerRoute { rbac } = message;
    rbac.as_ref().map(|message| Arc::new(filter(cx, &path.field("rbac"), message)))
}
