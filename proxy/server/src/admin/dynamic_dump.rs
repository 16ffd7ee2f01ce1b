//! What of `/config_dump` came from elsewhere: the version in force beside the one that waits or was refused.

use std::collections::BTreeSet;
use std::sync::Arc;

use outrider_proto::prost_reflect::DynamicMessage;
use outrider_proto::{Descriptors, redact, to_json};
use outrider_xds::Kind;
use regex::Regex;
use serde_json::{Map, Value, json};

use crate::dynamic::{Record, Records, RefusedVersion, Version};

use super::config_dump::timestamp;

/// Expands what is known of resources that came from elsewhere.
pub(super) struct Dynamic<'a> {
    pub(super) records: &'a Records,
    pub(super) descriptors: &'a Descriptors,
    pub(super) names: Option<&'a Regex>,
}

impl Dynamic<'_> {
    fn of(&self, kind: Kind) -> Vec<(Arc<str>, Record)> {
        let mut records = self.records.of(kind);
        records.retain(|(name, _)| self.names.is_none_or(|names| names.is_match(name)));
        records
    }

    pub(super) fn clusters(&self, mut section: Value) -> Value {
        let records = self.of(Kind::Cluster);
        let states = |pick: fn(&Record) -> Option<&Version>| -> Vec<Value> {
            let picked = records.iter().filter_map(|(_, record)| pick(record));
            picked.map(|version| self.state(Kind::Cluster, "cluster", version)).collect()
        };
        let mut active = states(|record| record.active.as_ref());
        for ((_, record), state) in
            records.iter().filter(|(_, record)| record.active.is_some()).zip(active.iter_mut())
        {
            self.add_error(Kind::Cluster, record, state);
        }
        // What was refused at its first coming has no version in force to stand beside.
        let refused =
            records.iter().filter(|(_, record)| record.active.is_none() && record.warming.is_none());
        active.extend(refused.map(|(_, record)| {
            let mut state = json!({});
            self.add_error(Kind::Cluster, record, &mut state);
            state
        }));
        put(&mut section, "dynamic_active_clusters", active);
        put(&mut section, "dynamic_warming_clusters", states(|record| record.warming.as_ref()));
        section
    }

    pub(super) fn listeners(&self, mut section: Value) -> Value {
        let listeners = self.of(Kind::Listener).into_iter().map(|(name, record)| {
            let mut listener = json!({ "name": &*name });
            for (field, version) in [("active_state", &record.active), ("warming_state", &record.warming)] {
                if let Some(version) = version {
                    listener[field] = self.state(Kind::Listener, "listener", version);
                }
            }
            self.add_error(Kind::Listener, &record, &mut listener);
            listener
        });
        put(&mut section, "dynamic_listeners", listeners.collect());
        section
    }

    /// Route tables, those of their virtual hosts that came by themselves among the others.
    pub(super) fn routes(&self, section: Value) -> Value {
        let mut section = self.flat(section, Kind::Route, "dynamic_route_configs", "route_config");
        let mut tables = section["dynamic_route_configs"].as_array_mut();
        for (name, record) in self.records.of(Kind::VirtualHost) {
            let Some(version) = &record.active else { continue };
            let of = |table: &&mut Value| {
                table["route_config"]["name"].as_str() == Kind::VirtualHost.namespace(&name)
            };
            let table = tables.iter_mut().flat_map(|tables| tables.iter_mut()).find(of);
            let Some(Value::Object(table)) = table.map(|table| &mut table["route_config"]) else { continue };
            let mut host = self.expand(Kind::VirtualHost, version);
            if let Value::Object(fields) = &mut host {
                fields.remove("@type");
            }
            let hosts = table.entry("virtual_hosts").or_insert_with(|| Value::Array(Vec::new()));
            hosts.as_array_mut().into_iter().for_each(|hosts| hosts.push(host.clone()));
        }
        section
    }

    /// Scopes of routes, all of them under each of the `names` that connection managers give them.
    pub(super) fn scopes(&self, mut section: Value, names: &BTreeSet<Arc<str>>) -> Value {
        let records = self.of(Kind::ScopedRoute);
        let active = records.iter().filter_map(|(_, record)| record.active.as_ref());
        let newest = active.clone().max_by_key(|version| version.at);
        let states = names.iter().map(|name| {
            let scopes: Vec<Value> =
                active.clone().map(|version| self.expand(Kind::ScopedRoute, version)).collect();
            let mut state = json!({ "name": &**name, "scoped_route_configs": scopes });
            if let Some(newest) = newest {
                state["version_info"] = (*newest.version).into();
                state["last_updated"] = timestamp(newest.at).into();
            }
            for (_, record) in &records {
                self.add_error(Kind::ScopedRoute, record, &mut state);
            }
            state
        });
        put(&mut section, "dynamic_scoped_route_configs", states.collect());
        section
    }

    /// Filters that came by themselves; `None` when there are none.
    pub(super) fn extensions(&self, section: Value) -> Option<Value> {
        let section = self.flat(section, Kind::Extension, "ecds_filters", "ecds_filter");
        section.get("ecds_filters").is_some().then_some(section)
    }

    pub(super) fn endpoints(&self, section: Value) -> Value {
        self.flat(section, Kind::Endpoint, "dynamic_endpoint_configs", "endpoint_config")
    }

    pub(super) fn secrets(&self, mut section: Value) -> Value {
        let records = self.of(Kind::Secret);
        for (field, active) in [("dynamic_active_secrets", true), ("dynamic_warming_secrets", false)] {
            let of = records.iter().filter(|(_, record)| record.active.is_some() == active);
            let secrets = of.map(|(name, record)| {
                let mut secret = record
                    .active
                    .as_ref()
                    .map_or_else(|| json!({}), |version| self.state(Kind::Secret, "secret", version));
                secret["name"] = (**name).into();
                self.add_error(Kind::Secret, record, &mut secret);
                secret
            });
            put(&mut section, field, secrets.collect());
        }
        section
    }

    fn flat(&self, mut section: Value, kind: Kind, field: &str, key: &str) -> Value {
        let all = self.of(kind).into_iter().map(|(_, record)| {
            let mut state =
                record.active.as_ref().map_or_else(|| json!({}), |version| self.state(kind, key, version));
            self.add_error(kind, &record, &mut state);
            state
        });
        put(&mut section, field, all.collect());
        section
    }

    fn state(&self, kind: Kind, key: &str, version: &Version) -> Value {
        json!({
            "version_info": &*version.version,
            key: self.expand(kind, version),
            "last_updated": timestamp(version.at),
        })
    }

    fn add_error(&self, kind: Kind, record: &Record, state: &mut Value) {
        let Some(RefusedVersion { version, details }) = &record.error else {
            state["client_status"] = "ACKED".into();
            return;
        };
        state["error_state"] = json!({
            "failed_configuration": self.expand(kind, version),
            "last_update_attempt": timestamp(version.at),
            "details": details,
            "version_info": &*version.version,
        });
        state["client_status"] = "NACKED".into();
    }

    /// The resource as JSON, its secrets redacted.
    fn expand(&self, kind: Kind, version: &Version) -> Value {
        let mut typed = Map::new();
        typed.insert("@type".into(), kind.type_url().into());
        if let Some(message) = redacted(self.descriptors, kind, &version.body)
            && let Value::Object(fields) = to_json(self.descriptors, &message)
        {
            typed.extend(fields);
        }
        typed.into()
    }
}

/// A resource of `kind` without its secrets; `None` if it cannot be read.
pub(super) fn redacted(descriptors: &Descriptors, kind: Kind, body: &[u8]) -> Option<DynamicMessage> {
    let name = kind.type_url().rsplit('/').next().unwrap_or_default();
    let mut message = DynamicMessage::decode(descriptors.message(name)?, body).ok()?;
    redact(descriptors, &mut message);
    Some(message)
}

/// As in proto3's JSON: what is empty is left out.
fn put(section: &mut Value, field: &str, values: Vec<Value>) {
    if !values.is_empty() {
        section[field] = values.into();
    }
}
