//! Response flags: why a response or a connection ended as it did.
//!
//! The short names are those of Envoy's `%RESPONSE_FLAGS%`, the long ones those of
//! `%RESPONSE_FLAGS_LONG%` (Envoy: "Access logging", command operators).

use std::fmt;

/// A set of response flags.
#[derive(Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct ResponseFlags(u64);

macro_rules! flags {
    ($($bit:literal $name:ident $short:literal $long:literal;)*) => {
        #[expect(missing_docs, reason = "each constant is named by its own short and long name")]
        impl ResponseFlags {
            $(pub const $name: Self = Self(1 << $bit);)*
        }

        /// Each flag with its short and its long name, in the order in which they print.
        pub const ALL: &[(ResponseFlags, &str, &str)] = &[$((ResponseFlags::$name, $short, $long),)*];
    };
}

flags! {
    // Envoy prints flags as they were set: those of a refused retry come before those of the failure itself.
    15 UPSTREAM_RETRY_LIMIT_EXCEEDED "URX" "UpstreamRetryLimitExceeded";
    7 UPSTREAM_OVERFLOW "UO" "UpstreamOverflow";
    0 FAILED_LOCAL_HEALTH_CHECK "LH" "FailedLocalHealthCheck";
    1 NO_HEALTHY_UPSTREAM "UH" "NoHealthyUpstream";
    2 UPSTREAM_REQUEST_TIMEOUT "UT" "UpstreamRequestTimeout";
    3 LOCAL_RESET "LR" "LocalReset";
    4 UPSTREAM_REMOTE_RESET "UR" "UpstreamRemoteReset";
    5 UPSTREAM_CONNECTION_FAILURE "UF" "UpstreamConnectionFailure";
    6 UPSTREAM_CONNECTION_TERMINATION "UC" "UpstreamConnectionTermination";
    8 NO_ROUTE_FOUND "NR" "NoRouteFound";
    9 DELAY_INJECTED "DI" "DelayInjected";
    10 FAULT_INJECTED "FI" "FaultInjected";
    11 RATE_LIMITED "RL" "RateLimited";
    12 UNAUTHORIZED_EXTERNAL_SERVICE "UAEX" "UnauthorizedExternalService";
    13 RATE_LIMIT_SERVICE_ERROR "RLSE" "RateLimitServiceError";
    14 DOWNSTREAM_CONNECTION_TERMINATION "DC" "DownstreamConnectionTermination";
    16 STREAM_IDLE_TIMEOUT "SI" "StreamIdleTimeout";
    17 INVALID_ENVOY_REQUEST_HEADERS "IH" "InvalidEnvoyRequestHeaders";
    18 DOWNSTREAM_PROTOCOL_ERROR "DPE" "DownstreamProtocolError";
    19 UPSTREAM_MAX_STREAM_DURATION_REACHED "UMSDR" "UpstreamMaxStreamDurationReached";
    20 RESPONSE_FROM_CACHE_FILTER "RFCF" "ResponseFromCacheFilter";
    21 NO_FILTER_CONFIG_FOUND "NFCF" "NoFilterConfigFound";
    22 DURATION_TIMEOUT "DT" "DurationTimeout";
    23 UPSTREAM_PROTOCOL_ERROR "UPE" "UpstreamProtocolError";
    24 NO_CLUSTER_FOUND "NC" "NoClusterFound";
    25 OVERLOAD_MANAGER "OM" "OverloadManagerTerminated";
    26 DNS_FAILURE "DF" "DnsResolutionFailed";
    27 DROP_OVERLOAD "DO" "DropOverload";
    28 DOWNSTREAM_REMOTE_RESET "DR" "DownstreamRemoteReset";
    29 UNCONDITIONAL_DROP_OVERLOAD "UDO" "UnconditionalDropOverload";
}

impl ResponseFlags {
    /// No flag at all.
    pub const NONE: Self = Self(0);

    /// `URX` of a TCP session, where the failure of the last attempt was noted before it: it prints last.
    pub const CONNECT_ATTEMPTS_EXCEEDED: Self = Self(1 << 63 | Self::UPSTREAM_RETRY_LIMIT_EXCEEDED.0);

    /// Adds the flags of `other`.
    pub fn insert(&mut self, other: Self) {
        self.0 |= other.0;
    }

    /// Whether any flag of `other` is set here.
    pub const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether no flag is set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The flags as Envoy numbers them: the first is bit 0.
    pub const fn bits(self) -> u64 {
        self.0 & !(1 << 63)
    }

    /// Both sets together.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The flag of this short name (`UF`), if Envoy has it.
    pub fn from_short(name: &str) -> Option<Self> {
        ALL.iter().find(|(_, short, _)| *short == name).map(|(flag, _, _)| *flag)
    }

    /// The short names of the set flags, in Envoy's order.
    pub fn short_names(self) -> impl Iterator<Item = &'static str> {
        self.names().map(|(_, short, _)| *short)
    }

    /// The long names of the set flags, in Envoy's order.
    pub fn long_names(self) -> impl Iterator<Item = &'static str> {
        self.names().map(|(_, _, long)| *long)
    }

    fn names(self) -> impl Iterator<Item = &'static (Self, &'static str, &'static str)> {
        // The retry limit is the first of the table.
        let late =
            usize::from(self.0 & Self::CONNECT_ATTEMPTS_EXCEEDED.0 == Self::CONNECT_ATTEMPTS_EXCEEDED.0);
        let (first, rest) = ALL.split_at(late.min(ALL.len()));
        rest.iter().chain(first).filter(move |(flag, _, _)| self.intersects(*flag))
    }
}

impl fmt::Debug for ResponseFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.short_names()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_print_in_order_and_parse_back() {
        let mut flags = ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED;
        flags.insert(ResponseFlags::UPSTREAM_CONNECTION_FAILURE);
        assert_eq!(flags.short_names().collect::<Vec<_>>(), ["URX", "UF"]);
        let mut flags = ResponseFlags::CONNECT_ATTEMPTS_EXCEEDED;
        flags.insert(ResponseFlags::UPSTREAM_CONNECTION_FAILURE);
        assert_eq!(flags.short_names().collect::<Vec<_>>(), ["UF", "URX"]);
        for (flag, short, _) in ALL {
            assert_eq!(ResponseFlags::from_short(short), Some(*flag));
        }
    }
}
