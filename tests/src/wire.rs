//! As much of Envoy's API on the wire as a raw control plane says: written as JSON, sent as protobuf.
//!
//! The descriptors of the whole API would do it too, and would cost every build of the harness three minutes.

use anyhow::{Context, Result, bail};
use prost::{
    Message,
    encoding::{WireType, encode_key, encode_varint},
};
use serde_json::Value;

/// `google.protobuf.Any`
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Any {
    /// Its type.
    #[prost(string, tag = "1")]
    pub type_url: String,
    /// The message.
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}

/// `DiscoveryRequest`, without the node.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct DiscoveryRequest {
    /// The version in force.
    #[prost(string, tag = "1")]
    pub version_info: String,
    /// What is asked for.
    #[prost(string, repeated, tag = "3")]
    pub resource_names: Vec<String>,
    /// The kind.
    #[prost(string, tag = "4")]
    pub type_url: String,
    /// The response that this answers.
    #[prost(string, tag = "5")]
    pub response_nonce: String,
    /// The refusal.
    #[prost(message, optional, tag = "6")]
    pub error_detail: Option<Status>,
}

/// `google.rpc.Status`
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Status {
    /// In words.
    #[prost(string, tag = "2")]
    pub message: String,
}

/// `DiscoveryResponse`
#[derive(Clone, PartialEq, Eq, Message)]
pub struct DiscoveryResponse {
    /// The version.
    #[prost(string, tag = "1")]
    pub version_info: String,
    /// The resources.
    #[prost(message, repeated, tag = "2")]
    pub resources: Vec<Any>,
    /// The kind.
    #[prost(string, tag = "4")]
    pub type_url: String,
    /// Names the response.
    #[prost(string, tag = "5")]
    pub nonce: String,
}

/// What a field holds; lists are made of the same.
#[derive(Clone, Copy)]
enum Field {
    Text,
    Number,
    /// An enumeration's values by name.
    Name(&'static [(&'static str, u64)]),
    /// `"1.5s"`
    Duration,
    Message(&'static [Known]),
    Any,
}

/// A field's name, its number and what it holds.
type Known = (&'static str, u32, Field);

const ADDRESS: &[Known] = &[(
    "socket_address",
    1,
    Field::Message(&[("address", 2, Field::Text), ("port_value", 3, Field::Number)]),
)];

const SOURCE: &[Known] =
    &[("ads", 3, Field::Message(&[])), ("resource_api_version", 6, Field::Name(&[("V3", 2)]))];

const FILTER: &[Known] = &[("name", 1, Field::Text), ("typed_config", 4, Field::Any)];

const CLUSTER: &[Known] = &[
    ("name", 1, Field::Text),
    ("type", 2, Field::Name(&[("EDS", 3)])),
    ("eds_cluster_config", 3, Field::Message(&[("eds_config", 1, Field::Message(SOURCE))])),
    ("connect_timeout", 4, Field::Duration),
    ("lb_policy", 6, Field::Name(&[("CLUSTER_PROVIDED", 6)])),
];

const ENDPOINTS: &[Known] = &[
    ("cluster_name", 1, Field::Text),
    (
        "endpoints",
        2,
        Field::Message(&[(
            "lb_endpoints",
            2,
            Field::Message(&[("endpoint", 1, Field::Message(&[("address", 1, Field::Message(ADDRESS))]))]),
        )]),
    ),
];

const LISTENER: &[Known] = &[
    ("name", 1, Field::Text),
    ("address", 2, Field::Message(ADDRESS)),
    ("filter_chains", 3, Field::Message(&[("filters", 3, Field::Message(FILTER))])),
];

const MANAGER: &[Known] = &[
    ("stat_prefix", 2, Field::Text),
    (
        "rds",
        3,
        Field::Message(&[
            ("config_source", 1, Field::Message(SOURCE)),
            ("route_config_name", 2, Field::Text),
        ]),
    ),
    ("http_filters", 5, Field::Message(FILTER)),
];

const ROUTES: &[Known] = &[
    ("name", 1, Field::Text),
    (
        "virtual_hosts",
        2,
        Field::Message(&[
            ("name", 1, Field::Text),
            ("domains", 2, Field::Text),
            (
                "routes",
                3,
                Field::Message(&[
                    ("match", 1, Field::Message(&[("prefix", 1, Field::Text)])),
                    (
                        "route",
                        2,
                        Field::Message(&[("cluster", 1, Field::Text), ("timeout", 8, Field::Duration)]),
                    ),
                ]),
            ),
        ]),
    ),
];

/// A message that is written as JSON with its `@type`.
///
/// # Errors
/// It has a type or a field that is not known here.
pub fn any(message: &Value) -> Result<Any> {
    let url = message["@type"].as_str().context("no @type")?;
    let fields = match url.rsplit('.').next().unwrap_or_default() {
        "Cluster" => CLUSTER,
        "ClusterLoadAssignment" => ENDPOINTS,
        "Listener" => LISTENER,
        "HttpConnectionManager" => MANAGER,
        "RouteConfiguration" => ROUTES,
        "Router" => &[],
        _ => bail!("{url} is not known here"),
    };
    Ok(Any { type_url: url.to_owned(), value: encode(fields, message)? })
}

fn encode(fields: &[Known], message: &Value) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    for (name, value) in message.as_object().context("not an object")? {
        if name == "@type" {
            continue;
        }
        let known = fields.iter().find(|(known, _, _)| known == name);
        let (_, number, field) = *known.with_context(|| format!("the field {name} is not known here"))?;
        match value {
            Value::Array(items) => {
                for item in items {
                    put(number, field, item, &mut out)?;
                }
            }
            value => put(number, field, value, &mut out)?,
        }
    }
    Ok(out)
}

fn put(number: u32, field: Field, value: &Value, out: &mut Vec<u8>) -> Result<()> {
    let text = || value.as_str().with_context(|| format!("{value} is no text"));
    let bytes = match field {
        Field::Number => {
            varint(number, value.as_u64().context("not a number")?, out);
            return Ok(());
        }
        Field::Name(names) => {
            let wanted = text()?;
            let found = names.iter().find(|(name, _)| *name == wanted);
            varint(number, found.with_context(|| format!("{wanted} is not known here"))?.1, out);
            return Ok(());
        }
        Field::Text => text()?.as_bytes().to_vec(),
        Field::Duration => {
            let seconds: f64 = text()?.trim_end_matches('s').parse()?;
            let mut duration = Vec::new();
            varint(1, seconds as u64, &mut duration);
            varint(2, (seconds.fract() * 1e9) as u64, &mut duration);
            duration
        }
        Field::Message(fields) => encode(fields, value)?,
        Field::Any => any(value)?.encode_to_vec(),
    };
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(bytes.len() as u64, out);
    out.extend(bytes);
    Ok(())
}

fn varint(number: u32, value: u64, out: &mut Vec<u8>) {
    encode_key(number, WireType::Varint, out);
    encode_varint(value, out);
}
