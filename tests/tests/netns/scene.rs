//! The bootstrap, the servers, and what clients do.

use std::{collections::BTreeMap, fs, net::Ipv4Addr, time::Duration};

use anyhow::{Context as _, Result};
use outrider_tests::{
    binary,
    bootstrap::{Bootstrap, access_log, hcm_filter, indent, tcp_filter},
    proxy::{Kind, Proxy},
    wait,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, TcpStream},
};

/// Where servers listen.
pub(crate) const SERVERS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 1, 2, 3), Ipv4Addr::new(10, 1, 2, 4)];
/// Whose connections are redirected: the first to Outrider, the second to Envoy.
pub(crate) const CLIENTS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 9, 9, 1), Ipv4Addr::new(10, 9, 9, 2)];
/// Where to.
pub(crate) const PORTS: [u16; 2] = [15001, 15002];

const LIMIT: Duration = Duration::from_secs(10);

/// What is shown of a step: what the client read, and the line of the log.
type Shown = (String, String);

/// Each step: where the client goes, and the path it asks for; no path is no HTTP.
const STEPS: [(Ipv4Addr, u16, Option<&str>); 7] = [
    (SERVERS[0], 80, Some("/a")),
    (SERVERS[1], 80, Some("/b")),
    (SERVERS[0], 80, Some("/direct")),
    (SERVERS[0], 81, None),
    (SERVERS[0], 82, None),
    (SERVERS[1], 82, None),
    (SERVERS[0], 83, None),
];

/// What every step must show.
pub(crate) fn wanted() -> Vec<Shown> {
    let shown = |read: &str, log: &str| (read.to_owned(), log.to_owned());
    vec![
        shown("200 10.1.2.3:80 /a", "web 200 - local=10.1.2.3:80 up=10.1.2.3:80"),
        shown("200 10.1.2.4:80 /b", "web 200 - local=10.1.2.4:80 up=10.1.2.4:80"),
        shown("200 direct", "web 200 - local=10.1.2.3:80 up=-"),
        shown("hello from 10.1.2.4:82", "exact 0 - local=10.1.2.3:81 up=10.1.2.4:82"),
        shown("hello from 10.1.2.3:82", "tcp 0 - local=10.1.2.3:82 up=10.1.2.3:82"),
        shown("hello from 10.1.2.4:82", "tcp 0 - local=10.1.2.4:82 up=10.1.2.4:82"),
        shown("", "tcp 0 UF,URX local=10.1.2.3:83 up=10.1.2.3:83"),
        // Not redirected: there is no original destination to go to.
        shown("503 no healthy upstream", "unredirected 503 UH local=127.0.0.1 up=-"),
        shown("", "tcp 0 UH local=127.0.0.1 up=-"),
    ]
}

/// Servers on port 80 (HTTP) and 82 (TCP) of each address; they live as long as the process.
pub(crate) async fn start_servers() -> Result<()> {
    for address in SERVERS {
        let web = TcpListener::bind((address, 80)).await?;
        tokio::spawn(async move {
            while let Ok((stream, _)) = web.accept().await {
                tokio::spawn(answer(stream, format!("{address}:80")));
            }
        });
        let tcp = TcpListener::bind((address, 82)).await?;
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = tcp.accept().await {
                // A client that is gone shows in what it read.
                let _ = stream.write_all(format!("hello from {address}:82").as_bytes()).await;
            }
        });
    }
    Ok(())
}

async fn answer(mut stream: TcpStream, name: String) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8_lossy(&head);
    let path = head.split(' ').nth(1).unwrap_or_default();
    let body = format!("{name} {path}");
    let answer =
        format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let _ = stream.write_all(answer.as_bytes()).await;
}

/// Runs all steps with a proxy of its own.
pub(crate) async fn play(kind: Kind, number: usize) -> Result<Vec<Shown>> {
    let dir = binary::scratch("netns")?;
    let (port, client) = (PORTS[number], CLIENTS[number]);
    let admin = port + 100;
    let places = BTreeMap::from([
        ("admin".to_owned(), admin.to_string()),
        ("virtual".to_owned(), port.to_string()),
        ("unredirected".to_owned(), (port + 10).to_string()),
        ("dir".to_owned(), dir.display().to_string()),
    ]);
    let _proxy = Proxy::start(kind, &bootstrap().render(&places), admin, &[]).await?;
    let log = dir.join("access.log");
    let mut shown = Vec::new();
    let mut seen = 0;
    for (address, to, path) in STEPS {
        let socket = TcpSocket::new_v4()?;
        socket.bind((client, 0).into())?;
        let read = talk(socket, address, to, path).await.with_context(|| format!("step {seen}"))?;
        shown.push((read, line(&log, &mut seen).await?));
    }
    // The last is for Outrider alone: Envoy takes its own address for the destination, and connects to itself until a
    // breaker opens.
    let last: &[_] = if kind == Kind::Outrider { &[(port, None)] } else { &[] };
    for (to, path) in [(port + 10, Some("/x"))].iter().chain(last) {
        let (to, path) = (*to, *path);
        let socket = TcpSocket::new_v4()?;
        let read =
            talk(socket, Ipv4Addr::LOCALHOST, to, path).await.with_context(|| format!("step {seen}"))?;
        shown.push((read, line(&log, &mut seen).await?));
    }
    for (_, line) in &mut shown {
        *line = line
            .replace(&format!("127.0.0.1:{}", port + 10), "127.0.0.1")
            .replace(&format!("127.0.0.1:{port}"), "127.0.0.1");
    }
    Ok(shown)
}

async fn talk(socket: TcpSocket, address: Ipv4Addr, port: u16, path: Option<&str>) -> Result<String> {
    let mut stream =
        wait::within("to connect", LIMIT, async { Ok(socket.connect((address, port).into()).await?) })
            .await?;
    if let Some(path) = path {
        let request = format!("GET {path} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
    }
    let mut read = Vec::new();
    wait::within("the end", LIMIT, async {
        // A reset ends it as well as a close.
        let _ = stream.read_to_end(&mut read).await;
        Ok(())
    })
    .await?;
    let text = String::from_utf8_lossy(&read);
    Ok(match text.split_once("\r\n\r\n") {
        Some((head, body)) => format!("{} {body}", head.split(' ').nth(1).unwrap_or_default()),
        None => text.into_owned(),
    })
}

/// The next line of the log.
async fn line(log: &std::path::Path, seen: &mut usize) -> Result<String> {
    let line = wait::until("a line of the log", LIMIT, async || {
        Ok(fs::read_to_string(log).unwrap_or_default().lines().nth(*seen).map(str::to_owned))
    })
    .await
    .with_context(|| format!("line {seen} of {}", log.display()))?;
    *seen += 1;
    Ok(line)
}

fn bootstrap() -> Bootstrap {
    let log = |name: &str| {
        access_log(&format!(
            "{name} %RESPONSE_CODE% %RESPONSE_FLAGS% local=%DOWNSTREAM_LOCAL_ADDRESS% up=%UPSTREAM_HOST%"
        ))
    };
    let tcp = |name: &str, cluster: &str| tcp_filter(name, &format!("cluster: {cluster}\n{}", log(name)));
    let http = |name: &str| {
        let routes = "route_config: { virtual_hosts: [ { name: all, domains: [\"*\"], routes: [ { match: { prefix: /direct }, direct_response: { status: 200, body: { inline_string: direct } } }, { match: { prefix: / }, route: { cluster: orig } } ] } ] }\n";
        hcm_filter(name, &format!("{routes}{}", log(name)))
    };
    let listener = |name: &str, address: &str, port: &str, more: &str, filter: &str| {
        format!(
            "- name: {name}\n  address: {{ socket_address: {{ address: {address}, port_value: {port} }} }}\n{}  filter_chains:\n  - filters:\n{}",
            indent(2, more),
            indent(4, filter)
        )
    };
    Bootstrap::new()
        .raw_listener(&listener("virtual", "0.0.0.0", "@{virtual}", "use_original_dst: true", &tcp("tcp", "orig")))
        .raw_listener(&listener("web", "0.0.0.0", "80", "bind_to_port: false", &http("web")))
        .raw_listener(&listener("exact", "10.1.2.3", "81", "bind_to_port: false", &tcp("exact", "fixed")))
        .raw_listener(&listener("unredirected", "127.0.0.1", "@{unredirected}", "", &http("unredirected")))
        .cluster("orig", "connect_timeout: 2s\ntype: ORIGINAL_DST\nlb_policy: CLUSTER_PROVIDED\n")
        .cluster(
            "fixed",
            "connect_timeout: 2s\ntype: STATIC\nload_assignment:\n  cluster_name: fixed\n  endpoints:\n  - lb_endpoints:\n    - endpoint: { address: { socket_address: { address: 10.1.2.4, port_value: 82 } } }\n",
        )
}
