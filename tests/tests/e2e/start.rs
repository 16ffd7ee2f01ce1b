//! Starting a proxy in front of one scripted upstream.

use std::collections::BTreeMap;

use anyhow::Result;
use outrider_tests::{
    binary,
    bootstrap::Bootstrap,
    client::{Conn, Response},
    ports::Lease,
    proxy::{Kind, Proxy},
    record::Diary,
    reply::Script,
    upstream::Upstream,
};

/// A connection manager that sends all to `up`.
pub(crate) const ALL: &str = "route_config: { virtual_hosts: [ { name: all, domains: [\"*\"], routes: [ \
     { match: { prefix: /direct }, direct_response: { status: 200, body: { inline_string: direct } } }, \
     { match: { prefix: / }, route: { cluster: up, timeout: 0s } } ] } ] }";

/// A bootstrap with the HTTP listener `main` before the upstream `up`.
pub(crate) fn simple() -> Bootstrap {
    Bootstrap::new().http("main", ALL).hosts("up", &["up"], "")
}

/// A proxy with its surroundings.
pub(crate) struct Stage {
    pub(crate) proxy: Proxy,
    _upstream: Upstream,
    pub(crate) diary: Diary,
    pub(crate) script: Script,
    pub(crate) places: BTreeMap<String, String>,
    _leases: Vec<Lease>,
}

impl Stage {
    /// Starts one.
    pub(crate) async fn new(bootstrap: &Bootstrap) -> Result<Self> {
        Self::with(bootstrap, &[], &[]).await
    }

    /// Starts one with further places to fill and further arguments.
    pub(crate) async fn with(bootstrap: &Bootstrap, more: &[(&str, &str)], args: &[&str]) -> Result<Self> {
        let (upstream, diary, script) = Upstream::http("up").await?;
        let (mut places, leases) = places(bootstrap)?;
        places.insert("up".to_owned(), upstream.address().port().to_string());
        for (name, value) in more {
            places.insert((*name).to_owned(), (*value).to_owned());
        }
        let admin = places["admin"].parse()?;
        let proxy = Proxy::start(Kind::Outrider, &bootstrap.render(&places), admin, args).await?;
        Ok(Self { proxy, _upstream: upstream, diary, script, places, _leases: leases })
    }

    /// The port of a listener.
    pub(crate) fn port(&self, name: &str) -> u16 {
        self.places.get(name).and_then(|port| port.parse().ok()).unwrap_or(0)
    }

    /// A GET over HTTP/1.1 on a connection of its own.
    pub(crate) async fn get(&self, path: &str) -> Result<Response> {
        let mut conn = Conn::plain(self.port("main")).await?;
        conn.send(format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n")).await?;
        conn.response("GET").await
    }
}

/// Leases for every listener and the admin, and a directory.
pub(crate) fn places(bootstrap: &Bootstrap) -> Result<(BTreeMap<String, String>, Vec<Lease>)> {
    let dir = binary::scratch("e2e")?;
    let mut places = BTreeMap::from([("dir".to_owned(), dir.display().to_string())]);
    let mut leases = Vec::new();
    for name in bootstrap.listeners().iter().map(String::as_str).chain(["admin"]) {
        let lease = Lease::new()?;
        places.insert(name.to_owned(), lease.port().to_string());
        leases.push(lease);
    }
    Ok((places, leases))
}
