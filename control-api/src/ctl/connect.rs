//! From flags, environment and configuration file to a connection.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{GrpcMethod, Request, Status};

use super::args::Connection;
use super::failure::Failure;
use crate::api::DETAILS_LIMIT;
use crate::pb::control_client::ControlClient;

/// Where a control plane listens that nobody told otherwise.
const SERVER: &str = "127.0.0.1:15020";
/// Bytes of one answer.
const LARGEST_ANSWER: usize = 512 * 1024 * 1024;
/// Bytes of an error's details.
const DETAILS: u32 = 512 * 1024;

/// The API.
pub(super) type Client = ControlClient<InterceptedService<Channel, Credentials>>;

/// What goes with each request.
#[derive(Clone, Debug)]
pub(super) struct Credentials {
    authorization: Option<MetadataValue<Ascii>>,
    /// How long an answer may take; of a watch the end is not waited for.
    timeout: Duration,
}

impl tonic::service::Interceptor for Credentials {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.authorization {
            request.metadata_mut().insert("authorization", value.clone());
        }
        request.metadata_mut().insert(DETAILS_LIMIT, MetadataValue::from(DETAILS));
        if request.extensions().get::<GrpcMethod<'_>>().is_none_or(|it| it.method() != "Watch") {
            request.set_timeout(self.timeout);
        }
        Ok(request)
    }
}

/// The configuration file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    current: Option<String>,
    #[serde(default)]
    contexts: BTreeMap<String, Context>,
}

/// One control plane in it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Context {
    server: Option<String>,
    ca: Option<PathBuf>,
    server_name: Option<String>,
    token: Option<String>,
    token_file: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    data_dir: Option<PathBuf>,
    #[serde(default)]
    insecure_loopback: bool,
    namespace: Option<String>,
}

/// How a control plane is reached, all sources taken together.
#[derive(Clone, Debug)]
pub(super) struct Target {
    server: String,
    ca: Option<PathBuf>,
    server_name: Option<String>,
    token: Option<String>,
    cert: Option<(PathBuf, PathBuf)>,
    insecure: bool,
    timeout: Duration,
    /// The context's namespace.
    pub(super) namespace: Option<String>,
}

impl Target {
    /// Takes flags (and the environment, which is in them) and the configuration file together.
    pub(super) fn read(args: &Connection, home: Option<&Path>) -> Result<Self, Failure> {
        let args = &chosen(args)?;
        let (context, flags) = (context(args, home)?, &args.flags);
        // A server that was named has nothing to do with the file's credentials, unless the context was named too. Nor has a data
        // directory: it belongs to the control plane of this host.
        let named = args.server.is_some() || args.data_dir.is_some();
        let context = if named && args.context.is_none() { Context::default() } else { context };
        // What a context says that a flag names goes before the environment.
        let before = |name: &str, said: bool| flags.has("context") && !flags.has(name) && said;
        let server = args.server.clone().filter(|_| !before("server", context.server.is_some()));
        let server = server.or_else(|| context.server.clone()).unwrap_or_else(|| SERVER.to_owned());
        let has_token = context.token.is_some() || context.token_file.is_some();
        let mut args = args.clone();
        args.token = args.token.filter(|_| !before("token", has_token));
        args.token_file = args.token_file.filter(|_| !before("token_file", has_token));
        args.data_dir = here(&args, &server)?;
        let data_dir = args.data_dir.clone().or(context.data_dir);
        let insecure = args.insecure_loopback || context.insecure_loopback;
        let token_file = args
            .token_file
            .clone()
            .or_else(|| args.token.is_none().then(|| context.token_file.clone()).flatten())
            .or_else(|| {
                let given = args.token.is_some() || context.token.is_some() || insecure;
                data_dir.as_ref().filter(|_| !given).map(|it| it.join("tokens/admin.token"))
            });
        let token = match (&args.token, token_file) {
            (Some(token), _) => Some(token.clone()),
            (None, Some(path)) => Some(read(&path)?.trim().to_owned()),
            (None, None) => context.token,
        };
        let cert = match (args.cert.clone().or(context.cert), args.key.clone().or(context.key)) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            (Some(_), None) => return Err(Failure::usage("--cert needs --key")),
            (None, Some(_)) => return Err(Failure::usage("--key needs --cert")),
        };
        let ca = args
            .ca
            .clone()
            .or(context.ca)
            .or_else(|| data_dir.map(|it| it.join("tls/ca.pem")).filter(|_| !insecure));
        Ok(Self {
            server,
            ca,
            server_name: args.server_name.clone().or(context.server_name),
            token,
            cert,
            insecure,
            timeout: Duration::from_secs(args.timeout.max(1)),
            namespace: context.namespace,
        })
    }

    /// Connects.
    pub(super) async fn connect(&self) -> Result<Client, Failure> {
        let address = bare(&self.server);
        let host = host(address).ok_or_else(|| {
            Failure::usage(format!("--server {:?}: want HOST:PORT, as in {SERVER}", self.server))
        })?;
        if self.insecure && !loopback(host) {
            return Err(Failure::usage(format!(
                "--insecure-loopback: {host} is not this host; nothing goes over a network without TLS"
            )));
        }
        let scheme = if self.insecure { "http" } else { "https" };
        let wrong = |error: tonic::transport::Error| Failure::usage(format!("--server {address}: {error}"));
        let mut endpoint = Endpoint::from_shared(format!("{scheme}://{address}"))
            .map_err(wrong)?
            .connect_timeout(self.timeout)
            .http2_max_header_list_size(2 * DETAILS)
            .http2_keep_alive_interval(Duration::from_secs(30))
            .keep_alive_while_idle(true)
            .user_agent(concat!("outriderctl/", env!("CARGO_PKG_VERSION")))
            .map_err(wrong)?;
        if !self.insecure {
            endpoint = endpoint.tls_config(self.tls(host)?).map_err(wrong)?;
        }
        let channel = endpoint.connect().await.map_err(|error| self.unreachable(address, &error))?;
        let authorization = match &self.token {
            None => None,
            Some(token) => {
                let mut value: MetadataValue<Ascii> = format!("Bearer {token}").parse().map_err(|_| {
                    Failure::usage("the token has letters that no token has; is this the right file?")
                })?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        Ok(ControlClient::with_interceptor(channel, Credentials { authorization, timeout: self.timeout })
            .max_decoding_message_size(LARGEST_ANSWER))
    }

    fn tls(&self, host: &str) -> Result<ClientTlsConfig, Failure> {
        let name = self.server_name.as_deref().unwrap_or_else(|| host.trim_matches(['[', ']']));
        let mut tls = ClientTlsConfig::new().domain_name(name);
        tls = match &self.ca {
            Some(path) => tls.ca_certificate(Certificate::from_pem(read(path)?)),
            None => tls.trust_anchors(webpki_anchors()?),
        };
        if let Some((cert, key)) = &self.cert {
            tls = tls.identity(Identity::from_pem(read(cert)?, read(key)?));
        }
        Ok(tls)
    }

    fn unreachable(&self, address: &str, error: &tonic::transport::Error) -> Failure {
        let mut reason = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            let text = cause.to_string();
            if !reason.contains(&text) {
                reason = format!("{reason}: {text}");
            }
            source = cause.source();
        }
        let hint = if reason.contains("UnknownIssuer") {
            "give the control plane's CA by --ca (DATA-DIR/tls/ca.pem on its host)"
        } else if reason.contains("NotValidForName") {
            "give the name in its certificate by --server-name, or start it with --tls-name"
        } else if !self.insecure
            && (reason.contains("InvalidContentType") || reason.contains("corrupt message"))
        {
            "it does not speak TLS; if it runs in its development mode, use --insecure-loopback"
        } else if reason.contains("refused") {
            "is it running, and is this its --api address? (--server, OUTRIDER_SERVER)"
        } else if self.insecure {
            "if it does not run in its development mode, leave --insecure-loopback out"
        } else {
            "check --server, and its log"
        };
        Failure::unreachable(format!("{address} was not reached: {reason}\n{hint}"))
    }
}

/// The flags and the environment, of which a flag counts where both say something about the same.
fn chosen(args: &Connection) -> Result<Connection, Failure> {
    let (flags, mut args) = (&args.flags, args.clone());
    match (flags.has("token"), flags.has("token_file")) {
        (true, true) => return Err(Failure::usage("--token and --token-file: give one of them")),
        (false, true) => args.token = None,
        // The token itself, where the environment has both.
        _ if args.token.is_some() => args.token_file = None,
        _ => {}
    }
    // A flag names the server: the environment's context is another one's.
    if flags.has("server") && !flags.has("context") {
        args.context = None;
    }
    Ok(args)
}

/// The data directory that was given, where it may be used: the administrator's token in it leaves this host only when flags name
/// both the directory and the server.
fn here(args: &Connection, server: &str) -> Result<Option<PathBuf>, Failure> {
    let flags = &args.flags;
    let Some(dir) = &args.data_dir else { return Ok(None) };
    if host(bare(server)).is_none_or(loopback) || (flags.has("data_dir") && flags.has("server")) {
        return Ok(Some(dir.clone()));
    }
    if flags.has("data_dir") {
        return Err(Failure::usage(format!(
            "--data-dir {}: it belongs to the control plane of this host, and its administrator's token would go to {server}; leave \
             one of the two out, or name the server by --server",
            dir.display()
        )));
    }
    Ok(None)
}

/// An address without a scheme.
fn bare(address: &str) -> &str {
    address.trim_start_matches("https://").trim_start_matches("http://")
}

/// The context that is meant.
fn context(args: &Connection, home: Option<&Path>) -> Result<Context, Failure> {
    let default = home.map(|home| home.join(".config/outrider/config.yaml"));
    let path = match (&args.config, default) {
        (Some(path), _) => path.clone(),
        (None, Some(path)) if path.exists() => path,
        _ => {
            return match &args.context {
                None => Ok(Context::default()),
                Some(name) => Err(Failure::usage(format!(
                    "--context {name}: there is no configuration file; write ~/.config/outrider/config.yaml (see --help)"
                ))),
            };
        }
    };
    let file: File = serde_saphyr::from_str(&read(&path)?)
        .map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
    let Some(name) = args.context.clone().or(file.current) else { return Ok(Context::default()) };
    let known: Vec<_> = file.contexts.keys().cloned().collect();
    let mut contexts = file.contexts;
    contexts.remove(&name).ok_or_else(|| {
        Failure::usage(format!(
            "{}: there is no context {name:?}; there are: {}",
            path.display(),
            known.join(", ")
        ))
    })
}

fn read(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
}

fn host(address: &str) -> Option<&str> {
    let (host, port) = address.rsplit_once(':')?;
    port.parse::<u16>().ok()?;
    let bare = host.contains(':') && !host.starts_with('[');
    (!host.is_empty() && !bare).then_some(host)
}

fn loopback(host: &str) -> bool {
    host == "localhost"
        || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// What the system believes.
fn webpki_anchors() -> Result<Vec<rustls_pki_types::TrustAnchor<'static>>, Failure> {
    let roots = crate::api::auth::system_roots();
    let roots =
        roots.map_err(|error| Failure::usage(format!("{error:#}; give the control plane's CA by --ca")))?;
    Ok(roots.roots)
}
