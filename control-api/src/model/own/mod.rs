//! The kinds of our own: what the standard lacks. Group `outrider.dev`.

mod authorization_policy;
mod external_service;
mod peer_policy;
mod telemetry;
mod traffic_policy;

pub use authorization_policy::{AuthorizationPolicy, AuthorizationPolicySpec};
pub use external_service::{ExternalService, ExternalServiceSpec};
pub use peer_policy::{PeerPolicy, PeerPolicySpec};
pub use telemetry::{Telemetry, TelemetrySpec};
pub use traffic_policy::{TrafficPolicy, TrafficPolicySpec};
