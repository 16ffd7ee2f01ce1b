//! Access logs: formatted on the worker into a buffer of its own, written by a thread of their own.

mod files;
mod filter;
mod json;

use outrider_config::model;
use outrider_core::format::FormatContext;

pub use files::{LogFileError, LogFiles, flush_local};
pub use filter::{passes as filter_passes, reads_request as filter_reads_request};

/// The access logs of one place in the configuration (a connection manager, a tcp_proxy, a listener).
#[derive(Debug, Default)]
pub struct AccessLogger {
    logs: Vec<(model::AccessLog, files::FileId)>,
    files: LogFiles,
    reads_request: bool,
    reads_response: bool,
    reads_attempts: bool,
    reads_metadata: bool,
}

impl AccessLogger {
    /// The loggers for `logs`, whose files are opened (or shared, if open already) by `files`.
    ///
    /// # Errors
    /// A file cannot be opened for appending.
    pub fn new(logs: &[model::AccessLog], files: &LogFiles) -> Result<Self, LogFileError> {
        let open = |log: &model::AccessLog| Ok((log.clone(), files.open(&log.sink)?));
        Ok(Self {
            logs: logs.iter().map(open).collect::<Result<_, _>>()?,
            files: files.clone(),
            reads_request: logs
                .iter()
                .any(|log| reads(log, &|format| format.reads_request(), filter::reads_request)),
            reads_response: logs
                .iter()
                .any(|log| reads(log, &|format| format.reads_response(), filter::reads_response)),
            reads_attempts: logs
                .iter()
                .any(|log| reads(log, &|format| format.reads_attempts(), filter::reads_attempts)),
            reads_metadata: logs
                .iter()
                .any(|log| reads(log, &|format| format.reads_metadata(), filter::reads_metadata)),
        })
    }

    /// Whether there is nothing to log to: callers skip collecting what only logs need.
    pub fn is_empty(&self) -> bool {
        self.logs.is_empty()
    }

    /// Whether the request's head must be kept until the entry is written.
    pub const fn reads_request(&self) -> bool {
        self.reads_request
    }

    /// Whether the response's head and trailers must be kept until the entry is written.
    pub const fn reads_response(&self) -> bool {
        self.reads_response
    }

    /// Whether the upstream connections that were tried must be noted.
    pub const fn reads_attempts(&self) -> bool {
        self.reads_attempts
    }

    /// Whether metadata must be noted.
    pub const fn reads_metadata(&self) -> bool {
        self.reads_metadata
    }

    /// Writes one entry to each log whose filter passes. Worker side: no lock, no system call.
    pub fn log(&self, cx: &FormatContext<'_>) {
        for (log, file) in &self.logs {
            if log.filter.as_ref().is_none_or(|filter| filter::passes(filter, cx)) {
                self.files.append(*file, |out| write_format(&log.format, cx, out));
            }
        }
    }
}

/// Appends what `format` makes of `cx`: a line of a log, or a body; a JSON object ends with a newline.
pub fn write_format(format: &model::LogFormat, cx: &FormatContext<'_>, out: &mut Vec<u8>) {
    match format {
        model::LogFormat::Text { format, omit_empty } => format.write(cx, *omit_empty, out),
        model::LogFormat::Json { fields, omit_empty } => {
            json::write(fields, cx, *omit_empty, out);
            out.push(b'\n');
        }
    }
}

/// Whether `format` reads the request's head.
pub fn format_reads_request(format: &model::LogFormat) -> bool {
    match format {
        model::LogFormat::Text { format, .. } => format.reads_request(),
        model::LogFormat::Json { fields, .. } => json::any_format(fields, &|format| format.reads_request()),
    }
}

fn reads(
    log: &model::AccessLog,
    format_reads: &dyn Fn(&outrider_core::format::Format) -> bool,
    filter_reads: fn(&model::LogFilter) -> bool,
) -> bool {
    let by_format = match &log.format {
        model::LogFormat::Text { format, .. } => format_reads(format),
        model::LogFormat::Json { fields, .. } => json::any_format(fields, format_reads),
    };
    by_format || log.filter.as_ref().is_some_and(filter_reads)
}

#[cfg(test)]
mod tests;
