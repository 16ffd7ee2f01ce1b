//! `ssl.` stats of a listener or cluster.

use outrider_core::stats::{Counter, Scope, StatSlot};
use rustls::CommonState;

use super::provider::{curve_index, suite_name, version_name};

outrider_core::stat_struct! {
    /// Envoy's TLS stats (`listener.<address>.ssl.`, `cluster.<name>.ssl.`).
    pub struct TlsStats {
        counters {
            connection_error, handshake, session_reused, no_certificate, fail_verify_no_cert,
            fail_verify_error, fail_verify_san, fail_verify_cert_hash, ocsp_staple_failed,
            ocsp_staple_omitted, ocsp_staple_responses, ocsp_staple_requests, was_key_usage_invalid,
        }
        gauges {}
        histograms {}
    }
}

/// Beside the tables of `provider`.
const CIPHERS: [&str; 9] = [
    "ciphers.TLS_AES_128_GCM_SHA256",
    "ciphers.TLS_AES_256_GCM_SHA384",
    "ciphers.TLS_CHACHA20_POLY1305_SHA256",
    "ciphers.ECDHE-ECDSA-AES128-GCM-SHA256",
    "ciphers.ECDHE-ECDSA-CHACHA20-POLY1305",
    "ciphers.ECDHE-RSA-AES128-GCM-SHA256",
    "ciphers.ECDHE-RSA-CHACHA20-POLY1305",
    "ciphers.ECDHE-ECDSA-AES256-GCM-SHA384",
    "ciphers.ECDHE-RSA-AES256-GCM-SHA384",
];
const CURVES: [&str; 4] = ["curves.X25519", "curves.P-256", "curves.P-384", "curves.X25519MLKEM768"];
const VERSIONS: [&str; 2] = ["versions.TLSv1.2", "versions.TLSv1.3"];

/// [`TlsStats`], and those named by what a handshake agreed on.
#[derive(Debug)]
pub(super) struct Counts {
    pub base: TlsStats,
    ciphers: [StatSlot; CIPHERS.len()],
    curves: [StatSlot; CURVES.len()],
    versions: [StatSlot; VERSIONS.len()],
}

impl Counts {
    pub(super) fn new(scope: &Scope) -> Self {
        Self {
            base: TlsStats::new(scope.child("ssl.")),
            ciphers: [const { StatSlot::new() }; CIPHERS.len()],
            curves: [const { StatSlot::new() }; CURVES.len()],
            versions: [const { StatSlot::new() }; VERSIONS.len()],
        }
    }

    /// Counts a handshake that is done.
    pub(super) fn handshake(&self, session: &CommonState) {
        let scope = self.base.scope();
        let count = |slot: Option<&StatSlot>, name: Option<&&'static str>| {
            if let (Some(slot), Some(name)) = (slot, name) {
                Counter::new(scope, slot, name).inc();
            }
        };
        self.base.handshake().inc();
        if session.handshake_kind() == Some(rustls::HandshakeKind::Resumed) {
            self.base.session_reused().inc();
        }
        if session.peer_certificates().is_none_or(|chain| chain.is_empty()) {
            self.base.no_certificate().inc();
        }
        let suite = session.negotiated_cipher_suite().and_then(|suite| suite_name(suite.suite()));
        if let Some((i, _)) = suite {
            count(self.ciphers.get(i), CIPHERS.get(i));
        }
        let group = session.negotiated_key_exchange_group();
        if let Some(i) = group.and_then(|group| curve_index(group.name())) {
            count(self.curves.get(i), CURVES.get(i));
        }
        let i = usize::from(version_name(session.protocol_version()) == "TLSv1.3");
        count(self.versions.get(i), VERSIONS.get(i));
    }
}
