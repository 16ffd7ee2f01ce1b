//! Whether a field of a generated message carries anything.

use std::{collections::HashMap, hash::BuildHasher};

use prost::bytes::Bytes;

/// Tells a field that was set from one that was left out, as far as the wire format can tell: a proto3 scalar equal
/// to its default counts as unset.
pub trait IsSet {
    /// Whether the field carries anything.
    fn is_set(&self) -> bool;
}

impl<T> IsSet for Option<T> {
    fn is_set(&self) -> bool {
        self.is_some()
    }
}

impl<T> IsSet for Vec<T> {
    fn is_set(&self) -> bool {
        !self.is_empty()
    }
}

impl<K, V, S: BuildHasher> IsSet for HashMap<K, V, S> {
    fn is_set(&self) -> bool {
        !self.is_empty()
    }
}

impl IsSet for String {
    fn is_set(&self) -> bool {
        !self.is_empty()
    }
}

impl IsSet for Bytes {
    fn is_set(&self) -> bool {
        !self.is_empty()
    }
}

impl IsSet for bool {
    fn is_set(&self) -> bool {
        *self
    }
}

/// Implements [`IsSet`] for numbers: set means other than zero.
macro_rules! number_is_set {
    ($($number:ty),*) => {$(
        impl IsSet for $number {
            fn is_set(&self) -> bool {
                *self != <$number>::default()
            }
        }
    )*};
}

number_is_set!(i32, u32, i64, u64, f32, f64);

impl<T: IsSet + ?Sized> IsSet for &T {
    fn is_set(&self) -> bool {
        (**self).is_set()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::envoy::config::cluster::v3::Cluster;

    #[test]
    fn defaults_are_unset() {
        let cluster = Cluster::default();
        assert!(!cluster.name.is_set());
        assert!(!cluster.lb_policy.is_set());
        assert!(!cluster.connect_timeout.is_set());
        assert!(!cluster.typed_extension_protocol_options.is_set());
        let cluster = Cluster { name: "a".to_owned(), lb_policy: 2, ..Cluster::default() };
        assert!(cluster.name.is_set() && cluster.lb_policy.is_set());
    }
}
