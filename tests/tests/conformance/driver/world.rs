//! A world: one proxy with listeners and upstreams of its own.

use std::{collections::BTreeMap, fs, path::PathBuf, sync::Arc};

use anyhow::{Context, Result};
use outrider_tests::{
    binary,
    ca::Papers,
    ports::Lease,
    proxy::{Kind, Proxy},
    record::{Diary, Ending},
    reply::Script,
    upstream::Upstream,
    wait,
};

use super::{
    case::{Act, Case, Group},
    normal::{normal, page_lines, seen_lines},
};

/// A proxy and its surroundings.
#[derive(Debug)]
pub(crate) struct World {
    /// Which proxy it is.
    pub(crate) kind: Kind,
    /// The proxy.
    pub(crate) proxy: Proxy,
    /// Certificates.
    pub(crate) papers: Arc<Papers>,
    places: BTreeMap<String, String>,
    /// Name of each known port.
    ports: BTreeMap<String, String>,
    dir: PathBuf,
    diary: Diary,
    script: Script,
    _upstreams: Vec<Upstream>,
    _leases: Vec<Lease>,
}

/// What the client's side of a case produced.
#[derive(Debug, Default)]
pub(crate) struct Transcript {
    /// What the client saw.
    pub(crate) lines: Vec<String>,
    /// The client's ports.
    pub(crate) ports: Vec<u16>,
    /// How many responses it got.
    pub(crate) responses: usize,
}

/// Where the shared recordings stood before a case.
#[derive(Debug)]
pub(crate) struct Marks {
    diary: usize,
    log: usize,
    stats: BTreeMap<String, u64>,
}

impl World {
    /// Starts one for a group.
    pub(crate) async fn start(kind: Kind, group: &Group, papers: &Arc<Papers>) -> Result<Self> {
        let (diary, script) = (Diary::default(), Script::default());
        let dir = binary::scratch(&format!("{}-{kind:?}", group.name))?;
        let mut places = BTreeMap::from([
            ("certs".to_owned(), papers.dir.display().to_string()),
            ("dir".to_owned(), dir.display().to_string()),
        ]);
        let (mut ports, mut leases, mut upstreams) = (BTreeMap::new(), Vec::new(), Vec::new());
        let mut place = |name: &str, port: u16| {
            places.insert(name.to_owned(), port.to_string());
            ports.insert(port.to_string(), name.to_owned());
        };
        for name in group.bootstrap.listeners().iter().map(String::as_str).chain(["admin"]) {
            let lease = Lease::new()?;
            place(name, lease.port());
            leases.push(lease);
        }
        for spec in &group.upstreams {
            let Some(speaks) = spec.speaks.clone() else {
                let lease = Lease::new()?;
                place(&spec.name, lease.port());
                leases.push(lease);
                continue;
            };
            let tls = spec.tls.map(|(leaf, alpn, mutual)| papers.server(leaf, alpn, mutual)).transpose()?;
            let upstream = Upstream::start(&spec.name, speaks, tls, &diary, &script).await?;
            place(&spec.name, upstream.address().port());
            upstreams.push(upstream);
        }
        let admin = places.get("admin").and_then(|p| p.parse().ok()).context("admin has a port")?;
        let proxy = Proxy::start(kind, &group.bootstrap.render(&places), admin, &[]).await?;
        Ok(Self {
            kind,
            proxy,
            papers: Arc::clone(papers),
            places,
            ports,
            dir,
            diary,
            script,
            _upstreams: upstreams,
            _leases: leases,
        })
    }

    /// The port of a listener or upstream.
    pub(crate) fn port(&self, name: &str) -> Result<u16> {
        let port = self.places.get(name).with_context(|| format!("no listener {name} in this group"))?;
        Ok(port.parse()?)
    }

    /// Prepares for a case.
    pub(crate) async fn begin(&self, case: &Case) -> Result<Marks> {
        self.script.set(&case.replies, &[]);
        Ok(Marks { diary: self.diary.len(), log: self.log().len(), stats: self.counters(&case.stats).await? })
    }

    /// Does what the client does in a case.
    pub(crate) async fn act(&self, act: &Act) -> Result<Transcript> {
        let mut transcript = Transcript::default();
        match act {
            Act::Requests(requests) => {
                for (i, request) in requests.iter().enumerate() {
                    let (lines, port) = request.run(self, i).await?;
                    transcript.add(lines, port);
                }
            }
            Act::AtOnce(requests) => {
                let mut running = Vec::new();
                for (i, request) in requests.iter().enumerate() {
                    running.push(Box::pin(request.run(self, i)));
                }
                for done in join_all(running).await {
                    let (lines, port) = done?;
                    transcript.add(lines, port);
                }
            }
            Act::Until(request, text, wanted) => {
                let what = format!("an answer {} {text:?}", if *wanted { "with" } else { "without" });
                let (lines, port) = wait::until(&what, wait::LIMIT, async || {
                    let (lines, port) = request.run(self, 0).await?;
                    let has = lines.iter().any(|line| line.contains(*text));
                    Ok((has == *wanted).then_some((lines, port)))
                })
                .await?;
                transcript.add(lines, port);
            }
            Act::Talk(talk) => {
                let (lines, port, responses) = talk.run(self).await?;
                transcript.add(lines, port);
                transcript.responses = responses;
            }
            Act::Admin(method, path, keep) => {
                let response = match *method {
                    "POST" => self.proxy.admin_post(path).await?,
                    _ => self.proxy.admin(path).await?,
                };
                transcript.lines.push(format!("admin status {}", response.status));
                let kept = page_lines(&response.text());
                let kept = kept.iter().filter(|l| keep.is_empty() || keep.iter().any(|k| l.contains(k)));
                transcript.lines.extend(kept.map(|l| format!("admin {l}")));
                for name in ["content-type", "cache-control", "x-content-type-options"] {
                    let value = response.header(name).unwrap_or("-");
                    transcript.lines.push(format!("admin header {name}: {value}"));
                }
            }
        }
        Ok(transcript)
    }

    /// All that was observed so far of a case, and whether it is settled.
    pub(crate) async fn observe(
        &self,
        case: &Case,
        marks: &Marks,
        said: &Transcript,
    ) -> Result<(Vec<String>, bool)> {
        let mut lines = said.lines.clone();
        let mut seen = self.diary.since(marks.diary);
        if case.by_name {
            seen.sort_by(|a, b| a.upstream.cmp(&b.upstream));
        }
        let mut settled = seen.iter().all(|s| s.ending != Ending::Open);
        for (i, seen) in seen.iter().enumerate() {
            lines.extend(seen_lines(i, seen, case.blur));
        }
        let logged = self.log_lines(marks.log, &said.ports);
        settled &= logged.len() >= case.logs.unwrap_or(said.responses);
        lines.extend(logged.into_iter().map(|line| format!("log {line}")));
        for (name, value) in self.counters(&case.stats).await? {
            let before = marks.stats.get(&name).copied().unwrap_or(0);
            if value != before {
                lines.push(format!("stat {name} +{}", value.wrapping_sub(before).cast_signed()));
            }
        }
        let mut ports = self.ports.clone();
        if case.blur {
            // Any host of the cluster will do in the log.
            ports.values_mut().for_each(|name| "any".clone_into(name));
        }
        ports.extend(said.ports.iter().map(|port| (port.to_string(), "client".to_owned())));
        let dir = self.dir.display().to_string();
        let lines = lines.iter().map(|line| normal(&line.replace(&dir, "<dir>"), &ports));
        let kept = lines.filter(|line| !case.ignore.iter().any(|part| line.contains(part)));
        Ok((kept.collect(), settled))
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("access.log")).unwrap_or_default()
    }

    /// The lines of our own connections since the mark: the kernel may give a port twice.
    fn log_lines(&self, mark: usize, ports: &[u16]) -> Vec<String> {
        let text = self.log();
        // Text begins with the client's address, JSON with a key `0` that holds it.
        let mine = |line: &&str| {
            ports.iter().any(|port| {
                line.starts_with(&format!("127.0.0.1:{port} "))
                    || line.starts_with(&format!("{{\"0\":\"127.0.0.1:{port}\""))
            })
        };
        text.get(mark..).unwrap_or_default().lines().filter(mine).map(str::to_owned).collect()
    }

    async fn counters(&self, wanted: &[String]) -> Result<BTreeMap<String, u64>> {
        if wanted.is_empty() {
            return Ok(BTreeMap::new());
        }
        let text = self.proxy.admin("/stats").await?.text();
        let pairs = text.lines().filter_map(|line| line.split_once(": "));
        let is_wanted = |name: &str| {
            wanted.iter().any(|w| match w.strip_suffix('*') {
                Some(prefix) => name.starts_with(prefix),
                None => name == w,
            })
        };
        Ok(pairs
            .filter(|(name, _)| is_wanted(name))
            .filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))
            .collect())
    }
}

impl Transcript {
    fn add(&mut self, lines: Vec<String>, port: u16) {
        self.responses += usize::from(lines.iter().any(|line| line.contains(" status ")));
        self.lines.extend(lines);
        self.ports.push(port);
    }
}

/// Awaits several futures that run at once.
async fn join_all<F: Future + Unpin>(futures: Vec<F>) -> Vec<F::Output> {
    let mut slots: Vec<_> = futures.into_iter().map(|f| (f, None)).collect();
    std::future::poll_fn(|cx| {
        let mut pending = false;
        for (future, done) in &mut slots {
            if done.is_none() {
                match std::pin::Pin::new(future).poll(cx) {
                    std::task::Poll::Ready(output) => *done = Some(output),
                    std::task::Poll::Pending => pending = true,
                }
            }
        }
        if pending { std::task::Poll::Pending } else { std::task::Poll::Ready(()) }
    })
    .await;
    slots.into_iter().filter_map(|(_, done)| done).collect()
}
