//! What the process can be told: all by POST.

use std::sync::atomic::Ordering::Relaxed;

use crate::control::{Control, StopListening};
use crate::lifecycle;

use super::query::Query;
use super::reply::Reply;

pub(super) fn drain_listeners(control: &Control, query: &Query) -> Reply {
    let inbound_only = query.has("inboundonly");
    if query.has("skip_exit") && !query.has("graceful") {
        return Reply::bad_request("skip_exit requires graceful");
    }
    control.state.draining.store(true, Relaxed);
    if query.has("graceful") {
        // Clients are asked to go over the drain time, and only then do listeners stop accepting;
        // with skip_exit they go on accepting.
        lifecycle::start_drain(control, inbound_only, control.options.drain_gradually);
        if !query.has("skip_exit") {
            let (stop, wait) = (control.state.stop_listening.clone(), control.options.drain_time);
            tokio::task::spawn_local(async move {
                tokio::time::sleep(wait).await;
                stop_listening(&stop, inbound_only);
            });
        }
    } else {
        stop_listening(&control.state.stop_listening, inbound_only);
    }
    Reply::ok()
}

fn stop_listening(stop: &tokio::sync::watch::Sender<StopListening>, inbound_only: bool) {
    stop.send_modify(|stop| {
        stop.inbound = true;
        stop.others |= !inbound_only;
    });
}

pub(super) fn health_check_fail(control: &Control, _: &Query) -> Reply {
    control.state.health_check_failed.store(true, Relaxed);
    outrider_core::health::set_failed(true);
    Reply::ok()
}

pub(super) fn health_check_ok(control: &Control, _: &Query) -> Reply {
    control.state.health_check_failed.store(false, Relaxed);
    outrider_core::health::set_failed(false);
    Reply::ok()
}

pub(super) fn quit(control: &Control, _: &Query) -> Reply {
    control.state.quit.notify_one();
    Reply::ok()
}

pub(super) fn reopen_logs(control: &Control, _: &Query) -> Reply {
    control.log_files.reopen();
    Reply::ok()
}

pub(super) fn reset_counters(control: &Control, _: &Query) -> Reply {
    control.registry.reset_counters();
    Reply::ok()
}

pub(super) fn logging(control: &Control, query: &Query) -> Reply {
    for (name, value) in query.pairs() {
        let set = match name {
            "level" => control.log.set_all(value),
            "paths" => value.split(',').filter(|pair| !pair.is_empty()).try_for_each(|pair| {
                let (component, level) =
                    pair.split_once(':').ok_or_else(|| anyhow::anyhow!("{pair:?} is not component:level"))?;
                control.log.set(component, level)
            }),
            component => control.log.set(component, value),
        };
        if let Err(error) = set {
            return Reply::bad_request(format!("error: {error:#}"));
        }
    }
    let mut text = String::from("active loggers:\n");
    for (name, level) in control.log.list() {
        text.push_str(&format!("  {name}: {level}\n"));
    }
    Reply::text(text)
}
