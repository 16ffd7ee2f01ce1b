//! The filters whose cost is measured, in YAML, and what is asked of a listener that has one.

use std::fmt::Write;

use crate::certs::Certs;
use crate::drivers::{Ask, Papers};

/// How many policies there are.
const POLICIES: usize = 1_000;

/// A filter before the router.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Filter {
    /// Role-based access control: a thousand policies of which only the last one, in the order of their names, lets
    /// the requests of the load in.
    Rbac(By),
    /// ES256 tokens of one provider with one key, which is in a file.
    Jwt {
        /// `jwt_cache_config` is set: Envoy then verifies a token once.
        cache: bool,
    },
}

/// What policies tell requests apart by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// The SPIFFE id in the client's certificate, as meshes do; and a method and the beginning of a path.
    Ids,
    /// The beginning of the path, and a method.
    Paths,
    /// The value of a header.
    Headers,
}

impl Filter {
    /// What the load asks for: the filter lets it through.
    pub(crate) fn ask(self, certs: &Certs) -> Ask {
        let ask = Ask { path: "/orders/17".to_owned(), ..Ask::default() };
        match self {
            Filter::Rbac(By::Ids) => Ask { papers: Some(Papers::new(certs, Some("workload"))), ..ask },
            Filter::Rbac(By::Paths) => Ask { path: format!("/{}/orders/17", name(POLICIES - 1)), ..ask },
            Filter::Rbac(By::Headers) => Ask { headers: vec![tenant(POLICIES - 1)], ..ask },
            Filter::Jwt { .. } => {
                Ask { headers: vec![format!("authorization: Bearer {}", certs.token())], ..ask }
            }
        }
    }

    /// What the filter must refuse, and with which status.
    pub(crate) fn stranger(self, certs: &Certs) -> (Ask, u16) {
        let ask = self.ask(certs);
        match self {
            // Of the same authority, with another name.
            Filter::Rbac(By::Ids) => (Ask { papers: Some(Papers::new(certs, Some("client"))), ..ask }, 403),
            Filter::Rbac(By::Paths) => (Ask { path: format!("/{}/orders/17", name(POLICIES)), ..ask }, 403),
            Filter::Rbac(By::Headers) => (Ask { headers: vec![tenant(POLICIES)], ..ask }, 403),
            Filter::Jwt { .. } => (Ask { headers: Vec::new(), ..ask }, 401),
        }
    }

    /// Whether clients come by mutual TLS.
    pub(crate) fn tls(self) -> bool {
        self == Filter::Rbac(By::Ids)
    }
}

/// The SPIFFE id that the last policy lets in.
pub(crate) fn last_id() -> String {
    id(POLICIES - 1)
}

/// The entry in `http_filters`.
pub(super) fn entry(filter: Filter, certs: &Certs) -> String {
    match filter {
        Filter::Rbac(by) => rbac(by),
        Filter::Jwt { cache } => jwt(certs, cache),
    }
}

fn rbac(by: By) -> String {
    let mut out = r#"          - name: envoy.filters.http.rbac
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC
              rules:
                action: ALLOW
                policies:
"#
    .to_owned();
    for number in 0..POLICIES {
        let (permission, principal) = policy(by, number);
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "                  policy-{number:04}: {{permissions: [{permission}], principals: [{principal}]}}"
        );
    }
    out
}

/// The permission and the principal of one policy.
fn policy(by: By, number: usize) -> (String, String) {
    let get = |prefix: &str| {
        format!(
            r#"{{and_rules: {{rules: [{{header: {{name: ":method", string_match: {{exact: GET}}}}}}, {{url_path: {{path: {{prefix: "{prefix}"}}}}}}]}}}}"#
        )
    };
    match by {
        By::Ids => (
            get("/orders/"),
            format!(r#"{{authenticated: {{principal_name: {{exact: "{}"}}}}}}"#, id(number)),
        ),
        By::Paths => (get(&format!("/{}/", name(number))), "{any: true}".to_owned()),
        By::Headers => (
            "{any: true}".to_owned(),
            format!("{{header: {{name: x-tenant, string_match: {{exact: tenant-{number:04}}}}}}}"),
        ),
    }
}

fn name(number: usize) -> String {
    format!("service-{number:04}")
}

fn id(number: usize) -> String {
    format!("spiffe://cluster.local/ns/shop/sa/{}", name(number))
}

fn tenant(number: usize) -> String {
    format!("x-tenant: tenant-{number:04}")
}

/// The upstream is given the token, too: with the filter and without it the same bytes go through.
fn jwt(certs: &Certs, cache: bool) -> String {
    let cache = if cache { "                  jwt_cache_config: {jwt_cache_size: 100}\n" } else { "" };
    format!(
        r#"          - name: envoy.filters.http.jwt_authn
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication
              providers:
                bench:
                  issuer: "{issuer}"
                  audiences: ["{audience}"]
                  forward: true
{cache}                  local_jwks: {{filename: "{keys}"}}
              rules:
              - match: {{prefix: "/"}}
                requires: {{provider_name: bench}}
"#,
        issuer = crate::certs::ISSUER,
        audience = crate::certs::AUDIENCE,
        keys = certs.path("jwks.json"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_load_asks_for_what_the_last_policy_alone_allows() {
        for by in [By::Ids, By::Paths, By::Headers] {
            let yaml = rbac(by);
            assert_eq!(yaml.matches("permissions:").count(), POLICIES);
            let last = match by {
                By::Ids => last_id(),
                By::Paths => "/service-0999/".to_owned(),
                By::Headers => "tenant-0999".to_owned(),
            };
            assert_eq!(yaml.matches(&last).count(), 1, "{last}");
            assert!(yaml.lines().last().is_some_and(|line| line.contains(&last)), "{last}");
        }
    }
}
