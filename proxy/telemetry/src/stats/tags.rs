//! Which parts of a stat's name are labels.
//!
//! Envoy's default tags, as its documentation of `stats_tags` and its metrics show them, by rules over the
//! name's tokens; then the configured expressions before them.

use outrider_config::model::{StatsConfig, StatsTag, StatsTagValue};

/// A stat's name without its tags, and the tags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tagged {
    /// The name that is left.
    pub name: String,
    /// Tag names and values, sorted by name.
    pub tags: Vec<(String, String)>,
}

/// Takes the tags out of names.
#[derive(Debug)]
pub struct TagExtractor {
    custom: Vec<StatsTag>,
    defaults: bool,
    fixed: Vec<(String, String)>,
}

impl TagExtractor {
    /// An extractor as `config` says; `fixed` tags are on every stat.
    pub fn new(config: &StatsConfig, fixed: Vec<(String, String)>) -> Self {
        Self { custom: config.tags.clone(), defaults: config.use_default_tags, fixed }
    }

    /// Splits `name`. A tag is found once; a configured one hides the default of the same name.
    pub fn extract(&self, name: &str) -> Tagged {
        let mut found = Found { cuts: Vec::new(), tags: self.fixed.clone() };
        for tag in &self.custom {
            match &tag.value {
                StatsTagValue::Fixed(value) => found.tag(&tag.name, value),
                StatsTagValue::Regex(regex) => {
                    let Some(captures) = regex.captures(name) else { continue };
                    let Some(cut) = captures.get(1) else { continue };
                    let value = captures.get(2).unwrap_or(cut);
                    if found.tag(&tag.name, value.as_str()) {
                        found.cuts.push((cut.start(), cut.end()));
                    }
                    true
                }
            };
        }
        if self.defaults {
            defaults(name, &mut found);
        }
        found.finish(name)
    }
}

struct Found {
    /// Byte ranges of the name that are cut out.
    cuts: Vec<(usize, usize)>,
    tags: Vec<(String, String)>,
}

impl Found {
    /// Adds a tag unless it is there; says whether it was added.
    fn tag(&mut self, name: &str, value: &str) -> bool {
        let new = self.tags.iter().all(|(known, _)| known != name);
        if new {
            self.tags.push((name.to_owned(), value.to_owned()));
        }
        new
    }

    fn finish(mut self, name: &str) -> Tagged {
        self.cuts.sort_unstable();
        let mut rest = String::with_capacity(name.len());
        let mut at = 0;
        for (start, end) in self.cuts {
            if start >= at {
                rest.push_str(&name[at..start]);
            }
            at = at.max(end);
        }
        rest.push_str(&name[at.min(name.len())..]);
        self.tags.sort();
        Tagged { name: rest, tags: self.tags }
    }
}

/// Cuts the token after `prefix` (and its dot) as the tag `tag`; the rest of the name and where it begins.
fn token_after<'n>(
    name: &'n str,
    from: usize,
    prefix: &str,
    tag: &str,
    found: &mut Found,
) -> Option<(usize, &'n str)> {
    let start = from + name.get(from..)?.strip_prefix(prefix).map(|_| prefix.len())?;
    let end = start + name[start..].find('.')?;
    if found.tag(tag, &name[start..end]) {
        found.cuts.push((start, end + 1));
    }
    Some((end + 1, &name[end + 1..]))
}

fn defaults(name: &str, found: &mut Found) {
    response_code(name, found);
    if let Some((at, _)) = token_after(name, 0, "cluster.", "envoy.cluster_name", found) {
        after_ssl(name, at, found);
    } else if name.starts_with("listener.") {
        listener(name, found);
    } else if token_after(name, 0, "http.", "envoy.http_conn_manager_prefix", found).is_some()
        || token_after(name, 0, "tcp.", "envoy.tcp_prefix", found).is_some()
        || token_after(name, 0, "udp.", "envoy.udp_prefix", found).is_some()
        || token_after(name, 0, "listener_manager.worker_", "envoy.worker_id", found).is_some()
    {
    } else if let Some((at, rest)) = token_after(name, 0, "vhost.", "envoy.virtual_host", found) {
        if rest.starts_with("route.") {
            token_after(name, at, "route.", "envoy.route", found);
        } else {
            token_after(name, at, "vcluster.", "envoy.virtual_cluster", found);
        }
    } else if let Some(worker) = name.strip_prefix("server.worker_")
        && let Some(len) = worker.find('.')
        && found.tag("envoy.worker_id", &worker[..len])
    {
        let start = "server.".len();
        found.cuts.push((start, start + "worker_".len() + len + 1));
    }
}

/// `_rq_503` gives `envoy.response_code` 503, `_rq_5xx` gives `envoy.response_code_class` 5.
fn response_code(name: &str, found: &mut Found) {
    let Some(at) = name.rfind("_rq_") else { return };
    let code = &name[at + 4..];
    let bytes = code.as_bytes();
    if bytes.len() == 3 && bytes.iter().all(u8::is_ascii_digit) {
        if found.tag("envoy.response_code", code) {
            found.cuts.push((at + 3, name.len()));
        }
    } else if bytes.len() == 3
        && bytes[0].is_ascii_digit()
        && &bytes[1..] == b"xx"
        && found.tag("envoy.response_code_class", &code[..1])
    {
        found.cuts.push((at + 4, at + 5));
    }
}

/// `listener.0.0.0.0_80.http.ingress.x`: the address has dots of its own and ends in `_<port>`.
fn listener(name: &str, found: &mut Found) {
    let start = "listener.".len();
    let rest = &name[start..];
    let Some(len) = address_len(rest) else { return };
    if found.tag("envoy.listener_address", &rest[..len]) {
        found.cuts.push((start, start + len + 1));
    }
    let at = start + len + 1;
    if token_after(name, at, "http.", "envoy.http_conn_manager_prefix", found).is_some() {
        return;
    }
    if let Some(worker) = name.get(at..).and_then(|rest| rest.strip_prefix("worker_")) {
        if let Some(end) = worker.find('.')
            && found.tag("envoy.worker_id", &worker[..end])
        {
            found.cuts.push((at, at + "worker_".len() + end + 1));
        }
        return;
    }
    after_ssl(name, at, found);
}

/// The length of a listener's address as stats write it: digits, hex, dots, brackets, then `_port`; or a
/// first token where it is no address (a `stat_prefix`).
fn address_len(rest: &str) -> Option<usize> {
    let is_address = |c: char| c.is_ascii_hexdigit() || matches!(c, '.' | '_' | '[' | ']' | ':');
    let run = rest.find(|c| !is_address(c)).unwrap_or(rest.len());
    // The run may have swallowed the first letters of the next token: go back to its last dot.
    let dot = rest[..run].rfind('.').filter(|dot| rest[..*dot].contains('_'));
    dot.or_else(|| rest.find('.'))
}

/// `ssl.ciphers.X`, `ssl.versions.X`, `ssl.curves.X`, `ssl.sigalgs.X`
fn after_ssl(name: &str, at: usize, found: &mut Found) {
    for (prefix, tag) in [
        ("ssl.ciphers", "envoy.ssl_cipher"),
        ("ssl.versions", "envoy.ssl_version"),
        ("ssl.curves", "envoy.ssl_curve"),
        ("ssl.sigalgs", "envoy.ssl_sigalg"),
    ] {
        let value =
            name.get(at..).and_then(|rest| rest.strip_prefix(prefix)).and_then(|rest| rest.strip_prefix('.'));
        if let Some(value) = value
            && found.tag(tag, value)
        {
            found.cuts.push((at + prefix.len(), name.len()));
        }
    }
}
