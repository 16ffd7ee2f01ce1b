//! `ssl.` stats of a listener or cluster.

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
