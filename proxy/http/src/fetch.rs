//! What the control thread fetches over HTTP for filters, and how.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;

use http::{HeaderName, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body::Body as _;
use outrider_upstream::{AcquireContext, Event, Incoming, PickContext, UpstreamBody, WorkerClusters};

use crate::jwks::JwksSource;
use crate::oauth2::TokenSource;

/// The most bytes of an answer.
const LARGEST: usize = 1024 * 1024;

/// Something that is fetched for a filter, for as long as that is there.
#[derive(Debug, Clone)]
pub enum Fetcher {
    /// Keys of tokens.
    Keys(JwksSource),
    /// A token for requests.
    Token(TokenSource),
}

impl Fetcher {
    /// Fetches until the filter is gone. Control thread.
    pub async fn run(self, clusters: Rc<WorkerClusters>) {
        match self {
            Self::Keys(source) => source.run(clusters).await,
            Self::Token(source) => source.run(clusters).await,
        }
    }
}

/// Something cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FetchError {
    /// The cluster is not there.
    #[error("there is no such cluster")]
    NoCluster,
    /// No answer began.
    #[error("{0}")]
    Upstream(String),
    /// An answer began and did not end.
    #[error("{0}")]
    Cut(String),
    /// Its time was over.
    #[error("no answer in time")]
    Timeout,
    /// Another status than 200.
    #[error("status {0}")]
    Status(StatusCode),
    /// It is too long.
    #[error("more than {LARGEST} bytes")]
    TooLarge,
}

/// Asks `cluster` for what is at `uri`, and reads the answer.
pub(crate) async fn ask(
    clusters: &WorkerClusters,
    (cluster, uri): (&str, &Uri),
    method: Method,
    headers: impl IntoIterator<Item = (HeaderName, HeaderValue)>,
    body: UpstreamBody,
) -> Result<Vec<u8>, FetchError> {
    let upstream = |error: &dyn std::fmt::Display| FetchError::Upstream(error.to_string());
    let cluster = clusters.by_name(cluster).ok_or(FetchError::NoCluster)?;
    let host = cluster.pick(&PickContext::default()).map_err(|error| upstream(&error))?;
    let authority = uri.authority().map_or("", http::uri::Authority::as_str);
    let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let named = HeaderValue::from_str(authority).map_err(|error| upstream(&error))?;
    // There are servers that turn away who does not say what he is.
    let request = Request::builder().method(method).uri(path);
    let request = request.header(header::HOST, named).header(header::USER_AGENT, "outrider");
    let request = headers.into_iter().fold(request, |request, (name, value)| request.header(name, value));
    let request = request.body(body).map_err(|error| upstream(&error))?;
    let context = AcquireContext { sni_from: Some(authority), ..AcquireContext::default() };
    let mut lease = match cluster.acquire(&host, &context).await {
        Ok(lease) => lease,
        Err(error) => {
            host.count_response(None);
            cluster.shared.report(&host, Event::ConnectFailed);
            return Err(upstream(&error));
        }
    };
    cluster.shared.report(&host, Event::Connected);
    let response = match lease.send(request).await {
        Ok(response) => response,
        Err(error) => {
            host.count_response(None);
            cluster.shared.report(&host, Event::ConnectFailed);
            return Err(upstream(&error));
        }
    };
    let status = response.status();
    cluster.shared.report(&host, Event::Response(status.as_u16()));
    host.count_response(Some(status.as_u16()));
    let mut guard = lease.into_guard();
    let text = read(response.into_body()).await?;
    guard.finished();
    if status == StatusCode::OK { Ok(text) } else { Err(FetchError::Status(status)) }
}

async fn read(mut body: Incoming) -> Result<Vec<u8>, FetchError> {
    let mut text = Vec::new();
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let frame = frame.map_err(|error| FetchError::Cut(error.to_string()))?;
        if let Some(data) = frame.data_ref() {
            if text.len() + data.len() > LARGEST {
                return Err(FetchError::TooLarge);
            }
            text.extend_from_slice(data);
        }
    }
    Ok(text)
}
