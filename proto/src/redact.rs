//! Secrets, taken out of messages before anyone sees them.

use prost::Message as _;
use prost_reflect::{DynamicMessage, FieldDescriptor, ReflectMessage as _, Value};

use crate::{Descriptors, any, load::resolve_typed_struct, pb::google::protobuf::Any};

/// What stands in a secret's place, as in Envoy's `/config_dump`.
pub const REDACTED: &str = "[redacted]";

/// Replaces every string and every bytes field that the API marks as sensitive (`udpa.annotations.sensitive`) or forgot to
/// mark (a token for gRPC), and clears everything else inside a sensitive message; through `Any` and `TypedStruct`.
///
/// An `Any` of a known type whose bytes are not of that type loses them: what cannot be read cannot be shown to be free
/// of secrets.
pub fn redact(descs: &Descriptors, message: &mut DynamicMessage) {
    message_fields(descs, message, false, 0);
}

/// How deep an `Any` inside an `Any` is followed; what lies deeper is dropped.
const MAX_DEPTH: usize = 100;

fn message_fields(descs: &Descriptors, message: &mut DynamicMessage, sensitive: bool, depth: usize) {
    if any::parts(message).is_some() {
        any_content(descs, message, sensitive, depth);
        return;
    }
    let fields: Vec<FieldDescriptor> = message.fields().map(|(field, _)| field).collect();
    for field in fields {
        let sensitive = sensitive || is_sensitive(&field);
        if !value(descs, message.get_field_mut(&field), sensitive, depth) {
            message.clear_field(&field);
        }
    }
}

/// Redacts a value in place; false if it must be cleared instead.
fn value(descs: &Descriptors, it: &mut Value, sensitive: bool, depth: usize) -> bool {
    match it {
        Value::Message(message) => message_fields(descs, message, sensitive, depth + 1),
        Value::List(items) => return items.iter_mut().all(|item| value(descs, item, sensitive, depth)),
        Value::Map(entries) => {
            return entries.values_mut().all(|entry| value(descs, entry, sensitive, depth));
        }
        Value::String(text) if sensitive => REDACTED.clone_into(text),
        Value::Bytes(bytes) if sensitive => *bytes = REDACTED.as_bytes().into(),
        _ => return !sensitive,
    }
    true
}

fn any_content(descs: &Descriptors, message: &mut DynamicMessage, sensitive: bool, depth: usize) {
    if any::typed_struct_target(message).is_some() {
        expand_typed_struct(descs, message);
    }
    let Some((name, bytes)) = any::parts(message) else { return };
    let Some(desc) = descs.message(name) else {
        // Of a type that nobody knows nothing can be said, unless all of it is a secret.
        if sensitive {
            message.clear_field_by_name("value");
        }
        return;
    };
    let redacted = match DynamicMessage::decode(desc, bytes) {
        Ok(mut inner) if depth < MAX_DEPTH => {
            message_fields(descs, &mut inner, sensitive, depth + 1);
            inner.encode_to_vec()
        }
        _ => Vec::new(),
    };
    message.set_field_by_name("value", Value::Bytes(redacted.into()));
}

/// Puts the message that a `TypedStruct` stands for in its place, so that its secrets are seen as such. One that does not
/// fit its type is emptied.
pub(crate) fn expand_typed_struct(descs: &Descriptors, message: &mut DynamicMessage) {
    let resolved = message.transcode_to::<Any>().ok().and_then(|any| resolve_typed_struct(descs, &any).ok());
    match resolved {
        Some(any) => {
            message.set_field_by_name("type_url", Value::String(any.type_url));
            message.set_field_by_name("value", Value::Bytes(any.value.into()));
        }
        None => message.clear_field_by_name("value"),
    }
}

/// Whether a field holds a secret: the API marks it as such, or should.
pub(crate) fn is_sensitive(field: &FieldDescriptor) -> bool {
    /// The number of the `udpa.annotations.sensitive` extension.
    const SENSITIVE: u32 = 76_569_463;
    /// The API forgot to mark this one.
    const TOKEN: &str = "envoy.config.core.v3.GrpcService.GoogleGrpc.CallCredentials.access_token";
    if field.full_name() == TOKEN {
        return true;
    }
    let options = field.options();
    options
        .descriptor()
        .get_extension(SENSITIVE)
        .is_some_and(|it| matches!(*options.get_extension(&it), Value::Bool(true)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{json::to_json, load};

    #[test]
    fn private_keys_and_tokens_disappear_wherever_they_are() {
        let descs = Descriptors::load();
        let text = r#"
static_resources:
  secrets:
  - name: inline
    tls_certificate:
      certificate_chain: {inline_string: public}
      private_key: {inline_string: hush, environment_variable: ""}
  - name: token
    generic_secret: {secret: {inline_bytes: aHVzaA==}}
  clusters:
  - name: b
    eds_cluster_config:
      eds_config:
        api_config_source:
          grpc_services: [{google_grpc: {stat_prefix: g, call_credentials: [{access_token: hush}]}}]
  - name: a
    transport_socket:
      name: tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        common_tls_context:
          tls_certificates:
          - private_key: {inline_string: hush}
            password: {inline_string: hush}
"#
        .replace(", environment_variable: \"\"", "");
        let name = "envoy.config.bootstrap.v3.Bootstrap";
        let mut loaded = load::parse(&descs, &text, "t.yaml", name, load::ParseOptions::default()).unwrap();
        redact(&descs, &mut loaded.message);
        let shown = to_json(&descs, &loaded.message).to_string();
        assert!(!shown.contains("hush") && !shown.contains("aHVzaA"), "{shown}");
        assert!(shown.contains("public"), "{shown}");
        assert_eq!(shown.matches("[redacted]").count(), 4, "{shown}");
        assert!(shown.contains("W3JlZGFjdGVkXQ=="), "bytes are redacted too: {shown}");
    }

    #[test]
    fn a_typed_struct_hides_nothing() {
        let descs = Descriptors::load();
        let context = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
        let typed = |value: serde_json::Value| {
            let outer = serde_json::json!({"@type": "type.googleapis.com/xds.type.v3.TypedStruct",
                "type_url": "type.googleapis.com/envoy.not.Known", "value": value});
            let text = outer.to_string();
            let loaded =
                load::parse(&descs, &text, "t.json", "google.protobuf.Any", load::ParseOptions::default());
            // Rename the type afterwards: text of a known type is resolved while it is read.
            let mut any: Any = loaded.unwrap().typed().unwrap();
            let mut inner: any::TypedStruct = any::unpack_as(&any, "xds.type.v3.TypedStruct").unwrap();
            inner.type_url = context.to_owned();
            any.value = inner.encode_to_vec();
            descs.decode("google.protobuf.Any", &any.encode_to_vec()).unwrap()
        };
        let key = serde_json::json!({"tls_certificates": [{"private_key": {"inline_string": "hush"}}]});
        let mut message = typed(serde_json::json!({"common_tls_context": key, "sni": "a"}));
        redact(&descs, &mut message);
        let shown = to_json(&descs, &message).to_string();
        assert!(shown.contains("[redacted]") && !shown.contains("hush") && shown.contains("sni"), "{shown}");

        let mut message = typed(serde_json::json!({"private_key": "hush"}));
        redact(&descs, &mut message);
        assert!(!to_json(&descs, &message).to_string().contains("hush"));
    }
}
