//! What the admin interfaces of proxies say: rates, generations, certificates, the ledger. Whatever a proxy answers is cut to what a
//! page can show before it is kept.

use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

use super::traffic::{self, Window};

/// How long a proxy may take for its stats: all pictures wait for it.
const PATIENCE: Duration = Duration::from_millis(1500);
/// How long it may take for what is asked seldom; the ledger is work.
const LONG_PATIENCE: Duration = Duration::from_secs(5);
/// How many bytes an answer may have.
const LARGEST: usize = 8 << 20;
/// How often certificates are asked for, which end in minutes, not in seconds; and what was not had the last time.
const SELDOM: Duration = Duration::from_secs(10);
/// How many generations of a proxy are shown.
const GENERATIONS: usize = 8;
/// How many of anything else that a proxy lists.
const LISTED: usize = 100;
/// How many characters a text of a proxy may have.
const TEXT: usize = 300;

/// The admin interface of a proxy: `POD.NAMESPACE=HOST:PORT`, or with the node's whole id in front.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminTarget {
    /// The proxy: the node's id, or `pod.namespace`.
    pub name: Arc<str>,
    /// Host and port.
    pub address: Arc<str>,
}

/// What is known of one admin interface.
#[derive(Debug)]
pub(super) struct Admin {
    pub(super) target: AdminTarget,
    client: Client<HttpConnector, Empty<Bytes>>,
    /// What goes on at its clusters.
    pub(super) window: Window,
    /// Why it could not be asked the last time.
    pub(super) error: Option<String>,
    /// The number of its current generation.
    pub(super) generation: Option<u64>,
    /// Its last generations, the newest first.
    pub(super) generations: Value,
    /// Its certificates in use.
    pub(super) certificates: Value,
    /// Its ledger; null for a proxy that has none.
    pub(super) ledger: Value,
    /// When certificates were asked for.
    seldom_at: Option<Instant>,
    /// The generation that the ledger is of: a proxy writes it out anew each time that it is asked.
    ledger_of: Option<u64>,
}

impl FromStr for AdminTarget {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?}: want POD.NAMESPACE=HOST:PORT, as in web-0.shop=127.0.0.1:15000");
        let (name, address) = text.rsplit_once('=').ok_or_else(wrong)?;
        let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
        let good = !name.is_empty() && !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0);
        let uri: Result<http::Uri, _> = format!("http://{address}/").parse();
        if !good || uri.is_err() {
            return Err(wrong());
        }
        Ok(Self { name: name.into(), address: address.into() })
    }
}

impl Admin {
    /// One that was not asked yet.
    pub(super) fn new(target: AdminTarget) -> Self {
        let client =
            Client::builder(TokioExecutor::new()).pool_max_idle_per_host(1).build(HttpConnector::new());
        Self {
            target,
            client,
            window: Window::default(),
            error: Some("was not asked yet".to_owned()),
            generation: None,
            generations: Value::Null,
            certificates: Value::Null,
            ledger: Value::Null,
            seldom_at: None,
            ledger_of: None,
        }
    }

    /// Whether this is the admin interface of a proxy with this id, of this pod in this namespace.
    pub(super) fn is_of(&self, id: &str, pod: &str, namespace: &str) -> bool {
        let name = &*self.target.name;
        name == id || name.strip_suffix(namespace).and_then(|it| it.strip_suffix('.')) == Some(pod)
    }

    /// Asks for all that is due. What cannot be had leaves what is known as it is, and says so in `error`.
    pub(super) async fn refresh(&mut self) {
        if let Err(error) = self.ask().await {
            // Rates of a proxy that nobody can ask are not known.
            self.window.clear();
            self.error = Some(cut(&format!("{error:#}")));
        } else {
            self.error = None;
        }
    }

    async fn ask(&mut self) -> anyhow::Result<()> {
        let stats = self.get(traffic::QUERY, PATIENCE).await?;
        self.window.push(Instant::now(), traffic::read(&String::from_utf8_lossy(&stats)));
        // What follows is Outrider's own; Envoy has of it the certificates alone.
        if let Some(value) = self.json("/generations?format=json").await {
            self.generation = value.get("generation").and_then(Value::as_u64);
            self.generations = generations(&value);
        }
        let changed = self.ledger_of != self.generation;
        if changed || self.seldom_at.is_none_or(|at| at.elapsed() >= SELDOM) {
            self.seldom_at = Some(Instant::now());
            if let Some(value) = self.json("/certs").await {
                self.certificates = certificates(&value);
            }
            if (changed || self.ledger.is_null())
                && let Some(value) = self.json("/compat?format=json").await
            {
                self.ledger = ledger(&value);
                self.ledger_of = self.generation;
            }
        }
        Ok(())
    }

    async fn json(&self, path: &str) -> Option<Value> {
        let bytes = self.get(path, LONG_PATIENCE).await.ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    async fn get(&self, path: &str, patience: Duration) -> anyhow::Result<Bytes> {
        let address = &self.target.address;
        let uri: http::Uri = format!("http://{address}{path}").parse()?;
        let fetch = async {
            let answer = self.client.get(uri).await.with_context(|| format!("{address} cannot be asked"))?;
            if answer.status() != http::StatusCode::OK {
                bail!("{address} answers {}", answer.status());
            }
            let body = Limited::new(answer.into_body(), LARGEST).collect().await;
            let body =
                body.map_err(|error| anyhow::anyhow!("the answer of {address} breaks off: {error}"))?;
            Ok(body.to_bytes())
        };
        tokio::time::timeout(patience, fetch).await.with_context(|| format!("{address} does not answer"))?
    }
}

/// The first characters of a text, without what would be seen as something else.
pub(super) fn cut(text: &str) -> String {
    let mut out: String = text.chars().filter(|it| !it.is_control()).take(TEXT).collect();
    if text.chars().nth(TEXT).is_some() {
        out.push('…');
    }
    out
}

fn text(value: &Value, field: &str) -> String {
    match value.get(field) {
        Some(Value::String(text)) => cut(text),
        Some(Value::Number(number)) => number.to_string(),
        _ => String::new(),
    }
}

fn list<'v>(value: &'v Value, field: &str) -> &'v [Value] {
    value.get(field).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn number(value: &Value, field: &str) -> Value {
    value.get(field).filter(|it| it.is_number()).cloned().unwrap_or_default()
}

fn generations(value: &Value) -> Value {
    let change = |change: &Value| {
        let names: Vec<String> =
            list(change, "resources").iter().take(4).map(|it| text(it, "name")).collect();
        json!({
            "kind": text(change, "kind"),
            "change": text(change, "change"),
            "count": number(change, "count"),
            "names": names,
        })
    };
    let one = |it: &Value| {
        let changes: Vec<Value> = list(it, "changes").iter().take(12).map(change).collect();
        let took = it.get("took_ms").map(|took| number(took, "total")).unwrap_or_default();
        json!({ "number": number(it, "number"), "at": text(it, "at"), "took_ms": took, "changes": changes })
    };
    list(value, "generations").iter().take(GENERATIONS).map(one).collect()
}

/// What is in use, as Outrider says; of Envoy the chains of its contexts.
fn certificates(value: &Value) -> Value {
    let used = |it: &Value| {
        let uris: Vec<String> = list(it, "uris").iter().take(4).filter_map(Value::as_str).map(cut).collect();
        json!({
            "kind": text(it, "kind"),
            "subject": text(it, "subject"),
            "issuer": text(it, "issuer"),
            "uris": uris,
            "source": text(it, "source"),
            "percent_left": number(it, "percent_of_life_left"),
            "expires": text(it, "expiration_time"),
            "users": list(it, "used_by").len(),
        })
    };
    let in_use = list(value, "in_use");
    if !in_use.is_empty() {
        return in_use.iter().take(LISTED).map(used).collect();
    }
    let plain = |it: &Value| {
        let names = list(it, "subject_alt_names").iter();
        let uris: Vec<String> =
            names.filter_map(|it| it.get("uri").and_then(Value::as_str)).take(4).map(cut).collect();
        json!({
            "kind": "leaf", "subject": "", "issuer": "", "uris": uris, "source": text(it, "path"),
            "percent_left": null, "expires": text(it, "expiration_time"), "users": 1,
        })
    };
    let chains = list(value, "certificates").iter().filter_map(|it| list(it, "cert_chain").first());
    chains.take(LISTED).map(plain).collect()
}

fn ledger(value: &Value) -> Value {
    let field = |it: &Value| json!({ "path": text(it, "path"), "reason": text(it, "why") });
    let fields = |name: &str| -> Vec<Value> { list(value, name).iter().take(LISTED).map(field).collect() };
    json!({
        "enforced": list(value, "enforced").len(),
        "inert": fields("inert"), "inert_count": list(value, "inert").len(),
        "refused": fields("refused"), "refused_count": list(value, "refused").len(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_admin_interface_has_a_name_and_an_address() {
        let target: AdminTarget = "web-0.shop=127.0.0.1:15000".parse().unwrap();
        let admin = Admin::new(target);
        assert!(admin.is_of("sidecar~10.0.0.1~web-0.shop~x", "web-0", "shop"));
        assert!(!admin.is_of("sidecar~10.0.0.1~web-0.other~x", "web-0", "other"));
        assert!("web-0.shop=[::1]:15000".parse::<AdminTarget>().is_ok());
        for wrong in ["", "web", "=1.2.3.4:1", "web=:1", "web=1.2.3.4", "web=1.2.3.4:0", "web=a b:1"] {
            assert!(wrong.parse::<AdminTarget>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn what_a_proxy_says_is_cut_to_size() {
        let long = "x".repeat(100_000);
        let many: Vec<Value> = (0..5000).map(|it| json!({ "number": it, "at": long })).collect();
        let shown = generations(&json!({ "generations": many }));
        assert_eq!(shown.as_array().map(Vec::len), Some(GENERATIONS));
        assert!(shown.to_string().len() < 16 << 10);
        assert_eq!(cut("a\u{1b}[31mb\n"), "a[31mb");
        // Whatever it is.
        for odd in [json!(null), json!([]), json!({"in_use": 3, "inert": {"a": 1}, "generations": [7]})] {
            generations(&odd);
            certificates(&odd);
            ledger(&odd);
        }
    }
}
