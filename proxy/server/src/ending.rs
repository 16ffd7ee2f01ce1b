//! The end of a process: what runs may finish, and the application may outlive its clients. Or another process took over.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::bail;
use outrider_config::model::{Listener, TrafficDirection};
use outrider_net::drain::DrainController;
use rustix::process::Signal;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::application::{self, Open};
use crate::control::{Control, StopListening};
use crate::lifecycle::{Signals, Told, reopen_logs};
use crate::upgrade::forward;
use crate::upgrade::old::{Event, Next};

/// How often the kernel is asked for the application's sockets.
const LOOK: Duration = Duration::from_millis(100);
/// The application has ended when it had no socket for so many looks in a row: between two connections it has none either.
const LOOKS: u32 = 10;

/// Ends all that is served, within the drain time. Returns when no connection is left.
pub(crate) async fn end(control: &Control, signals: &mut Signals) {
    control.state.draining.store(true, Relaxed);
    let deadline = Instant::now() + control.options.drain_time;
    if control.options.outlive_application && !outlive(control, signals, deadline).await {
        return cut_off(control);
    }
    drain(control, signals, deadline).await;
}

/// Asks inbound clients to go elsewhere, and serves until the application has ended: it may need others for that. False when
/// that was cut short.
async fn outlive(control: &Control, signals: &mut Signals, deadline: Instant) -> bool {
    let left = || deadline.saturating_duration_since(Instant::now());
    control.listeners.each_drain(inbound, |drain| drain.start(left(), false));
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut quiet, mut told) = (0, None);
    while quiet < LOOKS {
        tokio::select! {
            _ = ticks.tick() => {}
            () = sleep_until(deadline) => {
                tracing::warn!("the drain time is over, and the application still has {}", text(told));
                return true;
            }
            () = signals.terminate() => {
                tracing::warn!("told again to go, while the application still has {}", text(told));
                return false;
            }
            () = control.state.quit.notified() => return true,
        }
        control.listeners.sweep();
        match application::open(&control.upgrade.relatives()) {
            Ok(None) => quiet += 1,
            Ok(Some(Open { sockets: 0, .. })) => {
                // It accepts no more, and may wait for its clients: for us. From 1 on ours were told.
                if quiet == 0 {
                    control.listeners.each_drain(inbound, |drain| drain.end(left()));
                }
                quiet = if control.listeners.connections(inbound) == 0 { quiet + 1 } else { 1 };
            }
            Ok(open) => {
                quiet = 0;
                if told.is_none() {
                    tracing::info!(
                        "inbound clients are asked to go; outbound traffic is served while the application has {}",
                        text(open)
                    );
                }
                told = open;
            }
            Err(error) => {
                tracing::error!(
                    "the application's sockets cannot be seen, so it is not waited for: {error:#}"
                );
                return true;
            }
        }
    }
    tracing::info!("the application has no sockets any more");
    true
}

fn inbound(listener: &Listener) -> bool {
    listener.direction == TrafficDirection::Inbound
}

fn text(open: Option<Open>) -> String {
    match open {
        None => "no socket that was seen".into(),
        Some(Open { sockets, one: (local, None), .. }) => {
            format!("{sockets} sockets, one of which listens on {local}")
        }
        Some(Open { sockets, one: (local, Some(peer)), .. }) => {
            format!("{sockets} sockets, one of which is from {local} to {peer}")
        }
    }
}

/// How often it is looked whether all connections have gone that a process keeps after another took over.
const STILL_OPEN: Duration = Duration::from_millis(100);
/// How long they have when there is a third process, or when the next one has ended: nobody serves new ones then.
const HURRY: Duration = Duration::from_secs(10);

/// Lets what was begun here finish, while another process serves, within the drain time: clients are asked to go, and those that
/// do nothing are left alone, as they may be about to ask for something.
///
/// # Errors
/// The other process has ended.
pub(crate) async fn hand_over(
    control: &Control,
    signals: &mut Signals,
    next: &mut Next,
) -> anyhow::Result<()> {
    control.state.draining.store(true, Relaxed);
    let (time, gradual) = (control.options.drain_time, control.options.drain_gradually);
    let deadline = Instant::now() + time;
    let hurry = || deadline.min(Instant::now() + HURRY);
    control.listeners.each_drain(|_| true, |drain| drain.start(time, gradual));
    control.listeners.close();
    control.state.stop_listening.send_replace(StopListening { inbound: true, others: true });
    let mut events = next.listen();
    let mut tick = interval(STILL_OPEN);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut open = control.listeners.connections(|_| true);
    next.give_idle(control).await;
    next.still_open(open);
    tracing::info!("process {} took over: {open} connections here may finish within {time:?}", next.pid());
    loop {
        tokio::select! {
            _ = tick.tick() => {
                control.listeners.sweep();
                let now = control.listeners.connections(|_| true);
                if std::mem::replace(&mut open, now) != now {
                    next.still_open(now);
                }
                if now == 0 {
                    break;
                }
            }
            () = sleep_until(deadline) => {
                tracing::warn!("the drain time is over: {open} connections are cut off");
                break;
            }
            told = signals.next() => match told {
                Told::Reopen => {
                    reopen_logs(control);
                    forward(Signal::USR1);
                }
                Told::Terminate => {
                    tracing::info!("told to go: process {} is told so, too", next.pid());
                    forward(Signal::TERM);
                    drain(control, signals, deadline).await;
                    return Ok(());
                }
            },
            Some(event) = events.recv() => match event {
                Event::Finish => {
                    tracing::info!("process {} hands over itself", next.pid());
                    drain(control, signals, hurry()).await;
                    return Ok(());
                }
                Event::Gone if next.is_followed() => {}
                Event::Gone => {
                    tracing::error!("process {}, which took over, has ended", next.pid());
                    drain(control, signals, hurry()).await;
                    bail!("the process that took over has ended: nobody serves");
                }
            },
        }
    }
    cut_off(control);
    Ok(())
}

/// Tells every connection to finish, stops accepting, and waits for what runs.
async fn drain(control: &Control, signals: &mut Signals, deadline: Instant) {
    let left = deadline.saturating_duration_since(Instant::now());
    control.listeners.each_drain(|_| true, |drain| drain.end(left));
    control.listeners.close();
    control.state.stop_listening.send_replace(StopListening { inbound: true, others: true });
    let open = || control.listeners.connections(|_| true);
    tracing::info!("draining: {} connections may finish within {left:?}", open());
    let mut tick = interval(Duration::from_millis(5));
    while open() > 0 {
        tokio::select! {
            _ = tick.tick() => {}
            () = sleep_until(deadline) => {
                tracing::warn!("the drain time is over: {} connections are cut off", open());
                break;
            }
            () = signals.terminate() => {
                tracing::warn!("told again to go: {} connections are cut off", open());
                break;
            }
        }
    }
    cut_off(control);
}

fn cut_off(control: &Control) {
    control.state.stop_listening.send_replace(StopListening { inbound: true, others: true });
    control.listeners.each_drain(|_| true, DrainController::terminate);
}
