//! `outrider demo`: a mesh on this machine, and what it does, step by step; or one proxy alone (`--simple`).
//!
//! As root the pods are network namespaces whose traffic is captured; else their parts stand side by side on the loopback.

mod app;
mod child;
mod http;
mod network;
mod part;
mod plane;
mod pod;
mod relay;
mod shop;
mod simple;
mod steps;
mod tap;
mod tools;
mod transcript;

use std::future::poll_fn;
use std::io::Write as _;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{self, Receiver};
use std::task::Poll;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

pub use self::part::run as part;

use self::child::{Folder, Stop};
use self::shop::Shop;
use self::tools::Programs;
use self::transcript::{Transcript, print};
use crate::control::MemoryHooks;

/// What is asked of the demo.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// End after the last step.
    pub once: bool,
    /// One proxy on a bundled bootstrap, and no control plane.
    pub simple: bool,
    /// No namespaces, even as root.
    pub loopback: bool,
    /// The first port of the simple form.
    pub port: u16,
}

/// Starts the demo, and serves on after its last step until it is told to end. `Ok(false)`: a step failed, and it was told which.
///
/// # Errors
/// It could not be started.
pub fn run(settings: Settings, memory: MemoryHooks) -> anyhow::Result<bool> {
    if settings.simple {
        return simple::run(settings.once, settings.port, memory);
    }
    let stop = Stop::default();
    let told = listen_for_signals(&stop)?;
    let programs = Programs::find()?;
    let why_not = tools::no_namespaces();
    let namespaces = why_not.is_none() && !settings.loopback;
    print(
        "A mesh on this machine: the applications web, cart v1 and cart v2, a sidecar for each, a control plane with its authority.\n",
    )?;
    match why_not.filter(|_| !settings.loopback) {
        _ if namespaces => print("Each pod is a network namespace, and its traffic is captured.\n")?,
        Some(why) => print(&format!("Explicit ports on the loopback, without capture: {why}.\n"))?,
        None => print("Explicit ports on the loopback, without capture, as asked for.\n")?,
    }
    let folder = Folder::new()?;
    let mut out = Transcript::default();
    let mut shop = None;
    let outcome = Shop::open(programs, namespaces, folder.path(), &stop)
        .context("starting")
        .and_then(|it| steps::walk(shop.insert(it), &mut out));
    match outcome {
        _ if stop.load(Relaxed) => return Ok(!settings.once),
        Err(error) => {
            print(&format!("   failed  {error:#}\n"))?;
            let mut to = std::io::stderr().lock();
            writeln!(to, "\nThe last lines of the logs:\n{}", folder.last_words())?;
            return Ok(false);
        }
        Ok(()) => {}
    }
    print(&format!("\nAll {} steps passed.\n", out.steps()))?;
    if let (false, Some(shop)) = (settings.once, &shop) {
        print(&invitation(shop))?;
        // Nobody is left to tell: that is an end, too.
        let _ = told.recv();
        print("\nEnding: processes, namespaces, rules and files.\n")?;
    }
    Ok(true)
}

/// Notes Ctrl-C and its kin, and tells of it.
fn listen_for_signals(stop: &Stop) -> anyhow::Result<Receiver<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let entered = runtime.enter();
    let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
    let mut signals = kinds.into_iter().map(signal).collect::<std::io::Result<Vec<_>>>()?;
    drop(entered);
    let (tell, told) = mpsc::channel();
    let stop = stop.clone();
    std::thread::spawn(move || {
        runtime.block_on(poll_fn(|context| {
            let came = signals.iter_mut().any(|it| it.poll_recv(context).is_ready());
            if came { Poll::Ready(()) } else { Poll::Pending }
        }));
        stop.store(true, Relaxed);
        // Whoever does not wait looks at the flag.
        let _ = tell.send(());
    });
    Ok(told)
}

/// What a visitor may do now.
fn invitation(shop: &Shop) -> String {
    let (folder, log) = (shop.folder().display(), shop.access_log());
    let mut lines = vec!["The mesh goes on; Ctrl-C ends it and removes all of it. Try:".to_owned()];
    let mut line = |what: &str, how: String| lines.push(format!("  {what:<20} {how}"));
    if let Some(page) = shop.page {
        line("the status page", format!("http://{page}/"));
    }
    if shop.fabric.is_some() {
        let pod = shop.web.process();
        line("call as web", format!("nsenter -t {pod} -n -m -- curl -i http://cart/orders"));
        line("what is captured", format!("nsenter -t {pod} -n -- nft list ruleset"));
        line("web's sidecar", format!("nsenter -t {pod} -n -- curl http://{}/help", shop.web.admin()));
    } else {
        line(
            "call as web",
            format!("curl -i -H 'host: cart' http://127.0.0.1:{}/orders", shop.web.explicit()),
        );
        line("web's sidecar", format!("curl http://{}/help", shop.web.admin()));
    }
    line("shift traffic", format!("edit {folder}/manifests/split.yaml"));
    line("lift the policy", format!("rm {folder}/manifests/policy.yaml"));
    line("who called the cart", format!("tail -f {}", log.display()));
    format!("{}\n", lines.join("\n"))
}
