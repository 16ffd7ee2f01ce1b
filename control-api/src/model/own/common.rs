//! What several kinds of our own have in common: durations, targets, selectors, references, status.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration as Std;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A duration as the Gateway API writes it (GEP-2257): up to four numbers of at most five digits with the units `h`, `m`, `s`, `ms`,
/// as in `1m30s` or `250ms`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Duration(pub Std);

impl Duration {
    /// As the standard library has it.
    pub const fn std(self) -> Std {
        self.0
    }
}

impl FromStr for Duration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "{text:?} is no duration; write up to four numbers of at most five digits with the units h, m, s, ms, as in 1m30s"
            )
        };
        let (mut rest, mut millis, mut parts) = (text, 0_u64, 0);
        while !rest.is_empty() {
            let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
            let (number, tail) = rest.split_at(digits);
            let (factor, unit) = if tail.starts_with("ms") {
                (1, 2)
            } else {
                match tail.bytes().next() {
                    Some(b'h') => (3_600_000, 1),
                    Some(b'm') => (60_000, 1),
                    Some(b's') => (1_000, 1),
                    _ => return Err(wrong()),
                }
            };
            parts += 1;
            if digits == 0 || digits > 5 || parts > 4 {
                return Err(wrong());
            }
            millis += number.parse::<u64>().map_err(|_| wrong())? * factor;
            rest = tail.get(unit..).unwrap_or_default();
        }
        if parts == 0 { Err(wrong()) } else { Ok(Self(Std::from_millis(millis))) }
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut millis = self.0.as_millis();
        if millis == 0 {
            return f.write_str("0s");
        }
        for (unit, size) in [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)] {
            let count = millis / size;
            millis %= size;
            if count > 0 {
                write!(f, "{count}{unit}")?;
            }
        }
        Ok(())
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Duration {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({ "type": "string", "pattern": "^([0-9]{1,5}(h|m|s|ms)){1,4}$" })
    }
}

/// What a policy is for: an object in the policy's own namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TargetRef {
    /// The API group of the target: empty for a Service, `outrider.dev` for an ExternalService.
    #[serde(default)]
    pub group: String,
    /// The kind of the target: `Service` or `ExternalService`.
    pub kind: String,
    /// The name of the target. It is in the namespace of the policy.
    pub name: String,
    /// The name of one of its ports. A policy for one port replaces, at that port, the one for all ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
}

/// Which workloads a policy is for, by the labels of their pods.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Selector {
    /// Labels that a workload must have, all of them. None: every workload of the namespace.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: BTreeMap<String, String>,
}

impl Selector {
    /// Whether a workload with these labels is meant.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.match_labels.iter().all(|(name, value)| labels.get(name) == Some(value))
    }
}

/// An entry of a Secret in the namespace of the object that names it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretKeyRef {
    /// The name of the Secret.
    pub name: String,
    /// Which entry of its data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// What became of a policy, for each of its targets.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyStatus {
    /// One entry for each target.
    #[serde(default)]
    pub ancestors: Vec<AncestorStatus>,
}

/// What became of a policy at one target.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AncestorStatus {
    /// The target.
    pub ancestor_ref: AncestorRef,
    /// Who says so.
    pub controller_name: String,
    /// `Accepted`: whether the policy is in force (reasons `Accepted`, `Conflicted`, `TargetNotFound`, `Invalid`).
    /// `PartiallyInvalid`: present and true when a part of it cannot be honoured and is left out.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}

/// The target of a policy, in its status.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AncestorRef {
    /// The API group.
    #[serde(default)]
    pub group: String,
    /// The kind.
    pub kind: String,
    /// The namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The name.
    pub name: String,
    /// The name of the port, when the policy is for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
}

/// What became of an object.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConditionsStatus {
    /// `Accepted`: whether it is in force (reasons `Accepted`, `Conflicted`, `Invalid`). `PartiallyInvalid`: present and true when a part
    /// of it cannot be honoured and is left out.
    #[serde(default)]
    pub conditions: Vec<Condition>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_duration_is_read_and_written_as_the_gateway_api_does() {
        for (text, millis, written) in [
            ("0s", 0, "0s"),
            ("1m30s", 90_000, "1m30s"),
            ("90s", 90_000, "1m30s"),
            ("250ms", 250, "250ms"),
            ("1h1m1s1ms", 3_661_001, "1h1m1s1ms"),
        ] {
            let read: Duration = text.parse().unwrap();
            assert_eq!(read.std(), Std::from_millis(millis), "{text}");
            assert_eq!(read.to_string(), written);
        }
        for text in ["", "5", "s", "-1s", "1.5s", "123456s", "1h1m1s1ms1ms", "1d", "1 s", "１s"] {
            assert!(text.parse::<Duration>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn a_duration_survives_writing(millis in 0_u64..359_999_999_000) {
            let duration = Duration(Std::from_millis(millis));
            prop_assert_eq!(duration.to_string().parse::<Duration>(), Ok(duration));
        }

        #[test]
        fn no_text_makes_the_parser_fail(text in ".{0,24}") {
            let _ = text.parse::<Duration>();
        }
    }
}
