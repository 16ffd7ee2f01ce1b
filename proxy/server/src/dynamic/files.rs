//! Files that stand in the place of a control plane, as far as the bootstrap names them.

use anyhow::bail;
use outrider_config::model::{
    Bootstrap, ConfigSource, ConfigSourceKind, Discovery, NetworkFilter, Routes, ScopedRoutes, Scopes,
};

use super::listeners::{dynamic_secrets, filter_secrets};

/// Checks that the files which the bootstrap names as sources are there, as Envoy does; what they hold is seen later.
///
/// # Errors
/// One is not there.
pub(crate) fn check_files(bootstrap: &Bootstrap) -> anyhow::Result<()> {
    let dynamic = &bootstrap.dynamic;
    let mut sources: Vec<ConfigSource> = dynamic.cds.iter().chain(&dynamic.lds).cloned().collect();
    for cluster in &bootstrap.clusters {
        if let Discovery::Eds { source, .. } = &cluster.discovery {
            sources.push(source.clone());
        }
        sources.extend(cluster.dynamic_secrets().map(|secret| secret.source.clone()));
    }
    for listener in &bootstrap.listeners {
        for chain in listener.filter_chains.iter().chain(&listener.default_filter_chain) {
            let NetworkFilter::Http(manager) = &chain.filter else { continue };
            match &manager.routes {
                Routes::Rds { source, .. } => sources.push(source.clone()),
                Routes::Scoped(ScopedRoutes { scopes: Scopes::Srds { source, tables }, .. }) => {
                    sources.extend([source].into_iter().chain(tables).cloned());
                }
                Routes::Scoped(_) | Routes::Inline(_) => {}
            }
        }
        let secrets = dynamic_secrets(listener).into_iter().chain(filter_secrets(listener));
        sources.extend(secrets.map(|secret| secret.source.clone()));
    }
    for source in sources {
        if let ConfigSourceKind::Path { path, .. } = &source.kind
            && !std::path::Path::new(&**path).exists()
        {
            bail!("a path_config_source must name a file that exists: {path:?} does not exist");
        }
    }
    Ok(())
}
