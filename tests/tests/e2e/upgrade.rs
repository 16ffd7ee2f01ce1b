//! Another process takes over: under load, when it fails, a second time.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use outrider_tests::{
    binary,
    bootstrap::Bootstrap,
    client::Conn,
    crowd::{Client, Crowd},
    ports::Lease,
    proxy::Proxy,
    record::Diary,
    reply::{Reply, Script},
    upstream::Upstream,
    wait,
};
use rustix::{
    process::{Signal, Uid, geteuid},
    thread::set_thread_uid,
};
use tokio::{sync::watch, task::JoinHandle};

use crate::start::{places, simple};

const CROWD: [(Client, usize); 2] = [(Client::Http1, 4), (Client::Http2, 3)];
const PACE: Duration = Duration::from_millis(3);

/// How long an end may take that is not waited for by anybody.
const END: Duration = Duration::from_secs(20);

/// A proxy that may be upgraded.
struct Scene {
    proxy: Proxy,
    port: u16,
    socket: PathBuf,
    config: PathBuf,
    diary: Diary,
    script: Script,
    _upstream: Upstream,
    _leases: Vec<Lease>,
}

impl Scene {
    async fn new(bootstrap: &Bootstrap, workers: &str, more: &[&str]) -> Result<Self> {
        let (upstream, diary, script) = Upstream::http("up").await?;
        let (mut places, leases): (BTreeMap<String, String>, _) = places(bootstrap)?;
        places.insert("up".to_owned(), upstream.address().port().to_string());
        // A path of a socket is short.
        let dir = std::env::temp_dir().join(format!("outrider-{}-{}", std::process::id(), places["admin"]));
        fs::create_dir_all(&dir)?;
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755))?;
        let (config, socket) = (dir.join("bootstrap.yaml"), dir.join("upgrade.sock"));
        fs::write(&config, bootstrap.render(&places))?;
        let mut args: Vec<String> =
            ["--concurrency", workers, "--file-flush-interval-msec", "5", "-c"].map(str::to_owned).to_vec();
        args.push(config.display().to_string());
        args.extend(["--upgrade-socket".to_owned(), socket.display().to_string()]);
        args.extend(more.iter().map(|arg| (*arg).to_owned()));
        let admin = places["admin"].parse()?;
        let proxy = Proxy::command(&binary::outrider()?, &args, admin, dir)?;
        wait::until("the proxy to be ready", wait::LIMIT, async || {
            Ok(proxy.admin("/ready").await.ok().filter(|answer| answer.status == 200).map(drop))
        })
        .await
        .with_context(|| proxy.output())?;
        let port = places["main"].parse()?;
        Ok(Self { proxy, port, socket, config, diary, script, _upstream: upstream, _leases: leases })
    }

    /// Asks for an upgrade: whether there was one, and all that was said of it.
    async fn upgrade(&self, binary: &Path, limit_s: u64) -> Result<(bool, String)> {
        let mut command = tokio::process::Command::new(binary::outrider()?);
        command.args(["upgrade", "--timeout-s", &limit_s.to_string(), "--binary"]).arg(binary);
        command.arg("--socket").arg(&self.socket).kill_on_drop(true);
        let output =
            wait::within("the upgrade", 3 * wait::LIMIT, async { Ok(command.output().await?) }).await?;
        let text = [output.stdout, output.stderr].concat();
        Ok((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
    }

    /// The same, where it is to be done.
    async fn upgraded(&self) -> Result<()> {
        let (done, said) = self.upgrade(&binary::outrider()?, 60).await?;
        ensure!(done, "{said}\n{}", self.proxy.output());
        Ok(())
    }

    async fn get(&self) -> Result<u16> {
        let mut conn = Conn::plain(self.port).await?;
        conn.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n").await?;
        Ok(conn.response("GET").await?.status)
    }

    /// Waits until the process that was started first is nothing but a shepherd.
    async fn shepherd(&self) -> Result<()> {
        let pid = self.proxy.pid().context("the first process is gone")?;
        wait::until("the first process to be a shepherd", wait::LIMIT, async || {
            let line = fs::read_to_string(format!("/proc/{pid}/cmdline"))?;
            Ok(line.split('\0').any(|word| word == "shepherd").then_some(()))
        })
        .await
        .with_context(|| self.proxy.output())
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        // Only a little rubbish where it fails.
        if let Some(dir) = self.socket.parent() {
            let _ = fs::remove_dir_all(dir);
        }
    }
}

/// Somebody who makes a connection for each request. What went wrong; it ends when it is told to.
fn newcomer(port: u16, stop: watch::Receiver<bool>) -> JoinHandle<(u64, Vec<String>)> {
    tokio::spawn(async move {
        let (mut done, mut troubles) = (0, Vec::new());
        while !*stop.borrow() {
            let served = async {
                let mut conn = Conn::plain(port).await?;
                conn.send("GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").await?;
                let response = conn.response("GET").await?;
                ensure!(response.status == 200, "answered {}", response.status);
                anyhow::Ok(())
            };
            match wait::within("an answer", wait::LIMIT, served).await {
                Ok(()) => done += 1,
                Err(error) => troubles.push(format!("{error:#}")),
            }
        }
        (done, troubles)
    })
}

#[tokio::test]
async fn an_upgrade_under_load_fails_no_request_and_goes_on_counting() -> Result<()> {
    let scene =
        Scene::new(&simple(), "3", &["--drain-strategy", "immediate", "--drain-time-s", "30"]).await?;
    let (stop, stopped) = watch::channel(false);
    let newcomers: Vec<_> = (0..3).map(|_| newcomer(scene.port, stopped.clone())).collect();
    let mut crowd = Crowd::start(scene.port, None, &CROWD, PACE);
    crowd.round().await?;
    scene.upgraded().await?;
    crowd.round().await?;
    // Who was there has gone over to the new process, which nobody had to be cut off for.
    scene.proxy.wait_log("has handed over all it had").await?;
    scene.shepherd().await?;
    crowd.round().await?;
    stop.send_replace(true);
    for newcomer in newcomers {
        let (done, troubles) = newcomer.await?;
        ensure!(done > 0 && troubles.is_empty(), "{done} new connections were served, but {troubles:?}");
    }
    crowd.leave().await?;
    for (client, _) in CROWD {
        let tally = crowd.tally(client);
        ensure!(
            tally.done > 0 && tally.failed == 0,
            "{}: {tally:?}\n{}",
            client.name(),
            scene.proxy.output()
        );
    }
    assert_eq!(scene.proxy.stat("server.hot_restart_epoch").await?, Some(1));
    assert_eq!(scene.proxy.stat("server.upgrades").await?, Some(1), "the old process counted it");
    // Each request that the upstream has seen was counted, by the one or by the other.
    let seen = scene.diary.len() as u64;
    scene.proxy.wait_stat("cluster.up.upstream_rq_total", |counted| counted == seen).await?;
    assert!(!scene.proxy.output().contains("are cut off"), "{}", scene.proxy.output());
    Ok(())
}

#[tokio::test]
async fn idle_connections_to_upstreams_go_along() -> Result<()> {
    let scene = Scene::new(&simple(), "1", &["--drain-time-s", "60"]).await?;
    let mut first = Conn::plain(scene.port).await?;
    first.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n").await?;
    assert_eq!(first.response("GET").await?.status, 200);
    scene.upgraded().await?;
    // It is told this after all that was idle.
    scene.proxy.wait_stat("server.parent_connections", |open| open == 1).await?;
    assert_eq!(scene.get().await?, 200);
    let connections: Vec<_> = scene.diary.since(0).iter().map(|seen| seen.connection).collect();
    assert_eq!(connections, [0, 0], "the upstream was connected to anew");
    Ok(())
}

#[tokio::test]
async fn what_cannot_take_over_changes_nothing() -> Result<()> {
    let scene = Scene::new(&simple(), "1", &["--drain-time-s", "5"]).await?;
    let good = fs::read_to_string(&scene.config)?;
    let sleeper = scene.config.with_file_name("sleeper");
    fs::write(&sleeper, "#!/bin/sh\necho I shall sleep >&2\nexec sleep 600\n")?;
    fs::set_permissions(&sleeper, fs::Permissions::from_mode(0o755))?;
    let attempts = [
        (Path::new("/no/such/binary"), 30, "/no/such/binary cannot be run"),
        (Path::new("/bin/false"), 30, "ended before it was ready: exit status: 1; it said nothing"),
        (sleeper.as_path(), 1, "not ready within 1s"),
        (sleeper.as_path(), 1, "I shall sleep"),
    ];
    for (failed, (binary, limit, wanted)) in attempts.into_iter().enumerate() {
        let (done, said) = scene.upgrade(binary, limit).await?;
        assert!(!done && said.contains(wanted) && said.contains("the proxy goes on"), "{said}");
        assert_eq!(scene.get().await?, 200);
        assert_eq!(scene.proxy.stat("server.upgrades_failed").await?, Some(failed as u64 + 1));
    }
    // A configuration that the new process refuses: it says why.
    fs::write(&scene.config, format!("no_such_field: 1\n{good}"))?;
    let (done, said) = scene.upgrade(&binary::outrider()?, 30).await?;
    assert!(!done && said.contains("no_such_field"), "{said}");
    assert_eq!(scene.get().await?, 200);
    assert_eq!(scene.proxy.stat("server.upgrades").await?, None);
    // And then it can be done all the same.
    fs::write(&scene.config, good)?;
    scene.upgraded().await?;
    assert_eq!(scene.get().await?, 200);
    Ok(())
}

#[tokio::test]
async fn a_request_outlives_two_upgrades_and_one_signal_ends_all() -> Result<()> {
    let mut scene = Scene::new(&simple(), "2", &["--drain-time-s", "60"]).await?;
    scene.script.set(&[Reply::text("late").after(3000)], &[]);
    let mut conn = Conn::plain(scene.port).await?;
    conn.send("GET /slow HTTP/1.1\r\nhost: test\r\n\r\n").await?;
    wait::until("the upstream to see the request", wait::LIMIT, async || {
        Ok((!scene.diary.is_empty()).then_some(()))
    })
    .await?;
    scene.upgraded().await?;
    assert_eq!(scene.get().await?, 200);
    scene.upgraded().await?;
    assert_eq!(scene.get().await?, 200);
    assert_eq!(scene.proxy.stat("server.hot_restart_epoch").await?, Some(2));
    let response = conn.response("GET").await?;
    assert_eq!((response.status, response.text().as_str()), (200, "late"));
    drop(conn);
    // The second one has gone, its child is the shepherd's.
    scene.shepherd().await?;
    assert_eq!(scene.get().await?, 200);
    scene.proxy.signal(Signal::TERM)?;
    let status = scene.proxy.exit(END).await?;
    assert_eq!(status.code(), Some(0), "{}", scene.proxy.output());
    assert!(Conn::plain(scene.port).await.is_err(), "somebody still listens");
    Ok(())
}

#[tokio::test]
async fn a_signal_while_the_old_process_finishes_ends_both() -> Result<()> {
    let mut scene = Scene::new(&simple(), "1", &["--drain-time-s", "60"]).await?;
    // It does nothing, and may stay until the drain time is over.
    let mut idle = Conn::plain(scene.port).await?;
    idle.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n").await?;
    assert_eq!(idle.response("GET").await?.status, 200);
    scene.upgraded().await?;
    scene.proxy.wait_log("took over: 1 connections here may finish").await?;
    assert_eq!(scene.get().await?, 200);
    scene.proxy.signal(Signal::TERM)?;
    let status = scene.proxy.exit(END).await?;
    assert_eq!(status.code(), Some(0), "{}", scene.proxy.output());
    Ok(())
}

#[tokio::test]
async fn strangers_are_refused() -> Result<()> {
    if !geteuid().is_root() {
        // Only root can be somebody else.
        return Ok(());
    }
    let scene = Scene::new(&simple(), "1", &["--drain-time-s", "5"]).await?;
    let mode = fs::metadata(&scene.socket)?.permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    // Even with a socket that lets them in.
    fs::set_permissions(&scene.socket, fs::Permissions::from_mode(0o666))?;
    let socket = scene.socket.clone();
    let said = tokio::task::spawn_blocking(move || as_stranger(&socket)).await??;
    assert!(said.contains("failed") && said.contains("uid 65534 may not upgrade"), "{said}");
    assert_eq!(scene.proxy.stat("server.upgrades").await?, None);
    assert_eq!(scene.get().await?, 200);
    Ok(())
}

/// Asks for an upgrade as somebody else; the answer.
fn as_stranger(socket: &Path) -> Result<String> {
    let socket = socket.to_owned();
    // Of this thread alone, which ends with it.
    let asked = std::thread::spawn(move || -> Result<String> {
        use std::io::{BufRead as _, BufReader, Write as _};
        set_thread_uid(Uid::from_raw(65534))?;
        let mut stream = UnixStream::connect(&socket)?;
        stream.set_read_timeout(Some(wait::LIMIT))?;
        // It may be refused before it is read.
        let _ = stream.write_all(b"{\"binary\":\"/bin/true\",\"timeout_ms\":1000}\n");
        let mut line = String::new();
        BufReader::new(stream).read_line(&mut line)?;
        Ok(line)
    });
    match asked.join() {
        Ok(answer) => answer,
        Err(_) => bail!("the stranger panicked"),
    }
}
