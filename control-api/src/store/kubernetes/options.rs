//! `--store kubernetes[?context=..&kubeconfig=..]`.

use std::path::PathBuf;

use kube::Config;
use kube::config::{KubeConfigOptions, Kubeconfig};

/// Which cluster, and who we are there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The context of the kubeconfig; `None`: its current one.
    pub context: Option<String>,
    /// The kubeconfig; `None`: `$KUBECONFIG`, `~/.kube/config`, or in a pod its service account.
    pub kubeconfig: Option<PathBuf>,
}

/// Why there is no way to the API server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// The text is not of the form.
    #[error(
        "--store {0:?}: want kubernetes, kubernetes?context=NAME, kubernetes?kubeconfig=FILE or both joined by &"
    )]
    Form(String),
    /// An option that there is not.
    #[error("--store kubernetes: {0:?} is no option; there are context and kubeconfig")]
    Unknown(String),
    /// The kubeconfig or the service account cannot be used.
    #[error("--store kubernetes: {0}")]
    Config(String),
}

impl Options {
    /// Reads the argument of `--store`.
    ///
    /// # Errors
    /// When it is of another form, or names an option that there is not.
    pub fn parse(text: &str) -> Result<Self, OptionsError> {
        let form = || OptionsError::Form(text.to_owned());
        let rest = text.strip_prefix("kubernetes").ok_or_else(form)?;
        let rest = rest.strip_prefix("://").unwrap_or(rest);
        let mut options = Self::default();
        let Some(query) = rest.strip_prefix('?') else {
            return if rest.is_empty() { Ok(options) } else { Err(form()) };
        };
        for pair in query.split('&') {
            let (name, value) =
                pair.split_once('=').filter(|(_, value)| !value.is_empty()).ok_or_else(form)?;
            match name {
                "context" => options.context = Some(value.to_owned()),
                "kubeconfig" => options.kubeconfig = Some(value.into()),
                name => return Err(OptionsError::Unknown(name.to_owned())),
            }
        }
        Ok(options)
    }

    /// The client's configuration.
    pub(super) async fn config(&self) -> Result<Config, OptionsError> {
        let wrong = |place: &str, error: String| OptionsError::Config(format!("{place}: {error}"));
        let chosen = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        let mut config = match &self.kubeconfig {
            Some(path) => {
                let place = path.display().to_string();
                let file = Kubeconfig::read_from(path).map_err(|error| wrong(&place, error.to_string()))?;
                Config::from_custom_kubeconfig(file, &chosen)
                    .await
                    .map_err(|error| wrong(&place, error.to_string()))?
            }
            None if self.context.is_some() => Config::from_kubeconfig(&chosen)
                .await
                .map_err(|error| wrong("kubeconfig", error.to_string()))?,
            None => Config::infer().await.map_err(|error| {
                wrong("neither a kubeconfig nor a pod's service account can be used", error.to_string())
            })?,
        };
        // A limit for reading would end watches in which nothing happens. How long an answer may take to begin is limited for all
        // requests (`limit`), how long one may take in all by who asks; a watch by the watcher, which begins it anew.
        config.read_timeout = None;
        config.connect_timeout = Some(super::REQUEST);
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_argument_names_a_context_and_a_file() {
        assert_eq!(Options::parse("kubernetes"), Ok(Options::default()));
        assert_eq!(Options::parse("kubernetes://"), Ok(Options::default()));
        assert_eq!(
            Options::parse("kubernetes?context=prod&kubeconfig=/etc/kube/config"),
            Ok(Options { context: Some("prod".into()), kubeconfig: Some("/etc/kube/config".into()) })
        );
    }

    #[test]
    fn what_it_does_not_know_is_refused_by_name() {
        assert_eq!(Options::parse("kubernetes?contex=a"), Err(OptionsError::Unknown("contex".into())));
        for text in [
            "kubernetes/prod",
            "kubernetesx",
            "kubernetes?",
            "kubernetes?context",
            "kubernetes?context=",
            "k8s",
        ] {
            assert_eq!(Options::parse(text), Err(OptionsError::Form(text.into())), "{text}");
        }
    }

    #[tokio::test]
    async fn a_kubeconfig_that_is_not_there_is_named() {
        let options = Options::parse("kubernetes?kubeconfig=/no/such/file").unwrap();
        let error = options.config().await.unwrap_err().to_string();
        assert!(error.contains("/no/such/file"), "{error}");
    }
}
