//! HTTP/1 responses off a [`Conn`].

use anyhow::{Context, Result};

use super::{Conn, LIMIT, Response};
use crate::{h1::Framing, wait};

impl Conn {
    /// Reads one response to a request with this method, its informational ones included.
    ///
    /// # Errors
    /// When no head comes. A body that breaks is no error but told by [`Response::end`].
    pub async fn response(&mut self, method: &str) -> Result<Response> {
        wait::within("an HTTP/1 response", LIMIT, self.read_response(method)).await
    }

    async fn read_response(&mut self, method: &str) -> Result<Response> {
        let mut response = Response::default();
        let head = loop {
            let head = self.reader.head().await?.context("closed without a response")?;
            let status = head.start.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
            if (100..200).contains(&status) && status != 101 {
                response.interim.push(head.start);
                continue;
            }
            response.status = status;
            break head;
        };
        let framing = if method == "HEAD" || matches!(response.status, 101 | 204 | 304) {
            Framing::None
        } else {
            head.framing().unwrap_or(Framing::Close)
        };
        response.framing = framing.name();
        response.start.clone_from(&head.start);
        response.headers = head.headers;
        match self.reader.body(framing, &mut response.body).await {
            Ok(trailers) => {
                response.trailers = trailers;
                "complete".clone_into(&mut response.end);
            }
            Err(error) => response.end = broken(&error),
        }
        Ok(response)
    }
}

/// A broken body in words that do not depend on who broke it or how the kernel calls it.
fn broken(error: &anyhow::Error) -> String {
    if error.downcast_ref::<std::io::Error>().is_some() { "reset".into() } else { "cut short".into() }
}
