//! `bootstrap_extensions`.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use outrider_proto::Path;
use outrider_proto::any;
use outrider_proto::own::IdentityAgent as Message;
use outrider_proto::pb::envoy::config::core::v3 as core_pb;
use outrider_proto::pb::envoy::extensions::bootstrap::internal_listener::v3::InternalListener;

use super::cx::Cx;
use super::scalar::{duration, type_of};
use crate::model::{AgentCredential, IdentityAgent};

/// The longest name of a unix socket, bytes.
const LONGEST_SOCKET: usize = 107;
/// The shortest life of a certificate that a control plane gives.
const SHORTEST: Duration = Duration::from_secs(600);

/// All of them; what one of them configures.
pub(super) fn all(
    cx: &Cx,
    path: &Path<'_>,
    messages: &[core_pb::TypedExtensionConfig],
) -> Option<IdentityAgent> {
    let mut agent = None;
    for (i, core_pb::TypedExtensionConfig { name, typed_config }) in messages.iter().enumerate() {
        let path = path.index(i);
        match typed_config {
            Some(any) if any::is::<InternalListener>(any) => {
                cx.inert(&path, "it serves internal listeners alone, and those are refused");
            }
            Some(any) if any::is::<Message>(any) => {
                let path = path.field("typed_config");
                match any::unpack::<Message>(any) {
                    Ok(_) if agent.is_some() => {
                        cx.error(&path, "there is one identity agent already; remove one")
                    }
                    Ok(message) => agent = identity_agent(cx, &path, &message),
                    Err(error) => cx.error(&path, error.to_string()),
                }
            }
            Some(any) => {
                let why = format!("the extension {} is not supported; remove it", type_of(any));
                cx.refuse(&path.field("typed_config"), why);
            }
            None => cx.error(&path, format!("the extension {name:?} needs a typed_config with its @type")),
        }
    }
    agent
}

fn identity_agent(cx: &Cx, path: &Path<'_>, message: &Message) -> Option<IdentityAgent> {
    let Message {
        address,
        ca_file,
        server_name,
        join_token_file,
        service_account_token_file,
        socket_path,
        state_dir,
        lifetime,
    } = message;
    let file = |text: &str| (!text.is_empty()).then(|| PathBuf::from(text));
    let mut good = true;
    let mut wrong = |field: &'static str, reason: &str| {
        good = false;
        cx.error(&path.field(field), reason);
    };
    match address.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0) => {
            if ca_file.is_empty() && !loopback(host) {
                wrong(
                    "ca_file",
                    "needed, as nothing goes over a network without TLS: the roots of the control plane's certificate",
                );
            }
        }
        _ => wrong("address", "needed as HOST:PORT: where the control plane is"),
    }
    if socket_path.is_empty() {
        wrong("socket_path", "needed: where SDS is served");
    } else if socket_path.len() > LONGEST_SOCKET {
        wrong("socket_path", "longer than the 107 bytes that a unix socket's name may have");
    }
    let lifetime = duration(cx, path, "lifetime", lifetime);
    if lifetime.is_some_and(|it| it < SHORTEST) {
        wrong("lifetime", "less than ten minutes, which no control plane gives");
    }
    let credential = match (file(join_token_file), file(service_account_token_file)) {
        (Some(path), None) => Some(AgentCredential::JoinToken(path)),
        (None, Some(path)) => Some(AgentCredential::ServiceAccountToken(path)),
        (None, None) => {
            wrong("join_token_file", "give this or service_account_token_file: what shows who we are");
            None
        }
        (Some(_), Some(_)) => {
            wrong("join_token_file", "both this and service_account_token_file are given; remove one");
            None
        }
    };
    let agent = IdentityAgent {
        address: Arc::from(address.as_str()),
        ca_file: file(ca_file),
        server_name: (!server_name.is_empty()).then(|| Arc::from(server_name.as_str())),
        credential: credential?,
        socket: PathBuf::from(socket_path),
        state_dir: file(state_dir),
        lifetime,
    };
    good.then_some(agent)
}

fn loopback(host: &str) -> bool {
    host == "localhost" || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}
