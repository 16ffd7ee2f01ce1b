//! The upstreams: nginx where it can do the work, else this program's own helpers.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;

use crate::process::{Process, Spawn, free_port};

/// The body of every plain HTTP response: 64 bytes.
pub(crate) const BODY: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// How long an upstream may take to listen.
const START: Duration = Duration::from_secs(10);

/// nginx, one worker, answering a fixed body on an HTTP/1.1 and on a prior-knowledge h2 port.
#[derive(Debug)]
pub(crate) struct Nginx {
    /// The HTTP/1.1 port.
    pub(crate) http1: u16,
    /// The h2 port.
    pub(crate) http2: u16,
    _process: Process,
}

impl Nginx {
    /// Starts it on the given CPUs, with its files in `dir`.
    pub(crate) fn start(program: &Path, cpus: &str, dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let (http1, http2) = (free_port()?, free_port()?);
        let conf = dir.join("nginx.conf");
        fs::write(&conf, nginx_conf(dir, http1, http2))?;
        let mut process = Process::spawn(Spawn {
            name: "nginx",
            program,
            args: vec![
                "-e".into(),
                dir.join("nginx-error.log").display().to_string(),
                "-p".into(),
                dir.display().to_string(),
                "-c".into(),
                conf.display().to_string(),
            ],
            cpus,
            log: dir.join("nginx.log"),
            piped: false,
        })?;
        process.wait_listening(http1, START)?;
        process.wait_listening(http2, START)?;
        Ok(Self { http1, http2, _process: process })
    }
}

/// Limits that would make nginx close connections in the middle of a measurement are lifted.
fn nginx_conf(dir: &Path, http1: u16, http2: u16) -> String {
    let dir = dir.display();
    let server = |port: u16, protocol: &str| {
        format!(
            "  server {{ listen 127.0.0.1:{port}{protocol} backlog=4096;\n    location / {{ default_type text/plain; return 200 \"{BODY}\"; }} }}\n"
        )
    };
    format!(
        "daemon off;\nmaster_process off;\npid {dir}/nginx.pid;\nerror_log {dir}/nginx-error.log warn;\n\
         worker_rlimit_nofile 16384;\nevents {{ worker_connections 8192; }}\n\
         http {{\n  access_log off;\n  keepalive_requests 1000000000;\n  keepalive_timeout 3600s;\n  keepalive_time 24h;\n  \
         client_body_temp_path {dir}/body;\n  proxy_temp_path {dir}/proxy;\n  fastcgi_temp_path {dir}/fastcgi;\n  \
         uwsgi_temp_path {dir}/uwsgi;\n  scgi_temp_path {dir}/scgi;\n{}{}}}\n",
        server(http1, ""),
        server(http2, " http2"),
    )
}

/// One of this program's own servers, in a process of its own.
#[derive(Debug)]
pub(crate) struct HelperServer {
    /// Its port.
    pub(crate) port: u16,
    _process: Process,
}

impl HelperServer {
    /// Starts `helper NAME --port PORT`.
    pub(crate) fn start(name: &str, cpus: &str, dir: &Path) -> Result<Self> {
        let port = free_port()?;
        let mut process = spawn_helper(name, &["--port", &port.to_string()], cpus, dir, false)?;
        process.wait_listening(port, START)?;
        Ok(Self { port, _process: process })
    }
}

/// Starts this program again as one of its helpers.
pub(crate) fn spawn_helper(
    name: &str,
    args: &[&str],
    cpus: &str,
    dir: &Path,
    piped: bool,
) -> Result<Process> {
    let mut all = vec!["helper".to_owned(), name.to_owned()];
    all.extend(args.iter().map(|&a| a.to_owned()));
    Process::spawn(Spawn {
        name,
        program: &std::env::current_exe()?,
        args: all,
        cpus,
        log: dir.join(format!("helper-{name}.log")),
        piped,
    })
}
