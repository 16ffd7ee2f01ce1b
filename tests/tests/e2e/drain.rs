//! The end of a process, and draining without one.

use std::time::Duration;

use anyhow::{Context as _, Result};
use outrider_tests::{
    client::{Conn, frames},
    reply::Reply,
    wait,
};
use rustix::process::Signal;

use crate::start::{Stage, simple};

const END: Duration = Duration::from_secs(10);

/// Waits until the upstream has seen so many requests.
async fn arrived(stage: &Stage, count: usize) -> Result<()> {
    wait::until("the upstream to see the request", wait::LIMIT, async || {
        Ok((stage.diary.len() >= count).then_some(()))
    })
    .await
}

#[tokio::test]
async fn a_request_in_flight_outlives_sigterm() -> Result<()> {
    let mut stage = Stage::with(&simple(), &[], &["--drain-time-s", "5"]).await?;
    stage.script.set(&[Reply::text("late").after(800)], &[]);
    let mut conn = Conn::plain(stage.port("main")).await?;
    conn.send("GET /slow HTTP/1.1\r\nhost: test\r\n\r\n").await?;
    arrived(&stage, 1).await?;
    stage.proxy.signal(Signal::TERM)?;
    let response = conn.response("GET").await?;
    assert_eq!((response.status, response.text().as_str()), (200, "late"));
    assert_eq!(response.header("connection"), Some("close"), "a draining proxy says good-bye");
    let status = stage.proxy.exit(END).await?;
    assert_eq!(status.code(), Some(0), "{}", stage.proxy.output());
    Ok(())
}

#[tokio::test]
async fn an_h2_stream_in_flight_outlives_sigterm() -> Result<()> {
    let mut stage = Stage::with(&simple(), &[], &["--drain-time-s", "5"]).await?;
    stage.script.set(&[Reply::text("late").after(800)], &[]);
    let mut conn = Conn::plain(stage.port("main")).await?;
    conn.send(frames::preface()).await?;
    let request = [(":method", "GET"), (":scheme", "http"), (":authority", "test"), (":path", "/slow")];
    conn.send(frames::headers(1, true, &request)).await?;
    arrived(&stage, 1).await?;
    stage.proxy.signal(Signal::TERM)?;
    let (bytes, _) = conn.drain(END).await;
    let seen = frames::digest(&bytes);
    for wanted in ["stream 1 headers, status 200", "stream 1 ends with data", "goaway NO_ERROR"] {
        assert!(seen.iter().any(|line| line == wanted), "no {wanted:?} in {seen:?}");
    }
    assert_eq!(stage.proxy.exit(END).await?.code(), Some(0), "{}", stage.proxy.output());
    Ok(())
}

#[tokio::test]
async fn an_idle_proxy_ends_at_once() -> Result<()> {
    for signal in [Signal::TERM, Signal::INT] {
        let mut stage = Stage::new(&simple()).await?;
        assert_eq!(stage.get("/x").await?.status, 200);
        stage.proxy.signal(signal)?;
        assert_eq!(stage.proxy.exit(END).await?.code(), Some(0), "{}", stage.proxy.output());
    }
    Ok(())
}

#[tokio::test]
async fn idle_keep_alive_connections_do_not_hold_the_exit() -> Result<()> {
    let mut stage = Stage::new(&simple()).await?;
    let mut conn = Conn::plain(stage.port("main")).await?;
    conn.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n").await?;
    assert_eq!(conn.response("GET").await?.status, 200);
    stage.proxy.signal(Signal::TERM)?;
    let (_, end) = conn.drain(END).await;
    assert_ne!(end, "open");
    assert_eq!(stage.proxy.exit(END).await?.code(), Some(0));
    Ok(())
}

#[tokio::test]
async fn drained_listeners_accept_no_more() -> Result<()> {
    let stage = Stage::new(&simple()).await?;
    assert_eq!(stage.get("/x").await?.status, 200);
    assert_eq!(stage.proxy.admin_post("/drain_listeners").await?.status, 200);
    let port = stage.port("main");
    wait::until("the listener to close", wait::LIMIT, async || {
        Ok(Conn::plain(port).await.is_err().then_some(()))
    })
    .await?;
    assert_eq!(stage.proxy.admin("/server_info").await?.status, 200, "the process goes on");
    Ok(())
}

#[tokio::test]
async fn quitquitquit_ends_with_success() -> Result<()> {
    let mut stage = Stage::new(&simple()).await?;
    assert_eq!(stage.proxy.admin_post("/quitquitquit").await?.status, 200);
    assert_eq!(stage.proxy.exit(END).await?.code(), Some(0));
    Ok(())
}

/// CPU time of a process, in ticks of 10 ms.
fn ticks(pid: u32) -> Result<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().skip(11).take(2);
    fields.map(|field| Ok(field.parse::<u64>()?)).sum()
}

#[tokio::test]
async fn an_idle_connection_that_is_asked_to_go_costs_nothing() -> Result<()> {
    let stage = Stage::new(&simple()).await?;
    let mut conn = Conn::plain(stage.port("main")).await?;
    conn.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n").await?;
    assert_eq!(conn.response("GET").await?.status, 200);
    assert_eq!(stage.proxy.admin_post("/drain_listeners?graceful&skip_exit").await?.status, 200);
    let pid = stage.proxy.pid().context("it runs")?;
    let before = ticks(pid)?;
    let (_, end) = conn.drain(Duration::from_secs(1)).await;
    assert_eq!(end, "open", "its drain time is ten minutes");
    assert!(ticks(pid)? - before < 10, "{} ticks in a second", ticks(pid)? - before);
    Ok(())
}

#[tokio::test]
async fn whoever_waits_for_it_goes_on_when_it_is_ready_and_is_told_when_it_is_not() -> Result<()> {
    let stage = Stage::new(&simple()).await?;
    let outrider = outrider_tests::binary::outrider()?;
    let wait = async |port: u16, seconds: &str| {
        let admin = format!("127.0.0.1:{port}");
        let args = ["wait", "--admin", &admin, "--timeout-s", seconds];
        tokio::process::Command::new(&outrider).args(args).output().await
    };
    let ready = wait(stage.proxy.admin_port(), "20").await?;
    assert!(ready.status.success(), "{ready:?}");
    assert_eq!(stage.proxy.admin_post("/healthcheck/fail").await?.status, 200);
    let unready = wait(stage.proxy.admin_port(), "0").await?;
    assert_eq!(unready.status.code(), Some(1));
    let said = String::from_utf8_lossy(&unready.stderr).into_owned();
    assert!(said.contains("is not ready") && said.contains("503 DRAINING"), "{said}");
    // Port 1 is nobody's.
    let nobody = wait(1, "0").await?;
    assert_eq!(nobody.status.code(), Some(1));
    let said = String::from_utf8_lossy(&nobody.stderr).into_owned();
    assert!(said.contains("no proxy answers at 127.0.0.1:1"), "{said}");
    Ok(())
}
