//! What a case and a group of cases are.

use outrider_tests::{
    bootstrap::Bootstrap,
    reply::Reply,
    upstream::{Speaks, TcpScript},
};

use super::{request::Req, talk::Talk};

/// What the client does.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// Requests, one after the other, each on a connection of its own.
    Requests(Vec<Req>),
    /// Requests that all start at once.
    AtOnce(Vec<Req>),
    /// A request again and again, until its answer has this text, or has it no more. Only the last one is told.
    Until(Req, &'static str, bool),
    /// A connection with bytes.
    Talk(Talk),
    /// GETs of the admin interface: path, and which lines to keep (all that contain one of these).
    Admin(&'static str, &'static str, &'static [&'static str]),
}

impl From<Req> for Act {
    fn from(req: Req) -> Self {
        Self::Requests(vec![req])
    }
}

impl From<Vec<Req>> for Act {
    fn from(requests: Vec<Req>) -> Self {
        Self::Requests(requests)
    }
}

impl From<Talk> for Act {
    fn from(talk: Talk) -> Self {
        Self::Talk(talk)
    }
}

/// One case.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    /// Its name, unique in its group.
    pub(crate) name: String,
    /// What the client does.
    pub(crate) act: Act,
    /// The script all upstreams share.
    pub(crate) replies: Vec<Reply>,
    /// How many access log lines to await; by default one for each response.
    pub(crate) logs: Option<usize>,
    /// Counters whose growth is compared; a trailing `*` takes all with the prefix.
    pub(crate) stats: Vec<String>,
    /// Do not tell which upstream it was: the choice is random.
    pub(crate) blur: bool,
    /// Tell what upstreams saw in the order of their names: which was first is a race.
    pub(crate) by_name: bool,
    /// Leave out observations that contain one of these.
    pub(crate) ignore: Vec<String>,
}

/// A case.
pub(crate) fn case(name: &str, act: impl Into<Act>) -> Case {
    Case {
        name: name.to_owned(),
        act: act.into(),
        replies: Vec::new(),
        logs: None,
        stats: Vec::new(),
        blur: false,
        by_name: false,
        ignore: Vec::new(),
    }
}

impl Case {
    /// The answer of all upstreams; given several times, one after the other, the last for ever.
    pub(crate) fn reply(mut self, reply: Reply) -> Self {
        self.replies.push(reply);
        self
    }

    /// Awaits exactly so many access log lines.
    pub(crate) const fn logs(mut self, count: usize) -> Self {
        self.logs = Some(count);
        self
    }

    /// Compares how these counters grew.
    pub(crate) fn stats(mut self, names: &[&str]) -> Self {
        self.stats.extend(names.iter().map(|n| (*n).to_owned()));
        self
    }

    /// Does not tell which upstream was chosen.
    pub(crate) const fn blur(mut self) -> Self {
        self.blur = true;
        self
    }

    /// Tells what upstreams saw in the order of their names.
    pub(crate) const fn by_name(mut self) -> Self {
        self.by_name = true;
        self
    }

    /// Leaves out observations that contain this.
    pub(crate) fn ignore(mut self, part: &str) -> Self {
        self.ignore.push(part.to_owned());
        self
    }
}

/// An upstream of a group.
#[derive(Clone, Debug)]
pub(crate) struct UpstreamSpec {
    /// Its name, and that of its cluster.
    pub(crate) name: String,
    /// Its protocol; `None` is a port where nobody listens.
    pub(crate) speaks: Option<Speaks>,
    /// Its leaf certificate, protocols, and whether it demands one of its clients.
    pub(crate) tls: Option<(&'static str, &'static [&'static str], bool)>,
}

/// Cases that share one bootstrap.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    /// Its name.
    pub(crate) name: &'static str,
    /// The bootstrap of both proxies.
    pub(crate) bootstrap: Bootstrap,
    /// The upstreams, one set for each proxy.
    pub(crate) upstreams: Vec<UpstreamSpec>,
    /// The cases, run in this order.
    pub(crate) cases: Vec<Case>,
}

impl Group {
    /// A group without anything.
    pub(crate) fn new(name: &'static str) -> Self {
        Self { name, bootstrap: Bootstrap::new(), upstreams: Vec::new(), cases: Vec::new() }
    }

    /// Changes the bootstrap.
    pub(crate) fn with(mut self, change: impl FnOnce(Bootstrap) -> Bootstrap) -> Self {
        self.bootstrap = change(self.bootstrap);
        self
    }

    /// HTTP upstreams with an HTTP/1 cluster of the same name each.
    pub(crate) fn upstreams(mut self, names: &[&str]) -> Self {
        for name in names {
            self = self.upstream(name, Some(Speaks::Http), None);
            self.bootstrap = self.bootstrap.hosts(name, &[name], "");
        }
        self
    }

    /// TCP upstreams with a cluster each.
    pub(crate) fn tcp_upstream(mut self, name: &str, script: TcpScript) -> Self {
        self.bootstrap = self.bootstrap.hosts(name, &[name], "");
        self.upstream(name, Some(Speaks::Tcp(script)), None)
    }

    /// An upstream without a cluster.
    pub(crate) fn upstream(
        mut self,
        name: &str,
        speaks: Option<Speaks>,
        tls: Option<(&'static str, &'static [&'static str], bool)>,
    ) -> Self {
        self.upstreams.push(UpstreamSpec { name: name.to_owned(), speaks, tls });
        self
    }

    /// Adds an HTTP listener.
    pub(crate) fn http(self, name: &str, hcm: &str) -> Self {
        self.with(|b| b.http(name, hcm))
    }

    /// Adds the routes of the listener `main`.
    pub(crate) fn routes(self, route_config: &str) -> Self {
        let hcm = format!("route_config:\n{}", outrider_tests::bootstrap::indent(2, route_config));
        self.http("main", &hcm)
    }

    /// Adds cases.
    pub(crate) fn cases(mut self, cases: impl IntoIterator<Item = Case>) -> Self {
        self.cases.extend(cases);
        self
    }
}

/// The options of a cluster that speaks HTTP/2 to its hosts.
pub(crate) const H2_CLUSTER: &str = "typed_extension_protocol_options:\n  \
     envoy.extensions.upstreams.http.v3.HttpProtocolOptions:\n    \
     \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions\n    \
     explicit_http_config: { http2_protocol_options: { allow_connect: true } }\n";
