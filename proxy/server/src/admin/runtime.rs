//! Runtime values.

use crate::control::Control;

use super::query::Query;
use super::reply::Reply;

pub(super) fn runtime(control: &Control, _: &Query) -> Reply {
    Reply::json(&control.runtime.dump())
}

pub(super) fn modify(control: &Control, query: &Query) -> Reply {
    const USAGE: &str = "usage: /runtime_modify?key1=value1&key2=value2&keyN=valueN\n       or send the parameters as form values\nuse an empty value to remove a previously added override";
    if query.pairs().next().is_none() {
        return Reply::text(USAGE).status(400);
    }
    match control.runtime.modify(query.pairs()) {
        Ok(()) => Reply::ok(),
        Err(error) => Reply::text(error).status(503),
    }
}
