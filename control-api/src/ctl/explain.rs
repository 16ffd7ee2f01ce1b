//! `outriderctl explain`.

use std::collections::HashMap;

use serde_json::json;

use super::args::{ExplainArgs, Format};
use super::failure::Failure;
use super::table::{Cell, Style, Table};
use super::{Session, output};
use crate::pb;

/// Shows what a request would meet.
pub(super) async fn explain(session: &mut Session<'_, '_>, asked: ExplainArgs) -> Result<(), Failure> {
    let request = request(&asked)?;
    let mut client = session.client().await?;
    let answer = client.explain(request).await?.into_inner();
    match asked.output {
        None | Some(Format::Wide | Format::Name) => print(session, &answer),
        Some(format) => {
            let steps: Vec<_> = answer
                .steps
                .iter()
                .map(|it| {
                    let origin = it.origin.as_ref().map(origin);
                    json!({ "stage": it.stage, "name": it.name, "taken": it.taken, "reason": it.reason, "origin": origin })
                })
                .collect();
            let value = json!({ "verdict": answer.verdict, "clusters": answer.clusters, "steps": steps });
            output::value(session.console.out, &value, format)
        }
    }
}

/// The request in the API's words.
fn request(asked: &ExplainArgs) -> Result<pb::ExplainRequest, Failure> {
    let wrong = |reason: String| {
        Failure::usage(format!("{:?}: {reason}, as in http://web.shop/path?query", asked.url))
    };
    let text = if asked.url.contains("://") { asked.url.clone() } else { format!("http://{}", asked.url) };
    let uri: http::Uri = text.parse().map_err(|error| wrong(format!("no URL ({error})")))?;
    let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
    if authority.is_empty() {
        return Err(wrong("the URL has no host".to_owned()));
    }
    let mut headers = HashMap::new();
    for header in &asked.header {
        let Some((name, value)) = header.split_once(':') else {
            return Err(Failure::usage(format!("-H {header:?}: want 'NAME: VALUE'")));
        };
        headers.insert(name.trim().to_lowercase(), value.trim().to_owned());
    }
    Ok(pb::ExplainRequest {
        proxy: asked.proxy.clone(),
        port: u32::from(asked.port.or_else(|| uri.port_u16()).unwrap_or(0)),
        direction: if asked.inbound { "inbound" } else { "outbound" }.to_owned(),
        method: asked.method.clone(),
        authority,
        path: uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string),
        headers,
        scheme: uri.scheme_str().unwrap_or("http").to_owned(),
    })
}

fn origin(reference: &pb::Ref) -> String {
    if reference.namespace.is_empty() {
        format!("{} {}", reference.kind, reference.name)
    } else {
        format!("{} {}/{}", reference.kind, reference.namespace, reference.name)
    }
}

fn print(session: &mut Session<'_, '_>, answer: &pb::ExplainResponse) -> Result<(), Failure> {
    let mut table = Table::new(&["", "STAGE", "NAME", "WHY", "FROM"]);
    for step in &answer.steps {
        let (mark, style) = if step.taken { ("*", Style::Good) } else { ("", Style::Faint) };
        table.push(vec![
            Cell::new(mark, style),
            step.stage.as_str().into(),
            Cell::new(step.name.as_str(), style),
            step.reason.as_str().into(),
            step.origin.as_ref().map(origin).unwrap_or_default().into(),
        ]);
    }
    table.print(session.console.out, session.color)?;
    if answer.clusters.len() > 1 {
        let mut shares: Vec<_> = answer.clusters.iter().collect();
        shares.sort_by(|a, b| b.1.total_cmp(a.1).then_with(|| a.0.cmp(b.0)));
        for (cluster, share) in shares {
            session.say(&format!("{share:5.1} %  {cluster}"))?;
        }
    }
    let verdict = Style::Head.paint(&answer.verdict, session.color);
    session.say(&format!("=> {verdict}"))?;
    Ok(())
}
