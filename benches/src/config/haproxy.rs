//! HAProxy's equivalent of the bootstrap: one thread, keep-alive on both sides, upstream connections shared.

use std::fmt::Write;

use super::{Edge, Plan, Shape};
use crate::certs::{CLIENT_NAME, Certs, SERVER_NAME};
use crate::upstream::BODY;

/// The configuration file for a plan.
pub(crate) fn config(plan: &Plan<'_>) -> String {
    // Envoy adds x-forwarded-proto and x-request-id and not x-forwarded-for (use_remote_address is off), so
    // HAProxy is asked for no header of its own; it has counters on always and logs nothing unless told.
    let mut out = String::from(
        "global\n  nbthread 1\n  maxconn 4000\n\
         defaults\n  mode http\n  timeout connect 5s\n  timeout client 3600s\n  timeout server 3600s\n  \
         http-reuse always\n",
    );
    for (index, edge) in plan.edges.iter().enumerate() {
        edge_config(&mut out, index, edge, plan.certs);
    }
    let port = plan.edges.first().map_or(1, |edge| edge.upstream);
    for index in 0..plan.extra_clusters {
        // Writing to a String cannot fail.
        let _ = write!(out, "backend extra_{index}\n  server s 127.0.0.1:{port}\n");
    }
    out
}

fn edge_config(out: &mut String, index: usize, edge: &Edge, certs: &Certs) {
    let ca = certs.path("ca.pem");
    let bind = match edge.shape {
        Shape::ToHttp1 { h2_down: true } | Shape::ToHttp2 => " proto h2".to_owned(),
        Shape::MeshInbound => {
            format!(" ssl crt {} ca-file {ca} verify required alpn h2", certs.path("server.both.pem"))
        }
        Shape::Handshake { rsa } => {
            let own = if rsa { "server-rsa.both.pem" } else { "server.both.pem" };
            format!(" ssl crt {} ca-file {ca} verify required alpn http/1.1", certs.path(own))
        }
        Shape::ToHttp1 { h2_down: false }
        | Shape::MeshOutbound
        | Shape::Guarded { .. }
        | Shape::Tcp { .. } => String::new(),
    };
    let server = match edge.shape {
        Shape::ToHttp2 => " proto h2".to_owned(),
        Shape::MeshOutbound => format!(
            " ssl crt {} ca-file {ca} verify required verifyhost {SERVER_NAME} sni str({SERVER_NAME}) alpn h2",
            certs.path("client.both.pem")
        ),
        _ => String::new(),
    };
    let mode = match edge.shape {
        // A third of the CPU time for bulk; HAProxy at its best is the peer to compare with.
        Shape::Tcp { bulk: true } => "  mode tcp\n  option splice-request\n  option splice-response\n",
        Shape::Tcp { bulk: false } => "  mode tcp\n",
        _ => "",
    };
    let identity = if matches!(edge.shape, Shape::MeshInbound | Shape::Handshake { .. }) {
        // The same check of the peer's name that the bootstrap asks for.
        format!("  http-request deny unless {{ ssl_c_s_dn(cn) -m str {CLIENT_NAME} }}\n")
    } else {
        String::new()
    };
    let answer = if matches!(edge.shape, Shape::Handshake { .. }) {
        format!("  http-request return status 200 content-type text/plain string \"{BODY}\"\n")
    } else {
        String::new()
    };
    let _ = write!(
        out,
        "frontend listener_{index}\n{mode}  bind 127.0.0.1:{listen}{bind}\n{identity}{answer}  default_backend upstream_{index}\n\
         backend upstream_{index}\n{mode}  server s 127.0.0.1:{upstream}{server}\n",
        listen = edge.listen,
        upstream = edge.upstream,
    );
}
