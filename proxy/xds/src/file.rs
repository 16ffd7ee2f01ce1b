//! A file in the place of a control plane (`path_config_source`): read when something is asked for, and again whenever
//! it is replaced by a move.
//!
//! Envoy's rules: the file holds a `DiscoveryResponse`; the directory that it is in (or `watched_directory`) is watched for
//! moves, never the file for writes, so that nobody reads one that is half written.

use std::cell::{Cell, RefCell};
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Instant;

use outrider_proto::pb::envoy::service::discovery::v3::DiscoveryResponse;
use outrider_proto::{Descriptors, load};
use prost::Message as _;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc;

use crate::config::MAX_MESSAGE_BYTES;
use crate::core::{Now, Request, Response};
use crate::event::Event;
use crate::handle::{Handle, QUEUE};
use crate::moves::{self, LOOK_AGAIN, moved};
use crate::stream::{Shared, sleep_until, upkeep};
use crate::{Kind, core};

const MESSAGE: &str = "envoy.service.discovery.v3.DiscoveryResponse";

/// A file, and what it holds.
#[derive(Debug, Clone)]
pub struct FileConfig {
    /// The file: `.pb` holds the encoded message, anything else JSON or YAML.
    pub path: PathBuf,
    /// The directory whose moves announce a change; `None`: the file's own, and moves to the file's name alone.
    pub watched_directory: Option<PathBuf>,
    /// Of what kind its resources are.
    pub kind: Kind,
    /// Fields that Envoy's API does not have are an error; otherwise they are left out, with a warning.
    pub reject_unknown_fields: bool,
}

/// Starts a task on this thread's local runtime that reads the file as it changes. The handle is that of a stream.
///
/// # Panics
///
/// Outside of a local runtime or `LocalSet`, as [`tokio::task::spawn_local`].
pub fn spawn_file(config: FileConfig) -> (Handle, mpsc::Receiver<Event>) {
    let options = core::Options { delta: false, node: Default::default(), node_once: true };
    let shared = Rc::new(Shared::new(options));
    let (events, receiver) = mpsc::channel(QUEUE);
    let source =
        Source { config, shared: shared.clone(), events, nonce: Cell::new(0), asked: RefCell::default() };
    tokio::task::spawn_local(source.run());
    (Handle(shared), receiver)
}

struct Source {
    config: FileConfig,
    shared: Rc<Shared>,
    events: mpsc::Sender<Event>,
    nonce: Cell<u64>,
    /// The names of the last request.
    asked: RefCell<Option<Vec<String>>>,
}

impl Source {
    async fn run(self) {
        tokio::select! {
            () = upkeep(&self.shared, &self.events) => {}
            () = self.follow() => {}
        }
    }

    /// Reads the file whenever something new is asked for or it was replaced.
    async fn follow(&self) {
        self.shared.core.borrow_mut().connected(true);
        let mut watch = self.watch();
        let mut again = false;
        let mut look = None;
        loop {
            again |= self.take_requests();
            // One reading at a time: what was read is decided before the next.
            if again && self.is_idle() {
                again = false;
                self.read();
                continue;
            }
            if watch.is_none() && look.is_none() {
                look = Some(Instant::now() + LOOK_AGAIN);
            }
            tokio::select! {
                changed = moved(watch.as_ref(), self.file_name()) => match changed {
                    Ok(changed) => again |= changed,
                    Err(error) => {
                        tracing::warn!(path = %self.config.path.display(), "is no longer watched: {error}");
                        watch = None;
                    }
                },
                () = sleep_until(look), if look.is_some() => {
                    look = None;
                    watch = self.watch();
                    // Nobody knows what happened meanwhile.
                    again |= watch.is_some();
                }
                () = self.shared.traffic.notified() => {}
            }
        }
    }

    /// The file's name, where moves to other names mean nothing.
    fn file_name(&self) -> Option<&OsStr> {
        if self.config.watched_directory.is_some() { None } else { self.config.path.file_name() }
    }

    fn directory(&self) -> &Path {
        let own = self.config.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        self.config.watched_directory.as_deref().or(own).unwrap_or(Path::new("."))
    }

    fn watch(&self) -> Option<AsyncFd<OwnedFd>> {
        match moves::watch(std::iter::once(self.directory())) {
            Ok(watch) => Some(watch),
            Err(error) => {
                tracing::warn!(directory = %self.directory().display(), "cannot be watched: {error}");
                None
            }
        }
    }

    /// Takes what the core has to say to a control plane. True when something is asked for that was not before: a file
    /// has no memory, so it is read again.
    fn take_requests(&self) -> bool {
        let mut core = self.shared.core.borrow_mut();
        let mut asked = self.asked.borrow_mut();
        let before = asked.clone();
        while let Some(request) = core.next_request() {
            if let Request::Sotw(request) = request {
                *asked = Some(request.resource_names);
            }
        }
        *asked != before
    }

    fn is_idle(&self) -> bool {
        let core = self.shared.core.borrow();
        !core.has_event() && !core.has_request() && core.is_decided(self.config.kind)
    }

    fn read(&self) {
        let read = response(&self.config);
        let mut core = self.shared.core.borrow_mut();
        match read {
            Ok(mut response) => {
                self.nonce.set(self.nonce.get() + 1);
                response.nonce = self.nonce.get().to_string();
                self.config.kind.type_url().clone_into(&mut response.type_url);
                if let Err(ignored) = core.receive(Now::read(), Response::Sotw(response)) {
                    tracing::debug!(%ignored, "nothing of a file is asked for");
                }
                core.end_waits(self.config.kind);
            }
            Err(why) => {
                core.tell(Event::Unreadable { why });
                core.end_waits(self.config.kind);
            }
        }
        drop(core);
        self.shared.upkeep.notify_one();
    }
}

/// What the file holds, or why that cannot be said.
fn response(config: &FileConfig) -> Result<DiscoveryResponse, String> {
    let name = config.path.display().to_string();
    let fail = |error: &dyn std::fmt::Display| format!("{name}: {error}");
    let size = std::fs::metadata(&config.path).map_err(|error| fail(&error))?.len();
    if size > MAX_MESSAGE_BYTES as u64 {
        return Err(fail(&format!("it has {size} bytes, and {MAX_MESSAGE_BYTES} is the limit")));
    }
    match config.path.extension().and_then(OsStr::to_str) {
        Some("pb") => {
            let bytes = std::fs::read(&config.path).map_err(|error| fail(&error))?;
            DiscoveryResponse::decode(&*bytes).map_err(|error| fail(&error))
        }
        Some("pb_text") => Err(fail(&"protobuf text is not supported; use .yaml, .json or .pb")),
        _ => {
            let text = std::fs::read_to_string(&config.path).map_err(|error| fail(&error))?;
            let unknown_fields = if config.reject_unknown_fields {
                load::UnknownFields::Reject
            } else {
                load::UnknownFields::Collect
            };
            let options = load::ParseOptions { unknown_fields };
            let loaded = load::parse(&Descriptors::load(), &text, &name, MESSAGE, options)
                .map_err(|problems| fail(&problems))?;
            for field in &loaded.unknown {
                tracing::warn!("{name}: unknown field {} is left out", field.path);
            }
            loaded.typed().map_err(|error| fail(&error))
        }
    }
}
