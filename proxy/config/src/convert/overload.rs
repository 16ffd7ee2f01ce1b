//! The overload manager: the limit of all downstream connections.

use outrider_proto::Path;
use outrider_proto::pb::envoy::config::overload::v3 as pb;
use outrider_proto::pb::envoy::extensions::resource_monitors::downstream_connections::v3::DownstreamConnectionsConfig;

use super::cx::{Cx, UNSUPPORTED, inert, refuse};
use super::scalar::{runtime_integer, type_of, unpack};
use crate::model::{NO_LIMIT, RuntimeInteger};

/// How many downstream connections there may be.
pub(crate) fn connections(cx: &Cx, path: &Path<'_>, message: Option<&pb::OverloadManager>) -> RuntimeInteger {
    use pb::resource_monitor::ConfigType;
    // The older way to set the limit; the monitor comes before it (Envoy: "Limiting active connections").
    let older = runtime_integer(cx, "overload.global_downstream_max_connections", NO_LIMIT.default);
    let Some(message) = message else { return older };
    let pb::OverloadManager {
        refresh_interval,
        resource_monitors,
        actions,
        loadshed_points,
        buffer_factory_config,
    } = message;
    inert!(cx, path, "connections are counted as they come, not sampled"; refresh_interval);
    refuse!(cx, path, UNSUPPORTED; actions, loadshed_points, buffer_factory_config);
    let at = path.field("resource_monitors");
    let mut limit = None;
    for (i, pb::ResourceMonitor { name, config_type }) in resource_monitors.iter().enumerate() {
        let path = at.index(i);
        let path = path.field("typed_config");
        let Some(ConfigType::TypedConfig(any)) = config_type else {
            cx.error(&path, format!("the monitor {name:?} needs a typed_config with its @type"));
            continue;
        };
        if !outrider_proto::any::is::<DownstreamConnectionsConfig>(any) {
            cx.refuse(
                &path,
                format!(
                    "the monitor {} is not supported; global_downstream_max_connections is",
                    type_of(any)
                ),
            );
            continue;
        }
        let Some(DownstreamConnectionsConfig { max_active_downstream_connections: most }) =
            unpack(cx, &path, any)
        else {
            continue;
        };
        match u64::try_from(most) {
            Ok(most @ 1..) => limit = Some(most),
            _ => cx
                .error(&path.field("max_active_downstream_connections"), format!("{most} must be 1 or more")),
        }
    }
    limit.map_or(older, RuntimeInteger::fixed)
}
