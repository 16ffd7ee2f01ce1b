//! What is to be captured: options as they are written, read and judged, all problems in one go.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

/// The user id of a proxy, as Istio has it.
pub const PROXY_ID: u32 = 1337;
/// Ports of the proxy and its agent that are for others: merged metrics, health, metrics.
pub const PROXY_PORTS: [u16; 3] = [15020, 15021, 15090];

/// How inbound connections come to the proxy; outbound ones are always redirected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Addresses are translated; the application sees the proxy's address.
    #[default]
    Redirect,
    /// Addresses stay, so the proxy can show the client's to the application. It needs a transparent listener (`CAP_NET_ADMIN`).
    Tproxy,
}

/// From the first to the last, both within.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range<T> {
    /// The first.
    pub first: T,
    /// The last; not before the first.
    pub last: T,
}

impl<T: Copy + PartialOrd> Range<T> {
    /// One alone.
    pub const fn one(value: T) -> Self {
        Self { first: value, last: value }
    }

    /// Whether it is within.
    pub fn contains(&self, value: T) -> bool {
        self.first <= value && value <= self.last
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

impl<T: fmt::Display + PartialEq> fmt::Display for Range<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first)
        } else {
            write!(f, "{}-{}", self.first, self.last)
        }
    }
}

impl<T: FromStr + Copy + PartialOrd + fmt::Display> FromStr for Range<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |it: &str| {
            it.trim().parse::<T>().map_err(|_| format!("{text:?} is no number or range (as 80 or 8000-8100)"))
        };
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return Err(format!("{text} is backwards: write {last}-{first}"));
        }
        Ok(Self { first, last })
    }
}

/// All, or those of a list alone; an empty one is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which<T> {
    /// All.
    All,
    /// These alone.
    Only(Vec<T>),
}

/// Something asked for that does not work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{option}: {what}")]
pub struct Problem {
    /// The option, without dashes in front.
    pub option: String,
    /// What is wrong with it, and what to do.
    pub what: String,
}

/// All problems of a set of options; there is one at least.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<_> = self.0.iter().map(Problem::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

/// What is captured, judged. [`Options::parse`] alone makes one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// How inbound connections come.
    pub mode: Mode,
    /// Whether IPv6 is captured, too, where the kernel has it.
    pub ipv6: bool,
    /// Users whose connections are the proxy's own.
    pub proxy_uids: Vec<Range<u32>>,
    /// Groups whose connections are the proxy's own.
    pub proxy_gids: Vec<Range<u32>>,
    /// Ports of the pod that are never captured as they are the proxy's own.
    pub proxy_ports: Vec<Range<u16>>,
    /// Where outbound connections go.
    pub outbound_port: u16,
    /// Where inbound connections go.
    pub inbound_port: u16,
    /// Where questions of DNS go, if they are captured: to a server on 127.0.0.1 and ::1. (One on all addresses would answer over UDP from the
    /// pod's own, and nobody would know the answer for one.)
    pub dns_port: Option<u16>,
    /// Where outbound connections go to that are captured.
    pub include_outbound_cidrs: Which<IpNet>,
    /// Where outbound connections go to that are not captured.
    pub exclude_outbound_cidrs: Vec<IpNet>,
    /// Ports to which outbound connections are captured wherever they go (but for what is excluded).
    pub include_outbound_ports: Vec<Range<u16>>,
    /// Ports to which outbound connections are not captured.
    pub exclude_outbound_ports: Vec<Range<u16>>,
    /// Ports of the pod that are captured.
    pub include_inbound_ports: Which<Range<u16>>,
    /// Ports of the pod that are not captured.
    pub exclude_inbound_ports: Vec<Range<u16>>,
    /// Interfaces whose traffic alone is captured; empty for all.
    pub include_interfaces: Vec<String>,
    /// Interfaces whose traffic is not captured.
    pub exclude_interfaces: Vec<String>,
    /// Users (and groups, see there) whose connections alone are captured; empty for all.
    pub include_uids: Vec<Range<u32>>,
    /// Users whose connections are not captured.
    pub exclude_uids: Vec<Range<u32>>,
    /// Groups (and users, see there) whose connections alone are captured; empty for all.
    pub include_gids: Vec<Range<u32>>,
    /// Groups whose connections are not captured.
    pub exclude_gids: Vec<Range<u32>>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            mode: Mode::Redirect,
            ipv6: true,
            proxy_uids: vec![Range::one(PROXY_ID)],
            proxy_gids: vec![Range::one(PROXY_ID)],
            proxy_ports: PROXY_PORTS.map(Range::one).to_vec(),
            outbound_port: 15001,
            inbound_port: 15006,
            dns_port: None,
            include_outbound_cidrs: Which::All,
            exclude_outbound_cidrs: Vec::new(),
            include_outbound_ports: Vec::new(),
            exclude_outbound_ports: Vec::new(),
            include_inbound_ports: Which::All,
            exclude_inbound_ports: Vec::new(),
            include_interfaces: Vec::new(),
            exclude_interfaces: Vec::new(),
            include_uids: Vec::new(),
            exclude_uids: Vec::new(),
            include_gids: Vec::new(),
            exclude_gids: Vec::new(),
        }
    }
}

/// The names of all options, as they are on the command line, in the CNI configuration and behind the prefix of annotations.
pub const NAMES: [&str; 20] = [
    "mode",
    "ipv6",
    "proxy-uid",
    "proxy-gid",
    "proxy-ports",
    "outbound-port",
    "inbound-port",
    "dns-port",
    "include-outbound-cidrs",
    "exclude-outbound-cidrs",
    "include-outbound-ports",
    "exclude-outbound-ports",
    "include-inbound-ports",
    "exclude-inbound-ports",
    "include-interfaces",
    "exclude-interfaces",
    "include-uids",
    "exclude-uids",
    "include-gids",
    "exclude-gids",
];

impl Options {
    /// Reads and judges what is asked for, by name and value; what is left out is as in [`Options::default`], and of what is there twice the
    /// last counts. Lists are separated by commas; in lists of what is included, `*` is all and nothing is none.
    ///
    /// # Errors
    /// Every problem that there is.
    pub fn parse<N: AsRef<str>, V: AsRef<str>>(
        settings: impl IntoIterator<Item = (N, V)>,
    ) -> Result<Self, Problems> {
        let mut options = Self::default();
        let mut problems = Vec::new();
        for (name, value) in settings {
            let (name, value) = (name.as_ref(), value.as_ref().trim());
            if let Err(what) = options.set(name, value) {
                problems.push(Problem { option: name.to_owned(), what });
            }
        }
        // What was not understood has its default here, and would be judged as something else.
        if problems.is_empty() {
            problems = crate::judge::judge(&options);
        }
        if problems.is_empty() { Ok(options) } else { Err(Problems(problems)) }
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        match name {
            "mode" => {
                self.mode = match value.to_ascii_lowercase().as_str() {
                    "redirect" => Mode::Redirect,
                    "tproxy" => Mode::Tproxy,
                    _ => return Err(format!("{value:?} is neither redirect nor tproxy")),
                }
            }
            "ipv6" => {
                self.ipv6 = match value {
                    "auto" => true,
                    "off" => false,
                    _ => return Err(format!("{value:?} is neither auto nor off")),
                }
            }
            "proxy-uid" => self.proxy_uids = ranges(value)?,
            "proxy-gid" => self.proxy_gids = ranges(value)?,
            "proxy-ports" => self.proxy_ports = ports(value)?,
            "outbound-port" => self.outbound_port = port(value)?,
            "inbound-port" => self.inbound_port = port(value)?,
            "dns-port" => self.dns_port = Some(port(value)?),
            "include-outbound-cidrs" => self.include_outbound_cidrs = which(value, cidrs)?,
            "exclude-outbound-cidrs" => self.exclude_outbound_cidrs = cidrs(value)?,
            "include-outbound-ports" => self.include_outbound_ports = ports(value)?,
            "exclude-outbound-ports" => self.exclude_outbound_ports = ports(value)?,
            "include-inbound-ports" => self.include_inbound_ports = which(value, ports)?,
            "exclude-inbound-ports" => self.exclude_inbound_ports = ports(value)?,
            "include-interfaces" => self.include_interfaces = interfaces(value)?,
            "exclude-interfaces" => self.exclude_interfaces = interfaces(value)?,
            "include-uids" => self.include_uids = ranges(value)?,
            "exclude-uids" => self.exclude_uids = ranges(value)?,
            "include-gids" => self.include_gids = ranges(value)?,
            "exclude-gids" => self.exclude_gids = ranges(value)?,
            _ => return Err(format!("there is no such option; there are {}", NAMES.join(", "))),
        }
        Ok(())
    }
}

/// The entries of a list.
fn entries(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(str::trim).filter(|it| !it.is_empty())
}

fn which<T>(value: &str, read: impl Fn(&str) -> Result<Vec<T>, String>) -> Result<Which<T>, String> {
    if value == "*" { Ok(Which::All) } else { read(value).map(Which::Only) }
}

fn port(value: &str) -> Result<u16, String> {
    match value.parse::<u16>() {
        Ok(0) => Err("0 is no port: give one from 1 to 65535".to_owned()),
        Ok(port) => Ok(port),
        Err(_) => Err(format!("{value:?} is no port: give one from 1 to 65535")),
    }
}

fn ranges<T>(value: &str) -> Result<Vec<Range<T>>, String>
where
    T: FromStr + Copy + PartialOrd + fmt::Display,
{
    let mut read: Vec<Range<T>> = Vec::new();
    for entry in entries(value) {
        let range: Range<T> = entry.parse()?;
        if let Some(other) = read.iter().find(|it| it.overlaps(&range)) {
            return Err(if *other == range {
                format!("{range} is there twice")
            } else {
                format!("{range} overlaps {other}: make one range of them")
            });
        }
        read.push(range);
    }
    Ok(read)
}

fn ports(value: &str) -> Result<Vec<Range<u16>>, String> {
    let read: Vec<Range<u16>> = ranges(value)?;
    match read.iter().find(|it| it.first == 0) {
        Some(range) => Err(format!("{range}: 0 is no port; ports are 1 to 65535")),
        None => Ok(read),
    }
}

fn cidrs(value: &str) -> Result<Vec<IpNet>, String> {
    let mut read: Vec<IpNet> = Vec::new();
    for entry in entries(value) {
        let net = cidr(entry)?;
        if let Some(other) = read.iter().find(|it| it.contains(&net) || net.contains(*it)) {
            let (wide, narrow) = if other.contains(&net) { (other, &net) } else { (&net, other) };
            return Err(if wide == narrow {
                format!("{net} is there twice")
            } else {
                format!("{narrow} is within {wide} already: leave one of them out")
            });
        }
        read.push(net);
    }
    Ok(read)
}

fn cidr(entry: &str) -> Result<IpNet, String> {
    let net: IpNet = match (entry.parse::<IpNet>(), entry.parse::<IpAddr>()) {
        (Ok(net), _) => net,
        (_, Ok(address)) => address.into(),
        _ => return Err(format!("{entry:?} is no network (as 10.0.0.0/8 or 2001:db8::/32)")),
    };
    if net.trunc() != net {
        return Err(format!(
            "{net} has bits behind its prefix: write {} for the network, or {} for the address alone",
            net.trunc(),
            IpNet::from(net.addr())
        ));
    }
    if let IpAddr::V6(address) = net.addr()
        && let Some(v4) = address.to_ipv4_mapped()
    {
        return Err(format!("{net}: addresses of IPv4 are written as such, {v4}"));
    }
    Ok(net)
}

fn interfaces(value: &str) -> Result<Vec<String>, String> {
    let mut read: Vec<String> = Vec::new();
    for entry in entries(value) {
        let fits = |it: char| it.is_ascii_alphanumeric() || "_.:@-".contains(it);
        if entry.len() > 15 || !entry.chars().all(fits) {
            return Err(format!(
                "{entry:?} is no interface: names have up to 15 letters, digits, and _ . : @ - (no patterns)"
            ));
        }
        if read.iter().any(|it| it == entry) {
            return Err(format!("{entry} is there twice"));
        }
        read.push(entry.to_owned());
    }
    Ok(read)
}
