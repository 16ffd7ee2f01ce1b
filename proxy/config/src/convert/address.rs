//! Addresses, prefixes, socket options, keepalive.

use std::net::IpAddr;
use std::sync::Arc;

use outrider_proto::Path;
use outrider_proto::pb::envoy::config::core::v3 as pb;

use super::cx::{Cx, UNSUPPORTED, inert, refuse};
use super::scalar::{bool_of, enumeration, u32_of};
use crate::model::{Cidr, SocketAddress, SocketOption, SocketOptionState, SocketOptionValue, TcpKeepalive};

/// Which addresses a place accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Names {
    /// IP literals and Unix sockets.
    Refused,
    /// Names too: DNS resolves them.
    Accepted,
}

/// The address in `message`; an absent one is an error.
pub(crate) fn required(
    cx: &Cx,
    path: &Path<'_>,
    message: Option<&pb::Address>,
    names: Names,
) -> Option<SocketAddress> {
    match message {
        Some(message) => address(cx, path, message, names),
        None => {
            cx.error(path, "an address is needed: socket_address or pipe");
            None
        }
    }
}

/// An address; `None`, and an error, when it is not one that we can use.
pub(crate) fn address(
    cx: &Cx,
    path: &Path<'_>,
    message: &pb::Address,
    names: Names,
) -> Option<SocketAddress> {
    use pb::address::Address as Kind;
    let pb::Address { address } = message;
    match address {
        Some(Kind::SocketAddress(message)) => {
            socket_address(cx, &path.field("socket_address"), message, names)
        }
        Some(Kind::Pipe(message)) => pipe(cx, &path.field("pipe"), message),
        Some(Kind::EnvoyInternalAddress(_)) => {
            cx.refuse(
                &path.field("envoy_internal_address"),
                "internal listeners are not supported; give a socket_address or a pipe",
            );
            None
        }
        None => {
            cx.error(path, "an address is needed: socket_address or pipe");
            None
        }
    }
}

/// An IP address or a name, with its port.
pub(crate) fn socket_address(
    cx: &Cx,
    path: &Path<'_>,
    message: &pb::SocketAddress,
    names: Names,
) -> Option<SocketAddress> {
    use pb::socket_address::{PortSpecifier, Protocol};
    let pb::SocketAddress {
        protocol,
        address,
        resolver_name,
        // Read where listeners are converted; elsewhere Envoy does not look at it.
        ipv4_compat: _ipv4_compat,
        network_namespace_filepath,
        port_specifier,
    } = message;
    refuse!(cx, path, "custom resolvers are not supported; remove it, DNS clusters resolve names by themselves";
        resolver_name);
    refuse!(cx, path, "sockets in other network namespaces are not supported; run Outrider in that namespace";
        network_namespace_filepath);
    if enumeration::<Protocol>(cx, path, "protocol", *protocol) == Protocol::Udp {
        cx.refuse(&path.field("protocol"), "UDP is not supported; use TCP");
    }
    let port = match port_specifier {
        Some(PortSpecifier::PortValue(port)) => match u16::try_from(*port) {
            Ok(port) => port,
            Err(_) => {
                cx.error(
                    &path.field("port_value"),
                    format!("{port} is not a port: it must be 65535 or less"),
                );
                return None;
            }
        },
        Some(PortSpecifier::NamedPort(_)) => {
            cx.refuse(&path.field("named_port"), "named ports are not supported; give port_value");
            return None;
        }
        None => {
            cx.error(&path.field("port_value"), "a port is needed");
            return None;
        }
    };
    if let Ok(ip) = address.parse::<IpAddr>() {
        return Some(SocketAddress::Ip((ip, port).into()));
    }
    if names == Names::Accepted && !address.is_empty() {
        return Some(SocketAddress::Name { host: Arc::from(address.as_str()), port });
    }
    cx.error(
        &path.field("address"),
        format!(
            "{address:?} is not an IP address; names are resolved in clusters of type STRICT_DNS and LOGICAL_DNS alone"
        ),
    );
    None
}

/// A Unix socket.
fn pipe(cx: &Cx, path: &Path<'_>, message: &pb::Pipe) -> Option<SocketAddress> {
    let pb::Pipe { path: name, mode } = message;
    // sun_path has 108 bytes, one of them for the end.
    if name.is_empty() || name.len() > 107 {
        cx.error(
            &path.field("path"),
            format!("{name:?} has {} bytes; a Unix socket's path has 1 to 107", name.len()),
        );
        return None;
    }
    if *mode > 0o777 {
        cx.error(
            &path.field("mode"),
            format!("{mode} is not a file mode: it must be 511 (octal 777) or less"),
        );
    }
    if *mode != 0 && name.starts_with('@') {
        cx.error(&path.field("mode"), "an abstract Unix socket has no file and so no mode; remove it");
    }
    Some(SocketAddress::Pipe { path: Arc::from(name.as_str()), mode: *mode })
}

/// A prefix with its unused bits cleared. A length beyond the address's is the whole address, as in Envoy.
pub(crate) fn cidr(cx: &Cx, path: &Path<'_>, message: &pb::CidrRange) -> Option<Cidr> {
    let pb::CidrRange { address_prefix, prefix_len } = message;
    let Ok(address) = address_prefix.parse::<IpAddr>() else {
        cx.error(&path.field("address_prefix"), format!("{address_prefix:?} is not an IP address"));
        return None;
    };
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let len = u8::try_from(u32_of(prefix_len).unwrap_or(0)).unwrap_or(u8::MAX).min(bits);
    let net = ipnet::IpNet::new(address, len).ok()?.trunc();
    Some(Cidr { address: net.addr(), len })
}

/// Prefixes.
pub(crate) fn cidrs(cx: &Cx, path: &Path<'_>, messages: &[pb::CidrRange]) -> Vec<Cidr> {
    messages.iter().enumerate().filter_map(|(i, message)| cidr(cx, &path.index(i), message)).collect()
}

/// Socket options.
pub(crate) fn socket_options(cx: &Cx, path: &Path<'_>, messages: &[pb::SocketOption]) -> Vec<SocketOption> {
    messages
        .iter()
        .enumerate()
        .filter_map(|(i, message)| socket_option(cx, &path.index(i), message))
        .collect()
}

fn socket_option(cx: &Cx, path: &Path<'_>, message: &pb::SocketOption) -> Option<SocketOption> {
    use pb::socket_option::{SocketState, SocketType, Value};
    let pb::SocketOption { description, level, name, state, r#type, ip_version, value } = message;
    inert!(cx, path, "a note to readers"; description);
    refuse!(cx, path, "options by IP version are not supported; remove it to set the option on every socket"; ip_version);
    if let Some(SocketType { stream, datagram }) = r#type {
        let path = path.field("type");
        if datagram.is_some() && stream.is_none() {
            cx.inert(&path, "an option of datagram sockets, of which there are none");
            return None;
        }
    }
    let int = |field: &str, value: i64| {
        i32::try_from(value)
            .map_err(|_| cx.error(&path.field(field), format!("{value} does not fit in 32 bits")))
            .ok()
    };
    let value = match value {
        Some(Value::IntValue(value)) => SocketOptionValue::Int(int("int_value", *value)?),
        Some(Value::BufValue(bytes)) => SocketOptionValue::Bytes(bytes.clone()),
        None => {
            cx.error(path, "a value is needed: int_value or buf_value");
            return None;
        }
    };
    let state = match enumeration::<SocketState>(cx, path, "state", *state) {
        SocketState::StatePrebind => SocketOptionState::Prebind,
        SocketState::StateBound => SocketOptionState::Bound,
        SocketState::StateListening => SocketOptionState::Listening,
    };
    Some(SocketOption { level: int("level", *level)?, name: int("name", *name)?, value, state })
}

/// Keepalive settings.
pub(crate) fn keepalive(message: &pb::TcpKeepalive) -> TcpKeepalive {
    let pb::TcpKeepalive { keepalive_probes, keepalive_time, keepalive_interval } = message;
    TcpKeepalive {
        probes: u32_of(keepalive_probes),
        time: u32_of(keepalive_time),
        interval: u32_of(keepalive_interval),
    }
}

/// The settings of an `upstream_bind_config`.
pub(crate) use crate::model::UpstreamBind as Bind;

impl Bind {
    /// These settings, with those of `outer` where they say nothing (Envoy: the cluster's come before the
    /// cluster manager's, field by field).
    pub(crate) fn over(self, outer: &Self) -> Self {
        Self {
            extra: if self.source.is_some() { self.extra } else { outer.extra.clone() },
            source: self.source.or_else(|| outer.source.clone()),
            freebind: self.freebind.or(outer.freebind),
            options: if self.options.is_empty() { outer.options.clone() } else { self.options },
        }
    }

    /// The socket options, `IP_FREEBIND` among them.
    pub(crate) fn socket_options(&self) -> Vec<SocketOption> {
        // Linux: SOL_IP 0, IP_FREEBIND 15; it serves IPv6 sockets as well.
        let freebind = self.freebind.map(|on| SocketOption {
            level: 0,
            name: 15,
            value: SocketOptionValue::Int(i32::from(on)),
            state: SocketOptionState::Prebind,
        });
        freebind.into_iter().chain(self.options.iter().cloned()).collect()
    }
}

/// A `BindConfig`.
pub(crate) fn bind(cx: &Cx, path: &Path<'_>, message: &pb::BindConfig) -> Bind {
    let pb::BindConfig {
        source_address,
        freebind,
        socket_options: options,
        extra_source_addresses,
        additional_source_addresses,
        local_address_selector,
        validate_network_namespaces,
    } = message;
    refuse!(cx, path, UNSUPPORTED; additional_source_addresses, local_address_selector);
    inert!(cx, path, "addresses in other network namespaces are refused anyway"; validate_network_namespaces);
    let source = source_address
        .as_ref()
        .and_then(|message| socket_address(cx, &path.field("source_address"), message, Names::Refused));
    let options = socket_options(cx, &path.field("socket_options"), options);
    let extra = extra(cx, &path.field("extra_source_addresses"), extra_source_addresses, source.as_ref());
    Bind { source, extra, freebind: bool_of(freebind), options }
}

/// The second source address: one alone, and of the other IP version, as in Envoy.
fn extra(
    cx: &Cx,
    path: &Path<'_>,
    messages: &[pb::ExtraSourceAddress],
    source: Option<&SocketAddress>,
) -> Option<SocketAddress> {
    let message = messages.first()?;
    if messages.len() > 1 {
        cx.error(&path.index(1), "one extra address is enough: there are two IP versions");
    }
    let path = path.index(0);
    let pb::ExtraSourceAddress { address, socket_options } = message;
    refuse!(cx, path, "options of one source address are not supported; write them for both"; socket_options);
    let at = path.field("address");
    let Some(address) = address else {
        cx.error(&at, "an address is needed");
        return None;
    };
    let extra = socket_address(cx, &at, address, Names::Refused)?;
    match (source, &extra) {
        (Some(SocketAddress::Ip(source)), SocketAddress::Ip(extra))
            if source.is_ipv4() == extra.is_ipv4() =>
        {
            cx.error(&at, "it has the IP version of source_address; it is for the other");
        }
        (None, _) => cx.error(&at, "it needs source_address beside it"),
        _ => {}
    }
    Some(extra)
}
