//! The gRPC server of the API: the service itself, reflection, health.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tonic::metadata::MetadataMap;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic_health::ServingStatus;
use tonic_health::server::{HealthReporter, HealthService};

use super::auth::{Bounds, Guard, Security, incoming};
use super::bodies::Bodies;
use super::{ControlService, audit::Audit};
use crate::engine::Engine;
use crate::pb;

/// Bytes of one request.
pub(super) const LARGEST_REQUEST: usize = 32 * 1024 * 1024;
/// Bytes of a health check: the name of a service. Anybody may ask.
const LARGEST_CHECK: usize = 4 * 1024;
/// Connections at a time.
const CONNECTIONS: usize = 4096;
/// Requests of one connection at a time: what HTTP/2 (RFC 9113, 6.5.2) has for the least.
const STREAMS: u32 = 100;
/// A connection that nothing came over for so long is asked for a sign of life.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// How long a connection may take for the sign.
const SIGN: Duration = Duration::from_secs(20);

/// Metadata by which a client says how many bytes of details it takes with an error. Without it they are cut to what every
/// implementation takes in trailers.
pub const DETAILS_LIMIT: &str = "outrider-details-limit";

/// The health of this server's services.
pub type Reporter = HealthReporter;

/// The API with what belongs to it.
#[derive(Debug)]
pub struct Served {
    /// The API, reflection and health.
    pub routes: Routes,
    /// What health checks are told: not serving until the engine is ready.
    pub health: Reporter,
    engine: Arc<Engine>,
    audit: Arc<Audit>,
}

impl Served {
    /// Puts them together.
    ///
    /// # Errors
    /// When the descriptors of the API are damaged.
    pub fn new(service: ControlService) -> anyhow::Result<Self> {
        let (engine, audit) = (Arc::clone(&service.parts.engine), Arc::clone(&service.parts.audit));
        let health = HealthReporter::new();
        let control =
            pb::control_server::ControlServer::new(service).max_decoding_message_size(LARGEST_REQUEST);
        let reflection = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(pb::DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let health_service = HealthService::from_health_reporter(health.clone());
        let health_service = tonic_health::pb::health_server::HealthServer::new(health_service)
            .max_decoding_message_size(LARGEST_CHECK);
        let routes = Routes::new(control)
            .add_service(reflection().build_v1()?)
            .add_service(reflection().build_v1alpha()?)
            .add_service(health_service);
        Ok(Self { routes, health, engine, audit })
    }

    /// Serves until `shutdown` resolves, and then until the requests that run are done.
    ///
    /// # Errors
    /// When the server cannot go on.
    pub async fn serve(
        self,
        listener: TcpListener,
        security: &Security,
        shutdown: impl Future<Output = ()> + Send,
    ) -> anyhow::Result<()> {
        let Self { routes, health, engine, audit } = self;
        set(&health, ServingStatus::NotServing).await;
        let ready = tokio::spawn(async move {
            engine.until_ready().await;
            set(&health, ServingStatus::Serving).await;
        });
        let bounds = Bounds::new(CONNECTIONS, security.of_one_address);
        let guard = Guard::new(Arc::clone(&security.authenticator), Some(audit));
        let connections = incoming(listener, security.tls.clone(), bounds);
        let served = Server::builder()
            .max_concurrent_streams(STREAMS)
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(SIGN))
            .layer(guard)
            .layer(Bodies::new())
            .add_routes(routes)
            .serve_with_incoming_shutdown(connections, shutdown)
            .await;
        ready.abort();
        Ok(served?)
    }
}

async fn set(health: &Reporter, status: ServingStatus) {
    health.set_service_status("", status).await;
    health.set_service_status("outrider.control.v1.Control", status).await;
}

/// How many bytes of details a client takes.
pub(super) fn details_limit(metadata: &MetadataMap) -> Option<usize> {
    metadata.get(DETAILS_LIMIT)?.to_str().ok()?.parse().ok()
}
