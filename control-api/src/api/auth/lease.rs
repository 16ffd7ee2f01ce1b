//! How long a credential holds: streams live longer than the moment in which somebody was let in.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tonic::Status;

use super::Tokens;
use super::tokens::Entry;

/// How long a clock is trusted to stay as it is: it may be set.
const LOOK: Duration = Duration::from_secs(60);

/// Until when somebody is who they showed they are.
#[derive(Clone, Debug, Default)]
pub struct Lease {
    /// When the certificate ends, in seconds since 1970.
    not_after: Option<i64>,
    /// The token, and those that are in force.
    token: Option<(Entry, watch::Receiver<Arc<Tokens>>)>,
}

impl Lease {
    /// That of a certificate that ends at a moment, in seconds since 1970.
    pub(super) fn of_certificate(not_after: i64) -> Self {
        Self { not_after: Some(not_after), token: None }
    }

    /// That of a token.
    pub(super) fn of_token(entry: Entry, tokens: watch::Receiver<Arc<Tokens>>) -> Self {
        Self { not_after: None, token: Some((entry, tokens)) }
    }

    /// Resolves when the credential holds no more: the certificate has ended, or the token is no longer there, or has another
    /// role. Never for what has no end.
    pub(super) async fn ended(self) -> Status {
        let Self { not_after, token } = self;
        let expired = async {
            match not_after {
                Some(moment) => until(moment).await,
                None => pending().await,
            }
        };
        let revoked = async {
            match token {
                Some((entry, mut tokens)) => {
                    if tokens.wait_for(|tokens| !tokens.have(&entry)).await.is_err() {
                        // Nobody changes them any more.
                        pending::<()>().await;
                    }
                }
                None => pending().await,
            }
        };
        tokio::select! {
            () = expired => {}
            () = revoked => {}
        }
        Status::unauthenticated("your credential has ended; connect anew")
    }
}

/// Waits until a moment, in seconds since 1970, has passed.
async fn until(moment: i64) {
    loop {
        let Ok(left) = u64::try_from(moment - chrono::Utc::now().timestamp()) else { return };
        tokio::time::sleep(Duration::from_secs(left.saturating_add(1)).min(LOOK)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::poll;

    use super::*;
    use crate::api::auth::{Authenticator, Role, new_token};

    #[tokio::test]
    async fn a_token_holds_until_it_is_gone_or_means_something_else() {
        let (ci, other) = (new_token("ci", Role::Admin).unwrap(), new_token("other", Role::Reader).unwrap());
        let both = format!("{}\n{}\n", ci.line, other.line);
        let less = both.replace("ci admin", "ci reader");
        for last in [less, other.line.clone(), String::new()] {
            let authenticator = Authenticator::new(Tokens::parse(&ci.line).unwrap(), Vec::new());
            let header = format!("Bearer {}", ci.secret);
            let who = authenticator.identify(Some(header.as_bytes()), None).unwrap();
            let mut ended = pin!(who.ended());
            assert!(poll!(ended.as_mut()).is_pending());
            authenticator.set_tokens(Tokens::parse(&both).unwrap());
            assert!(poll!(ended.as_mut()).is_pending(), "another token came");
            authenticator.set_tokens(Tokens::parse(&last).unwrap());
            assert_eq!(ended.await.code(), tonic::Code::Unauthenticated, "{last}");
        }
    }

    #[tokio::test]
    async fn a_certificate_holds_until_its_end() {
        let now = chrono::Utc::now().timestamp();
        assert_eq!(Lease::of_certificate(now - 1).ended().await.code(), tonic::Code::Unauthenticated);
        assert!(poll!(pin!(Lease::of_certificate(now + 3600).ended())).is_pending());
        assert!(poll!(pin!(Lease::default().ended())).is_pending());
    }
}
