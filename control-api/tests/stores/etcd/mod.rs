//! The store in a real etcd.

mod server;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use outrider_control::pb::etcd as pb;
use outrider_control::source::{Problems, stored};
use outrider_control::store::{Expect, SharedStore, StoreError, Write};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use server::{Member, Tls, at, cluster, found, store, until_ready};

use crate::conform::{self, Home};
use crate::embedded::put;
use crate::follow::{Follower, LIMIT, json, service};
use crate::runtime;

/// A prefix of its own in one etcd.
struct InEtcd(String);

impl Home for InEtcd {
    async fn open(&mut self) -> SharedStore {
        at(&self.0).await
    }
}

#[test]
fn etcd_conforms() {
    let Some(members) = cluster(1, None) else { return };
    let runtime = runtime();
    runtime.block_on(async { until_ready(&store(&members, "").await).await });
    let mut runner = TestRunner::new(ProptestConfig { cases: 24, ..ProptestConfig::default() });
    let case = std::cell::Cell::new(0);
    let outcome = runner.run(&conform::steps(), |steps| {
        case.set(case.get() + 1);
        let home = format!("etcd://{}/case/{}", members[0].address, case.get());
        runtime.block_on(conform::run(&mut InEtcd(home), &steps));
        Ok(())
    });
    outcome.unwrap();
}

fn labelled(name: &str, version: &str) -> Write {
    Write { key: service(name), expect: Expect::Any, json: Some(json(name, version)) }
}

/// Commits until it is acknowledged; what may have happened is done once more.
async fn insist(store: &SharedStore, write: &Write) -> u64 {
    let end = tokio::time::Instant::now() + LIMIT;
    loop {
        match store.commit(vec![write.clone()]).await {
            Ok(revision) => return revision,
            Err(StoreError::Unavailable { reason, .. }) => {
                assert!(tokio::time::Instant::now() < end, "{reason}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn a_killed_etcd_loses_nothing_acknowledged_and_watches_go_on() {
    let Some(mut members) = cluster(1, None) else { return };
    runtime().block_on(async {
        let store = store(&members, "").await;
        let (mut known, inputs) = Follower::new();
        stored::start(Arc::clone(&store), inputs, Problems::default());
        until_ready(&store).await;
        for round in 0..3 {
            let mut last = 0;
            for version in 0..50 {
                last = insist(&store, &labelled("one", &format!("{round}-{version}"))).await;
            }
            members[0].kill();
            let error = store.commit(vec![labelled("two", "never")]).await.unwrap_err();
            let StoreError::Unavailable { reason, .. } = &error else { panic!("{error:?}") };
            assert!(reason.contains(&members[0].address), "{reason}");
            // Now that it is known to be away, it is known that nothing was written.
            let error = store.commit(vec![labelled("two", "never")]).await.unwrap_err();
            assert!(matches!(error, StoreError::Unavailable { unknown: false, .. }), "{error:?}");
            members[0].restart();
            until_ready(&store).await;
            let record = store.get(&service("one")).await.unwrap().unwrap();
            assert_eq!(record.revision, last);
            insist(&store, &labelled("three", &round.to_string())).await;
            known
                .until("what was written after it", |known| {
                    known.version("three") == Some(&round.to_string())
                })
                .await;
            assert_eq!(known.version("one"), Some(&*format!("{round}-49")));
            assert_eq!(known.version("two"), None);
        }
        assert_eq!(known.resets, 1, "the watch goes on where it was");
    });
}

#[test]
fn what_is_compacted_is_told_and_listed_anew() {
    let Some(members) = cluster(1, None) else { return };
    runtime().block_on(async {
        let store = store(&members, "").await;
        until_ready(&store).await;
        let first = insist(&store, &labelled("one", "1")).await;
        let last = insist(&store, &labelled("one", "2")).await;
        let mut kv =
            pb::kv_client::KvClient::connect(format!("http://{}", members[0].address)).await.unwrap();
        kv.compact(pb::CompactionRequest { revision: last.try_into().unwrap() }).await.unwrap();
        let first_item = match store.watch(first - 1).await {
            Ok(mut stream) => stream.next().await.unwrap(),
            Err(error) => Err(error),
        };
        match first_item {
            Err(StoreError::Compacted { revision, oldest }) => {
                assert_eq!((revision, oldest), (first - 1, last - 1));
                // And what it says can be asked for, can.
                let change = store.watch(oldest).await.unwrap().next().await.unwrap().unwrap();
                assert_eq!(change.revision, last);
            }
            other => panic!("{other:?}"),
        }
        // A revision that is still to come: this is another etcd than the one that gave it.
        assert!(matches!(store.watch(last + 100).await, Err(StoreError::Compacted { .. })));
    });
}

#[test]
fn what_etcd_does_not_take_is_told_with_what_to_do() {
    let Some(members) = cluster(1, None) else { return };
    runtime().block_on(async {
        let store = store(&members, "/small").await;
        until_ready(&store).await;
        let many =
            |count: usize| (0..count).map(|index| put(&format!("web-{index}"), "{}")).collect::<Vec<_>>();
        store.commit(many(128)).await.unwrap();
        let error = store.commit(many(129)).await.unwrap_err();
        assert!(matches!(&error, StoreError::Unfit(why) if why.contains("--max-txn-ops")), "{error:?}");
        let error = store.commit(vec![put("large", vec![b' '; 2 << 20])]).await.unwrap_err();
        assert!(matches!(&error, StoreError::Unfit(why) if why.contains("--max-request-bytes")), "{error:?}");
        // More than a page, and others' keys beside ours.
        for part in 0..3 {
            let writes = (0..128).map(|index| put(&format!("part-{part}-{index}"), "{}")).collect();
            store.commit(writes).await.unwrap();
        }
        let beside = at(&format!("etcd://{}/small-2", members[0].address)).await;
        insist(&beside, &labelled("one", "1")).await;
        let listing = store.list().await.unwrap();
        assert_eq!(listing.records.len(), 4 * 128);
        assert!(listing.records.is_sorted_by(|one, other| one.key < other.key));
        assert_eq!(beside.list().await.unwrap().records.len(), 1);
    });
}

#[test]
fn several_control_planes_share_one_etcd_without_losing_a_write() {
    let Some(members) = cluster(1, None) else { return };
    runtime().block_on(async {
        let mut planes = Vec::new();
        for _ in 0..3 {
            planes.push(store(&members, "").await);
        }
        until_ready(&planes[0]).await;
        let start = insist(&planes[0], &put("counter", "0")).await;
        let tasks: Vec<_> = planes
            .iter()
            .map(|plane| {
                let plane = Arc::clone(plane);
                tokio::spawn(async move {
                    let mut done = 0;
                    while done < 30 {
                        let record = plane.get(&put("counter", "").key).await.unwrap().unwrap();
                        let next = std::str::from_utf8(&record.json).unwrap().parse::<u32>().unwrap() + 1;
                        let expect = Expect::Revision(record.revision);
                        let write = Write { expect, ..put("counter", next.to_string().into_bytes()) };
                        match plane.commit(vec![write]).await {
                            Ok(_) => done += 1,
                            Err(StoreError::Conflict { .. }) => {}
                            Err(error) => panic!("{error}"),
                        }
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        for plane in &planes {
            let changes = plane.watch(start).await.unwrap().take(90);
            let seen: Vec<_> = changes.map(|change| change.unwrap().json.unwrap()).collect().await;
            let expected: Vec<_> = (1..=90).map(|count: u32| Bytes::from(count.to_string())).collect();
            assert_eq!(seen, expected);
        }
    });
}

#[test]
fn a_member_that_dies_or_falls_silent_is_left_for_another() {
    let Some(mut members) = cluster(3, None) else { return };
    runtime().block_on(async {
        let store = store(&members, "").await;
        until_ready(&store).await;
        let (mut known, inputs) = Follower::new();
        stored::start(Arc::clone(&store), inputs, Problems::default());
        // Whichever the store is connected to: it is among them.
        for (index, member) in members.iter_mut().enumerate() {
            member.signal("STOP");
            let version = format!("silent-{index}");
            insist(&store, &labelled("one", &version)).await;
            known.until("a write while one is silent", |known| known.version("one") == Some(&*version)).await;
            member.signal("CONT");
            member.kill();
            let version = format!("dead-{index}");
            insist(&store, &labelled("one", &version)).await;
            known.until("a write while one is dead", |known| known.version("one") == Some(&*version)).await;
            member.restart();
            // It must be back before the next one goes: two of three are needed.
            let alone = at(&format!("etcd://{}", member.address)).await;
            until_ready(&alone).await;
        }
    });
}

/// An authority, a certificate for a server and one for a client, and another authority.
fn certificates(dir: &Path) {
    let authority = |name: &str| {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        rcgen::CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().unwrap()).unwrap()
    };
    let (ours, other) = (authority("ours"), authority("other"));
    std::fs::write(dir.join("ca.pem"), ours.pem()).unwrap();
    std::fs::write(dir.join("other.pem"), other.pem()).unwrap();
    for name in ["server", "client"] {
        let mut params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        params.extended_key_usages =
            vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth, rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let key = rcgen::KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &ours).unwrap();
        std::fs::write(dir.join(format!("{name}.pem")), cert.pem()).unwrap();
        std::fs::write(dir.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

#[test]
fn tls_is_spoken_both_ways() {
    let dir = tempfile::tempdir().unwrap();
    certificates(dir.path());
    let file = |name: &str| dir.path().join(name).display().to_string();
    let tls = Tls { ca: file("ca.pem"), cert: file("server.pem"), key: file("server.key") };
    let Some(members) = cluster(1, Some(&tls)) else { return };
    runtime().block_on(async {
        let (ca, cert, key) = (file("ca.pem"), file("client.pem"), file("client.key"));
        let good = store(&members, &format!("?ca={ca}&cert={cert}&key={key}")).await;
        until_ready(&good).await;
        good.commit(vec![put("web", "{}")]).await.unwrap();
        assert_eq!(good.list().await.unwrap().records.len(), 1);
        let other = file("other.pem");
        for (rest, why) in [
            (format!("?ca={other}&cert={cert}&key={key}"), "UnknownIssuer"),
            (format!("?ca={ca}"), "etcd"),
            (String::new(), "etcd"),
        ] {
            let error = store(&members, &rest).await.commit(vec![put("web", "{}")]).await.unwrap_err();
            let StoreError::Unavailable { reason, .. } = error else { panic!("{error:?}") };
            assert!(reason.contains(why) && reason.contains(&members[0].address), "{reason}");
        }
        let place = outrider_control::store::Place::parse("etcd://a?ca=/nowhere/ca.pem").unwrap();
        let error = outrider_control::store::open(&place).await.unwrap_err().to_string();
        assert!(error.contains("ca=/nowhere/ca.pem: No such file"), "{error}");
    });
}

/// Runs etcdctl.
fn etcdctl(program: &Path, member: &Member, args: &[&str]) {
    let mut command = Command::new(program);
    command.env("ETCDCTL_API", "3").args(["--endpoints", &member.address]).args(args);
    let done = command.output().unwrap();
    assert!(done.status.success(), "{args:?}: {}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn a_password_opens_and_a_token_is_renewed() {
    let Some(mut members) = cluster(1, None) else { return };
    let Some(ctl) = found(outrider_tests::etcd::ctl()) else { return };
    runtime().block_on(async {
        until_ready(&store(&members, "").await).await;
        for args in [
            &["user", "add", "root:p@ss"][..],
            &["role", "add", "root"],
            &["user", "grant-role", "root", "root"],
            &["auth", "enable"],
        ] {
            etcdctl(&ctl, &members[0], args);
        }
        let good = at(&format!("etcd://root:p%40ss@{}", members[0].address)).await;
        good.commit(vec![put("web", "{}")]).await.unwrap();
        // Its tokens do not survive a restart.
        members[0].restart();
        until_ready(&good).await;
        good.commit(vec![put("web", "{}")]).await.unwrap();
        let mut watch = good.watch(0).await.unwrap();
        assert!(watch.next().await.unwrap().is_ok());
        for (user, why) in [("root:wrong@", "authentication failed"), ("", "user name is empty")] {
            let bad = at(&format!("etcd://{user}{}", members[0].address)).await;
            let error = bad.commit(vec![put("web", "{}")]).await.unwrap_err();
            let StoreError::Unavailable { reason, unknown: false } = error else { panic!("{error:?}") };
            assert!(reason.contains(why) && !reason.contains("wrong"), "{reason}");
        }
    });
}
