//! What is wrong with what the sources have, and is left out for it.

use super::ControlService;
use super::auth::{Identity, Role};
use crate::model::{Kind, Problem};
use crate::pb;
use crate::source::Origin;

impl ControlService {
    pub(super) fn do_list_problems(
        &self,
        who: &Identity,
        request: &pb::ListProblemsRequest,
    ) -> pb::ListProblemsResponse {
        let mut problems = Vec::new();
        for (origin, name) in [(Origin::Manifests, "manifests"), (Origin::Store, "store")] {
            for it in self.parts.problems.of(origin) {
                let problem = told(&it, who);
                let of = problem.r#ref.as_ref().map_or("", |it| it.namespace.as_str());
                // What says of no object whose it is concerns everybody.
                if request.namespace.is_empty() || of.is_empty() || of == request.namespace {
                    problems.push(pb::SourceProblem { origin: name.to_owned(), problem: Some(problem) });
                }
            }
        }
        pb::ListProblemsResponse { problems }
    }
}

/// Whether the words about a problem may quote a Secret: they are an administrator's then.
pub(crate) fn quotes_secret(problem: &Problem) -> bool {
    Kind::of_word(&reference(&problem.object).kind).is_none_or(|kind| kind == Kind::Secret)
}

/// A problem as somebody may see it: what is in a Secret is an administrator's, and be it a wrong value in a reason.
fn told(problem: &Problem, who: &Identity) -> pb::Problem {
    let r#ref = reference(&problem.object);
    let reason = if quotes_secret(problem) && who.role != Role::Admin {
        "cannot be read; what is wrong is for administrators to see, as it may quote a Secret".to_owned()
    } else {
        problem.reason.clone()
    };
    pb::Problem {
        source: problem.source.to_string(),
        r#ref: Some(r#ref),
        field: problem.field.clone(),
        reason,
    }
}

/// The object in `HTTPRoute shop/web`; what is none stands as the name.
fn reference(object: &str) -> pb::Ref {
    let Some((kind, name)) = object.split_once(' ') else {
        return pb::Ref { name: object.to_owned(), ..Default::default() };
    };
    let (namespace, name) = name.split_once('/').unwrap_or(("", name));
    let api_version = Kind::of_word(kind).map(Kind::api_version).unwrap_or_default();
    pb::Ref { api_version, kind: kind.to_owned(), namespace: namespace.to_owned(), name: name.to_owned() }
}
