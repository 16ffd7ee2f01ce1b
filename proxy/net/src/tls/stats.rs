//! `ssl.` stats of a listener or cluster.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

use outrider_core::stats::{Counter, Gauge, Scope, StatSlot};
use rustls::{CommonState, SignatureScheme};

use super::cert::cert_info;
use super::provider::{curve_index, suite_name, version_name};
use super::reason::Reason;

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
const SIGNATURES: [(SignatureScheme, &str); 10] = [
    (SignatureScheme::ECDSA_NISTP256_SHA256, "sigalgs.ecdsa_secp256r1_sha256"),
    (SignatureScheme::ECDSA_NISTP384_SHA384, "sigalgs.ecdsa_secp384r1_sha384"),
    (SignatureScheme::ECDSA_NISTP521_SHA512, "sigalgs.ecdsa_secp521r1_sha512"),
    (SignatureScheme::RSA_PSS_SHA256, "sigalgs.rsa_pss_rsae_sha256"),
    (SignatureScheme::RSA_PSS_SHA384, "sigalgs.rsa_pss_rsae_sha384"),
    (SignatureScheme::RSA_PSS_SHA512, "sigalgs.rsa_pss_rsae_sha512"),
    (SignatureScheme::RSA_PKCS1_SHA256, "sigalgs.rsa_pkcs1_sha256"),
    (SignatureScheme::RSA_PKCS1_SHA384, "sigalgs.rsa_pkcs1_sha384"),
    (SignatureScheme::RSA_PKCS1_SHA512, "sigalgs.rsa_pkcs1_sha512"),
    (SignatureScheme::ED25519, "sigalgs.ed25519"),
];
/// Envoy's names of certificates that are no secret with a name (measured on 1.40).
pub(super) const UNNAMED: &str = "unnamed_cert_e3b0c442";
pub(super) const UNNAMED_CA: &str = "unnamed_ca_cert_e3b0c442";
const VERSIONS: [&str; 2] = ["versions.TLSv1.2", "versions.TLSv1.3"];

/// [`TlsStats`], and those named by what a handshake agreed on.
#[derive(Debug)]
pub(super) struct Counts {
    pub base: TlsStats,
    ciphers: [StatSlot; CIPHERS.len()],
    curves: [StatSlot; CURVES.len()],
    versions: [StatSlot; VERSIONS.len()],
    signatures: [StatSlot; SIGNATURES.len()],
    /// `outrider.peer_refused.`, beside Envoy's `ssl.`
    refusals: Scope,
    refused: [StatSlot; Reason::COUNT],
    /// The second in which a refusal was last logged, and how many were not since.
    said: AtomicU64,
    unsaid: AtomicU64,
}

impl Counts {
    pub(super) fn new(scope: &Scope) -> Self {
        Self {
            base: TlsStats::new(scope.child("ssl.")),
            ciphers: [const { StatSlot::new() }; CIPHERS.len()],
            curves: [const { StatSlot::new() }; CURVES.len()],
            versions: [const { StatSlot::new() }; VERSIONS.len()],
            signatures: [const { StatSlot::new() }; SIGNATURES.len()],
            refusals: scope.child("outrider.peer_refused."),
            refused: [const { StatSlot::new() }; Reason::COUNT],
            said: AtomicU64::new(0),
            unsaid: AtomicU64::new(0),
        }
    }

    /// Counts that a peer was refused for what it showed, `leaf` if anything, and logs it: once a second at most, as peers
    /// choose how often they come.
    pub(super) fn refused(&self, reason: Reason, leaf: Option<&[u8]>) {
        if let Some(slot) = self.refused.get(reason as usize) {
            Counter::new(&self.refusals, slot, reason.name()).inc();
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let said = self.said.load(Relaxed);
        if said == now || self.said.compare_exchange(said, now, Relaxed, Relaxed).is_err() {
            self.unsaid.fetch_add(1, Relaxed);
            return;
        }
        let info = leaf.and_then(cert_info);
        let (subject, issuer, uri) = info.as_ref().map_or(("", "", ""), |info| {
            (info.subject.as_str(), info.issuer.as_str(), info.uri_sans.first().map_or("", String::as_str))
        });
        tracing::warn!(
            context = self.refusals.prefix().trim_end_matches("outrider.peer_refused."),
            reason = reason.name(),
            subject,
            issuer,
            uri,
            others_not_logged = self.unsaid.swap(0, Relaxed),
            "a peer is refused: {}",
            reason.words()
        );
    }

    /// Tells when the certificate `name` ends, in seconds since the epoch. Control thread.
    pub(super) fn expires(&self, name: &str, seconds: i64) {
        let scope = self.base.scope().child(&format!("certificate.{name}."));
        let value = u64::try_from(seconds).unwrap_or(0);
        Gauge::new(&scope, &StatSlot::new(), "expiration_unix_time_seconds").set(value);
    }

    /// Counts what the peer signed with.
    pub(super) fn signature(&self, scheme: SignatureScheme) {
        let known = SIGNATURES.iter().zip(&self.signatures).find(|((known, _), _)| *known == scheme);
        if let Some(((_, name), slot)) = known {
            Counter::new(self.base.scope(), slot, name).inc();
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
