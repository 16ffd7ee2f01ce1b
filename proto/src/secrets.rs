//! Whether a message holds secrets: what must not be written where others may read it.

use prost_reflect::{DynamicMessage, ReflectMessage as _, Value};

use crate::redact::{expand_typed_struct, is_sensitive};
use crate::{Descriptors, any};

/// How deep an `Any` inside an `Any` is followed; what lies deeper counts as secret.
const MAX_DEPTH: usize = 100;

/// Begins and ends the PEM of any private key.
const PEM: &[u8] = b"PRIVATE KEY-----";

/// A source of data: where it names a file or a variable, the data is not in the message.
const DATA_SOURCE: &str = "envoy.config.core.v3.DataSource";

/// Whether the message of type `full_name` in `bytes` holds secrets: anything in a field that the API marks as sensitive
/// (`udpa.annotations.sensitive`), a token for gRPC, or the PEM of a private key, through `Any` and `TypedStruct`. A file's
/// name in the place of a secret is none.
///
/// What cannot be read cannot be shown to be free of secrets: bytes of another type, and an `Any` of a type that the API
/// does not have, count as secret.
pub fn holds_secrets(descs: &Descriptors, full_name: &str, bytes: &[u8]) -> bool {
    let pem = bytes.windows(PEM.len()).any(|window| window == PEM);
    pem || descs.decode(full_name, bytes).map_or(true, |message| in_message(descs, &message, false, 0))
}

fn in_message(descs: &Descriptors, message: &DynamicMessage, sensitive: bool, depth: usize) -> bool {
    if any::parts(message).is_some() {
        return in_any(descs, message, sensitive, depth);
    }
    let source = message.descriptor().full_name() == DATA_SOURCE;
    message.fields().any(|(field, value)| {
        let elsewhere =
            source && matches!(field.name(), "filename" | "environment_variable" | "watched_directory");
        let sensitive = (sensitive && !elsewhere) || is_sensitive(&field);
        in_value(descs, value, sensitive, depth)
    })
}

fn in_value(descs: &Descriptors, value: &Value, sensitive: bool, depth: usize) -> bool {
    match value {
        Value::Message(message) => in_message(descs, message, sensitive, depth + 1),
        Value::List(items) => items.iter().any(|item| in_value(descs, item, sensitive, depth)),
        Value::Map(entries) => entries.values().any(|entry| in_value(descs, entry, sensitive, depth)),
        Value::String(text) => sensitive && !text.is_empty(),
        Value::Bytes(bytes) => sensitive && !bytes.is_empty(),
        _ => false,
    }
}

fn in_any(descs: &Descriptors, message: &DynamicMessage, sensitive: bool, depth: usize) -> bool {
    let mut message = message.clone();
    if any::typed_struct_target(&message).is_some() {
        expand_typed_struct(descs, &mut message);
    }
    let Some((name, bytes)) = any::parts(&message) else { return true };
    if name.is_empty() && bytes.is_empty() {
        return false;
    }
    match descs.decode(name, bytes) {
        Ok(inner) if depth < MAX_DEPTH => in_message(descs, &inner, sensitive, depth + 1),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load;
    use prost::Message as _;

    fn secret(transport: &str) -> bool {
        let descs = Descriptors::load();
        let text = format!(
            r#"{{"name": "a", "transport_socket": {{"name": "tls", "typed_config": {{
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                "common_tls_context": {transport} }} }} }}"#
        );
        let name = "envoy.config.cluster.v3.Cluster";
        let loaded = load::parse(&descs, &text, "t.json", name, load::ParseOptions::default()).unwrap();
        holds_secrets(&descs, name, &loaded.message.encode_to_vec())
    }

    #[test]
    fn a_key_is_a_secret_and_the_name_of_its_file_is_none() {
        assert!(!secret("{}"));
        assert!(!secret(
            r#"{"tls_certificates": [{"certificate_chain": {"inline_string": "public"},
                "private_key": {"filename": "/etc/key.pem"}}]}"#
        ));
        assert!(!secret(r#"{"tls_certificates": [{"private_key": {"environment_variable": "KEY"}}]}"#));
        assert!(secret(r#"{"tls_certificates": [{"private_key": {"inline_string": "hush"}}]}"#));
        assert!(secret(r#"{"tls_certificates": [{"private_key": {"inline_bytes": "aHVzaA=="}}]}"#));
        // Where it does not belong, it is one all the same.
        assert!(secret(
            r#"{"validation_context": {"trusted_ca": {"inline_string": "-----BEGIN PRIVATE KEY-----\nx"}}}"#
        ));
    }

    #[test]
    fn what_cannot_be_read_counts_as_secret() {
        let descs = Descriptors::load();
        assert!(holds_secrets(&descs, "envoy.config.cluster.v3.Cluster", &[0xff, 0xff, 0xff]));
        assert!(holds_secrets(&descs, "envoy.nothing.Known", b""));
        assert!(!holds_secrets(&descs, "envoy.config.cluster.v3.Cluster", b""));
    }
}
