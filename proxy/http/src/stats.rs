//! What a connection manager counts. Names and meanings: Envoy, "HTTP connection manager: Statistics".

outrider_core::stat_struct! {
    /// `http.<stat_prefix>.`
    pub struct HcmStats {
        counters {
            downstream_cx_total, downstream_cx_ssl_total, downstream_cx_http1_total, downstream_cx_http2_total,
            downstream_cx_upgrades_total, downstream_cx_destroy, downstream_cx_destroy_remote,
            downstream_cx_destroy_local, downstream_cx_destroy_active_rq, downstream_cx_destroy_local_active_rq,
            downstream_cx_destroy_remote_active_rq, downstream_cx_idle_timeout,
            downstream_cx_max_duration_reached, downstream_cx_max_requests_reached, downstream_cx_drain_close,
            downstream_cx_delayed_close_timeout, downstream_cx_protocol_error, downstream_cx_rx_bytes_total,
            downstream_cx_tx_bytes_total,
            downstream_rq_total, downstream_rq_http1_total, downstream_rq_http2_total, downstream_rq_1xx,
            downstream_rq_2xx, downstream_rq_3xx, downstream_rq_4xx, downstream_rq_5xx,
            downstream_rq_completed, downstream_rq_timeout, downstream_rq_header_timeout,
            downstream_rq_idle_timeout, downstream_rq_max_duration_reached, downstream_rq_rx_reset,
            downstream_rq_tx_reset, downstream_rq_non_relative_path, downstream_rq_too_large,
            downstream_rq_overload_close, downstream_rq_redirected_with_normalized_path,
            downstream_rq_rejected_via_ip_detection, downstream_rq_response_before_rq_complete,
            downstream_rq_ws_on_non_ws_route,
            no_route, no_cluster, rq_direct_response, rq_redirect, rq_total, rq_overload_local_reply,
            rq_reset_after_downstream_response_started, rq_retry_skipped_request_not_complete, rs_too_large,
            passthrough_internal_redirect_bad_location, passthrough_internal_redirect_unsafe_scheme,
            passthrough_internal_redirect_too_many_redirects, passthrough_internal_redirect_no_route,
            passthrough_internal_redirect_predicate,
        }
        gauges {
            downstream_cx_active, downstream_cx_ssl_active, downstream_cx_http1_active,
            downstream_cx_http2_active, downstream_cx_upgrades_active, downstream_cx_rx_bytes_buffered,
            downstream_cx_tx_bytes_buffered, downstream_rq_active,
        }
        histograms { downstream_cx_length_ms, downstream_rq_time }
    }
}

outrider_core::stat_struct! {
    /// `listener.<address>.http.<stat_prefix>.`: responses by class, for each listener.
    pub struct ListenerHttpStats {
        counters {
            downstream_rq_1xx, downstream_rq_2xx, downstream_rq_3xx, downstream_rq_4xx, downstream_rq_5xx,
            downstream_rq_completed,
        }
        gauges { }
        histograms { }
    }
}

outrider_core::stat_struct! {
    /// `http1.` and `http2.`: what codecs meet, over all connection managers.
    pub struct CodecStats {
        counters {
            dropped_headers_with_underscores, requests_rejected_with_underscores_in_headers, rx_reset, tx_reset,
            trailers,
        }
        gauges { streams_active }
        histograms { }
    }
}
