//! Pods with real sidecars, and traffic that real capture brings to them: what applications and their clients notice.

mod app;
mod load;
mod net;
mod sidecar;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use outrider_tests::client::LIMIT;
use outrider_tests::wait;
use rustix::process::Signal;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use app::{App, DATAGRAMS, FIRST, FREE, GRPC, HTTP, call, datagram, get, greeting};
use load::Load;
use net::{Family, Mode, Net, Pod, Way};
use sidecar::Sidecar;

/// Names of the pods, by which their sidecars sign.
const NAMES: [&str; 3] = ["a", "b", "c"];
/// How many clients of a server that speaks first.
const GREETINGS: u64 = 5;

/// Three pods, each with its application and its sidecar.
struct Town {
    way: Way,
    net: Arc<Net>,
    apps: Vec<App>,
    sidecars: Vec<Sidecar>,
}

/// All of the table.
pub(crate) async fn play(told: impl Fn(&str) -> Result<()>) -> Result<()> {
    for way in Way::all() {
        let row = format!("pods: {:?} {} by {}", way.family, way.mode(), way.backend);
        scenes(way).await.with_context(|| row.clone())?;
        told(&row)?;
    }
    Ok(())
}

async fn scenes(way: Way) -> Result<()> {
    let mut town = Town::build(way).await?;
    let outcome = async {
        town.requests().await.context("requests")?;
        town.who_speaks_first().await.context("a server that speaks first")?;
        town.left_alone().await.context("what is left alone")?;
        town.no_loop().await.context("no loop")?;
        town.application_killed().await.context("the application killed")?;
        town.sidecar_killed().await.context("the sidecar killed")?;
        town.shutdown().await.context("shutdown under load")
    };
    let outcome = outcome.await;
    outcome.with_context(|| {
        let words = town.sidecars.iter().zip(NAMES);
        words.map(|(it, name)| format!("{name}: {}\n", it.proxy.last_words(12))).collect::<String>()
    })
}

impl Town {
    async fn build(way: Way) -> Result<Self> {
        let net = Net::new(3).await?;
        let shop: Vec<_> = net.pods.iter().skip(1).map(|pod| pod.at(way.family, HTTP)).collect();
        let mut town = Self { way, net: Arc::new(net), apps: Vec::new(), sidecars: Vec::new() };
        for (pod, name) in town.net.pods.iter().zip(NAMES) {
            let free = FREE.to_string();
            let settings =
                ["--mode", way.mode(), "--exclude-outbound-ports", &free, "--exclude-inbound-ports", &free];
            pod.capture(&[&["apply", "--backend", way.backend][..], &settings[..]].concat()).await?;
            let said = pod.capture(&[&["verify"][..], &settings[..]].concat()).await?;
            ensure!(said.lines().last() == Some("capture works"), "{said}");
            town.apps.push(App::start(pod, way.family)?);
            town.sidecars.push(Sidecar::start(pod, way, name, &shop).await?);
        }
        Ok(town)
    }

    fn pod(&self, index: usize) -> &Pod {
        &self.net.pods[index]
    }

    fn at(&self, index: usize, port: u16) -> SocketAddr {
        self.pod(index).at(self.way.family, port)
    }

    /// Whom an application sees if `index` asks: its sidecar's own address, or the client's.
    fn seen(&self, index: usize) -> IpAddr {
        match (self.way.mode, self.way.family) {
            (Mode::Tproxy, family) => self.pod(index).address(family),
            (Mode::Redirect, Family::V4) => Ipv4Addr::new(127, 0, 0, 6).into(),
            (Mode::Redirect, Family::V6) => Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6).into(),
        }
    }

    /// The address of the service `shop`. Nobody has it: sidecars know where its replicas are.
    fn service(&self) -> IpAddr {
        match self.way.family {
            Family::V4 => Ipv4Addr::new(10, 96, 0, 80).into(),
            Family::V6 => Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, 0x80).into(),
        }
    }

    async fn answered(&self, from: usize, to: usize, wanted: &str) -> Result<()> {
        let answer = get(self.pod(from), self.at(to, HTTP), "anything").await?;
        ensure!(answer == (200, wanted.to_owned()), "wanted {wanted:?}, got {answer:?}");
        Ok(())
    }

    /// To a pod's own address, by HTTP/1.1 and gRPC: both sidecars see it, once each.
    async fn requests(&self) -> Result<()> {
        for (from, to) in [(0, 1), (1, 2), (2, 0)] {
            let wanted = format!("{} {}-out,{}-in", self.seen(from), NAMES[from], NAMES[to]);
            self.answered(from, to, &wanted).await?;
            let answer = call(self.pod(from), self.at(to, GRPC)).await?;
            ensure!(answer == (200, wanted.clone(), "0".into()), "wanted {wanted:?}, got {answer:?}");
        }
        // Who has no sidecar is let in by that of the server.
        let mut conn = outrider_tests::client::Conn::at(self.at(1, HTTP), None).await?;
        conn.send("GET / HTTP/1.1\r\nhost: anything\r\nconnection: close\r\n\r\n").await?;
        let answer = conn.response("GET").await?;
        ensure!(answer.status == 200 && answer.text().ends_with(" b-in"), "{answer:?}");
        Ok(())
    }

    /// Only the first of its clients waits until its sidecars believe that it will not speak.
    async fn who_speaks_first(&self) -> Result<()> {
        let places = [(0, "first"), (1, "inbound")];
        let mut before = Vec::new();
        for (pod, listener) in places {
            before.push(self.waits(pod, listener).await?);
        }
        for _ in 0..GREETINGS {
            let who = greeting(self.pod(0), self.at(1, FIRST)).await?;
            ensure!(who == self.seen(0).to_string(), "the server saw {who}");
        }
        for ((pod, listener), before) in places.into_iter().zip(before) {
            let (waited, known) = self.waits(pod, listener).await?;
            let (waited, known) = (waited - before.0, known - before.1);
            ensure!((waited, known) == (1, GREETINGS - 1), "{listener}: {waited} waited, {known} known");
        }
        Ok(())
    }

    /// How often a listener waited in vain, and how often it knew better.
    async fn waits(&self, pod: usize, listener: &str) -> Result<(u64, u64)> {
        let stat = async |name: &str| self.sidecars[pod].stat(&format!("listener.{listener}.{name}")).await;
        Ok((stat("downstream_pre_cx_timeout").await?, stat("outrider.known_silent").await?))
    }

    /// Excluded ports and datagrams go from pod to pod as if there were no sidecars.
    async fn left_alone(&self) -> Result<()> {
        let own = self.pod(0).address(self.way.family);
        let answer = get(self.pod(0), self.at(1, FREE), "anything").await?;
        ensure!(answer == (200, format!("{own} ")), "{answer:?}");
        let (who, server) = datagram(self.pod(0), self.at(1, DATAGRAMS), self.way.family).await?;
        ensure!(
            (&who, server) == (&own.to_string(), self.at(1, DATAGRAMS)),
            "{who} was answered by {server}"
        );
        Ok(())
    }

    /// What a sidecar opens itself does not come back to it.
    async fn no_loop(&self) -> Result<()> {
        let connections = async || -> Result<u64> {
            let mut sum = 0;
            for listener in ["outbound", "inbound", "http"] {
                let name = format!("listener.{listener}.downstream_cx_total");
                sum += self.sidecars[1].stat(&name).await?;
            }
            Ok(sum)
        };
        let before = connections().await?;
        // A pod that is one of two replicas asks for its own service: out by its sidecar, and for one of the two in by it.
        let mut answers = Vec::new();
        for _ in 0..2 {
            answers.push(get(self.pod(1), (self.service(), HTTP).into(), "shop").await?);
        }
        answers.sort();
        let wanted = ["b-in", "c-in"].map(|to| (200_u16, format!("{} b-out,{to}", self.seen(1))));
        ensure!(answers == wanted, "wanted {wanted:?}, got {answers:?}");
        // To the sidecar's own ports, from within and from outside: there is nothing behind them.
        closed(self.pod(1).connect(self.at(1, 15001)).await?).await?;
        closed(TcpStream::connect(self.at(1, 15006)).await?).await?;
        let made = connections().await? - before;
        ensure!(made == 5, "{made} connections, where five were wanted");
        // To its own address: that stays within the pod.
        self.answered(1, 1, &format!("{} ", self.pod(1).address(self.way.family))).await?;
        Ok(())
    }

    async fn becomes(&self, what: &str, from: usize, to: usize, wanted: u16) -> Result<()> {
        wait::until(what, wait::LIMIT, async || {
            let answer = get(self.pod(from), self.at(to, HTTP), "anything").await;
            Ok(answer.is_ok_and(|it| it.0 == wanted).then_some(()))
        })
        .await
    }

    /// A client hears of it at once, and of the next one.
    async fn application_killed(&mut self) -> Result<()> {
        drop(self.apps.pop());
        self.becomes("a refusal", 0, 2, 503).await?;
        // Its sockets go some time after it.
        let next = wait::until("room for the next", wait::LIMIT, async || {
            Ok(App::start(self.pod(2), self.way.family).ok())
        });
        let next = next.await?;
        self.apps.push(next);
        self.becomes("an answer", 0, 2, 200).await
    }

    /// While there is no sidecar nobody gets to its application past it.
    async fn sidecar_killed(&mut self) -> Result<()> {
        let Some(mut killed) = self.sidecars.pop() else { bail!("there is no sidecar") };
        killed.proxy.signal(Signal::KILL)?;
        killed.proxy.exit(LIMIT).await?;
        for _ in 0..2 {
            let answer = get(self.pod(0), self.at(2, HTTP), "anything").await?;
            ensure!(answer.0 == 503, "without a sidecar: {answer:?}");
        }
        let shop = [self.at(1, HTTP), self.at(2, HTTP)];
        let next = Sidecar::start(self.pod(2), self.way, NAMES[2], &shop).await?;
        self.sidecars.push(next);
        self.becomes("an answer", 0, 2, 200).await
    }

    /// One of two replicas ends, the application and the sidecar at once, and no client notices.
    async fn shutdown(&mut self) -> Result<()> {
        let load = Load::start(&self.net, (self.service(), HTTP).into(), 4);
        load.more(40).await?;
        let ended = &mut self.sidecars[1];
        self.apps[1].end();
        ended.proxy.signal(Signal::TERM)?;
        let status = ended.proxy.exit(Duration::from_secs(30)).await?;
        ensure!(status.code() == Some(0), "{status}: {}", ended.proxy.last_words(20));
        load.more(20).await?;
        load.end().await
    }
}

/// Whoever took the connection says nothing, and closes it.
async fn closed(mut stream: TcpStream) -> Result<()> {
    wait::within("the end", LIMIT, async {
        let mut read = Vec::new();
        // A reset ends it as well as a close.
        let _ = stream.read_to_end(&mut read).await;
        ensure!(read.is_empty(), "{}", String::from_utf8_lossy(&read));
        Ok(())
    })
    .await
}
