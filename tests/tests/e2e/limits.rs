//! What must not grow, and what must not kill.

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use bytes::Bytes;
use outrider_tests::{
    binary, bootstrap::Bootstrap, client::Conn, ports::Lease, proxy::Proxy, reply::Reply, upstream::Upstream,
    wait,
};

use crate::start::{ALL, Stage, places, simple};

/// The resident memory of a process in MiB.
fn rss(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    // What the proxy allocated: pages of its own file come and go with the code that runs.
    let line = status.lines().find(|l| l.starts_with("RssAnon:")).context("no RssAnon")?;
    let kib: u64 = line.split_whitespace().nth(1).context("no value")?.parse()?;
    Ok(kib / 1024)
}

/// Waits until a counter stands still, having moved at all.
async fn settled(proxy: &Proxy, stat: &str) -> Result<u64> {
    let (mut last, mut calm) = (0, 0);
    wait::until("the flow to stop", wait::LIMIT, async || {
        let now = proxy.stat(stat).await?.unwrap_or(0);
        calm = if now > 0 && now == last { calm + 1 } else { 0 };
        last = now;
        Ok((calm >= 40).then_some(now))
    })
    .await
}

const MIB: usize = 1 << 20;
const PIECES: usize = 96;

fn flood() -> Reply {
    let piece = Bytes::from(vec![b'x'; MIB]);
    Reply { body: vec![piece; PIECES], ..Reply::status(200) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_http_reader_does_not_make_memory_grow() -> Result<()> {
    let stage = Stage::new(&simple()).await?;
    stage.script.set(&[flood()], &[]);
    let pid = stage.proxy.pid().context("it runs")?;
    let before = rss(pid)?;
    let mut conn = Conn::plain(stage.port("main")).await?;
    conn.send("GET /big HTTP/1.1\r\nhost: test\r\n\r\n").await?;
    let stopped = settled(&stage.proxy, "cluster.up.upstream_cx_rx_bytes_total").await?;
    let grown = rss(pid)?.saturating_sub(before);
    assert!(grown < 12, "{grown} MiB more for a reader that reads nothing");
    assert!(stopped < (PIECES * MIB) as u64 / 2, "{stopped} bytes were taken from the upstream");
    let response = conn.response("GET").await?;
    assert_eq!((response.status, response.body.len()), (200, PIECES * MIB), "then all of it arrives");
    assert!(rss(pid)?.saturating_sub(before) < 12);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_upstream_does_not_make_memory_grow() -> Result<()> {
    let stage = Stage::new(&simple()).await?;
    stage.script.set(&[Reply::text("done").reads_after(1_500)], &[]);
    let pid = stage.proxy.pid().context("it runs")?;
    let before = rss(pid)?;
    let mut conn = Conn::plain(stage.port("main")).await?;
    conn.send(format!("POST /big HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n\r\n", 64 * MIB)).await?;
    let piece = vec![b'y'; MIB];
    let mut most = 0;
    for _ in 0..64 {
        conn.send(&piece).await?;
        most = most.max(rss(pid)?.saturating_sub(before));
    }
    assert_eq!(conn.response("POST").await?.status, 200);
    assert!(most < 12, "{most} MiB more for an upstream that reads late");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn running_out_of_files_slows_accepting_and_kills_nothing() -> Result<()> {
    let (upstream, _diary, _script) = Upstream::http("up").await?;
    let bootstrap = simple();
    let (mut values, _leases): (_, Vec<Lease>) = places(&bootstrap)?;
    values.insert("up".to_owned(), upstream.address().port().to_string());
    let dir = binary::scratch("emfile")?;
    let file = dir.join("bootstrap.yaml");
    fs::write(&file, bootstrap.render(&values))?;
    // Both limits: the proxy raises the soft one to the hard one.
    let script = format!(
        "ulimit -Hn 96; ulimit -Sn 96; exec {} -c {} --concurrency 1 --disable-hot-restart",
        binary::outrider()?.display(),
        file.display()
    );
    let (admin, port): (u16, u16) = (values["admin"].parse()?, values["main"].parse()?);
    let args = ["-c".to_owned(), script];
    let proxy = Proxy::command(std::path::Path::new("/bin/sh"), &args, admin, dir)?;
    wait::until("the proxy to be ready", Duration::from_secs(20), async || {
        Ok(proxy.admin("/ready").await.ok().filter(|r| r.status == 200).map(drop))
    })
    .await
    .with_context(|| proxy.output())?;
    let mut crowd = Vec::new();
    for _ in 0..200 {
        // The kernel accepts for the backlog; the proxy cannot.
        crowd.push(Conn::plain(port).await?);
    }
    proxy.wait_log("oo many open files").await.ok();
    drop(crowd);
    let response = wait::until("a request to pass again", wait::LIMIT, async || {
        let Ok(mut conn) = Conn::plain(port).await else { return Ok(None) };
        conn.send("GET /direct HTTP/1.1\r\nhost: test\r\n\r\n").await?;
        Ok(conn.response("GET").await.ok())
    })
    .await
    .with_context(|| proxy.output())?;
    assert_eq!(response.status, 200);
    assert!(proxy.pid().is_some());
    Ok(())
}

#[tokio::test]
async fn a_web_socket_that_says_nothing_for_too_long_is_ended() -> Result<()> {
    let hcm = format!("{ALL}\nstream_idle_timeout: 0.5s\nupgrade_configs: [ {{ upgrade_type: websocket }} ]");
    let stage = Stage::new(&Bootstrap::new().http("main", &hcm).hosts("up", &["up"], "")).await?;
    stage.script.set(&[Reply::switch("websocket")], &[]);
    let mut conn = Conn::plain(stage.port("main")).await?;
    conn.send("GET / HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n").await?;
    assert_eq!(conn.response("GET").await?.status, 101);
    for _ in 0..4 {
        conn.send("hello").await?;
        assert_eq!(conn.read_until(|all| all.len() >= 5).await?, b"hello");
    }
    let (rest, end) = conn.drain(wait::LIMIT).await;
    assert!(rest.is_empty() && end != "open", "{rest:?}, {end}");
    assert_eq!(stage.proxy.stat("http.main.downstream_rq_idle_timeout").await?, Some(1));
    Ok(())
}
