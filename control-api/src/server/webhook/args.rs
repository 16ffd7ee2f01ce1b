//! What flags say about injection.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context as _;
use outrider_inject::Settings;

/// The name of the webhook's service in `deploy/control/injector.yaml`.
const NAME: &str = "outrider-injector.outrider-system.svc";

/// Which pods get which sidecar, and who asks.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Injection")]
pub struct WebhookArgs {
    /// Where the API server of Kubernetes asks which sidecar a new pod gets (HTTPS, POST /inject). Without, it is not asked. Needs
    /// --store kubernetes
    #[arg(long, value_name = "ADDRESS")]
    pub webhook: Option<SocketAddr>,
    /// The name by which the API server reaches it, SERVICE.NAMESPACE.svc; may be repeated. Its certificate is made for it, anew every
    /// few days [default: outrider-injector.outrider-system.svc]
    #[arg(long, value_name = "NAME", requires = "webhook")]
    pub webhook_name: Vec<String>,
    /// The MutatingWebhookConfiguration in which the authority of that certificate is kept (caBundle)
    #[arg(long, value_name = "NAME", default_value = "outrider-injector")]
    pub webhook_configuration: String,
    /// What sidecars are like (YAML): image, controlPlane, serverName, clusterDomain, tokenAudience, trustConfigMap, trustKey,
    /// kubernetesVersion, nativeSidecar, capture, holdApplication, concurrency, logLevel, resources, rules, skipNamespaces
    #[arg(long, value_name = "FILE", requires = "webhook")]
    pub inject_settings: Option<PathBuf>,
    /// The authorities (PEM) that sidecars verify this control plane with: they are put into a config map in each namespace [default:
    /// DATA-DIR/tls/ca.pem, where the certificate was made here; else somebody else makes the config maps]
    #[arg(long, value_name = "FILE", requires = "webhook")]
    pub inject_ca: Option<PathBuf>,
}

impl WebhookArgs {
    /// The names in the webhook's certificate.
    pub(super) fn names(&self) -> Vec<String> {
        if self.webhook_name.is_empty() { vec![NAME.to_owned()] } else { self.webhook_name.clone() }
    }

    /// What sidecars are like.
    pub(super) fn settings(&self) -> anyhow::Result<Settings> {
        let Some(path) = &self.inject_settings else { return Ok(Settings::default()) };
        let text = std::fs::read_to_string(path);
        let text = text.with_context(|| format!("--inject-settings {}", path.display()))?;
        Settings::read(&text).with_context(|| format!("--inject-settings {}", path.display()))
    }
}
