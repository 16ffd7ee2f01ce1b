//! What the webhook writes into Kubernetes: the authority of its certificate into the configuration of the webhook, and into each
//! namespace the config map by which sidecars verify this control plane. Several control planes do so side by side.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, anyhow};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{Api, ListParams, Patch, PatchParams};
use serde_json::{Value, json};

use super::certificate::{Generation, bundle};
use super::{Shared, WebhookArgs};

/// How often is looked whether all is as it should be.
const INTERVAL: Duration = Duration::from_secs(10);
/// How long a round may take.
const LIMIT: Duration = Duration::from_secs(30);
/// Pods come in crowds: so long is waited after one.
const CROWD: Duration = Duration::from_secs(1);
/// How long API servers have to hear of a new authority before its certificate is shown.
const HEARD: Duration = Duration::from_secs(60);
/// Under which name fields are written.
const MANAGER: &str = "outrider-injector";

/// Writes, and keeps written.
pub(super) struct Publisher {
    client: kube::Client,
    configuration: String,
    names: Vec<String>,
    /// What sidecars verify this control plane with.
    trust: Option<PathBuf>,
    shared: Arc<Shared>,
    /// The next certificate, and since when its authority is known.
    next: Option<(Arc<Generation>, Option<SystemTime>)>,
    /// What was wrong the last time: it is told once.
    told: [String; 2],
}

impl Publisher {
    pub(super) fn new(
        client: kube::Client,
        args: &WebhookArgs,
        trust: Option<PathBuf>,
        shared: Arc<Shared>,
    ) -> Self {
        let configuration = args.webhook_configuration.clone();
        Self {
            client,
            configuration,
            names: args.names(),
            trust,
            shared,
            next: None,
            told: Default::default(),
        }
    }

    /// Never ends.
    pub(super) async fn run(mut self) {
        loop {
            let shared = Arc::clone(&self.shared);
            tokio::select! {
                () = tokio::time::sleep(INTERVAL) => {}
                () = shared.injected.notified() => tokio::time::sleep(CROWD).await,
            }
            self.turn().await;
        }
    }

    /// Puts right what is not as it should be. What cannot be is logged, and tried again at the next turn.
    pub(super) async fn turn(&mut self) {
        let late = || anyhow!("Kubernetes did not answer within {LIMIT:?}");
        let certificate = tokio::time::timeout(LIMIT, self.certificate()).await;
        self.tell(0, certificate.unwrap_or_else(|_| Err(late())));
        let trust = tokio::time::timeout(LIMIT, self.trust()).await;
        self.tell(1, trust.unwrap_or_else(|_| Err(late())));
    }

    fn tell(&mut self, place: usize, done: anyhow::Result<()>) {
        let wrong = done.err().map(|error| format!("{error:#}")).unwrap_or_default();
        let Some(told) = self.told.get_mut(place) else { return };
        if !wrong.is_empty() && *told != wrong {
            tracing::error!(error = wrong, "injection does not work as it should");
        }
        *told = wrong;
    }

    /// The certificate: the next one is made, made known, and then shown.
    async fn certificate(&mut self) -> anyhow::Result<()> {
        let now = SystemTime::now();
        if self.next.is_none() && now >= self.shared.certificate.load().renew_at {
            self.next = Some((Arc::new(Generation::new(&self.names)?), None));
        }
        if !self.make_known(now).await? {
            return Ok(());
        }
        match &mut self.next {
            Some((next, Some(known))) if now.duration_since(*known).is_ok_and(|it| it >= HEARD) => {
                self.shared.certificate.store(Arc::clone(next));
                self.next = None;
                tracing::info!("the webhook has a new certificate");
            }
            Some((_, known)) => {
                known.get_or_insert(now);
            }
            None => {}
        }
        Ok(())
    }

    /// Puts the authorities into the configuration where they are missing. `false`: somebody else wrote it meanwhile.
    async fn make_known(&self, now: SystemTime) -> anyhow::Result<bool> {
        let name = &self.configuration;
        let api: Api<MutatingWebhookConfiguration> = Api::all(self.client.clone());
        let found =
            api.get_opt(name).await.with_context(|| format!("MutatingWebhookConfiguration {name}"))?;
        let found = found.with_context(|| {
            format!(
                "there is no MutatingWebhookConfiguration {name}: nobody asks for sidecars; apply deploy/control/injector.yaml, or name \
                 yours by --webhook-configuration"
            )
        })?;
        let current = self.shared.certificate.load_full();
        let own: Vec<_> =
            std::iter::once(current.root()).chain(self.next.iter().map(|(next, _)| next.root())).collect();
        let mut changed = Vec::new();
        for webhook in found.webhooks.iter().flatten() {
            let there =
                webhook.client_config.ca_bundle.as_ref().map(|it| it.0.as_slice()).unwrap_or_default();
            let wanted = bundle(there, &own, now);
            if !same(there, &wanted) {
                let wanted = STANDARD.encode(wanted);
                changed.push(json!({ "name": webhook.name, "clientConfig": { "caBundle": wanted } }));
            }
        }
        if changed.is_empty() {
            return Ok(true);
        }
        // With the version that was read: two control planes must not write over each other.
        let version = found.metadata.resource_version;
        let patch: Value = json!({ "metadata": { "resourceVersion": version }, "webhooks": changed });
        match api.patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {
                // The next turn, which comes soon, sees what they wrote.
                self.shared.injected.notify_one();
                Ok(false)
            }
            done => {
                done.with_context(|| format!("MutatingWebhookConfiguration {name}: caBundle"))?;
                Ok(true)
            }
        }
    }

    /// The config maps of sidecars.
    async fn trust(&self) -> anyhow::Result<()> {
        let Some(path) = &self.trust else { return Ok(()) };
        let text = tokio::fs::read_to_string(path).await.with_context(|| format!("{}", path.display()))?;
        anyhow::ensure!(
            text.contains("-----BEGIN CERTIFICATE-----"),
            "{}: want certificates (PEM)",
            path.display()
        );
        let settings = &self.shared.settings;
        let (name, key) = (&settings.trust_config_map, &settings.trust_key);
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let namespaces = namespaces.list(&ListParams::default()).await.context("namespaces")?;
        let maps: Api<ConfigMap> = Api::all(self.client.clone());
        let named = ListParams::default().fields(&format!("metadata.name={name}"));
        let there: BTreeMap<String, ConfigMap> = maps
            .list(&named)
            .await
            .with_context(|| format!("config maps {name}"))?
            .into_iter()
            .filter_map(|it| Some((it.metadata.namespace.clone()?, it)))
            .collect();
        for namespace in namespaces {
            let ends = namespace.metadata.deletion_timestamp.is_some();
            let Some(namespace) = namespace.metadata.name else { continue };
            let has = there.get(&namespace).and_then(|it| it.data.as_ref()?.get(key));
            if ends || settings.skip_namespaces.contains(&namespace) || has == Some(&text) {
                continue;
            }
            let map = json!({
                "apiVersion": "v1", "kind": "ConfigMap",
                "metadata": { "name": name, "labels": { "app.kubernetes.io/managed-by": MANAGER } },
                "data": { key: text },
            });
            let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &namespace);
            let written = api.patch(name, &PatchParams::apply(MANAGER).force(), &Patch::Apply(map)).await;
            written.with_context(|| format!("config map {name} in namespace {namespace}"))?;
        }
        Ok(())
    }
}

/// Whether the same authorities are in two bundles, in whatever order.
fn same(there: &[u8], wanted: &str) -> bool {
    let parts = |text: &str| {
        let mut parts: Vec<String> = text
            .split_inclusive("-----END CERTIFICATE-----")
            .map(|it| it.trim().to_owned())
            .filter(|it| !it.is_empty())
            .collect();
        parts.sort();
        parts
    };
    std::str::from_utf8(there).is_ok_and(|there| parts(there) == parts(wanted))
}
