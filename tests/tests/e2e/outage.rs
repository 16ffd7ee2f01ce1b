//! Control planes that are gone, broken or hostile: traffic goes on, memory stays bounded, and the log and the stats say
//! what is wrong. Afterwards the control plane is obeyed again.

use std::{cell::Cell, rc::Rc, time::Duration};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use outrider_tests::{
    control_plane::{eds_cluster, endpoints, follower, rds_listener, routes},
    ports::Lease,
    proxy::{Kind, Proxy},
    raw_plane::{RawPlane, RawStream, framed, type_url},
    wait,
    wire::{DiscoveryResponse, any},
};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, net::TcpListener};

use crate::{
    start::places,
    xds::{get, upstream},
};

/// A proxy with a configuration in force, and its control plane.
struct Outage {
    plane: RawPlane,
    stream: Option<RawStream>,
    proxy: Proxy,
    port: u16,
    places: Vec<u16>,
    _upstreams: Vec<outrider_tests::upstream::Upstream>,
    _leases: Vec<Lease>,
}

/// The configuration that sends all to `to`.
async fn configure(stream: &mut RawStream, port: u16, version: &str, to: u16) -> Result<()> {
    let listener = rds_listener("in", port, "table", &json!({}));
    stream.serve("Cluster", version, &[eds_cluster("one")]).await?;
    stream.serve("ClusterLoadAssignment", version, &[endpoints("one", &[to])]).await?;
    stream.serve("Listener", version, &[listener]).await?;
    stream.serve("RouteConfiguration", version, &[routes("table", "one")]).await
}

impl Outage {
    async fn start() -> Result<Self> {
        let ((a, to_a), (b, to_b)) = (upstream("a").await?, upstream("b").await?);
        let mut plane = RawPlane::listen().await?;
        let bootstrap = follower(false, "");
        let (mut places, mut leases) = places(&bootstrap)?;
        places.insert("plane".into(), plane.address.port().to_string());
        let lease = Lease::new()?;
        let port = lease.port();
        leases.push(lease);
        let admin = places["admin"].parse()?;
        let bootstrap = bootstrap.render(&places);
        let proxy = Proxy::start(Kind::Outrider, &bootstrap, admin, &[]);
        let serve = async {
            let mut stream = plane.stream().await?;
            configure(&mut stream, port, "1", to_a).await?;
            anyhow::Ok(stream)
        };
        let (proxy, stream) = tokio::try_join!(proxy, serve)?;
        wait::until("the first answer", wait::LIMIT, async || {
            Ok(get(port).await.ok().filter(|answer| answer == "200 a").map(drop))
        })
        .await?;
        Ok(Self {
            plane,
            stream: Some(stream),
            proxy,
            port,
            places: vec![to_a, to_b],
            _upstreams: vec![a, b],
            _leases: leases,
        })
    }

    /// Requests all the time while `trouble` is made: each must be answered.
    async fn under<T>(port: u16, trouble: impl Future<Output = Result<T>>) -> Result<T> {
        let (over, asked) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(0_u32)));
        let asking = async {
            while !over.get() || asked.get() == 0 {
                let answer = get(port).await?;
                ensure!(answer.starts_with("200 "), "{answer}");
                asked.set(asked.get() + 1);
            }
            Ok(())
        };
        let trouble = async {
            let made = trouble.await;
            over.set(true);
            made
        };
        let (asked, made): (Result<()>, Result<T>) = tokio::join!(asking, trouble);
        let made = made?;
        asked?;
        Ok(made)
    }

    /// The control plane is well again, on a new stream: it is obeyed.
    async fn recover(&mut self) -> Result<()> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.plane.stream().await?,
        };
        configure(&mut stream, self.port, "2", self.places[1]).await?;
        self.stream = Some(stream);
        wait::until("the new configuration", wait::LIMIT, async || {
            Ok(get(self.port).await.ok().filter(|answer| answer == "200 b").map(drop))
        })
        .await
    }

    /// The stream that is open.
    fn stream(&mut self) -> Result<&mut RawStream> {
        self.stream.as_mut().context("no stream")
    }

    /// The control plane goes on, on the same stream.
    async fn go_on(&mut self) -> Result<()> {
        let endpoints = [endpoints("one", &[self.places[1]])];
        self.stream()?.respond("ClusterLoadAssignment", "2", &endpoints).await?;
        wait::until("the new endpoints", wait::LIMIT, async || {
            Ok(get(self.port).await.ok().filter(|answer| answer == "200 b").map(drop))
        })
        .await
    }

    /// Resident memory, bytes.
    fn memory(&self) -> Result<u64> {
        let pid = self.proxy.pid().context("the proxy is gone")?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
    }

    fn grown_by_at_most(&self, before: u64, most: u64) -> Result<()> {
        let now = self.memory()?;
        ensure!(now < before + (most << 20), "memory went from {} to {} MiB", before >> 20, now >> 20);
        Ok(())
    }
}

#[tokio::test]
async fn a_control_plane_that_is_gone() -> Result<()> {
    let mut outage = Outage::start().await?;
    let Outage { plane, stream, proxy, port, .. } = &mut outage;
    *stream = None;
    let trouble = async {
        plane.close().await;
        proxy.wait_stat("control_plane.connected_state", |state| state == 0).await?;
        proxy.wait_stat("cluster_manager.cds.update_failure", |count| count > 1).await?;
        proxy.wait_log("no control plane").await
    };
    Outage::under(*port, trouble).await?;
    outage.plane.listen_again().await?;
    outage.recover().await
}

#[tokio::test]
async fn a_server_that_sends_garbage_in_the_place_of_http2() -> Result<()> {
    let mut outage = Outage::start().await?;
    outage.stream = None;
    outage.plane.close().await;
    let listener = TcpListener::bind(outage.plane.address).await?;
    let noise: Vec<u8> = (0..20_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let garbage = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            // The proxy may be gone before all of it is written.
            let _ = stream.write_all(&noise).await;
        }
    });
    let proxy = &outage.proxy;
    let trouble = async {
        proxy.wait_stat("control_plane.connected_state", |state| state == 0).await?;
        let before = proxy.stat("cluster_manager.cds.update_failure").await?.unwrap_or(0);
        proxy.wait_stat("cluster_manager.cds.update_failure", |count| count > before + 1).await?;
        proxy.wait_log("no stream to the control plane").await
    };
    Outage::under(outage.port, trouble).await?;
    garbage.abort();
    let _ = garbage.await;
    outage.plane.listen_again().await?;
    outage.recover().await
}

/// Each on a stream of its own: what is sent, and what the log says of it.
#[tokio::test]
async fn messages_that_are_broken_end_the_stream_and_nothing_else() -> Result<()> {
    let mut outage = Outage::start().await?;
    let half = framed(0, &[0x0a; 1000]).slice(..100);
    let absurd = Bytes::from_static(&[0, 0xff, 0xff, 0xff, 0xff, 1, 2, 3]);
    let broken = [
        ("compressed", framed(1, b"\x0a\x01x"), "message is compressed, which was not asked for"),
        ("an absurd flag", framed(0xff, b"\x0a\x01x"), "message is compressed, which was not asked for"),
        ("no message", framed(0, &[0xff; 40]), "message cannot be decoded"),
        ("4 GiB by its prefix", absurd, "message of 4294967295 bytes is larger than the limit"),
        ("half a message", half, "closed by the control plane without a status"),
    ];
    for (what, bytes, log) in broken {
        let Outage { plane, stream, proxy, port, .. } = &mut outage;
        let mut open = stream.take().context("no stream")?;
        let trouble = async {
            open.bytes(bytes).await?;
            if what == "half a message" {
                open.end()?;
            }
            proxy.wait_log(log).await?;
            plane.stream().await
        };
        *stream = Some(Outage::under(*port, trouble).await.context(what)?);
    }
    outage.recover().await
}

#[tokio::test]
async fn streams_that_are_reset_again_and_again() -> Result<()> {
    let mut outage = Outage::start().await?;
    for _ in 0..4 {
        let Outage { plane, stream, port, .. } = &mut outage;
        stream.take().context("no stream")?.reset();
        *stream = Some(Outage::under(*port, plane.stream()).await?);
    }
    outage.proxy.wait_log("no stream to the control plane").await?;
    outage.recover().await
}

#[tokio::test]
async fn a_response_of_100_mb_is_refused_before_it_is_held() -> Result<()> {
    let mut outage = Outage::start().await?;
    let before = outage.memory()?;
    let Outage { plane, stream, proxy, port, .. } = &mut outage;
    let mut open = stream.take().context("no stream")?;
    let trouble = async {
        let huge: usize = 100 << 20;
        let mut prefix = vec![0];
        prefix.extend_from_slice(&u32::try_from(huge)?.to_be_bytes());
        open.bytes(prefix.into()).await?;
        // As much as the proxy has room for.
        let piece = Bytes::from(vec![0x0a; 1 << 20]);
        for _ in 0..100 {
            if open.bytes(piece.clone()).await.is_err() {
                break;
            }
        }
        let next = plane.stream().await?;
        proxy.wait_log("message of 104857600 bytes is larger than the limit of 67108864").await?;
        anyhow::Ok(next)
    };
    *stream = Some(Outage::under(*port, trouble).await?);
    outage.grown_by_at_most(before, 24)?;
    outage.recover().await
}

#[tokio::test]
async fn responses_that_do_not_fit_what_was_asked_change_nothing() -> Result<()> {
    let mut outage = Outage::start().await?;
    let (port, a) = (outage.port, outage.places[0]);
    // A type that nobody knows, one that nobody asked for, a nonce that was there before, and none at all.
    let with = |url: String, nonce: &str, resources: Vec<Value>| -> Result<DiscoveryResponse> {
        Ok(DiscoveryResponse {
            version_info: "odd".into(),
            resources: resources.iter().map(any).collect::<Result<_>>()?,
            type_url: url,
            nonce: nonce.into(),
        })
    };
    let odd = [
        with("type.googleapis.com/envoy.unknown.v3.Thing".into(), "x", vec![])?,
        with(
            format!("{}extensions.transport_sockets.tls.v3.Secret", outrider_tests::control_plane::TYPE),
            "y",
            vec![],
        )?,
        with(String::new(), "z", vec![])?,
        with(type_url("ClusterLoadAssignment"), "1", vec![endpoints("nobody-asked", &[1])])?,
        with(type_url("ClusterLoadAssignment"), "", vec![endpoints("one", &[a])])?,
        with(type_url("RouteConfiguration"), "r", vec![routes("another-table", "one")])?,
    ];
    let stream = outage.stream.as_mut().context("no stream")?;
    let trouble = async {
        for message in &odd {
            stream.message(message).await?;
        }
        Ok(())
    };
    Outage::under(port, trouble).await?;
    outage.proxy.wait_log("type URL type.googleapis.com/envoy.unknown.v3.Thing is not known").await?;
    // Of clusters among listeners the listeners are refused by name of their place, and nothing is taken away.
    let mixed = with(type_url("Listener"), "m", vec![eds_cluster("one")])?;
    outage.stream()?.message(&mixed).await?;
    let nack = outage.stream()?.request_that(|request| request.response_nonce == "m").await?;
    let error = nack.error_detail.context("a refusal")?.message;
    assert!(error.contains("does not match the message-wide type URL"), "{error}");
    outage.proxy.wait_stat("listener_manager.lds.update_rejected", |count| count == 1).await?;
    outage.go_on().await
}

#[tokio::test]
async fn a_resource_that_comes_twice_in_a_response_is_refused_once() -> Result<()> {
    let mut outage = Outage::start().await?;
    let mut second = eds_cluster("one");
    second["connect_timeout"] = "2s".into();
    let stream = outage.stream.as_mut().context("no stream")?;
    let trouble = async {
        stream.respond("Cluster", "twice", &[eds_cluster("one"), second, eds_cluster("more")]).await?;
        stream.request_that(|request| request.error_detail.is_some()).await
    };
    let nack = Outage::under(outage.port, trouble).await?;
    let error = nack.error_detail.context("a refusal")?.message;
    assert!(error.contains("duplicate cluster one found") && !error.contains("more"), "{error}");
    assert_eq!(nack.version_info, "1", "the version in force");
    outage.proxy.wait_stat("cluster_manager.cds.update_rejected", |count| count == 1).await?;
    // The other one is taken: its endpoints are asked for.
    let asks = |names: &[String]| names.iter().any(|name| name == "more");
    outage.stream()?.request_that(|request| asks(&request.resource_names)).await?;
    outage.go_on().await
}

#[tokio::test]
async fn a_control_plane_that_sends_and_never_reads() -> Result<()> {
    let mut outage = Outage::start().await?;
    let before = outage.memory()?;
    let mut bad = eds_cluster("bad");
    bad["lb_policy"] = "CLUSTER_PROVIDED".into();
    let bad = any(&bad)?;
    let stream = outage.stream.as_mut().context("no stream")?;
    let trouble = async {
        // Each is refused with a long text, and nobody takes the refusals.
        for n in 0..20_000 {
            let message = DiscoveryResponse {
                version_info: n.to_string(),
                resources: vec![bad.clone(); 20],
                type_url: type_url("Cluster"),
                nonce: n.to_string(),
            };
            let sent = tokio::time::timeout(Duration::from_secs(1), stream.message(&message)).await;
            if sent.is_err() {
                return Ok(true);
            }
            sent??;
        }
        Ok(false)
    };
    let stopped = Outage::under(outage.port, trouble).await?;
    assert!(stopped, "flow control stops it");
    outage.grown_by_at_most(before, 40)?;
    Ok(())
}

#[tokio::test]
async fn a_control_plane_that_never_answers_holds_the_start_for_its_time_or_for_ever() -> Result<()> {
    for (timeout, ends) in [("0.3s", true), ("0s", false)] {
        let mut plane = RawPlane::listen().await?;
        let bootstrap = follower(false, &format!(", initial_fetch_timeout: {timeout}"));
        let (mut places, _leases) = places(&bootstrap)?;
        places.insert("plane".into(), plane.address.port().to_string());
        let admin = places["admin"].parse()?;
        let proxy = Proxy::spawn(Kind::Outrider, &bootstrap.render(&places), admin, &[])?;
        let mut stream = plane.stream().await?;
        stream.request().await?;
        let ready = async || Ok(proxy.admin("/ready").await.ok());
        if ends {
            wait::until("the start", wait::LIMIT, async || {
                Ok(ready().await?.filter(|reply| reply.status == 200))
            })
            .await?;
            assert_eq!(proxy.stat("cluster_manager.cds.init_fetch_timeout").await?, Some(1));
            assert_eq!(proxy.stat("listener_manager.lds.init_fetch_timeout").await?, Some(1));
            proxy.wait_log("did not come within initial_fetch_timeout").await?;
        } else {
            let reply = wait::until("admin", wait::LIMIT, ready).await?;
            assert_eq!((reply.status, reply.text().as_str()), (503, "INITIALIZING\n"));
            stream.respond("Cluster", "1", &[]).await?;
            stream.serve("Listener", "1", &[]).await?;
            wait::until("the start", wait::LIMIT, async || {
                Ok(ready().await?.filter(|reply| reply.status == 200))
            })
            .await?;
        }
    }
    Ok(())
}
