//! Join tokens are used up by certificates that are given out, and by nothing else.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::watch;
use tonic::{Code, Request, Status};

use super::harness::{DAY, HOUR, own, request};
use super::service::reason;
use super::tokens::join_token;
use crate::api::audit::Audit;
use crate::api::auth::Peer;
use crate::ca::credential::{Accounts, Credentials};
use crate::ca::limits::Limits;
use crate::ca::service::CertificateService;
use crate::pb::identity as pb;
use crate::pb::identity::identity_server::Identity;
use crate::pb::identity::issue_request::Credential;
use crate::store::gated::Gated;
use crate::store::memory::Memory;
use crate::store::{Record, SharedStore};

const DEADLINE: Duration = Duration::from_secs(20);

/// The service alone, and a token that is good once.
struct Service {
    _dir: TempDir,
    service: CertificateService,
    store: SharedStore,
    audit: Arc<Audit>,
    token: String,
}

impl Service {
    /// One whose authority was made at a moment.
    async fn start(store: SharedStore, audit: Audit, made: SystemTime) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let ca = Arc::new(own(dir.path(), made).unwrap());
        let token = join_token(&store, 1, SystemTime::now() + HOUR).await;
        let (audit, credentials) = (Arc::new(audit), Credentials::new(Accounts::Nobody, Arc::clone(&store)));
        let (_, leaving) = watch::channel(false);
        let service =
            CertificateService::new(Ok(ca), credentials, Limits::default(), Arc::clone(&audit), leaving);
        Self { _dir: dir, service, store, audit, token }
    }

    async fn issue(&self, csr: Vec<u8>, lifetime_seconds: u32) -> Result<pb::IssueResponse, Status> {
        let credential = Some(Credential::JoinToken(self.token.clone()));
        let asked = Request::new(pb::IssueRequest { csr, credential, lifetime_seconds });
        Identity::issue(&self.service, asked).await.map(tonic::Response::into_inner)
    }

    /// How often the token is still good.
    async fn uses(&self) -> u64 {
        let records = self.store.list().await.unwrap().records;
        let uses = |it: &Record| serde_json::from_slice::<Value>(&it.json).unwrap()["spec"]["uses"].as_u64();
        records.iter().filter_map(uses).sum()
    }
}

fn memory() -> SharedStore {
    Arc::new(Memory::default())
}

#[tokio::test]
async fn who_is_refused_a_certificate_still_has_the_token() {
    let it = Service::start(memory(), Audit::memory(), SystemTime::now()).await;
    let other = "spiffe://cluster.local/ns/shop/sa/admin";
    for (csr, lifetime, word) in
        [(request(None).1, 300, "lifetime_too_short"), (request(Some(other)).1, 0, "csr_name")]
    {
        let status = it.issue(csr, lifetime).await.unwrap_err();
        assert_eq!((reason(&status), it.uses().await), (word, 1), "{status}");
    }
    it.issue(request(None).1, 0).await.unwrap();
    assert_eq!(it.uses().await, 0);

    let it = Service::start(memory(), Audit::memory(), SystemTime::now() - DAY * 365 * 20).await;
    let status = it.issue(request(None).1, 0).await.unwrap_err();
    assert_eq!((reason(&status), it.uses().await), ("authority_failed", 1), "{status}");

    let it = Service::start(memory(), Audit::broken(), SystemTime::now()).await;
    let status = it.issue(request(None).1, 0).await.unwrap_err();
    assert_eq!((status.code(), it.uses().await), (Code::Unavailable, 1), "{status}");
}

#[tokio::test]
async fn a_use_is_written_down_although_the_client_goes_away_meanwhile() {
    let gated = Arc::new(Gated::default());
    let it = Service::start(gated.clone(), Audit::memory(), SystemTime::now()).await;
    gated.hold();
    tokio::select! {
        answer = it.issue(request(None).1, 0) => panic!("{answer:?}"),
        // The call is dropped here, as it is when a client resets it.
        () = gated.asked() => {}
    }
    gated.pass();
    let lines = async {
        loop {
            let lines = it.audit.lines();
            if lines.len() >= 2 {
                return lines;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let lines = tokio::time::timeout(DEADLINE, lines).await.unwrap();
    let name = it.token.split('.').nth(2).unwrap();
    for (line, stage) in lines.iter().zip(["requested", "done"]) {
        assert_eq!((&line["stage"], &line["id"]), (&Value::from(stage), &lines[0]["id"]));
        assert_eq!(line["objects"][1]["object"], format!("JoinToken shop/{name}"), "{line}");
    }
    assert_eq!(it.uses().await, 0);
}

#[tokio::test]
async fn strangers_who_follow_the_trust_bundle_take_no_places_from_workloads() {
    let it = Service::start(memory(), Audit::memory(), SystemTime::now()).await;
    let watch = async |introduced: bool| {
        let mut request = Request::new(pb::WatchTrustBundleRequest {});
        let introduced = Arc::new(AtomicBool::new(introduced));
        request.extensions_mut().insert(Peer { introduced, ..Peer::default() });
        Identity::watch_trust_bundle(&it.service, request).await
    };
    let mut held = Vec::new();
    let refused = loop {
        match watch(false).await {
            Ok(stream) => held.push(stream),
            Err(status) => break status,
        }
        assert!(held.len() < 5000, "strangers are bounded");
    };
    assert_eq!(refused.code(), Code::ResourceExhausted);
    // Who got a certificate over the connection.
    watch(true).await.map(drop).unwrap();
    held.pop();
    watch(false).await.map(drop).unwrap();
}
