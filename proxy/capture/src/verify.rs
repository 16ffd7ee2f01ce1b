//! Whether traffic really arrives: connections that must be captured, and where they end.
//!
//! Where nobody listens yet (an init container) we listen ourselves, and read where each connection was going. Where the proxy
//! listens, the connections go where nobody can answer: who does is the proxy.
//!
//! What can be tried depends on who tries: outbound needs a user that is not the proxy, inbound one that is (the way that is tried from
//! within is that of the proxy to its own pod, which shares its rules with what comes from outside; [`rules`] looks at the rest). Root with
//! `CAP_SETUID` can be both. In the proxy's own container, without privileges, inbound is tried, and the rest is said to be unknown.
//! [`traffic`] blocks for up to two seconds for each connection that is lost, and wants a thread where that does not matter.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use socket2::{Domain, SockAddr, Socket, Type};

use crate::in_force;
use crate::netns::as_user;
use crate::options::{Mode, Options, PROXY_ID, Which};
use crate::plan::Plan;
use crate::rule::{Family, Proto};
use crate::simulate::{self, Fate, Packet, Tracked};
use crate::system;
use crate::tool::{Error, run};

/// How long a connection may take; none of them leaves the host when it is captured.
const LIMIT: Duration = Duration::from_secs(2);

/// What was found out about one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What: `rules`, `outbound IPv4` and so on.
    pub what: String,
    /// How it is.
    pub verdict: Verdict,
    /// By what it is known.
    pub detail: String,
}

/// How it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// As it should.
    Works,
    /// Not as it should: traffic bypasses the proxy, or is lost.
    Fails,
    /// It could not be tried here.
    Unknown,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match self.verdict {
            Verdict::Works => "ok",
            Verdict::Fails => "FAILS",
            Verdict::Unknown => "unknown",
        };
        write!(f, "{}: {verdict}: {}", self.what, self.detail)
    }
}

/// Whether it is as it should: something was seen to work, and nothing to fail.
pub fn holds(findings: &[Finding]) -> bool {
    findings.iter().all(|it| it.verdict != Verdict::Fails)
        && findings.iter().any(|it| it.verdict == Verdict::Works)
}

/// The rules alone: whether they are those of the options. It needs `CAP_NET_ADMIN`.
pub fn rules(options: &Options) -> Finding {
    let (families, _) = system::families(options);
    let plan = Plan::new(options, &families);
    let (verdict, detail) = match in_force::missing(&plan) {
        Ok(missing) if missing.is_empty() => (Verdict::Works, "all are in place".to_owned()),
        Ok(missing) => (Verdict::Fails, missing.join("; ")),
        Err(error) => (Verdict::Unknown, error.to_string()),
    };
    Finding { what: "rules".to_owned(), verdict, detail }
}

/// Connections, outbound and inbound, in each family.
pub fn traffic(options: &Options) -> Vec<Finding> {
    let (families, _) = system::families(options);
    let plan = Plan::new(options, &families);
    let mut findings = Vec::new();
    for family in families {
        for inbound in [false, true] {
            let probe = Probe { options, plan: &plan, family, inbound };
            let what = format!("{} {family}", if inbound { "inbound" } else { "outbound" });
            let (verdict, detail) = match probe.run() {
                Ok(detail) => (Verdict::Works, detail),
                Err(Failure::Unknown(detail)) => (Verdict::Unknown, detail),
                Err(Failure::Fails(detail)) => (Verdict::Fails, detail),
            };
            findings.push(Finding { what, verdict, detail });
        }
    }
    findings
}

enum Failure {
    Unknown(String),
    Fails(String),
}

fn unknown(what: &str) -> impl FnOnce(io::Error) -> Failure {
    move |error| Failure::Unknown(format!("{what}: {error}"))
}

struct Probe<'a> {
    options: &'a Options,
    plan: &'a Plan,
    family: Family,
    inbound: bool,
}

/// Who connects where.
struct Try {
    owner: (u32, u32),
    target: SocketAddr,
}

impl Probe<'_> {
    fn run(&self) -> Result<String, Failure> {
        let outside = self.outside();
        let source = source_towards(outside).map_err(unknown("there is no way out of the namespace"))?;
        let it = self.choose(source)?;
        let Try { owner, target } = it;
        let taken = self.inbound && is_taken(target);
        let port = self.port();
        let listener = match self.listen(port) {
            Ok(listener) => Some(listener),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => None,
            Err(error) => return Err(unknown(&format!("listening on port {port}"))(error)),
        };
        if listener.is_none() && taken {
            return Err(Failure::Unknown(format!(
                "somebody listens on port {port} and on {target}: who answers cannot be told"
            )));
        }
        let connected = as_user(owner.0, owner.1, || connect(target)).map_err(|error| {
            Failure::Unknown(format!("connecting as user {} (it needs CAP_SETUID): {error}", owner.0))
        })?;
        let stream = connected.map_err(|error| {
            Failure::Fails(format!("a connection to {target} did not come to port {port}: {error}"))
        })?;
        let Some(listener) = listener else {
            return Ok(format!("who listens on port {port} answered for {target}, where nobody is"));
        };
        let arrived = self.arrival(&listener).map_err(|error| {
            Failure::Fails(format!("a connection to {target} was answered by somebody else: {error}"))
        })?;
        drop(stream);
        if arrived == target {
            Ok(format!("a connection to {target} came to port {port}"))
        } else {
            Err(Failure::Fails(format!("a connection to {target} came to port {port} as one to {arrived}")))
        }
    }

    fn port(&self) -> u16 {
        if self.inbound { self.options.inbound_port } else { self.options.outbound_port }
    }

    /// An address that is nobody's (RFC 5737, RFC 3849).
    fn outside(&self) -> IpAddr {
        match self.family {
            Family::V4 => Ipv4Addr::new(192, 0, 2, 1).into(),
            Family::V6 => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
        }
    }

    /// The first that is captured, as the plan has it: where to, and as whom.
    fn choose(&self, source: IpAddr) -> Result<Try, Failure> {
        let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        let first_uid = |ranges: &[crate::options::Range<u32>]| ranges.first().map(|it| it.first);
        let options = self.options;
        let mut owners = vec![own];
        if self.inbound {
            let uid = first_uid(&options.proxy_uids).unwrap_or(own.0);
            let gid = first_uid(&options.proxy_gids).unwrap_or(own.1);
            owners.push((uid, gid));
        } else {
            let uid = first_uid(&options.include_uids).unwrap_or(PROXY_ID + 1);
            let gid = first_uid(&options.include_gids).unwrap_or(PROXY_ID + 1);
            owners.push((uid, gid));
        }
        for target in self.targets(source) {
            let interface = match (self.inbound, self.by_interface()) {
                (true, _) => "lo".to_owned(),
                (false, true) => interface_towards(self.family, target.ip()).map_err(|error| {
                    Failure::Unknown(format!("which way {} leaves: {error}", target.ip()))
                })?,
                (false, false) => "outside".to_owned(),
            };
            for owner in &owners {
                let packet = Packet {
                    proto: Proto::Tcp,
                    source,
                    destination: target.ip(),
                    sport: 40_000,
                    dport: target.port(),
                    owner: Some(*owner),
                    interface: interface.clone(),
                    mark: 0,
                    syn: true,
                    ct: Tracked::default(),
                };
                let fate = simulate::send(self.plan, packet).fate;
                if fate == Fate::Redirected(self.port()) || fate == Fate::Tproxied(self.port()) {
                    return Ok(Try { owner: *owner, target });
                }
            }
        }
        Err(Failure::Unknown("the options capture nothing that could be tried from here".to_owned()))
    }

    fn by_interface(&self) -> bool {
        !self.options.include_interfaces.is_empty() || !self.options.exclude_interfaces.is_empty()
    }

    fn targets(&self, source: IpAddr) -> Vec<SocketAddr> {
        if self.inbound {
            let mut ports: Vec<u16> = free_port(source).into_iter().collect();
            if let Which::Only(ranges) = &self.options.include_inbound_ports {
                ports.extend(ranges.iter().map(|it| it.first));
            }
            return ports.into_iter().map(|port| SocketAddr::new(source, port)).collect();
        }
        let mut addresses = vec![self.outside()];
        if let Which::Only(nets) = &self.options.include_outbound_cidrs {
            let nets = nets.iter().filter(|it| Family::of(it.addr()) == self.family);
            addresses.extend(nets.filter_map(|it| it.hosts().next()));
        }
        let mut ports = vec![80, 9];
        ports.extend(self.options.include_outbound_ports.iter().map(|it| it.first));
        let mut targets = Vec::new();
        for address in addresses {
            targets.extend(ports.iter().map(|port| SocketAddr::new(address, *port)));
        }
        targets
    }

    fn listen(&self, port: u16) -> io::Result<Socket> {
        let (domain, any) = match self.family {
            Family::V4 => (Domain::IPV4, IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
            Family::V6 => (Domain::IPV6, IpAddr::V6(Ipv6Addr::UNSPECIFIED)),
        };
        let socket = Socket::new(domain, Type::STREAM, None)?;
        if self.family == Family::V6 {
            socket.set_only_v6(true)?;
        }
        if self.inbound && self.options.mode == Mode::Tproxy {
            match self.family {
                Family::V4 => socket.set_ip_transparent_v4(true)?,
                Family::V6 => socket.set_ip_transparent_v6(true)?,
            }
        }
        // Connections of the last trial may still be winding down; another listener is still refused.
        socket.set_reuse_address(true)?;
        // On a listener this bounds `accept`.
        socket.set_read_timeout(Some(LIMIT))?;
        socket.bind(&SocketAddr::new(any, port).into())?;
        socket.listen(8)?;
        Ok(socket)
    }

    /// Where the next connection was going.
    fn arrival(&self, listener: &Socket) -> io::Result<SocketAddr> {
        let (stream, _) = listener.accept()?;
        let address: SockAddr = if self.inbound && self.options.mode == Mode::Tproxy {
            stream.local_addr()?
        } else {
            match self.family {
                Family::V4 => stream.original_dst_v4()?,
                Family::V6 => stream.original_dst_v6()?,
            }
        };
        address.as_socket().ok_or_else(|| io::Error::other("no IP address"))
    }
}

/// The address from which we would speak to this one; nothing is sent.
fn source_towards(address: IpAddr) -> io::Result<IpAddr> {
    let any: IpAddr = match Family::of(address) {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect((address, 9))?;
    Ok(socket.local_addr()?.ip())
}

fn interface_towards(family: Family, address: IpAddr) -> Result<String, Error> {
    let command = ["-o", family.flag(), "route", "get", &address.to_string()].map(str::to_owned);
    let args: Vec<_> = command.iter().map(String::as_str).collect();
    let shown = run("ip", &args, "")?;
    let mut words = shown.split_whitespace().skip_while(|it| *it != "dev");
    let odd = || Error::Odd { command: args.join(" "), what: shown.clone() };
    words.nth(1).map(str::to_owned).ok_or_else(odd)
}

fn free_port(address: IpAddr) -> Option<u16> {
    std::net::TcpListener::bind((address, 0)).and_then(|it| it.local_addr()).map(|it| it.port()).ok()
}

fn is_taken(address: SocketAddr) -> bool {
    std::net::TcpListener::bind(address).is_err()
}

fn connect(target: SocketAddr) -> io::Result<Socket> {
    let domain = if target.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::STREAM, None)?;
    socket.connect_timeout(&target.into(), LIMIT)?;
    Ok(socket)
}
