//! Where connections arrive.

use std::net::{SocketAddr, UdpSocket};

use anyhow::{Context as _, Result, ensure};

use crate::servers::{Kind, Server, datagrams, listen};
use crate::world::{From, LIMIT, NETS, NOTHING, Namespace, Net, PROXY, USER, World, ask};

/// All of a mode and a backend.
pub(crate) fn play(mode: &str, backend: &str) -> Result<()> {
    let world = World::new()?;
    let servers = serve(&world, mode)?;
    serve_datagrams(&world)?;
    world.pod.must(&format!("apply --mode {mode} --backend {backend} {OPTIONS}"))?;
    for net in NETS {
        outbound(&world, &net).with_context(|| format!("outbound {}", net.pod))?;
        within(&world, &net).with_context(|| format!("within {}", net.pod))?;
        inbound(&world, &net).with_context(|| format!("inbound {}", net.pod))?;
        if mode == "tproxy" {
            shown_client(&world, &net).with_context(|| format!("the client's address, {}", net.pod))?;
        }
        untouched(&world, &net).with_context(|| format!("UDP {}", net.pod))?;
    }
    counted(&world)?;
    drop(servers);
    // Nobody listens any more, but the applications: what is captured is lost, and never let by.
    let apps = applications(&world)?;
    for net in NETS {
        let said = ask(&world.outside, in_vain(0), (net.pod, 8080).into());
        ensure!(said.is_err(), "without a proxy {said:?}");
        let said = ask(&world.pod, in_vain(USER), (net.outside, 80).into());
        ensure!(said.is_err(), "without a proxy {said:?}");
    }
    drop(apps);
    Ok(())
}

const OPTIONS: &str = "--exclude-outbound-ports 22,2000-2010 --exclude-inbound-ports 9090 --exclude-uids 1001 \
                       --exclude-outbound-cidrs 10.77.0.128/25,fd77::8000/113";

pub(crate) fn serve(world: &World, mode: &str) -> Result<Vec<Server>> {
    let mut servers = applications(world)?;
    for v6 in [false, true] {
        let inbound =
            if mode == "tproxy" { Kind::Transparent("inbound") } else { Kind::Redirected("inbound") };
        servers.push(listen(&world.pod, v6, 15006, inbound)?);
        servers.push(listen(&world.pod, v6, 15001, Kind::Redirected("outbound"))?);
    }
    Ok(servers)
}

/// These stay as long as the process.
fn serve_datagrams(world: &World) -> Result<()> {
    for net in NETS {
        datagrams(&world.outside, net.outside, 53, "resolver")?;
        datagrams(&world.pod, net.pod, 5353, "datagrams")?;
    }
    Ok(())
}

fn applications(world: &World) -> Result<Vec<Server>> {
    let mut servers = Vec::new();
    for v6 in [false, true] {
        for port in [8080, 9090, 15021] {
            servers.push(listen(&world.pod, v6, port, Kind::App("app"))?);
        }
        for port in [80, 22, 2005] {
            servers.push(listen(&world.outside, v6, port, Kind::App("outside"))?);
        }
    }
    Ok(servers)
}

/// What is said must be this.
fn says(from: &Namespace, by: From, target: impl Into<SocketAddr>, wanted: &str) -> Result<()> {
    let target = target.into();
    let said = ask(from, by, target)?;
    ensure!(said == wanted, "{by:?} to {target}: {said:?}, not {wanted:?}");
    Ok(())
}

/// Who is not to be answered.
pub(crate) fn in_vain(id: u32) -> From {
    From { limit: NOTHING, ..From::owner(id, id) }
}

fn outbound(world: &World, net: &Net) -> Result<()> {
    let (pod, user) = (&world.pod, From::owner(USER, USER));
    let target = |port| SocketAddr::new(net.outside, port);
    says(pod, user, target(80), &format!("outbound to {} from {}", target(80), net.pod))?;
    // Nobody is there, and the proxy will find out.
    says(pod, user, target(81), &format!("outbound to {} from {}", target(81), net.pod))?;
    says(pod, From::owner(0, 0), target(80), &format!("outbound to {} from {}", target(80), net.pod))?;
    let direct = format!("outside from {}", net.pod);
    says(pod, From::owner(PROXY, PROXY), target(80), &direct)?;
    says(pod, From::owner(PROXY, USER), target(80), &direct)?;
    says(pod, From::owner(USER, PROXY), target(80), &direct)?;
    says(pod, From::owner(1001, USER), target(80), &direct)?;
    says(pod, user, target(22), &direct)?;
    says(pod, user, target(2005), &direct)
}

fn within(world: &World, net: &Net) -> Result<()> {
    let (pod, user, proxy) = (&world.pod, From::owner(USER, USER), From::owner(PROXY, PROXY));
    let app = |from| format!("app from {from}");
    says(pod, user, (net.loopback, 8080), &app(net.loopback))?;
    says(pod, user, (net.pod, 8080), &app(net.pod))?;
    says(pod, proxy, (net.loopback, 8080), &app(net.loopback))?;
    // The application asked for its own service, and the proxy chose this pod.
    let target = SocketAddr::new(net.pod, 8080);
    says(pod, proxy, target, &format!("inbound to {target} from {}", net.pod))?;
    says(pod, proxy, (net.pod, 9090), &app(net.pod))?;
    // The proxy hands an inbound connection to the application.
    let inbound = From { bind: Some(net.inbound), ..proxy };
    says(pod, inbound, target, &app(net.inbound))
}

fn inbound(world: &World, net: &Net) -> Result<()> {
    let (outside, anybody) = (&world.outside, From::owner(0, 0));
    for port in [8080, 8081] {
        let target = SocketAddr::new(net.pod, port);
        says(outside, anybody, target, &format!("inbound to {target} from {}", net.outside))?;
    }
    let direct = format!("app from {}", net.outside);
    says(outside, anybody, (net.pod, 9090), &direct)?;
    says(outside, anybody, (net.pod, 15021), &direct)
}

/// The proxy speaks to the application as the client, and hears the answer.
fn shown_client(world: &World, net: &Net) -> Result<()> {
    let client = From { owner: (0, PROXY), bind: Some(net.outside), mark: PROXY, limit: LIMIT };
    says(&world.pod, client, (net.pod, 8080), &format!("app from {}", net.outside))
}

fn untouched(world: &World, net: &Net) -> Result<()> {
    let said = datagram(&world.pod, (USER, USER), (net.outside, 53).into())?;
    ensure!(said == "resolver", "{said}");
    let said = datagram(&world.outside, (0, 0), (net.pod, 5353).into())?;
    ensure!(said == "datagrams", "{said}");
    Ok(())
}

fn datagram(namespace: &Namespace, owner: (u32, u32), target: SocketAddr) -> Result<String> {
    let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let asked = || -> std::io::Result<String> {
        let socket = UdpSocket::bind(any)?;
        socket.set_read_timeout(Some(LIMIT))?;
        socket.connect(target)?;
        socket.send(b"?")?;
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer)?;
        Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
    };
    namespace.as_owner(owner, asked)?.with_context(|| format!("a datagram to {target} by {owner:?}"))
}

/// What was let by is counted, connection by connection.
fn counted(world: &World) -> Result<()> {
    let (_, said) = world.pod.capture(&format!("verify --rules-only --counters {OPTIONS}"))?;
    for (why, count) in [
        ("bypass: excluded outbound port", 2),
        ("bypass: excluded user or group", 1),
        // From outside, and the proxy's own.
        ("bypass: excluded inbound port", 2),
    ] {
        let lines: Vec<_> = said.lines().filter(|it| it.ends_with(why)).collect();
        let wanted = format!("{count:>10}  {why}");
        ensure!(lines == [&wanted, &wanted], "{why}: {said}");
    }
    Ok(())
}

/// Questions of DNS, if they are captured: those of applications, not the proxy's, by UDP and TCP.
pub(crate) fn dns() -> Result<()> {
    for backend in ["nft", "iptables"] {
        let world = World::new()?;
        let mut servers = serve(&world, "redirect")?;
        serve_datagrams(&world)?;
        for net in NETS {
            // A server on all addresses would answer from the pod's, which is not where the question went.
            datagrams(&world.pod, net.loopback, 15053, "captured")?;
            servers.push(listen(&world.pod, net.pod.is_ipv6(), 15053, Kind::Redirected("DNS"))?);
        }
        world.pod.must(&format!("apply --backend {backend} --dns-port 15053"))?;
        for net in NETS {
            let target = SocketAddr::new(net.outside, 53);
            for (owner, wanted) in [((USER, USER), "captured"), ((PROXY, PROXY), "resolver")] {
                let said = datagram(&world.pod, owner, target)?;
                ensure!(said == wanted, "{backend} {owner:?} {target}: {said}");
            }
            let wanted = format!("DNS to {target} from {}", net.pod);
            says(&world.pod, From::owner(USER, USER), target, &wanted)?;
        }
        // From the very port from which the application asked: the answer is not taken for one to it.
        same_port(&world).context(backend)?;
    }
    Ok(())
}

fn same_port(world: &World) -> Result<()> {
    for net in NETS {
        let target = SocketAddr::new(net.outside, 53);
        for (owner, wanted) in [((USER, USER), "captured"), ((PROXY, PROXY), "resolver")] {
            let asked = || -> std::io::Result<String> {
                let socket = UdpSocket::bind((net.pod, 41_234))?;
                socket.set_read_timeout(Some(LIMIT))?;
                socket.connect(target)?;
                socket.send(b"?")?;
                let mut buffer = [0; 64];
                let length = socket.recv(&mut buffer)?;
                Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
            };
            let said = world.pod.as_owner(owner, asked)?.with_context(|| format!("{owner:?} {target}"))?;
            ensure!(said == wanted, "{owner:?} {target}: {said}");
        }
    }
    Ok(())
}
