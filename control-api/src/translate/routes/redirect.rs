//! Answers that send clients elsewhere.

use outrider_proto::pb::envoy::config::route::v3 as pb;
use pb::redirect_action::{PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier};

use super::Place;
use super::path::{NewPath, new_path};
use crate::attach::ir::{Filter, PathMatch};

/// A redirect.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Redirect {
    /// For all requests.
    pub(super) action: pb::RedirectAction,
    /// For those whose Host names a port: Envoy would keep it, whatever the scheme becomes.
    pub(super) with_port: Option<pb::RedirectAction>,
}

/// The redirect of a rule's filter; `None` when it is another filter, or cannot be done.
///
/// The port is the one that was given, else the one that the new scheme is known for, else the listener's; where it is the one
/// that the scheme is known for anyway it is not said.
/// <https://gateway-api.sigs.k8s.io/reference/spec/#httprequestredirectfilter>
pub(super) fn redirect(filter: &Filter, place: &Place, matched: &PathMatch) -> Option<Redirect> {
    let Filter::Redirect { scheme, hostname, path, port, status } = filter else { return None };
    let path = match path.as_ref().map(|change| new_path(matched, change)) {
        Some(None) => return None,
        Some(Some(path)) => path,
        None => NewPath::Same,
    };
    let known = |scheme: &str| if scheme == "https" { 443 } else { 80 };
    let here = if place.tls { "https" } else { "http" };
    let port = port.unwrap_or_else(|| scheme.as_deref().map_or(place.port, known));
    let said = port != known(scheme.as_deref().unwrap_or(here));
    let action = pb::RedirectAction {
        host_redirect: hostname.as_deref().unwrap_or_default().to_owned(),
        port_redirect: if said { u32::from(port) } else { 0 },
        response_code: code(*status)? as i32,
        scheme_rewrite_specifier: scheme
            .as_deref()
            .map(|scheme| SchemeRewriteSpecifier::SchemeRedirect(scheme.to_owned())),
        path_rewrite_specifier: match path {
            NewPath::Same => None,
            NewPath::Full(path) => Some(PathRewriteSpecifier::PathRedirect(path)),
            NewPath::Prefix(prefix) => Some(PathRewriteSpecifier::PrefixRewrite(prefix)),
            NewPath::Regex(rewrite) => Some(PathRewriteSpecifier::RegexRewrite(rewrite)),
        },
        ..Default::default()
    };
    let with_port = (!said && hostname.is_none())
        .then(|| pb::RedirectAction { port_redirect: u32::from(port), ..action.clone() });
    Some(Redirect { action, with_port })
}

fn code(status: u16) -> Option<RedirectResponseCode> {
    Some(match status {
        301 => RedirectResponseCode::MovedPermanently,
        302 => RedirectResponseCode::Found,
        303 => RedirectResponseCode::SeeOther,
        307 => RedirectResponseCode::TemporaryRedirect,
        308 => RedirectResponseCode::PermanentRedirect,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The port that a redirect says; 0 for none, and whether requests with a port in their Host have a redirect of
    /// their own.
    fn port(
        scheme: Option<&str>,
        host: Option<&str>,
        port: Option<u16>,
        listener: (u16, bool),
    ) -> (u32, bool) {
        let filter = Filter::Redirect {
            scheme: scheme.map(Into::into),
            hostname: host.map(Into::into),
            path: None,
            port,
            status: 302,
        };
        let place = Place { port: listener.0, tls: listener.1, sidecar: false };
        let it = redirect(&filter, &place, &PathMatch::default()).unwrap();
        (it.action.port_redirect, it.with_port.is_some())
    }

    #[test]
    fn ports_follow_the_scheme_and_then_the_listener() {
        let (http, https, odd) = ((80, false), (443, true), (8080, false));
        assert_eq!(port(Some("https"), None, None, http), (0, true));
        assert_eq!(port(Some("https"), Some("a.example"), None, odd), (0, false));
        assert_eq!(port(Some("http"), Some("a.example"), None, https), (0, false));
        assert_eq!(port(None, Some("a.example"), None, http), (0, false));
        assert_eq!(port(None, Some("a.example"), None, https), (0, false));
        assert_eq!(port(None, Some("a.example"), None, odd), (8080, false));
        assert_eq!(port(None, None, None, (8443, true)), (8443, false));
        assert_eq!(port(Some("https"), None, Some(8443), http), (8443, false));
        assert_eq!(port(Some("https"), None, Some(80), http), (80, false));
        assert_eq!(port(None, Some("a.example"), Some(80), odd), (0, false));
        assert_eq!(port(None, Some("a.example"), Some(443), http), (443, false));
    }

    #[test]
    fn what_cannot_be_done_is_no_redirect() {
        let filter =
            |status, path| Filter::Redirect { scheme: None, hostname: None, path, port: None, status };
        let place = Place { port: 80, tls: false, sidecar: false };
        assert_eq!(redirect(&filter(304, None), &place, &PathMatch::default()), None);
        let change = Some(crate::attach::ir::PathChange::Prefix("/x".into()));
        assert_eq!(redirect(&filter(301, change), &place, &PathMatch::Exact("/a".into())), None);
    }
}
