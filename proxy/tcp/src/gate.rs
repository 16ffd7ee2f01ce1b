//! Network filters in front of the one that ends a chain: they let a connection in, or not.
//!
//! What they look at is known when the connection begins, so that is when they decide. One that is let in goes to the last
//! filter at once, protocols in which the server speaks first among them. For one that is refused the last filter does
//! nothing: no upstream is connected to, and the client hears nothing. Envoy decides at the first byte, and its tcp_proxy
//! connects, and passes on what the server says, before that.
//!
//! An update may put others in their place: those decide of connections from then on, those among them that an earlier
//! chain accepted, and of those that are open already.

mod refused;

use std::any::Any;
use std::rc::Rc;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::HeaderMap;
use outrider_config::model::{self, NetworkRbac};
use outrider_core::matcher::HeadView;
use outrider_core::rbac::{EnforcedStats, Facts, ShadowStats};
use outrider_core::stats::Registry;
use outrider_core::{ConnInfo, StreamInfo};
use outrider_net::handler::{ConnectionHandler, Downstream, Entry, LocalFuture};

/// The namespace of what RBAC says of a connection.
static RBAC: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from("envoy.filters.network.rbac"));

/// The filters of a chain in front of its last. Shared by all workers.
#[derive(Debug)]
pub struct Gates(Box<[Gate]>);

/// The place of a chain's gates: who holds on to it sees those in force. Empty where there are none.
pub type GateSlot = Arc<ArcSwapOption<Gates>>;

#[derive(Debug)]
enum Gate {
    Rbac(Rbac),
}

#[derive(Debug)]
struct Rbac {
    config: Arc<NetworkRbac>,
    enforced: EnforcedStats,
    shadow: ShadowStats,
}

/// A chain's last filter behind its gates, on one worker.
pub struct GatedWorker {
    gates: GateSlot,
    last: Rc<dyn ConnectionHandler>,
}

/// Why a connection is refused.
#[derive(Debug)]
struct Refusal {
    details: String,
    /// It stays open that long.
    delay: Duration,
}

impl Gates {
    /// The gates that `config` describes. Control thread.
    pub fn build(config: &[model::Gate], registry: &Registry) -> Arc<Self> {
        let gate = |gate: &model::Gate| match gate {
            model::Gate::Rbac(config) => {
                let prefix = config.stat_prefix.trim_end_matches('.');
                let scope = registry.scope(format!("{prefix}.rbac."));
                Gate::Rbac(Rbac {
                    enforced: EnforcedStats::of(&scope, &config.enforced_names),
                    shadow: ShadowStats::of(&scope, &config.shadow_names),
                    config: config.clone(),
                })
            }
        };
        Arc::new(Self(config.iter().map(gate).collect()))
    }

    /// Asks one after the other, and notes what they say of the connection.
    fn judge(&self, info: &mut StreamInfo) -> Result<(), Refusal> {
        self.0.iter().try_for_each(|gate| match gate {
            Gate::Rbac(rbac) => rbac.judge(info),
        })
    }
}

impl Entry for Gates {
    fn admits(&self, conn: &Rc<ConnInfo>) -> Result<(), &'static str> {
        let mut info = StreamInfo::new(conn.clone(), None);
        let admits = self.0.iter().all(|gate| match gate {
            Gate::Rbac(rbac) => rbac.admits(&mut info),
        });
        if admits { Ok(()) } else { Err("rbac") }
    }
}

impl Rbac {
    /// Decides as [`judge`](Self::judge) does, and counts nothing: it may have been counted before.
    fn admits(&self, info: &mut StreamInfo) -> bool {
        let empty = HeaderMap::new();
        let head = HeadView::of(&empty);
        if let Some(engine) = &self.config.shadow {
            // What it says is there for the gates behind it.
            let decision = engine.decide(&Facts { conn: &info.conn, stream: info, head, route: None });
            decision.note(info, &RBAC, &self.config.shadow_names);
        }
        let Some(engine) = &self.config.enforced else { return true };
        engine.decide(&Facts { conn: &info.conn, stream: info, head, route: None }).allowed
    }

    fn judge(&self, info: &mut StreamInfo) -> Result<(), Refusal> {
        let empty = HeaderMap::new();
        let head = HeadView::of(&empty);
        if let Some(engine) = &self.config.shadow {
            let decision = engine.decide(&Facts { conn: &info.conn, stream: info, head, route: None });
            self.shadow.count(&decision);
            decision.note(info, &RBAC, &self.config.shadow_names);
        }
        let Some(engine) = &self.config.enforced else { return Ok(()) };
        let decision = engine.decide(&Facts { conn: &info.conn, stream: info, head, route: None });
        self.enforced.count(&decision);
        decision.note_log(info);
        if decision.allowed {
            return Ok(());
        }
        Err(Refusal { details: decision.details(), delay: self.config.delay_deny })
    }
}

impl GatedWorker {
    /// `last` behind what is in `gates`.
    pub fn new(gates: GateSlot, last: Rc<dyn ConnectionHandler>) -> Rc<Self> {
        Rc::new(Self { gates, last })
    }
}

impl ConnectionHandler for GatedWorker {
    /// The last filter: a successor is one to it.
    fn as_any(self: Rc<Self>) -> Rc<dyn Any> {
        self.last.clone().as_any()
    }

    fn handle(self: Rc<Self>, mut downstream: Downstream) -> LocalFuture<()> {
        let gates = self.gates.load();
        let Some(gates) = &*gates else { return self.last.clone().handle(downstream) };
        let mut info = StreamInfo::new(downstream.info.clone(), None);
        info.dynamic = downstream.metadata.take();
        match gates.judge(&mut info) {
            Ok(()) => {
                downstream.metadata = info.dynamic;
                self.last.clone().handle(downstream)
            }
            Err(refusal) => Box::pin(refused::close(self.last.clone(), downstream, Box::new(info), refusal)),
        }
    }

    fn succeeded_by(&self, next: &Rc<dyn ConnectionHandler>) {
        self.last.succeeded_by(next);
    }
}

impl std::fmt::Debug for GatedWorker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GatedWorker").field("gates", &self.gates).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::OnceCell;
    use std::time::Instant;

    use outrider_core::rbac::{Action, Condition, Engine, Names, Policy, Rules};
    use outrider_core::stream::Address;

    use super::*;

    fn connection(from: &str) -> Rc<ConnInfo> {
        let address = Address::Ip(from.parse().unwrap());
        Rc::new(ConnInfo {
            id: 1,
            remote: address.clone(),
            direct_remote: address.clone(),
            local: address.clone(),
            direct_local: address,
            local_restored: false,
            source: None,
            sni: None,
            tls: None,
            filter_chain: "".into(),
            origin: Arc::default(),
            handshake: None,
            accepted: Instant::now(),
            termination_details: OnceCell::new(),
            reset: Default::default(),
            transport_failure: OnceCell::new(),
        })
    }

    #[test]
    fn open_connections_are_judged_as_new_ones_and_not_counted() {
        let policy = Policy {
            name: "p".into(),
            permission: Condition::Any,
            principal: Condition::SourceIp("10.0.0.0/8".parse().unwrap()),
            condition: None,
        };
        let config = NetworkRbac {
            stat_prefix: "gate".into(),
            enforced: Some(Engine::Rules(Rules::new(Action::Deny, vec![policy]))),
            enforced_names: Names::enforced(""),
            shadow: None,
            shadow_names: Names::shadow(""),
            delay_deny: Duration::ZERO,
        };
        let registry = Registry::new();
        let gates = Gates::build(&[model::Gate::Rbac(Arc::new(config))], &registry);
        for (from, admitted) in [("10.1.2.3:1", Err("rbac")), ("127.0.0.1:1", Ok(()))] {
            let conn = connection(from);
            assert_eq!(gates.admits(&conn), admitted, "{from}");
            let counted = || {
                ["allowed", "denied"].map(|name| registry.value(&format!("gate.rbac.{name}")).unwrap_or(0))
            };
            let before = counted();
            assert_eq!(gates.judge(&mut StreamInfo::new(conn, None)).is_ok(), admitted.is_ok(), "{from}");
            assert_eq!(counted().iter().sum::<u64>(), before.iter().sum::<u64>() + 1);
        }
        assert_eq!(registry.value("gate.rbac.denied"), Some(1));
    }
}
