//! Names that are known elsewhere.

/// The sidecar.
pub const PROXY: &str = "outrider-proxy";
/// The init container that has traffic redirected.
pub const CAPTURE: &str = "outrider-capture";
/// The annotation that says which sidecar this is.
pub const STATUS: &str = "outrider.dev/status";

/// Whether a pod gets a sidecar: a label or an annotation.
pub(crate) const INJECT: &str = "outrider.dev/inject";
/// The annotation by which `outrider capture cni` knows that it is to capture a pod. Injection writes it.
pub(crate) const CAPTURED: &str = "outrider.dev/capture";
/// The label by which others speak mutual TLS to a pod.
pub(crate) const TLS_MODE: &str = "security.istio.io/tlsMode";
/// What that label says for it.
pub(crate) const MUTUAL: &str = "istio";
/// The container that kubectl means where nobody names one.
pub(crate) const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// Sockets, certificates, state.
pub(crate) const RUN: &str = "outrider-run";
/// The token for the control plane.
pub(crate) const TOKEN: &str = "outrider-token";
/// Whom the control plane's certificate is verified with.
pub(crate) const CA: &str = "outrider-ca";
/// The volumes.
pub(crate) const VOLUMES: [&str; 3] = [RUN, TOKEN, CA];

/// The user and the group whom the redirecting of traffic leaves alone.
pub(crate) const UID: u64 = 1337;

/// The admin interface, on the loopback.
pub(crate) const ADMIN: u16 = 15000;
/// Where what the application sends arrives.
pub(crate) const OUTBOUND: u16 = 15001;
/// Where what comes for the application arrives.
pub(crate) const INBOUND: u16 = 15006;
/// Where the kubelet asks whether the sidecar is ready.
pub(crate) const READY: u16 = 15021;
/// Where applications that know of the sidecar send requests.
pub(crate) const HTTP: u16 = 15080;
/// Where Prometheus asks.
pub(crate) const STATS: u16 = 15090;

/// Ports of the pod that are the sidecar's, and for what.
pub(crate) const PORTS: [(u16, &str); 6] = [
    (ADMIN, "its admin interface"),
    (OUTBOUND, "what the application sends"),
    (INBOUND, "what comes for the application"),
    (READY, "its readiness"),
    (HTTP, "its explicit HTTP listener"),
    (STATS, "its stats"),
];
