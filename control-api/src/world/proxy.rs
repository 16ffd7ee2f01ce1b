//! Who a proxy is, as its node says.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use outrider_proto::pb::envoy::config::core::v3::{Node, node::UserAgentVersionType};
use outrider_proto::pb::google::protobuf::{Struct, value::Kind as Value};

use super::Named;

/// The port of a sidecar's explicit HTTP listener.
const HTTP_PORT: u16 = 15080;

/// How many bytes an id has at most.
const LONGEST: usize = 1024;

/// What a proxy does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Next to a pod.
    Sidecar,
    /// At an edge: a gateway.
    Router,
}

/// A proxy, or a gRPC client that speaks xDS itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Proxy {
    /// The node's id: `sidecar~IP~pod.namespace~domain`.
    pub id: Arc<str>,
    /// What it does.
    pub role: Role,
    /// Its own address.
    pub address: IpAddr,
    /// The pod.
    pub pod: Arc<str>,
    /// The namespace: `NAMESPACE` of the metadata, else that of the id.
    pub namespace: Arc<str>,
    /// The domain in the id: `namespace.svc.cluster.local`.
    pub domain: Arc<str>,
    /// `LABELS` of the metadata.
    pub labels: BTreeMap<String, String>,
    /// `GATEWAY` of the metadata: the Gateway that this router is.
    pub gateway: Option<Named>,
    /// Where a sidecar's explicit HTTP listener is: `HTTP_PORT` of the metadata, else 15080.
    pub http_port: u16,
    /// Connections come to it by TPROXY, with their own addresses: `INTERCEPTION_MODE` of the metadata is `TPROXY`. Without it, or where it
    /// is `REDIRECT` or `NONE`, they are redirected.
    pub tproxy: bool,
    /// Without capture: where it listens for its application. [`Explicit`]
    pub explicit: Option<Explicit>,
    /// Region, zone and sub-zone.
    pub locality: [Arc<str>; 3],
    /// It is a gRPC client, which wants API listeners.
    pub grpc: bool,
    /// Name and version of the client: `envoy/1.40.0`.
    pub client: Arc<str>,
}

/// A sidecar to which nothing is redirected: clients reach it at one port, behind which one application is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Explicit {
    /// `INBOUND_LISTEN` of the metadata: where it listens. Its port is the one that clients know from the slices of the service.
    pub listen: SocketAddr,
    /// `INBOUND_APPLICATION` of the metadata: where the application is.
    pub application: SocketAddr,
}

/// Why a node is no proxy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// The id has another form.
    #[error(
        "node id {0:?}: want TYPE~IP~POD.NAMESPACE~DOMAIN, as in \"sidecar~10.0.0.1~web-0.shop~shop.svc.cluster.local\""
    )]
    Id(String),
    /// The id cannot be written into a line.
    #[error("node id {0:?}: no control characters, and {LONGEST} bytes at most")]
    Unfit(String),
    /// The first part of the id.
    #[error("node id {id:?}: type {kind:?} is not known; use sidecar or router")]
    Type {
        /// The id.
        id: String,
        /// Its first part.
        kind: String,
    },
    /// The second part of the id.
    #[error("node id {id:?}: {address:?} is no IP address")]
    Address {
        /// The id.
        id: String,
        /// Its second part.
        address: String,
    },
    /// Something in the metadata.
    #[error("node {id:?}: metadata.{field}: {reason}")]
    Metadata {
        /// The id.
        id: String,
        /// Which entry.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

impl Proxy {
    /// Reads a node.
    ///
    /// # Errors
    /// When its id is not of Istio's form, or what the metadata says makes no sense.
    pub fn from_node(node: &Node) -> Result<Self, NodeError> {
        let id = node.id.as_str();
        // It stands in logs and tables, where a line's end in it would forge what comes after.
        if id.len() > LONGEST || id.chars().any(char::is_control) {
            return Err(NodeError::Unfit(id.chars().take(LONGEST).collect()));
        }
        let parts: Vec<&str> = id.split('~').collect();
        let [kind, address, pod, domain] = parts.as_slice() else { return Err(NodeError::Id(id.into())) };
        let role = match *kind {
            "sidecar" => Role::Sidecar,
            "router" => Role::Router,
            kind => return Err(NodeError::Type { id: id.into(), kind: kind.into() }),
        };
        let address =
            address.parse().map_err(|_| NodeError::Address { id: id.into(), address: (*address).into() })?;
        let Some((pod, namespace)) =
            pod.rsplit_once('.').filter(|(pod, ns)| !pod.is_empty() && !ns.is_empty())
        else {
            return Err(NodeError::Id(id.into()));
        };
        let metadata = Metadata { id, fields: node.metadata.as_ref() };
        let version = match &node.user_agent_version_type {
            Some(UserAgentVersionType::UserAgentVersion(version)) => version.clone(),
            Some(UserAgentVersionType::UserAgentBuildVersion(build)) => build
                .version
                .as_ref()
                .map(|it| format!("{}.{}.{}", it.major_number, it.minor_number, it.patch))
                .unwrap_or_default(),
            None => String::new(),
        };
        let agent = &*plain(&node.user_agent_name);
        let version = plain(&version);
        let locality = node.locality.clone().unwrap_or_default();
        Ok(Self {
            id: id.into(),
            role,
            address,
            pod: pod.into(),
            namespace: metadata.text("NAMESPACE")?.unwrap_or(namespace).into(),
            domain: (*domain).into(),
            labels: metadata.labels()?,
            gateway: metadata.gateway()?,
            http_port: metadata.port()?.unwrap_or(HTTP_PORT),
            tproxy: metadata.tproxy()?,
            explicit: metadata.explicit()?,
            locality: [locality.region.into(), locality.zone.into(), locality.sub_zone.into()],
            grpc: agent.starts_with("gRPC") || agent.starts_with("grpc"),
            client: if version.is_empty() { agent.into() } else { format!("{agent}/{version}").into() },
        })
    }
}

/// A text for people, without what would end its line.
fn plain(text: &str) -> String {
    text.chars().filter(|it| !it.is_control()).take(LONGEST).collect()
}

struct Metadata<'n> {
    id: &'n str,
    fields: Option<&'n Struct>,
}

impl<'n> Metadata<'n> {
    fn get(&self, field: &str) -> Option<&'n Value> {
        self.fields?.fields.get(field)?.kind.as_ref()
    }

    fn error(&self, field: &'static str, reason: impl Into<String>) -> NodeError {
        NodeError::Metadata { id: self.id.into(), field, reason: reason.into() }
    }

    fn text(&self, field: &'static str) -> Result<Option<&'n str>, NodeError> {
        match self.get(field) {
            None | Some(Value::NullValue(_)) => Ok(None),
            Some(Value::StringValue(text)) if !text.is_empty() && !text.chars().any(char::is_control) => {
                Ok(Some(text))
            }
            Some(_) => Err(self.error(field, "want a text that is not empty, without control characters")),
        }
    }

    fn labels(&self) -> Result<BTreeMap<String, String>, NodeError> {
        let Some(value) = self.get("LABELS") else { return Ok(BTreeMap::new()) };
        let Value::StructValue(fields) = value else {
            return Err(self.error("LABELS", "want a map of texts"));
        };
        fields
            .fields
            .iter()
            .map(|(name, value)| match &value.kind {
                Some(Value::StringValue(text)) => Ok((name.clone(), text.clone())),
                _ => Err(self.error("LABELS", format!("{name}: want a text"))),
            })
            .collect()
    }

    fn gateway(&self) -> Result<Option<Named>, NodeError> {
        let Some(text) = self.text("GATEWAY")? else { return Ok(None) };
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() => {
                Ok(Some((namespace.into(), name.into())))
            }
            _ => Err(self.error("GATEWAY", format!("{text:?}: want namespace/name"))),
        }
    }

    fn tproxy(&self) -> Result<bool, NodeError> {
        match self.text("INTERCEPTION_MODE")? {
            Some("TPROXY") => Ok(true),
            None | Some("REDIRECT" | "NONE") => Ok(false),
            Some(other) => {
                Err(self.error("INTERCEPTION_MODE", format!("{other:?}: want REDIRECT, TPROXY or NONE")))
            }
        }
    }

    fn explicit(&self) -> Result<Option<Explicit>, NodeError> {
        let address = |field: &'static str| -> Result<Option<SocketAddr>, NodeError> {
            let Some(text) = self.text(field)? else { return Ok(None) };
            match text.parse::<SocketAddr>() {
                Ok(address) if address.port() != 0 => Ok(Some(address)),
                _ => Err(self.error(field, format!("{text:?}: want ADDRESS:PORT, as in 10.0.0.1:8443"))),
            }
        };
        match (address("INBOUND_LISTEN")?, address("INBOUND_APPLICATION")?) {
            (None, None) => Ok(None),
            (Some(listen), Some(application)) => Ok(Some(Explicit { listen, application })),
            (Some(_), None) => Err(self.error("INBOUND_APPLICATION", "missing beside INBOUND_LISTEN")),
            (None, Some(_)) => Err(self.error("INBOUND_LISTEN", "missing beside INBOUND_APPLICATION")),
        }
    }

    fn port(&self) -> Result<Option<u16>, NodeError> {
        let port = match self.get("HTTP_PORT") {
            None => return Ok(None),
            Some(Value::StringValue(text)) => text.parse().ok(),
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "checked to be whole and in range"
            )]
            Some(Value::NumberValue(number)) if number.fract() == 0.0 && (1.0..=65535.0).contains(number) => {
                Some(*number as u16)
            }
            Some(_) => None,
        };
        match port {
            Some(port @ 1..) => Ok(Some(port)),
            _ => Err(self.error("HTTP_PORT", "want a port between 1 and 65535")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn explicit(fields: &[(&str, &str)]) -> Result<Option<Explicit>, String> {
        let text = |text: &str| outrider_proto::pb::google::protobuf::Value {
            kind: Some(Value::StringValue(text.to_owned())),
        };
        let fields = fields.iter().map(|(name, value)| ((*name).to_owned(), text(value))).collect();
        let id = "sidecar~10.0.0.1~web-0.shop~shop.svc.cluster.local".to_owned();
        let node = Node { id, metadata: Some(Struct { fields }), ..Default::default() };
        Proxy::from_node(&node).map(|it| it.explicit).map_err(|error| error.to_string())
    }

    #[test]
    fn a_proxy_without_capture_says_both_of_its_addresses() {
        assert_eq!(explicit(&[]), Ok(None));
        let (listen, application) =
            (("INBOUND_LISTEN", "10.0.0.1:8443"), ("INBOUND_APPLICATION", "[::1]:80"));
        let wanted =
            Explicit { listen: listen.1.parse().unwrap(), application: application.1.parse().unwrap() };
        assert_eq!(explicit(&[listen, application]), Ok(Some(wanted)));
        let missing = explicit(&[listen]).unwrap_err();
        assert!(missing.contains("metadata.INBOUND_APPLICATION: missing"), "{missing}");
        for bad in ["10.0.0.1", "web:80", "10.0.0.1:0", "8443"] {
            let error = explicit(&[("INBOUND_LISTEN", bad), application]).unwrap_err();
            assert!(error.contains("metadata.INBOUND_LISTEN") && error.contains(bad), "{error}");
        }
    }
}
