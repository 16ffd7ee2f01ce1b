//! What a table says of HTTP filters, lined up when it is compiled.

use std::sync::Arc;

use outrider_config::model::{
    self, ClusterSpecifier, FilterName, FilterOverride, RouteAction, RouteConfiguration, RouteFilterConfig,
};

use crate::filter::{FilterError, route_settings};

/// What a route and all levels above it say of a filter.
#[derive(Debug, Clone)]
pub(crate) struct Override {
    /// Which.
    pub(super) name: FilterName,
    /// Whether the most specific level that speaks of it turns it off.
    pub(crate) disabled: bool,
    /// Its settings: the table's, the virtual host's, the route's, the weighted cluster's, where they have any.
    pub(crate) levels: Vec<RouteFilterConfig>,
}

/// What is said of all filters: few, so that they are looked through.
pub(super) type Overrides = Arc<[Override]>;

/// What the routes of a virtual host have in common.
pub(super) struct HostFilters<'a> {
    table: &'a RouteConfiguration,
    host: &'a model::VirtualHost,
    own: Overrides,
}

impl<'a> HostFilters<'a> {
    /// What `table` and `host` say.
    ///
    /// # Errors
    /// They name something that cannot be read.
    pub(super) fn new(
        table: &'a RouteConfiguration,
        host: &'a model::VirtualHost,
    ) -> Result<Self, FilterError> {
        Ok(Self { table, host, own: line_up(&[&table.filters, &host.filters])? })
    }

    /// The overrides of `route` for each of its weighted clusters; one entry for all other routes.
    ///
    /// # Errors
    /// They name something that cannot be read.
    pub(super) fn of(&self, route: &model::Route) -> Result<Box<[Overrides]>, FilterError> {
        let all = |cluster: &[FilterOverride]| {
            if route.filters.is_empty() && cluster.is_empty() {
                return Ok(self.own.clone());
            }
            line_up(&[&self.table.filters, &self.host.filters, &route.filters, cluster])
        };
        match &route.action {
            RouteAction::Forward(forward) => match &forward.cluster {
                ClusterSpecifier::Weighted(weighted) => {
                    weighted.clusters.iter().map(|cluster| all(&cluster.filters)).collect()
                }
                ClusterSpecifier::Name(_) | ClusterSpecifier::Header(_) => Ok(Box::from([all(&[])?])),
            },
            RouteAction::Redirect(_) | RouteAction::Direct(_) => Ok(Box::from([all(&[])?])),
        }
    }
}

/// The levels, the least specific first, by filter.
fn line_up(levels: &[&[FilterOverride]]) -> Result<Overrides, FilterError> {
    let mut found: Vec<Override> = Vec::new();
    for said in levels.iter().copied().flatten() {
        let config = said.config.as_ref().map(route_settings).transpose()?;
        match found.iter_mut().find(|known| known.name == said.name) {
            Some(known) => {
                known.disabled = said.disabled;
                known.levels.extend(config);
            }
            None => found.push(Override {
                name: said.name.clone(),
                disabled: said.disabled,
                levels: config.into_iter().collect(),
            }),
        }
    }
    Ok(found.into())
}

#[cfg(test)]
mod tests {
    use outrider_config::model::{BasicUsers, DataSource, DataSourceKind};

    use super::*;

    fn users_of(path: &str) -> FilterOverride {
        let kind = DataSourceKind::File(path.into());
        let source = DataSource { kind, field: "some.users".into() };
        let config = Some(RouteFilterConfig::BasicAuth(BasicUsers::Source(source)));
        FilterOverride { name: FilterName::new("basic"), disabled: false, config }
    }

    #[test]
    fn users_in_files_are_read_when_a_table_is_built() {
        let file = std::env::temp_dir().join(format!("outrider-users-{}", std::process::id()));
        std::fs::write(&file, "user1:{SHA}tESsBmE/yNY3lb6a0L6vVQEZNqw=\n").expect("a file");
        let found = line_up(&[&[users_of(&file.to_string_lossy())]]);
        std::fs::remove_file(&file).expect("the file");
        let found = found.expect("users");
        let [RouteFilterConfig::BasicAuth(BasicUsers::Here(users))] = &found[0].levels[..] else {
            panic!("{found:?}")
        };
        assert!(users.check(b"user1", b"test1").is_some());
        let error = line_up(&[&[users_of(&file.to_string_lossy())]]).expect_err("no file");
        assert!(error.to_string().starts_with("some.users: file "), "{error}");
    }
}
