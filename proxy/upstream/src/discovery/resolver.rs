//! DNS itself: hickory's resolver, one for each set of settings, made when first needed.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::rr::RecordType;
use outrider_config::model::{DnsFamily, DnsSettings, SocketAddress};

/// What names from the hosts file claim as TTL.
const HOSTS_FILE_TTL: u32 = 86_400;

/// What a name resolved to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Answer {
    /// Its addresses, in the answer's order; empty when the name exists without any, or does not exist.
    pub(super) addresses: Vec<IpAddr>,
    /// The smallest TTL, seconds; 0 when there is none.
    pub(super) ttl: u32,
}

/// Resolvers by their settings.
#[derive(Default)]
pub(super) struct Resolvers(Mutex<HashMap<Key, Arc<TokioResolver>>>);

#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    servers: Vec<SocketAddress>,
    no_search: bool,
    tcp: bool,
}

impl Resolvers {
    /// Resolves `name` into addresses of the wanted families.
    pub(super) async fn resolve(&self, settings: &DnsSettings, name: &str) -> Result<Answer, NetError> {
        let resolver = self.of(settings)?;
        let v4 = || lookup(&resolver, name, RecordType::A);
        let v6 = || lookup(&resolver, name, RecordType::AAAA);
        match settings.family {
            DnsFamily::V4Only => v4().await,
            DnsFamily::V6Only => v6().await,
            DnsFamily::Auto => preferred(v6().await, v4).await,
            DnsFamily::V4Preferred => preferred(v4().await, v6).await,
            DnsFamily::All => both(v4().await, v6().await),
        }
    }

    fn of(&self, settings: &DnsSettings) -> Result<Arc<TokioResolver>, NetError> {
        let key = Key {
            servers: settings.resolvers.clone(),
            no_search: settings.no_default_search_domain,
            tcp: settings.use_tcp,
        };
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(resolver) = known.get(&key) {
            return Ok(resolver.clone());
        }
        let resolver = Arc::new(build(&key)?);
        known.insert(key, resolver.clone());
        Ok(resolver)
    }
}

fn build(key: &Key) -> Result<TokioResolver, NetError> {
    let (system, mut options) = match hickory_resolver::system_conf::read_system_conf() {
        Ok(found) => found,
        // No resolv.conf: what c-ares does then. The hosts file still answers.
        Err(_) => {
            let local = NameServerConfig::udp_and_tcp(IpAddr::from([127, 0, 0, 1]));
            (ResolverConfig::from_name_servers(vec![local]), ResolverOpts::default())
        }
    };
    let (domain, search, mut servers) = system.into_parts();
    let configured: Vec<_> = key.servers.iter().filter_map(server).collect();
    if !configured.is_empty() {
        servers = configured;
    }
    if key.tcp {
        for server in &mut servers {
            let port = server.connections.first().map_or(53, |connection| connection.port);
            let mut tcp = NameServerConfig::tcp(server.ip);
            for connection in &mut tcp.connections {
                connection.port = port;
            }
            *server = tcp;
        }
    }
    let config = if key.no_search {
        ResolverConfig::from_name_servers(servers)
    } else {
        ResolverConfig::from_parts(domain, search, servers)
    };
    // Names are resolved when their refresh is due: an answer from a cache would defeat that.
    options.cache_size = 0;
    // c-ares, which Envoy uses, waits this long for a server.
    options.timeout = options.timeout.min(std::time::Duration::from_secs(2));
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    *builder.options_mut() = options;
    builder.build()
}

fn server(address: &SocketAddress) -> Option<NameServerConfig> {
    let SocketAddress::Ip(address) = address else { return None };
    let mut server = NameServerConfig::udp_and_tcp(address.ip());
    for connection in &mut server.connections {
        connection.port = address.port();
    }
    Some(server)
}

async fn lookup(resolver: &TokioResolver, name: &str, kind: RecordType) -> Result<Answer, NetError> {
    match resolver.lookup(name, kind).await {
        Ok(found) => {
            let records = || found.answers().iter().filter(|record| record.data.ip_addr().is_some());
            let ttl = records().map(|record| record.ttl).min().unwrap_or(0);
            Ok(Answer {
                addresses: records().filter_map(|record| record.data.ip_addr()).collect(),
                ttl: if ttl == HOSTS_FILE_TTL { 0 } else { ttl },
            })
        }
        // That there is none is an answer too.
        Err(NetError::Dns(DnsError::NoRecordsFound(_))) => Ok(Answer::default()),
        Err(error) => Err(error),
    }
}

/// The first answer, unless it is empty or failed and there is another.
async fn preferred<F>(first: Result<Answer, NetError>, second: impl FnOnce() -> F) -> Result<Answer, NetError>
where
    F: Future<Output = Result<Answer, NetError>>,
{
    match first {
        Ok(answer) if !answer.addresses.is_empty() => Ok(answer),
        first => match second().await {
            Ok(answer) if !answer.addresses.is_empty() => Ok(answer),
            second => first.and(second),
        },
    }
}

fn both(v4: Result<Answer, NetError>, v6: Result<Answer, NetError>) -> Result<Answer, NetError> {
    match (v4, v6) {
        (Ok(mut v4), Ok(v6)) => {
            v4.ttl = if v4.addresses.is_empty() {
                v6.ttl
            } else if v6.addresses.is_empty() {
                v4.ttl
            } else {
                v4.ttl.min(v6.ttl)
            };
            v4.addresses.extend(v6.addresses);
            Ok(v4)
        }
        (Ok(some), Err(_)) | (Err(_), Ok(some)) if !some.addresses.is_empty() => Ok(some),
        (Err(error), _) | (_, Err(error)) => Err(error),
    }
}
