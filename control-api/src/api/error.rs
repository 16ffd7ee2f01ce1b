//! Errors as clients get them.

use outrider_proto::pb::google::{protobuf::Any, rpc};
use outrider_proto::prost::Message as _;
use tonic::{Code, Status};

use crate::model;
use crate::pb;
use crate::store::StoreError;

/// How much of problems goes into the details when a client did not say how much it takes: all that is known of it is that
/// implementations of gRPC take trailers of 8 KiB.
const DETAILS: usize = 3 * 1024;
/// What a client can ask for at most.
const MOST_DETAILS: usize = 1024 * 1024;
/// How long a message may be.
const MESSAGE: usize = 2 * 1024;

/// What a store did not do.
pub(super) fn of_store(error: &StoreError) -> Status {
    let code = match error {
        StoreError::Conflict { .. } => Code::Aborted,
        StoreError::Compacted { .. } => Code::OutOfRange,
        StoreError::Unavailable { unknown: false, .. } => Code::Unavailable,
        StoreError::Unavailable { unknown: true, .. } => {
            return Status::unknown(format!(
                "{error}; the write may or may not have happened: get the objects to see, or repeat it"
            ));
        }
        StoreError::Corrupt { .. } => Code::DataLoss,
        StoreError::Refused { .. } => Code::InvalidArgument,
        StoreError::Partial { .. } => Code::Unknown,
        StoreError::ReadOnly(_) | StoreError::Unfit(_) => Code::FailedPrecondition,
    };
    Status::new(code, error.to_string())
}

/// A problem as it is sent.
pub(super) fn problem(problem: &model::Problem, reference: pb::Ref) -> pb::Problem {
    pb::Problem {
        source: problem.source.to_string(),
        r#ref: Some(reference),
        field: problem.field.clone(),
        reason: problem.reason.clone(),
    }
}

/// A problem in one line.
pub fn line(problem: &pb::Problem) -> String {
    let mut out = String::new();
    if !problem.source.is_empty() {
        out.push_str(&format!("{}: ", problem.source));
    }
    if let Some(it) = &problem.r#ref {
        let (kind, namespace, name) = (&it.kind, &it.namespace, &it.name);
        match (kind.is_empty(), namespace.is_empty()) {
            (true, _) => {}
            (false, true) => out.push_str(&format!("{kind} {name}: ")),
            (false, false) => out.push_str(&format!("{kind} {namespace}/{name}: ")),
        }
    }
    if !problem.field.is_empty() {
        out.push_str(&format!("{}: ", problem.field));
    }
    out.push_str(&problem.reason);
    out
}

/// All problems as one status: readable as its message, and whole in its details as far as the client takes them.
pub(super) fn of_problems(code: Code, problems: Vec<pb::Problem>, limit: Option<usize>) -> Status {
    let (total, limit) = (problems.len(), limit.unwrap_or(DETAILS).min(MOST_DETAILS));
    let things = if total == 1 { "1 problem".to_owned() } else { format!("{total} problems") };
    let mut message = format!("nothing was stored: {things}");
    for (told, problem) in problems.iter().enumerate() {
        let line = line(problem);
        if message.len() + line.len() > MESSAGE && told > 0 {
            message.push_str(&format!("\n... and {} more", total - told));
            break;
        }
        message.push('\n');
        message.extend(line.chars().take(MESSAGE));
    }
    let mut details = pb::Problems::default();
    let mut size = 0;
    for problem in problems {
        size += problem.encoded_len() + 8;
        if size > limit {
            break;
        }
        details.problems.push(problem);
    }
    let status = rpc::Status {
        code: code as i32,
        message: message.clone(),
        details: vec![Any {
            type_url: "type.googleapis.com/outrider.control.v1.Problems".to_owned(),
            value: details.encode_to_vec(),
        }],
    };
    // The message stands in the header already.
    let status = rpc::Status { message: String::new(), ..status };
    Status::with_details(code, message, status.encode_to_vec().into())
}

/// The problems in a status, as `of_problems` wrote them.
pub fn problems_of(status: &Status) -> Vec<pb::Problem> {
    let Ok(details) = rpc::Status::decode(status.details()) else { return Vec::new() };
    let found = details.details.iter().find(|any| any.type_url.ends_with("outrider.control.v1.Problems"));
    found.and_then(|any| pb::Problems::decode(&*any.value).ok()).unwrap_or_default().problems
}
