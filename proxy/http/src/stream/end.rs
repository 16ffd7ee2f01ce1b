//! The end of a stream: the one place where it is counted and logged.

use std::borrow::Cow;

use outrider_core::ResponseFlags;
use outrider_core::format::FormatContext;
use outrider_core::matcher::HeadView;
use outrider_core::reply::details;

use super::{End, Stream};

impl Stream {
    /// Seals the facts, counts, writes the access log.
    pub(super) fn finish(&self) {
        self.conn.close(self);
        let stats = &self.hcm.shared.stats;
        let h2 = self.conn.is_h2();
        if h2 {
            self.count_h2_end();
        } else {
            self.conn.h1.request_cut.set(!self.request_done.get());
        }
        // Nobody holds it: a stream is finished from the outermost of its futures.
        let Ok(mut info) = self.info.try_borrow_mut() else { return };
        let duration = self.conn.now().saturating_duration_since(info.start);
        info.duration = Some(duration);
        match self.end.get() {
            End::Complete if self.request_done.get() => {}
            End::Complete => stats.downstream_rq_rx_reset().inc(),
            // Envoy counts the resets that it makes on both sides.
            End::Broken => {
                stats.downstream_rq_tx_reset().inc();
                stats.downstream_rq_rx_reset().inc();
            }
            End::Open if self.abort.get().is_some() => {
                stats.downstream_rq_tx_reset().inc();
                stats.downstream_rq_rx_reset().inc();
            }
            End::Open => {
                stats.downstream_rq_rx_reset().inc();
                if h2 && (!self.conn.gone.get() || self.tunnel.get()) {
                    info.flags.insert(ResponseFlags::DOWNSTREAM_REMOTE_RESET);
                    info.details = Cow::Borrowed("http2.remote_reset");
                } else {
                    info.flags.insert(ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION);
                    info.details = Cow::Borrowed(details::DOWNSTREAM_REMOTE_DISCONNECT);
                }
            }
        }
        stats.downstream_rq_active().dec();
        stats.downstream_rq_time().record(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
        drop(info);
        self.log("DownstreamEnd");
        self.filters.finish();
        self.forget_passed_head();
    }

    /// What the codec would say of an HTTP/2 stream's end.
    fn count_h2_end(&self) {
        let codec = &self.hcm.shared.h2_stats;
        codec.streams_active().dec();
        match self.end.get() {
            End::Complete => {}
            End::Broken => codec.tx_reset().inc(),
            End::Open if self.abort.get().is_some() => codec.tx_reset().inc(),
            End::Open if self.conn.gone.get() => {}
            End::Open => codec.rx_reset().inc(),
        }
    }

    /// Writes the access log.
    pub(crate) fn log(&self, log_type: &'static str) {
        let logger = &self.hcm.shared.logger;
        if logger.is_empty() {
            return;
        }
        let info = self.info.borrow();
        let response = self.response.borrow();
        self.with_head(|request| {
            logger.log(&FormatContext {
                info: &info,
                request,
                response: response
                    .as_deref()
                    .map(|kept| HeadView { status: kept.status.as_str(), ..HeadView::of(&kept.headers) }),
                trailers: response.as_deref().and_then(|kept| kept.trailers.as_ref()),
                local_reply_body: "",
                log_type,
            });
        });
    }
}
