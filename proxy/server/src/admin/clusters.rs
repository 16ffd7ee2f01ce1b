//! `/clusters`: each cluster, its breakers and its hosts.

use crate::control::Control;

use super::query::Query;
use super::reply::Reply;

pub(super) fn clusters(control: &Control, query: &Query) -> Reply {
    let snapshot = control.clusters.snapshot();
    if query.get("format") == Some("json") {
        return Reply::json(&snapshot.json());
    }
    Reply::text(snapshot.text())
}
