//! Why a command did not do what it was asked to, and with which code it ends.

use tonic::{Code, Status};

use crate::api::error::{line, problems_of};

/// Ends a command.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    /// The exit code.
    pub(super) code: u8,
    /// What to tell; empty: all was told.
    pub(super) message: String,
}

impl Failure {
    /// Wrong usage.
    pub(super) fn usage(message: impl Into<String>) -> Self {
        Self { code: 2, message: message.into() }
    }

    /// Refused, not found.
    pub(super) fn refused(message: impl Into<String>) -> Self {
        Self { code: 1, message: message.into() }
    }

    /// Not reached, or not let in.
    pub(super) fn unreachable(message: impl Into<String>) -> Self {
        Self { code: 3, message: message.into() }
    }

    /// Ends with a code, all told.
    pub(super) fn silent(code: u8) -> Self {
        Self { code, message: String::new() }
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let problems = problems_of(&status);
        let first = status.message().lines().next().unwrap_or_default();
        let message = if problems.is_empty() {
            status.message().to_owned()
        } else {
            let lines: Vec<_> = problems.iter().map(line).collect();
            let left = status.message().lines().last().filter(|it| it.starts_with("... and "));
            // All of them are in the details, unless there were too many.
            let left = left.filter(|_| lines.len() < count(first).unwrap_or(0));
            format!("{first}\n{}{}", lines.join("\n"), left.map(|it| format!("\n{it}")).unwrap_or_default())
        };
        match status.code() {
            Code::DeadlineExceeded | Code::Cancelled => Self::unreachable(format!(
                "no answer came in time ({message}); --timeout says how long to wait"
            )),
            Code::Unavailable | Code::Unauthenticated => Self::unreachable(message),
            Code::PermissionDenied => Self::unreachable(format!("not allowed: {message}")),
            Code::Unknown if message.is_empty() => Self::unreachable("the connection broke"),
            Code::Unimplemented => Self::refused(format!(
                "this control plane does not know that: {message}; is it older than this outriderctl?"
            )),
            _ => Self::refused(message),
        }
    }
}

/// The number in `nothing was stored: 3 problems`.
fn count(first: &str) -> Option<usize> {
    first.rsplit(' ').nth(1)?.parse().ok()
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        // Whoever read our output has seen enough.
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Self::silent(0);
        }
        Self::refused(error.to_string())
    }
}
