//! Which virtual host a request belongs to.

use outrider_proto::pb::envoy::config::route::v3::{
    RouteConfiguration, VirtualHost, virtual_host::TlsRequirementType,
};

use super::{Asked, Story};

/// A host without its port: `[::1]:80` is `[::1]`.
pub(super) fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port))
            if port.bytes().all(|it| it.is_ascii_digit()) && (host.ends_with(']') || !host.contains(':')) =>
        {
            host
        }
        _ => authority,
    }
}

/// How well a domain of a table fits: more is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    Any,
    /// `www.example.*`, and how much of it is fixed.
    Front(usize),
    /// `*.example.com`, and how much of it is fixed.
    Back(usize),
    Exact,
}

fn fit(domain: &str, host: &str) -> Option<Fit> {
    let domain = domain.to_lowercase();
    if domain == "*" {
        return Some(Fit::Any);
    }
    if let Some(back) = domain.strip_prefix('*') {
        // The star stands for something.
        return (host.len() > back.len() && host.ends_with(back)).then_some(Fit::Back(back.len()));
    }
    if let Some(front) = domain.strip_suffix('*') {
        return (host.len() > front.len() && host.starts_with(front)).then_some(Fit::Front(front.len()));
    }
    (domain == host).then_some(Fit::Exact)
}

/// The virtual host of a request: an exact domain, then the longest `*.suffix`, the longest `prefix.*`, then `*`.
pub(super) fn choose<'c>(
    config: &'c RouteConfiguration,
    asked: &Asked,
    story: &mut Story,
) -> Option<&'c VirtualHost> {
    // In any case: RFC 9110 (4.2.3).
    let host = if config.ignore_port_in_host_matching { asked.host() } else { asked.authority.as_str() };
    let host = host.to_lowercase();
    let host = host.as_str();
    let mut best: Option<(Fit, &str, &VirtualHost)> = None;
    for candidate in &config.virtual_hosts {
        for domain in &candidate.domains {
            if let Some(fit) = fit(domain, host)
                && best.is_none_or(|(known, ..)| fit > known)
            {
                best = Some((fit, domain, candidate));
            }
        }
    }
    let Some((fit, domain, found)) = best else {
        let near = near(config, host);
        let reason =
            format!("none of {} virtual hosts has a domain for {host:?}{near}", config.virtual_hosts.len());
        story.step("virtual host", &config.name, None, false, reason);
        return None;
    };
    let how = match fit {
        Fit::Exact => format!("{host} is one of its domains"),
        Fit::Any => format!("nothing else is for {host}, and its domain * is for all"),
        Fit::Back(_) | Fit::Front(_) => format!("{domain} is the closest domain to {host}"),
    };
    story.step("virtual host", &found.name, None, true, format!("{how} (table {})", config.name));
    Some(found)
}

/// A domain that was perhaps meant.
fn near(config: &RouteConfiguration, host: &str) -> String {
    let domains = config.virtual_hosts.iter().flat_map(|it| &it.domains).map(String::as_str);
    outrider_proto::suggest::nearest(host, domains)
        .map_or_else(String::new, |near| format!("; did you mean {near}?"))
}

/// What happens where a host wants TLS and got none.
pub(super) fn must_be_tls(host: &VirtualHost, asked: &Asked) -> Option<String> {
    let wanted = TlsRequirementType::try_from(host.require_tls).unwrap_or_default();
    let wanted = wanted != TlsRequirementType::None && !asked.tls;
    wanted.then(|| format!("301 to https://{}{}: {} wants TLS", asked.host(), asked.whole_path(), host.name))
}
