//! Service-account tokens that Kubernetes judges (TokenReview, `authentication.k8s.io/v1`).

use std::fmt;
use std::time::Duration;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use kube::Client;
use kube::api::{Api, PostParams};
use tokio::sync::Semaphore;

use super::super::identity::Workload;
use super::CredentialError;

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(10);
/// Questions at a time.
const AT_ONCE: usize = 64;

/// Asks an API server.
pub struct Reviewer {
    client: Client,
    audiences: Vec<String>,
    permits: Semaphore,
}

impl Reviewer {
    /// One that takes tokens of these audiences.
    pub fn new(client: Client, audiences: Vec<String>) -> Self {
        Self { client, audiences, permits: Semaphore::new(AT_ONCE) }
    }

    /// Whose token this is.
    ///
    /// # Errors
    /// When the server does not believe it, it is for another audience, or the server does not answer.
    pub async fn review(&self, token: &str) -> Result<Workload, CredentialError> {
        let unavailable = |reason: String| CredentialError::Unavailable(format!("Kubernetes: {reason}"));
        let spec = TokenReviewSpec { token: Some(token.to_owned()), audiences: Some(self.audiences.clone()) };
        let review = TokenReview { spec, ..TokenReview::default() };
        let asked = async {
            // Never closed.
            let _permit = self.permits.acquire().await;
            Api::all(self.client.clone()).create(&PostParams::default(), &review).await
        };
        let answer = tokio::time::timeout(LIMIT, asked)
            .await
            .map_err(|_| unavailable(format!("no answer within {LIMIT:?}")))?
            // The error of a refused request says which right is missing, and nothing of the token.
            .map_err(|error| unavailable(error.to_string()))?;
        self.judge(answer)
    }

    /// What an answer says.
    fn judge(&self, answer: TokenReview) -> Result<Workload, CredentialError> {
        let status = answer.status.unwrap_or_default();
        if status.authenticated != Some(true) {
            let reason = status.error.filter(|it| !it.is_empty());
            return Err(CredentialError::Refused(
                reason.map_or_else(|| "it says no more".to_owned(), |it| it.chars().take(512).collect()),
            ));
        }
        // A server that knows nothing of audiences leaves them out: then the token is for that server, not for us.
        let taken = status.audiences.unwrap_or_default();
        if !taken.iter().any(|it| self.audiences.contains(it)) {
            return Err(CredentialError::Audience(self.audiences.join(", ")));
        }
        let user = status.user.and_then(|it| it.username).unwrap_or_default();
        Workload::of_user(&user).map_err(|error| CredentialError::Subject(error.to_string()))
    }
}

impl fmt::Debug for Reviewer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reviewer").field("audiences", &self.audiences).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn what_an_answer_must_say() {
        let uri = "http://127.0.0.1:1".parse().unwrap();
        let client = Client::try_from(kube::Config::new(uri)).unwrap();
        let reviewer = Reviewer::new(client, vec!["outrider".into()]);
        let judge = |status| {
            let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {}, "status": status});
            reviewer.judge(serde_json::from_value(review).unwrap())
        };
        let web = "system:serviceaccount:shop:web";
        let right = json!({"authenticated": true, "audiences": ["a", "outrider"], "user": {"username": web}});
        assert_eq!(judge(right), Ok(Workload::new("shop", "web").unwrap()));
        for (status, reason) in [
            (json!({}), "token_refused"),
            (json!({"authenticated": false, "error": "expired"}), "token_refused"),
            (json!({"authenticated": true, "user": {"username": web}}), "token_audience"),
            (
                json!({"authenticated": true, "audiences": ["api"], "user": {"username": web}}),
                "token_audience",
            ),
            (
                json!({"authenticated": true, "audiences": ["outrider"], "user": {"username": "jane"}}),
                "token_subject",
            ),
            (json!({"authenticated": true, "audiences": ["outrider"]}), "token_subject"),
        ] {
            assert_eq!(judge(status.clone()).unwrap_err().reason(), reason, "{status}");
        }
    }
}
