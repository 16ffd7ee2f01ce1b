//! `outriderctl problems`.

use serde_json::json;

use super::args::Format;
use super::failure::Failure;
use super::table::{Cell, Style, Table};
use super::{Session, output};
use crate::pb;

/// Shows what the control plane leaves out for being wrong. Fails with code 1 when there is something.
pub(super) async fn problems(session: &mut Session<'_, '_>, format: Option<Format>) -> Result<(), Failure> {
    let mut client = session.client().await?;
    let namespace = if session.namespace.1 { session.namespace().to_owned() } else { String::new() };
    let found = client.list_problems(pb::ListProblemsRequest { namespace }).await?.into_inner().problems;
    match format {
        None | Some(Format::Wide) if found.is_empty() => session.warn("nothing is wrong")?,
        None | Some(Format::Wide) => {
            let mut table = Table::new(&["ORIGIN", "SOURCE", "OBJECT", "FIELD", "REASON"]);
            for it in &found {
                let problem = it.problem.clone().unwrap_or_default();
                table.push(vec![
                    it.origin.as_str().into(),
                    or_dash(&problem.source),
                    or_dash(&object(&problem)),
                    or_dash(&problem.field),
                    // A parser shows the lines that it did not understand.
                    Cell::new(problem.reason.lines().next().unwrap_or_default(), Style::Bad),
                ]);
            }
            table.print(session.console.out, session.color)?;
        }
        Some(Format::Name) => {
            for it in &found {
                let line = object(&it.problem.clone().unwrap_or_default());
                session.say(&line)?;
            }
        }
        Some(format) => {
            let problems = found.iter().map(|it| {
                let problem = it.problem.clone().unwrap_or_default();
                let of = problem.r#ref.unwrap_or_default();
                json!({
                    "origin": it.origin, "source": problem.source, "kind": of.kind, "namespace": of.namespace,
                    "name": of.name, "field": problem.field, "reason": problem.reason,
                })
            });
            let value = json!({ "problems": problems.collect::<Vec<_>>() });
            output::value(session.console.out, &value, format)?;
        }
    }
    if found.is_empty() { Ok(()) } else { Err(Failure::silent(1)) }
}

/// `HTTPRoute shop/web`, as far as it is known.
fn object(problem: &pb::Problem) -> String {
    let it = problem.r#ref.clone().unwrap_or_default();
    let name = if it.namespace.is_empty() { it.name } else { format!("{}/{}", it.namespace, it.name) };
    if it.kind.is_empty() { name } else { format!("{} {name}", it.kind) }
}

fn or_dash(text: &str) -> Cell {
    if text.is_empty() { "-" } else { text }.into()
}
