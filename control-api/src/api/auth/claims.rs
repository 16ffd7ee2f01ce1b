//! Which proxy a workload may say that it is.
//!
//! The certificate has a namespace and a service account; the node says more. What it says is held against the objects: a pod that is
//! known runs under its account and has its addresses, and a Gateway is for the accounts that it names, or for one that is named
//! after it. Otherwise any workload of a namespace could have its Gateways' keys.

use k8s_openapi::api::core::v1::Pod;

use crate::model::{Key, Kind, Object};
use crate::world::{Proxy, World};

/// The accounts (names, by commas) whose workloads may be a Gateway: an annotation of the Gateway.
pub const ACCOUNTS: &str = "outrider.dev/service-accounts";
/// The account of a pod that names none.
const DEFAULT_ACCOUNT: &str = "default";

/// Judges what a node claims, against the identity of its certificate. Names without a namespace, and those of other trust
/// domains, come here by a rule of the operator alone: the former are good for all proxies.
///
/// # Errors
/// What does not go together, in words.
pub fn judge(identity: &str, proxy: &Proxy, world: &World) -> Result<(), String> {
    let mut parts = identity.strip_prefix("spiffe://").unwrap_or_default().split('/').skip(1);
    let (Some("ns"), Some(own)) = (parts.next(), parts.next()) else { return Ok(()) };
    let account = match (parts.next(), parts.next()) {
        (Some("sa"), Some(account)) => Some(account),
        _ => None,
    };
    let of_gateway = proxy.gateway.as_ref().map(|(namespace, _)| namespace);
    for claimed in [Some(&proxy.namespace), of_gateway].into_iter().flatten() {
        if **claimed != *own {
            return Err(format!(
                "node {:?} says that it is of namespace {claimed}, and its certificate ({identity}) is of {own}",
                proxy.id
            ));
        }
    }
    let Some(account) = account else { return Ok(()) };
    if let Some(pod) = world.get::<Pod>(&proxy.namespace, &proxy.pod) {
        judge_pod(pod.body(), identity, account, proxy)?;
    }
    match &proxy.gateway {
        Some((namespace, name)) => {
            let gateway = world.object(&Key::new(Kind::Gateway, namespace, name));
            judge_gateway(gateway.map(AsRef::as_ref), namespace, name, identity, account)
        }
        None => Ok(()),
    }
}

/// A pod that is known must be of this account, and have this address.
fn judge_pod(pod: &Pod, identity: &str, account: &str, proxy: &Proxy) -> Result<(), String> {
    let spec = pod.spec.as_ref();
    let runs_as = spec.and_then(|it| it.service_account_name.as_deref()).filter(|it| !it.is_empty());
    let runs_as = runs_as.unwrap_or(DEFAULT_ACCOUNT);
    if runs_as != account {
        return Err(format!(
            "node {:?} says that it is pod {}/{}, which runs as {runs_as}; its certificate is {identity}",
            proxy.id, proxy.namespace, proxy.pod
        ));
    }
    let status = pod.status.as_ref();
    let listed = status.and_then(|it| it.pod_ips.as_ref()).into_iter().flatten().map(|it| it.ip.as_str());
    let known: Vec<&str> = status.and_then(|it| it.pod_ip.as_deref()).into_iter().chain(listed).collect();
    let same = |text: &&str| text.parse() == Ok(proxy.address);
    // A pod that has just started has none yet.
    if !known.is_empty() && !known.iter().any(same) {
        return Err(format!(
            "node {:?} says that it is pod {}/{}, which has not the address {} but {}",
            proxy.id,
            proxy.namespace,
            proxy.pod,
            proxy.address,
            known.join(", ")
        ));
    }
    Ok(())
}

/// A Gateway is for the accounts of its annotation; without one for that of its own name, with or without its class behind
/// (`NAME-CLASS`, as GEP-1762 names what is made for a Gateway).
fn judge_gateway(
    gateway: Option<&Object>,
    namespace: &str,
    name: &str,
    identity: &str,
    account: &str,
) -> Result<(), String> {
    let annotations = gateway.and_then(|it| it.meta().annotations.as_ref());
    let named = annotations.and_then(|it| it.get(ACCOUNTS));
    let fits = match named {
        Some(listed) => listed.split(',').any(|it| it.trim() == account),
        None => {
            let class = gateway.map(|it| it.body.to_json());
            let class = class.as_ref().and_then(|it| it.pointer("/spec/gatewayClassName")?.as_str());
            account == name || class.is_some_and(|class| account == format!("{name}-{class}"))
        }
    };
    if fits {
        return Ok(());
    }
    Err(format!(
        "{identity} may not be Gateway {namespace}/{name}: {}; name the account in the Gateway's annotation {ACCOUNTS}",
        match named {
            Some(listed) => format!("it is for {listed:?}"),
            None => format!("without the annotation it is for the service account {name}"),
        }
    ))
}
