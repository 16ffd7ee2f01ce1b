//! What the tests of the stream share: a connector, a client under test, waiting with a deadline.

use std::cell::RefCell;
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use outrider_core::stats::Registry;
use outrider_proto::pb::envoy::config::core::v3::Node;
use outrider_xds::{
    ConnectError, Connecting, Connection, Connector, Event, Handle, Refusal, Service, StreamConfig, Update,
    spawn,
};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

/// Longer than anything takes that works.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Runs a test on one thread, as the control thread is.
pub fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test);
}

/// `future`, or the end of the test.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("in vain: {what}"),
    }
}

/// Connects by TCP to one address for each service.
pub struct Tcp(pub RefCell<Vec<SocketAddr>>);

impl Connector for Tcp {
    fn connect(&self, service: usize) -> Connecting {
        let address = self.0.borrow()[service];
        Box::pin(async move {
            let stream = TcpStream::connect(address).await;
            let stream = stream.map_err(|error| ConnectError(format!("{address}: {error}")))?;
            Ok(Connection {
                io: Box::new(stream),
                authority: "xds_cluster".into(),
                secure: false,
                metadata: http::HeaderMap::from_iter([(
                    http::header::AUTHORIZATION,
                    http::HeaderValue::from_static("Bearer t"),
                )]),
                keepalive: None,
            })
        })
    }
}

/// A stream under test.
pub struct Client {
    pub handle: Handle,
    pub events: mpsc::Receiver<Event>,
    pub registry: Registry,
}

/// Short waits: tests break streams on purpose.
pub fn config(delta: bool, services: usize) -> StreamConfig {
    let services = (0..services).map(|n| Service::new(format!("plane-{n}"))).collect();
    let mut config = StreamConfig::aggregated(delta, services);
    config.backoff.base = Duration::from_millis(20);
    config.backoff.max = Duration::from_millis(100);
    config
}

impl Client {
    /// Starts a stream to `addresses`.
    pub fn start(config: StreamConfig, addresses: &[SocketAddr]) -> Self {
        let registry = Registry::new();
        let connector = Rc::new(Tcp(RefCell::new(addresses.to_vec())));
        let node = Node { id: "node-1".into(), cluster: "c".into(), ..Node::default() };
        let (handle, events) = spawn(config, node, connector, registry.scope("control_plane."));
        Self { handle, events, registry }
    }

    /// The next event.
    pub async fn event(&mut self) -> Event {
        soon("an event", self.events.recv()).await.unwrap()
    }

    /// The next update; connections that come and go before it are passed over.
    pub async fn update(&mut self) -> Update {
        loop {
            match self.event().await {
                Event::Update(update) => return update,
                Event::Connected { .. } | Event::Disconnected { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }

    /// The next update, decided: all good but `bad`.
    pub async fn decide(&mut self, bad: &[&str]) -> Update {
        let update = self.update().await;
        let refusals = bad.iter().map(|name| Refusal::new(*name, "field", "not good")).collect();
        self.handle.verdict(update.token, refusals);
        update
    }

    /// A stat of `control_plane.`.
    pub fn stat(&self, name: &str) -> Option<u64> {
        self.registry.value(&format!("control_plane.{name}"))
    }
}

/// The names in an update, sorted.
pub fn names(update: &Update) -> Vec<String> {
    let mut names: Vec<_> = update.resources.iter().map(|resource| resource.name.to_string()).collect();
    names.sort();
    names
}
