//! What a NACK says: text that reads as Envoy's, and the same once more for programs.

use std::fmt::Write as _;

use outrider_proto::pb::google::protobuf::Any;
use outrider_proto::pb::google::rpc::Status as RpcStatus;
use prost::Message as _;

use crate::{Kind, Refusal};

/// `google.rpc.Code.INTERNAL`, with which Envoy refuses.
const INTERNAL: i32 = 13;

/// The longest text in bytes. Envoy cuts at 4,096; we name each refused resource, and cut reasons first.
const MAX_MESSAGE: usize = 64 * 1024;

/// The longest text of one resource in bytes.
const MAX_REASONS: usize = 1024;

/// The most violations in the details.
const MAX_VIOLATIONS: usize = 1000;

/// `google.rpc.BadRequest`, which the API's package does not ship.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct BadRequest {
    #[prost(message, repeated, tag = "1")]
    pub(super) field_violations: Vec<FieldViolation>,
}

/// One field at fault.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct FieldViolation {
    /// `name: path`.
    #[prost(string, tag = "1")]
    pub(super) field: String,
    #[prost(string, tag = "2")]
    pub(super) description: String,
}

const BAD_REQUEST: &str = "type.googleapis.com/google.rpc.BadRequest";

/// The `error_detail` of an answer; `None`, an ACK, when nothing was refused.
pub(super) fn of(kind: Kind, refused: &[Refusal]) -> Option<RpcStatus> {
    if refused.is_empty() {
        return None;
    }
    let violation = |refusal: &Refusal| {
        let field = match refusal.path.as_str() {
            "" => refusal.name.clone(),
            path => format!("{}: {path}", refusal.name),
        };
        FieldViolation { field, description: cut(refusal.reason.clone(), MAX_REASONS) }
    };
    let field_violations = refused.iter().take(MAX_VIOLATIONS).map(violation).collect();
    let details = BadRequest { field_violations }.encode_to_vec();
    Some(RpcStatus {
        code: INTERNAL,
        message: message(kind, refused),
        details: vec![Any { type_url: BAD_REQUEST.to_owned(), value: details }],
    })
}

/// The text: each refused resource once, by name, with all that is wrong with it.
pub(super) fn message(kind: Kind, refused: &[Refusal]) -> String {
    let mut names: Vec<&str> = Vec::new();
    let mut by_name: std::collections::HashMap<&str, Vec<&Refusal>> = std::collections::HashMap::new();
    for refusal in refused {
        let of_name = by_name.entry(&refusal.name).or_default();
        if of_name.is_empty() {
            names.push(&refusal.name);
        }
        of_name.push(refusal);
    }
    // Where Envoy lists several, it separates listeners by lines and all others by commas.
    let separator = if kind == Kind::Listener { "\n" } else { ", " };
    let mut text = format!("Error adding/updating {}(s) ", kind.noun());
    for (n, name) in names.iter().enumerate() {
        let reasons = reasons(by_name.get(name).into_iter().flatten().copied());
        let _ = write!(text, "{}{name}: {reasons}", if n == 0 { "" } else { separator });
        if text.len() > MAX_MESSAGE {
            break;
        }
    }
    cut(text, MAX_MESSAGE)
}

/// All reasons of one resource.
pub(super) fn reasons<'a>(refused: impl Iterator<Item = &'a Refusal>) -> String {
    let mut text = String::new();
    for refusal in refused {
        if !text.is_empty() {
            text.push_str("; ");
        }
        if !refusal.path.is_empty() {
            let _ = write!(text, "{}: ", refusal.path);
        }
        text.push_str(&refusal.reason);
        if text.len() > MAX_REASONS {
            break;
        }
    }
    cut(text, MAX_REASONS)
}

fn cut(mut text: String, max: usize) -> String {
    if text.len() > max {
        let mut end = max;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push_str("...(truncated)");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refused_resource_is_named_with_its_path_and_reason_in_text_and_in_details() {
        let refused = [
            Refusal::new("a", "lb_policy", "not known"),
            Refusal::new("b", "", "broken"),
            Refusal::new("a", "type", "not there"),
        ];
        let status = of(Kind::Cluster, &refused).unwrap();
        assert_eq!(status.code, 13);
        assert_eq!(
            status.message,
            "Error adding/updating cluster(s) a: lb_policy: not known; type: not there, b: broken"
        );
        assert_eq!(status.details[0].type_url, BAD_REQUEST);
        let details = BadRequest::decode(&*status.details[0].value).unwrap();
        let fields: Vec<_> = details.field_violations.iter().map(|v| v.field.as_str()).collect();
        assert_eq!(fields, ["a: lb_policy", "b", "a: type"]);
        assert_eq!(of(Kind::Cluster, &[]), None);
    }

    #[test]
    fn a_long_reason_is_cut_before_a_name_is() {
        let refused: Vec<_> =
            (0..40).map(|n| Refusal::new(format!("cluster-{n}"), "", "\u{e9}".repeat(5000))).collect();
        let text = message(Kind::Cluster, &refused);
        assert!(refused.iter().all(|refusal| text.contains(&refusal.name)), "{}", text.len());
        assert!(text.len() <= MAX_MESSAGE);
    }
}
