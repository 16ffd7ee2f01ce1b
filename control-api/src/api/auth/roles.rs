//! Roles, what each may do, and which certificate has which.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::ca::identity::TrustDomain;

/// What somebody may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Sees all, but for what is in Secrets.
    Reader,
    /// Changes all, but for Secrets.
    Operator,
    /// Does everything.
    Admin,
    /// Gets xDS, and nothing else.
    Proxy,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Reader, Self::Operator, Self::Admin, Self::Proxy];

    /// Its name, as in files and flags.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Reader => "reader",
            Self::Operator => "operator",
            Self::Admin => "admin",
            Self::Proxy => "proxy",
        }
    }

    /// Whether it has an access.
    pub const fn may(self, access: Access) -> bool {
        match (self, access) {
            (Self::Admin, _)
            | (_, Access::Open)
            | (Self::Operator, Access::Read | Access::Write)
            | (Self::Reader, Access::Read)
            | (Self::Proxy, Access::Xds) => true,
            (Self::Operator | Self::Reader | Self::Proxy, _) => false,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Role {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|role| role.name() == text);
        found.ok_or_else(|| format!("{text:?} is no role; use reader, operator, admin or proxy"))
    }
}

/// What a method needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Nothing: health checks, which no kubelet can sign, and services that judge credentials of their own.
    Open,
    /// To see objects and proxies.
    Read,
    /// To change objects.
    Write,
    /// To be served xDS.
    Xds,
    /// Everything: methods that nobody thought of.
    All,
}

impl Access {
    /// The least role that has it, for messages.
    pub const fn needs(self) -> &'static str {
        match self {
            Self::Open => "no role",
            Self::Read => "the role reader, operator or admin",
            Self::Write => "the role operator or admin",
            Self::Xds => "the role proxy or admin",
            Self::All => "the role admin",
        }
    }
}

/// What the method at a path (`/package.Service/Method`) needs.
pub fn access_of(path: &str) -> Access {
    let mut parts = path.trim_start_matches('/').split('/');
    match (parts.next().unwrap_or_default(), parts.next().unwrap_or_default()) {
        ("grpc.health.v1.Health", _)
        | ("outrider.identity.v1.Identity" | "istio.v1.auth.IstioCertificateService", _) => Access::Open,
        ("grpc.reflection.v1.ServerReflection" | "grpc.reflection.v1alpha.ServerReflection", _) => {
            Access::Read
        }
        ("outrider.control.v1.Control", "Apply" | "Delete") => Access::Write,
        ("outrider.control.v1.Control", _) => Access::Read,
        (service, _) if service.starts_with("envoy.service.") => Access::Xds,
        _ => Access::All,
    }
}

/// The names in a certificate.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    uris: Vec<String>,
    common: Vec<String>,
    organisations: Vec<String>,
    /// When it ends, in seconds since 1970.
    not_after: i64,
}

impl Names {
    /// Reads them from a certificate in DER.
    pub(super) fn of(certificate: &[u8]) -> Result<Self, String> {
        let (_, certificate) = X509Certificate::from_der(certificate).map_err(|error| error.to_string())?;
        let text = |it: &x509_parser::prelude::AttributeTypeAndValue<'_>| it.as_str().ok().map(str::to_owned);
        let subject = certificate.subject();
        let uris = match certificate.subject_alternative_name().map_err(|error| error.to_string())? {
            Some(names) => names
                .value
                .general_names
                .iter()
                .filter_map(|name| match name {
                    GeneralName::URI(uri) => Some((*uri).to_owned()),
                    _ => None,
                })
                .collect(),
            None => Vec::new(),
        };
        Ok(Self {
            uris,
            common: subject.iter_common_name().filter_map(text).collect(),
            organisations: subject.iter_organization().filter_map(text).collect(),
            not_after: certificate.validity().not_after.timestamp(),
        })
    }

    /// When it ended, if it did by now (seconds since 1970).
    pub(super) fn ended(&self, now: i64) -> Option<String> {
        let ended = now > self.not_after;
        ended.then(|| chrono::DateTime::from_timestamp(self.not_after, 0).unwrap_or_default().to_rfc3339())
    }

    /// When it ends, in seconds since 1970.
    pub(super) fn not_after(&self) -> i64 {
        self.not_after
    }

    /// The identity, when it is a workload's of a trust domain.
    pub(super) fn workload(&self, domain: &TrustDomain) -> Option<Arc<str>> {
        let [uri] = self.uris.as_slice() else { return None };
        domain.workload(uri).ok().map(|_| uri.as_str().into())
    }

    /// What to call its bearer.
    fn display_name(&self) -> &str {
        self.uris.first().or_else(|| self.common.first()).map_or("unnamed", String::as_str)
    }
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [("uri", &self.uris), ("cn", &self.common), ("o", &self.organisations)];
        let words: Vec<_> =
            all.iter().flat_map(|(kind, names)| names.iter().map(move |it| format!("{kind}:{it}"))).collect();
        if words.is_empty() { f.write_str("without a name") } else { f.write_str(&words.join(", ")) }
    }
}

/// Which field of a certificate a rule looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Uri,
    CommonName,
    Organisation,
    /// The one URI, when it is a workload's of the mesh's trust domain. Only where nobody gave rules.
    Workload,
}

/// Which role the bearer of a certificate has: `uri:spiffe://prod/ns/infra/sa/*=operator`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateRule {
    field: Field,
    pattern: String,
    role: Role,
}

impl CertificateRule {
    /// What holds where nobody gave rules: workloads of the mesh's trust domain, by their SPIFFE IDs as Istio writes them,
    /// are proxies, and an organisation `outrider:ROLE` has any other role. An authority may speak for others as well:
    /// their namespaces are not ours, and whose name has none would be any proxy.
    pub fn defaults() -> Vec<Self> {
        let organisation =
            |role: Role| Self { field: Field::Organisation, pattern: format!("outrider:{role}"), role };
        let mut rules: Vec<_> =
            [Role::Admin, Role::Operator, Role::Reader].into_iter().map(organisation).collect();
        rules.push(Self { field: Field::Workload, pattern: String::new(), role: Role::Proxy });
        rules
    }

    /// The bearer's name and role, if the rule is about them. `domain`: the mesh's trust domain.
    pub(super) fn matches(&self, names: &Names, domain: Option<&TrustDomain>) -> Option<(Arc<str>, Role)> {
        let listed = match self.field {
            Field::Uri => &names.uris,
            Field::CommonName => &names.common,
            Field::Organisation => &names.organisations,
            Field::Workload => return names.workload(domain?).map(|name| (name, self.role)),
        };
        let found = listed.iter().find(|name| glob(&self.pattern, name))?;
        let name = if self.field == Field::Organisation { names.display_name() } else { found };
        Some((name.into(), self.role))
    }
}

impl FromStr for CertificateRule {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let form = "want uri:PATTERN=ROLE, cn:PATTERN=ROLE or o:PATTERN=ROLE";
        let (name, role) = text.rsplit_once('=').ok_or_else(|| format!("{text:?}: {form}"))?;
        let (field, pattern) = name.split_once(':').ok_or_else(|| format!("{text:?}: {form}"))?;
        let field = match field {
            "uri" => Field::Uri,
            "cn" => Field::CommonName,
            "o" => Field::Organisation,
            _ => return Err(format!("{text:?}: {field:?} is no field of a certificate; {form}")),
        };
        if pattern.is_empty() || pattern == "*" {
            return Err(format!("{text:?}: a pattern for everybody is no mapping; name something"));
        }
        Ok(Self { field, pattern: pattern.to_owned(), role: role.parse()? })
    }
}

/// Whether a text is as a pattern says, whose `*` stands for anything but a slash.
fn glob(pattern: &str, text: &str) -> bool {
    let mut patterns = pattern.split('/');
    let mut texts = text.split('/');
    loop {
        match (patterns.next(), texts.next()) {
            (None, None) => return true,
            (Some(pattern), Some(text)) if element(pattern, text) => {}
            _ => return false,
        }
    }
}

/// One element of a path against one of a pattern.
fn element(pattern: &str, text: &str) -> bool {
    let Some((front, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(text) = text.strip_prefix(front) else { return false };
    if rest.is_empty() {
        // As in `ns/*`: an empty name is nobody's.
        return !(front.is_empty() && text.is_empty());
    }
    text.char_indices().any(|(at, _)| text.get(at..).is_some_and(|text| element(rest, text)))
}
