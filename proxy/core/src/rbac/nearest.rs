//! Which policy a refused request came nearest to, and what it lacked: an aid for people. Worked out only when somebody reads
//! this, not other metadata: it costs a look at every policy. Nothing of the request itself is told.

use std::fmt::{self, Display, Formatter};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::{Action, Condition, Facts, MetadataFrom, Policy, Rules};
use crate::matcher::{HeaderCheck, HeaderRef, StringMatch, StringMatcher};
use crate::metadata::MetadataValue;
use crate::stream::StreamInfo;

/// As many policies are looked at: a client that is refused again and again must not cost much.
const MOST: usize = 1000;
/// Conditions are told in as many bytes at most.
const LONGEST: usize = 512;
/// The namespace of what is said of requests.
pub const HTTP_NAMESPACE: &str = "envoy.filters.http.rbac";
/// The keys of what it says there.
const POLICY: &str = "nearest_policy";
const LACKS: &str = "nearest_policy_lacks";

static READ: AtomicBool = AtomicBool::new(false);

/// Somebody reads the dynamic metadata at `path` in `namespace`. To be said when configuration is converted: from then on it
/// is worked out, if that is what is read.
pub fn note_nearest_reader(namespace: &str, path: &[Box<str>]) {
    if shows(namespace, path) {
        READ.store(true, Relaxed);
    }
}

/// Whether anybody reads it.
#[inline]
pub fn nearest_is_read() -> bool {
    READ.load(Relaxed)
}

/// Whether it is at `path` in `namespace`, or below.
fn shows(namespace: &str, path: &[Box<str>]) -> bool {
    namespace == HTTP_NAMESPACE && path.first().is_none_or(|key| matches!(&**key, POLICY | LACKS))
}

/// The policy that a refused request came nearest to.
#[derive(Debug)]
pub struct Nearest<'a> {
    /// Its name.
    pub policy: &'a Arc<str>,
    /// The condition that did not hold.
    pub failed: String,
}

/// How many of the parts of a condition hold.
#[derive(Clone, Copy)]
struct Share {
    met: usize,
    of: usize,
}

impl Rules {
    /// The policy that `facts`, which none allows, came nearest to: that of which the greatest share holds, the first by
    /// name of those alike. `None` where rules do not allow, and where there is none.
    pub fn nearest(&self, facts: &Facts<'_>) -> Option<Nearest<'_>> {
        if self.action != Action::Allow {
            return None;
        }
        let mut best: Option<(&Policy, Share)> = None;
        for policy in self.policies.iter().take(MOST) {
            let share = policy.permission.share(facts).and(policy.principal.share(facts));
            let share = share.and(policy.condition_share(facts));
            if best.is_none_or(|(_, best)| share.exceeds(best)) {
                best = Some((policy, share));
            }
        }
        let (policy, _) = best?;
        let mut failed = match (policy.permission.lacks(facts), policy.principal.lacks(facts)) {
            (Some(permission), _) => format!("permission: {permission}"),
            (None, Some(principal)) => format!("principal: {principal}"),
            (None, None) => format!("condition: {}", policy.condition.as_ref()?),
        };
        if failed.len() > LONGEST {
            failed.truncate(failed.floor_char_boundary(LONGEST));
            failed.push_str("...");
        }
        Some(Nearest { policy: &policy.name, failed })
    }
}

impl Policy {
    /// A condition is one part; without one there is none.
    fn condition_share(&self, facts: &Facts<'_>) -> Share {
        let holds = self.condition.as_ref().map(|condition| condition.is_true(&facts.view()));
        Share { met: usize::from(holds == Some(true)), of: usize::from(holds.is_some()) }
    }
}

impl Nearest<'_> {
    /// Notes it under `namespace`.
    pub fn note(self, info: &mut StreamInfo, namespace: &Arc<str>) {
        info.set_metadata(namespace, &Arc::from(POLICY), MetadataValue::Text(self.policy.clone()));
        let failed = MetadataValue::Text(self.failed.into());
        info.set_metadata(namespace, &Arc::from(LACKS), failed);
    }
}

impl Share {
    const fn and(self, other: Self) -> Self {
        Self { met: self.met + other.met, of: self.of + other.of }
    }

    const fn exceeds(self, other: Self) -> bool {
        self.met * other.of > other.met * self.of
    }
}

impl Condition {
    fn share(&self, facts: &Facts<'_>) -> Share {
        match self {
            Self::All(all) => all.iter().fold(Share { met: 0, of: 0 }, |sum, one| sum.and(one.share(facts))),
            Self::OneOf(any) => {
                let shares = any.iter().map(|one| one.share(facts));
                shares
                    .reduce(|best, one| if one.exceeds(best) { one } else { best })
                    .unwrap_or(Share { met: 0, of: 1 })
            }
            other => Share { met: usize::from(other.matches(facts)), of: 1 },
        }
    }

    /// The first part that does not hold.
    fn lacks(&self, facts: &Facts<'_>) -> Option<&Self> {
        match self {
            Self::All(all) => all.iter().find_map(|one| one.lacks(facts)),
            _ if self.matches(facts) => None,
            other => Some(other),
        }
    }
}

impl Display for Condition {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any"),
            Self::All(all) => list(f, all, " and "),
            Self::OneOf(any) => list(f, any, " or "),
            Self::Not(one) => write!(f, "not {one}"),
            Self::Header(matcher) => {
                write!(f, "header {} ", Named(&matcher.name))?;
                if matcher.invert {
                    f.write_str("not ")?;
                }
                match &matcher.check {
                    HeaderCheck::Present(true) => f.write_str("present"),
                    HeaderCheck::Present(false) => f.write_str("absent"),
                    HeaderCheck::Value(matcher) => matcher.fmt(f),
                    HeaderCheck::Range { start, end } => write!(f, "in {start}..{end}"),
                }
            }
            Self::Path(matcher) => write!(f, "url_path {matcher}"),
            Self::DestinationIp(net) => write!(f, "destination_ip {net}"),
            Self::DestinationPort { start, end } if start + 1 == *end => {
                write!(f, "destination_port {start}")
            }
            Self::DestinationPort { start, end } => write!(f, "destination_port_range {start}..{end}"),
            Self::ServerName(matcher) => write!(f, "requested_server_name {matcher}"),
            Self::Metadata(from, matcher) => {
                let from = if *from == MetadataFrom::Route { "route " } else { "" };
                write!(f, "{from}metadata {}:{}", matcher.namespace, matcher.path.join(":"))
            }
            Self::Absent => f.write_str("an object that no filter leaves"),
            Self::Authenticated(None) => f.write_str("authenticated"),
            Self::Authenticated(Some(matcher)) => write!(f, "authenticated principal_name {matcher}"),
            Self::Mtls(None) => f.write_str("a verified client certificate"),
            Self::Mtls(Some(san)) => {
                write!(f, "a verified client certificate with {:?} {}", san.kind, san.matcher)
            }
            Self::SourceIp(net) => write!(f, "source_ip {net}"),
            Self::DirectRemoteIp(net) => write!(f, "direct_remote_ip {net}"),
            Self::RemoteIp(net) => write!(f, "remote_ip {net}"),
        }
    }
}

fn list(f: &mut Formatter<'_>, conditions: &[Condition], between: &str) -> fmt::Result {
    for (i, condition) in conditions.iter().enumerate() {
        write!(f, "{}{condition}", if i == 0 { "(" } else { between })?;
    }
    f.write_str(")")
}

impl Display for StringMatcher {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match &self.matcher {
            StringMatch::Exact(text) => write!(f, "exact {text:?}"),
            StringMatch::Prefix(text) => write!(f, "prefix {text:?}"),
            StringMatch::Suffix(text) => write!(f, "suffix {text:?}"),
            StringMatch::Contains(text) => write!(f, "contains {text:?}"),
            StringMatch::Regex(regex) => write!(f, "safe_regex {:?}", regex.as_str()),
        }
    }
}

/// A header's name as configurations write it.
struct Named<'a>(&'a HeaderRef);

impl Display for Named<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            HeaderRef::Name(name) => name.as_str(),
            HeaderRef::Method => ":method",
            HeaderRef::Authority => ":authority",
            HeaderRef::Path => ":path",
            HeaderRef::Scheme => ":scheme",
            HeaderRef::Status => ":status",
            HeaderRef::Protocol => ":protocol",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::shows;

    #[test]
    fn other_metadata_is_read_without_it() {
        let reads = |text: &str| {
            let mut parts = text.split('/').map(Box::from);
            let namespace: Box<str> = parts.next().unwrap();
            shows(&namespace, &parts.collect::<Vec<_>>())
        };
        assert!(reads("envoy.filters.http.rbac"), "all of the namespace");
        assert!(reads("envoy.filters.http.rbac/nearest_policy"));
        assert!(reads("envoy.filters.http.rbac/nearest_policy_lacks"));
        assert!(!reads("envoy.filters.http.rbac/shadow_engine_result"));
        assert!(!reads("envoy.filters.http.jwt_authn/nearest_policy") && !reads("my.filter"));
    }
}
