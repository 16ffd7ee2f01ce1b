//! Role-based access control: what the filters for HTTP and for connections have in common.

mod policy;
mod tree;

use outrider_core::rbac::{Action, Engine, Rules};
use outrider_proto::Path;
use outrider_proto::pb::envoy::config::rbac::v3 as pb;
use outrider_proto::pb::xds::r#type::matcher::v3 as matcher_pb;

use super::cx::{Cx, inert};
use super::scalar::enumeration;

/// What policies can see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum View {
    /// Requests.
    Http,
    /// Connections.
    Connection,
}

/// A field and its message.
pub(crate) type Field<'a, T> = (&'static str, Option<&'a T>);

/// What a filter enforces, or what it only counts: a match tree, or rules; `None` for nothing.
pub(crate) fn engine(
    cx: &Cx,
    path: &Path<'_>,
    (rules_field, rules): Field<'_, pb::Rbac>,
    (tree_field, tree): Field<'_, matcher_pb::Matcher>,
    view: View,
) -> Option<Engine> {
    if let Some(message) = tree {
        if rules.is_some() {
            cx.inert(&path.field(rules_field), format!("{tree_field} comes before it, in Envoy too"));
        }
        let reader = tree::Reader { cx, view, depth: 0 };
        return reader.tree(&path.field(tree_field), message).map(Engine::tree);
    }
    rules.map(|message| Engine::Rules(self::rules(cx, &path.field(rules_field), message, view)))
}

/// Policies and what becomes of what they match.
fn rules(cx: &Cx, path: &Path<'_>, message: &pb::Rbac, view: View) -> Rules {
    let pb::Rbac { action, policies, audit_logging_options } = message;
    inert!(cx, path, "nothing is audited, in Envoy neither: it is for other users of the API"; audit_logging_options);
    let action = action_of(cx, path, *action);
    let at = path.field("policies");
    let mut found = Vec::with_capacity(policies.len());
    for (name, message) in policies {
        found.extend(policy::policy(cx, &at.key(name), name, message, view));
    }
    Rules::new(action, found)
}

fn action_of(cx: &Cx, path: &Path<'_>, value: i32) -> Action {
    match enumeration::<pb::rbac::Action>(cx, path, "action", value) {
        pb::rbac::Action::Allow => Action::Allow,
        pb::rbac::Action::Deny => Action::Deny,
        pb::rbac::Action::Log => Action::Log,
    }
}
