//! `envoy.filters.http.header_mutation`

use std::sync::Arc;

use outrider_proto::Path;
use outrider_proto::pb::envoy::config::common::mutation_rules::v3 as rules_pb;
use outrider_proto::pb::envoy::config::core::v3 as core_pb;
use outrider_proto::pb::envoy::extensions::filters::http::header_mutation::v3 as pb;
use outrider_proto::pb::google::protobuf::value::Kind;

use crate::convert::cx::{Cx, refuse};
use crate::convert::scalar::enumeration;
use crate::convert::{header, matcher};
use crate::model::{AppendAction, FilterMutations, HeaderMutation, HeaderMutationFilter, QueryMutation};

/// The filter at `path`.
pub(super) fn filter(cx: &Cx, path: &Path<'_>, message: &pb::HeaderMutation) -> HeaderMutationFilter {
    let pb::HeaderMutation { mutations, most_specific_header_mutations_wins } = message;
    HeaderMutationFilter {
        mutations: all(cx, &path.field("mutations"), mutations.as_ref()),
        most_specific_wins: *most_specific_header_mutations_wins,
    }
}

/// A route's changes.
pub(super) fn per_route(cx: &Cx, path: &Path<'_>, message: &pb::HeaderMutationPerRoute) -> FilterMutations {
    let pb::HeaderMutationPerRoute { mutations } = message;
    all(cx, &path.field("mutations"), mutations.as_ref())
}

fn all(cx: &Cx, path: &Path<'_>, message: Option<&pb::Mutations>) -> FilterMutations {
    let Some(message) = message else { return FilterMutations::default() };
    let pb::Mutations {
        request_mutations,
        query_parameter_mutations,
        response_mutations,
        response_trailers_mutations,
        request_trailers_mutations,
    } = message;
    let list = |field: &str, messages: &[rules_pb::HeaderMutation]| -> Vec<HeaderMutation> {
        let path = path.field(field);
        let one = |(i, message)| mutation(cx, &path.index(i), message);
        messages.iter().enumerate().filter_map(one).collect()
    };
    let query = path.field("query_parameter_mutations");
    FilterMutations {
        request: list("request_mutations", request_mutations),
        query: query_parameter_mutations
            .iter()
            .enumerate()
            .filter_map(|(i, message)| parameter(cx, &query.index(i), message))
            .collect(),
        request_trailers: list("request_trailers_mutations", request_trailers_mutations),
        response: list("response_mutations", response_mutations),
        response_trailers: list("response_trailers_mutations", response_trailers_mutations),
    }
}

/// A change of headers (`config.common.mutation_rules.v3.HeaderMutation`); `None`, and an error, when it is not usable.
pub(crate) fn mutation(
    cx: &Cx,
    path: &Path<'_>,
    message: &rules_pb::HeaderMutation,
) -> Option<HeaderMutation> {
    use rules_pb::header_mutation::{Action, RemoveOnMatch};
    let rules_pb::HeaderMutation { action } = message;
    match action {
        Some(Action::Remove(name)) => {
            let path = path.field("remove");
            header::removal(cx, &path, name).map(HeaderMutation::Remove)
        }
        Some(Action::RemoveOnMatch(RemoveOnMatch { key_matcher })) => {
            let path = path.field("remove_on_match");
            let path = path.field("key_matcher");
            let Some(message) = key_matcher else {
                cx.error(&path, "a matcher of names is needed");
                return None;
            };
            matcher::string(cx, &path, message).map(HeaderMutation::RemoveMatching)
        }
        Some(Action::Append(message)) => {
            header::add(cx, &path.field("append"), message).map(HeaderMutation::Set)
        }
        None => {
            cx.error(path, "give one of remove, append and remove_on_match");
            None
        }
    }
}

fn parameter(cx: &Cx, path: &Path<'_>, message: &core_pb::KeyValueMutation) -> Option<QueryMutation> {
    use core_pb::key_value_append::KeyValueAppendAction;
    let core_pb::KeyValueMutation { append, remove } = message;
    let Some(append) = append else {
        if remove.is_empty() {
            cx.error(path, "give one of append and remove");
            return None;
        }
        return Some(QueryMutation::Remove(remove.as_str().into()));
    };
    if !remove.is_empty() {
        cx.error(&path.field("remove"), "append and remove exclude one another");
    }
    let core_pb::KeyValueAppend { record, entry, action } = append;
    let path = path.field("append");
    refuse!(cx, path, "deprecated; write record"; entry);
    let action = match enumeration::<KeyValueAppendAction>(cx, &path, "action", *action) {
        KeyValueAppendAction::AppendIfExistsOrAdd => AppendAction::AppendIfExistsOrAdd,
        KeyValueAppendAction::AddIfAbsent => AppendAction::AddIfAbsent,
        KeyValueAppendAction::OverwriteIfExistsOrAdd => AppendAction::OverwriteIfExistsOrAdd,
        KeyValueAppendAction::OverwriteIfExists => AppendAction::OverwriteIfExists,
    };
    let path = path.field("record");
    let Some(core_pb::KeyValuePair { key, value }) = record else {
        cx.error(&path, "a record is needed");
        return None;
    };
    let Some(Kind::StringValue(text)) = value.as_ref().and_then(|value| value.kind.as_ref()) else {
        cx.error(&path.field("value"), "a text is needed");
        return None;
    };
    let value = header::format(cx, &path.field("value"), text)?;
    Some(QueryMutation::Set { name: key.as_str().into(), value: Arc::new(value), action })
}
