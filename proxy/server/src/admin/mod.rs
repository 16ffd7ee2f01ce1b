//! The admin interface: what the process says of itself, and the few things it can be told.
//!
//! Served on the control thread. Paths, words and shapes are Envoy's ("Administration interface").

mod certs;
mod clusters;
mod config_dump;
mod connection;
mod csds;
mod dynamic_dump;
mod generations;
mod info;
mod listeners;
mod query;
mod reply;
mod runtime;
mod server;
mod stats;
mod switches;

use http::Method;

use crate::control::Control;
use query::Query;
use reply::Reply;

pub(crate) use info::Memory;
pub(crate) use server::{AdminServer, bind};

/// One path of the interface.
struct Endpoint {
    path: &'static str,
    help: &'static str,
    /// It changes something: POST only.
    changes: bool,
    handler: fn(&Control, &Query) -> Reply,
}

const fn get(path: &'static str, help: &'static str, handler: fn(&Control, &Query) -> Reply) -> Endpoint {
    Endpoint { path, help, changes: false, handler }
}

const fn post(path: &'static str, help: &'static str, handler: fn(&Control, &Query) -> Reply) -> Endpoint {
    Endpoint { path, help, changes: true, handler }
}

static ENDPOINTS: &[Endpoint] = &[
    get("/certs", "certificates on the machine and their days left", certs::certs),
    get("/clusters", "upstream clusters and their hosts (?format=json)", clusters::clusters),
    get("/compat", "the ledger: fields enforced, inert and why (?format=json)", config_dump::compat),
    get(
        "/config_dump",
        "the configuration (?resource=&mask=&name_regex=&include_eds)",
        config_dump::config_dump,
    ),
    post("/drain_listeners", "drain listeners (?graceful&inboundonly&skip_exit)", switches::drain_listeners),
    get(
        "/generations",
        "the last changes of the configuration and how long they took (?format=json)",
        generations::generations,
    ),
    post("/healthcheck/fail", "make the health check fail", switches::health_check_fail),
    post("/healthcheck/ok", "make the health check pass again", switches::health_check_ok),
    get("/help", "this list", help),
    get("/hot_restart_version", "hot restart compatibility: there is none", info::hot_restart_version),
    get("/listeners", "listeners and their addresses (?format=json)", listeners::listeners),
    post(
        "/logging",
        "show or change log levels (?level=LEVEL | ?paths=NAME:LEVEL,... | ?NAME=LEVEL)",
        switches::logging,
    ),
    get("/memory", "memory in use", info::memory),
    post("/quitquitquit", "end the process", switches::quit),
    get("/ready", "200 when live, 503 when not", info::ready),
    post("/reopen_logs", "open access logs anew", switches::reopen_logs),
    post("/reset_counters", "set all counters back to zero", switches::reset_counters),
    get("/runtime", "runtime values", runtime::runtime),
    post(
        "/runtime_modify",
        "set runtime values of the admin layer (?KEY=VALUE&...; an empty value takes the key away)",
        runtime::modify,
    ),
    get("/server_info", "version, state, options, node", info::server_info),
    get(
        "/stats",
        "stats (?usedonly&filter=REGEX&format=json|text|prometheus&type=&histogram_buckets=)",
        stats::stats,
    ),
    get("/stats/prometheus", "stats for Prometheus", stats::prometheus),
];

/// Answers one request.
fn answer(control: &Control, method: &Method, target: &str) -> Reply {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let path = if path == "/" { "/help" } else { path };
    let Some(endpoint) = ENDPOINTS.iter().find(|endpoint| endpoint.path == path) else {
        return help(control, &Query::parse(query)).status(404).before("invalid path. admin commands are:\n");
    };
    let allowed = if endpoint.changes {
        *method == Method::POST
    } else {
        matches!(*method, Method::GET | Method::HEAD)
    };
    if !allowed {
        let wanted = if endpoint.changes { "POST" } else { "GET" };
        return Reply::text(format!("Method {method} not allowed, {wanted} required.\n")).status(405);
    }
    (endpoint.handler)(control, &Query::parse(query))
}

fn help(_: &Control, _: &Query) -> Reply {
    let mut text = String::from("admin commands are:\n");
    for endpoint in ENDPOINTS {
        let method = if endpoint.changes { " (POST)" } else { "" };
        text.push_str(&format!("  {}{method}: {}\n", endpoint.path, endpoint.help));
    }
    Reply::text(text)
}
