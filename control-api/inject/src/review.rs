//! What the API server of Kubernetes asks an admission webhook, and is answered (`AdmissionReview`, `admission.k8s.io/v1`).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::{Outcome, Refused, Settings, inject, patch};

/// The longest message that is sent back: of more nobody reads the end.
const LONGEST: usize = 4096;
/// How long a warning may be, by the API server's own measure.
const WARNING: usize = 256;

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReviewError {
    /// It is no JSON.
    #[error("this is no JSON: {0}")]
    Json(String),
    /// It is something else.
    #[error(
        "want an AdmissionReview of admission.k8s.io/v1 with a request; set admissionReviewVersions: [v1]"
    )]
    Form,
}

/// A question, answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The AdmissionReview that goes back.
    pub review: Value,
    /// The namespace of the pod.
    pub namespace: String,
    /// What became of it; `None`: it was refused.
    pub outcome: Option<Outcome>,
}

/// Answers a question: the pod gets its sidecar by a JSON patch, is let through, or is refused with what is wrong with it.
///
/// # Errors
/// When it is no question. The API server then goes by the webhook's `failurePolicy`.
pub fn answer(body: &[u8], settings: &Settings) -> Result<Answer, ReviewError> {
    let review: Value = serde_json::from_slice(body).map_err(|error| ReviewError::Json(error.to_string()))?;
    let text = |pointer: &str| review.pointer(pointer).and_then(Value::as_str);
    if (text("/apiVersion"), text("/kind")) != (Some("admission.k8s.io/v1"), Some("AdmissionReview")) {
        return Err(ReviewError::Form);
    }
    let uid = text("/request/uid").ok_or(ReviewError::Form)?;
    let namespace = text("/request/namespace").unwrap_or_default().to_owned();
    let respond = |outcome: Option<Outcome>, mut response: Value| {
        if let Some(fields) = response.as_object_mut() {
            fields.insert("uid".to_owned(), uid.into());
        }
        let review =
            json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response });
        Answer { review, namespace: namespace.clone(), outcome }
    };
    let object = review.pointer("/request/object").filter(|it| it.is_object());
    // A pod that there is already cannot get containers; one that goes has no object.
    let (Some("CREATE"), Some(object)) = (text("/request/operation"), object) else {
        return Ok(respond(Some(Outcome::Unchanged), json!({ "allowed": true })));
    };
    let within = Some(namespace.as_str()).filter(|it| !it.is_empty());
    let done = match inject(object, settings, within) {
        Ok(done) => done,
        Err(refused) => {
            let status = json!({ "code": 422, "reason": "Invalid", "message": message(&refused) });
            return Ok(respond(None, json!({ "allowed": false, "status": status })));
        }
    };
    let mut response = json!({ "allowed": true });
    let warnings: Vec<Value> =
        done.reports.iter().flat_map(|it| &it.warnings).map(|it| short(it).into()).collect();
    if let Some(fields) = response.as_object_mut() {
        if done.changed() {
            let patch = Value::from(patch::between(object, &done.object)).to_string();
            fields.insert("patchType".to_owned(), "JSONPatch".into());
            fields.insert("patch".to_owned(), STANDARD.encode(patch).into());
        }
        if !warnings.is_empty() {
            fields.insert("warnings".to_owned(), warnings.into());
        }
    }
    let outcome = done.reports.first().map_or(Outcome::Unchanged, |it| it.outcome);
    Ok(respond(Some(outcome), response))
}

fn message(refused: &Refused) -> String {
    let all = format!("outrider cannot inject its sidecar:\n{refused}");
    match all.char_indices().nth(LONGEST) {
        None => all,
        Some((at, _)) => format!("{} ...", all.get(..at).unwrap_or_default()),
    }
}

fn short(warning: &str) -> String {
    let text = format!("outrider: {warning}");
    match text.char_indices().nth(WARNING - 4) {
        None => text,
        Some((at, _)) => format!("{} ...", text.get(..at).unwrap_or_default()),
    }
}
