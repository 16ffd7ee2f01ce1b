//! Fields that a sender set and this build's API does not have.

use prost_reflect::{DynamicMessage, ReflectMessage as _, Value};

use crate::{Descriptors, Path, any, descriptors::DecodeError, validate::key_text};

/// Names the unknown fields in the encoding of a message: the path of the message they are in, and their number, as in
/// `clusters.load_assignment.#99`. The content of an `Any` of a known type is searched, too.
///
/// It decodes by reflection, which is slow. Callers who decoded to a generated type can first compare its `encoded_len` with
/// the length of the input: if they are equal, nothing was lost.
///
/// # Errors
/// The message is unknown, or the bytes are not one.
pub fn unknown_fields(
    descs: &Descriptors,
    full_name: &str,
    bytes: &[u8],
) -> Result<Vec<String>, DecodeError> {
    let message = descs.decode(full_name, bytes)?;
    let mut found = Vec::new();
    search(&message, &Path::root(), &mut found);
    Ok(found)
}

pub(crate) fn search(message: &DynamicMessage, path: &Path<'_>, found: &mut Vec<String>) {
    let mut numbers: Vec<u32> = message.unknown_fields().map(|field| field.number()).collect();
    numbers.sort_unstable();
    numbers.dedup();
    found.extend(numbers.into_iter().map(|number| path.field(&format!("#{number}")).to_string()));
    if any::parts(message).is_some() {
        if let Some(inner) = any::content(message) {
            search(&inner, path, found);
        }
        return;
    }
    for (field, value) in message.fields() {
        let at = path.field(field.name());
        match value {
            Value::Message(inner) => search(inner, &at, found),
            Value::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    if let Value::Message(inner) = item {
                        search(inner, &at.index(index), found);
                    }
                }
            }
            Value::Map(entries) => {
                for (key, value) in entries {
                    if let Value::Message(inner) = value {
                        search(inner, &at.key(&key_text(key)), found);
                    }
                }
            }
            _ => {}
        }
    }
    debug_assert!(!message.descriptor().is_map_entry(), "entries are visited as maps");
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::pb::envoy::config::cluster::v3::Cluster;

    #[test]
    fn names_what_was_lost() {
        let descs = Descriptors::load();
        let mut bytes = Cluster { name: "a".to_owned(), ..Cluster::default() }.encode_to_vec();
        let name = "envoy.config.cluster.v3.Cluster";
        assert_eq!(unknown_fields(&descs, name, &bytes).unwrap(), Vec::<String>::new());
        prost::encoding::string::encode(9999, &"x".to_owned(), &mut bytes);
        assert_ne!(Cluster::decode(bytes.as_slice()).unwrap().encoded_len(), bytes.len());
        assert_eq!(unknown_fields(&descs, name, &bytes).unwrap(), ["#9999"]);

        let any = crate::pb::google::protobuf::Any {
            type_url: format!("type.googleapis.com/{name}"),
            value: bytes,
        };
        assert_eq!(unknown_fields(&descs, "google.protobuf.Any", &any.encode_to_vec()).unwrap(), ["#9999"]);
    }
}
