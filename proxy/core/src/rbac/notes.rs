//! How what rules say is noted and counted.

use std::sync::{Arc, LazyLock};

use super::Decision;
use crate::metadata::{self, MetadataValue};
use crate::stats::Scope;
use crate::stream::StreamInfo;

/// The namespace that filters share, and the key by which access loggers are told what to write.
static COMMON: LazyLock<(Arc<str>, Arc<str>)> =
    LazyLock::new(|| (Arc::from("envoy.common"), Arc::from("access_log_hint")));
static ALLOWED: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from("allowed"));
static DENIED: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from("denied"));

/// How what is enforced, or what is only counted, is named.
#[derive(Debug, Clone)]
pub struct Names {
    /// Stands before the names of stats; empty for none.
    pub stat_prefix: Box<str>,
    /// The key of the policy's name in dynamic metadata.
    policy_key: Arc<str>,
    /// The key of the result in dynamic metadata.
    result_key: Arc<str>,
}

impl Names {
    /// What is enforced.
    pub fn enforced(prefix: &str) -> Self {
        Self::new(prefix, "enforced")
    }

    /// What is only counted.
    pub fn shadow(prefix: &str) -> Self {
        Self::new(prefix, "shadow")
    }

    fn new(prefix: &str, word: &str) -> Self {
        Self {
            stat_prefix: prefix.into(),
            policy_key: format!("{prefix}{word}_effective_policy_id").into(),
            result_key: format!("{prefix}{word}_engine_result").into(),
        }
    }

    /// Those of a route, where it has any, in the place of these.
    #[must_use]
    pub const fn unless<'a>(&'a self, of_route: &'a Self) -> &'a Self {
        if of_route.stat_prefix.is_empty() { self } else { of_route }
    }
}

impl Decision<'_> {
    /// Notes it under `namespace`, for those who read dynamic metadata.
    pub fn note(&self, info: &mut StreamInfo, namespace: &Arc<str>, names: &Names) {
        if !metadata::is_read() {
            return;
        }
        if let Some(policy) = self.policy {
            info.set_metadata(namespace, &names.policy_key, MetadataValue::Text(policy.clone()));
        }
        let result = if self.allowed { &*ALLOWED } else { &*DENIED };
        info.set_metadata(namespace, &names.result_key, MetadataValue::Text(result.clone()));
    }

    /// Tells access loggers what rules that log say. Those that are only counted tell nobody.
    pub fn note_log(&self, info: &mut StreamInfo) {
        if let Some(log) = self.log.filter(|_| metadata::is_read()) {
            let (namespace, key) = &*COMMON;
            info.set_metadata(namespace, key, MetadataValue::Bool(log));
        }
    }

    /// Why it was refused, as `%RESPONSE_CODE_DETAILS%` and `%CONNECTION_TERMINATION_DETAILS%` have it. White space in a
    /// name would break access logs apart.
    pub fn details(&self) -> String {
        let mut details = String::from("rbac_access_denied_matched_policy[");
        let policy = self.policy.map_or("none", |policy| policy);
        details.extend(policy.chars().map(|c| if c.is_ascii_whitespace() { '_' } else { c }));
        details.push(']');
        details
    }
}

crate::stat_struct! {
    /// What is enforced.
    pub struct EnforcedStats {
        counters { allowed, denied }
        gauges { }
        histograms { }
    }
}

crate::stat_struct! {
    /// What is only counted.
    pub struct ShadowStats {
        counters { shadow_allowed, shadow_denied }
        gauges { }
        histograms { }
    }
}

impl EnforcedStats {
    /// The stats of `names` under `scope` (`<prefix>.rbac.`).
    pub fn of(scope: &Scope, names: &Names) -> Self {
        Self::new(scope_of(scope, names))
    }

    /// The stats of a single policy.
    #[must_use]
    pub fn policy(&self, name: &str) -> Self {
        Self::new(self.scope().child(&format!("policy.{name}.")))
    }

    /// Counts a decision.
    pub fn count(&self, decision: &Decision<'_>) {
        match decision.allowed {
            true => self.allowed().inc(),
            false => self.denied().inc(),
        }
    }
}

impl ShadowStats {
    /// The stats of `names` under `scope` (`<prefix>.rbac.`).
    pub fn of(scope: &Scope, names: &Names) -> Self {
        Self::new(scope_of(scope, names))
    }

    /// The stats of a single policy.
    #[must_use]
    pub fn policy(&self, name: &str) -> Self {
        Self::new(self.scope().child(&format!("policy.{name}.")))
    }

    /// Counts a decision.
    pub fn count(&self, decision: &Decision<'_>) {
        match decision.allowed {
            true => self.shadow_allowed().inc(),
            false => self.shadow_denied().inc(),
        }
    }
}

fn scope_of(scope: &Scope, names: &Names) -> Scope {
    match &*names.stat_prefix {
        "" => scope.clone(),
        prefix if prefix.ends_with('.') => scope.child(prefix),
        prefix => scope.child(&format!("{prefix}.")),
    }
}
