//! Which route of a virtual host takes a request, and why the ones before it did not.

use outrider_proto::pb::envoy::config::route::v3::{
    Route, RouteMatch, VirtualHost, route_match::PathSpecifier,
};

use super::matching::{header, query, regex_takes};
use super::{Asked, Story};
use crate::translate::wire::origin_of;

/// The first route that takes the request.
pub(super) fn choose<'h>(host: &'h VirtualHost, asked: &Asked, story: &mut Story) -> Option<&'h Route> {
    if host.routes.is_empty() {
        story.step("route", &host.name, None, false, "the virtual host has no routes");
    }
    for (index, route) in host.routes.iter().enumerate() {
        let name = if route.name.is_empty() { format!("route {index}") } else { route.name.clone() };
        let origin = origin_of(route.metadata.as_ref());
        match route
            .r#match
            .as_ref()
            .map_or_else(|| Err("it matches nothing".to_owned()), |it| takes(it, asked))
        {
            Ok(how) => {
                story.step("route", &name, origin, true, how);
                return Some(route);
            }
            Err(reason) => story.step("route", &name, origin, false, reason),
        }
    }
    None
}

/// How a request is as a match says, or why it is not.
fn takes(wanted: &RouteMatch, asked: &Asked) -> Result<String, String> {
    let mut how = path(wanted, asked)?;
    for matcher in &wanted.headers {
        if let Some(reason) = header(matcher, asked) {
            return Err(reason);
        }
    }
    for matcher in &wanted.query_parameters {
        if let Some(reason) = query(matcher, asked) {
            return Err(reason);
        }
    }
    if wanted.grpc.is_some() {
        let kind = asked.headers.get("content-type").map(String::as_str).unwrap_or_default();
        let rest = kind.strip_prefix("application/grpc");
        if !rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('+')) {
            return Err(format!("only gRPC is taken, and content-type is {kind:?}"));
        }
    }
    if !wanted.dynamic_metadata.is_empty() || !wanted.filter_state.is_empty() {
        return Err("it depends on what filters find out, which is not known here".to_owned());
    }
    let count = wanted.headers.len() + wanted.query_parameters.len();
    if count > 0 {
        how.push_str(&format!(", and {count} more conditions are met"));
    }
    if let Some(fraction) = wanted.runtime_fraction.as_ref().and_then(|it| it.default_value.as_ref()) {
        let of = [100.0, 10_000.0, 1_000_000.0].into_iter().nth(fraction.denominator.unsigned_abs() as usize);
        let percent = f64::from(fraction.numerator) * 100.0 / of.unwrap_or(100.0);
        if percent <= 0.0 {
            return Err("it takes 0 % of requests".to_owned());
        }
        if percent < 100.0 {
            how.push_str(&format!(", for {percent} % of requests (others go on)"));
        }
    }
    Ok(how)
}

fn path(wanted: &RouteMatch, asked: &Asked) -> Result<String, String> {
    let sensitive = wanted.case_sensitive.as_ref().is_none_or(|it| it.value);
    let fold = |text: &str| if sensitive { text.to_owned() } else { text.to_ascii_lowercase() };
    let path = fold(&asked.path);
    let judge = |fits: bool, what: String| {
        if fits {
            Ok(format!("path {:?} is {what}", asked.path))
        } else {
            Err(format!("path {:?} is not {what}", asked.path))
        }
    };
    match wanted.path_specifier.as_ref() {
        Some(PathSpecifier::Prefix(prefix)) => {
            // Envoy looks at path and query here.
            judge(fold(&asked.whole_path()).starts_with(&fold(prefix)), format!("under prefix {prefix:?}"))
        }
        Some(PathSpecifier::Path(whole)) => judge(path == fold(whole), format!("{whole:?}")),
        Some(PathSpecifier::SafeRegex(regex)) => {
            judge(regex_takes(&regex.regex, &asked.path), format!("as {:?} wants", regex.regex))
        }
        Some(PathSpecifier::PathSeparatedPrefix(prefix)) => {
            let under = path.strip_prefix(&fold(prefix));
            let fits = under.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
            judge(fits, format!("{prefix:?} or under it"))
        }
        Some(PathSpecifier::ConnectMatcher(_)) => {
            if asked.method == "CONNECT" {
                Ok("it is a CONNECT".to_owned())
            } else {
                Err("only CONNECT is taken".to_owned())
            }
        }
        Some(PathSpecifier::PathMatchPolicy(_)) => Err("its path template is not known here".to_owned()),
        None => Ok("any path is taken".to_owned()),
    }
}
