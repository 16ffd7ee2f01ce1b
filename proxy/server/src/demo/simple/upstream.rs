//! The demo's two upstreams.

use std::cell::Cell;
use std::convert::Infallible;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use anyhow::Context as _;
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// An upstream over plain HTTP; `/flaky` fails two times of three. Gives its port.
pub(super) async fn plain() -> anyhow::Result<u16> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let port = listener.local_addr()?.port();
    let failures = Rc::new(Cell::new(0_u32));
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let failures = failures.clone();
            serve(stream, move |request: &Request<Incoming>| {
                if request.uri().path() == "/flaky" {
                    failures.set(failures.get() + 1);
                    if !failures.get().is_multiple_of(3) {
                        return reply(StatusCode::SERVICE_UNAVAILABLE, "not this time\n".into());
                    }
                }
                reply(StatusCode::OK, format!("plain upstream, asked for {}\n", request.uri()))
            });
        }
    });
    Ok(port)
}

/// An upstream that takes only clients with a certificate of the demo's CA, and names them. Gives its port.
pub(super) async fn mutual_tls(directory: &Path) -> anyhow::Result<u16> {
    let read = |name: &str| std::fs::read(directory.join(name)).with_context(|| name.to_owned());
    let mut roots = RootCertStore::empty();
    for ca in CertificateDer::pem_slice_iter(&read("ca.pem")?) {
        roots.add(ca?)?;
    }
    let chain = CertificateDer::pem_slice_iter(&read("secure.pem")?).collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(&read("secure.key")?)?;
    let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build()?;
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)?;
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let port = listener.local_addr()?.port();
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::task::spawn_local(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let client = stream.get_ref().1.peer_certificates().and_then(|chain| uri_of(chain.first()?));
                let client = client.unwrap_or_else(|| "nobody".into());
                serve(stream, move |request: &Request<Incoming>| {
                    let text = format!("mTLS upstream, asked for {} by {client}\n", request.uri());
                    reply(StatusCode::OK, text)
                });
            });
        }
    });
    Ok(port)
}

fn uri_of(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let names = certificate.subject_alternative_name().ok()??;
    names.value.general_names.iter().find_map(|name| match name {
        GeneralName::URI(uri) => Some((*uri).to_owned()),
        _ => None,
    })
}

fn serve<S, F>(stream: S, answer: F)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
    F: Fn(&Request<Incoming>) -> Response<Full<Bytes>> + 'static,
{
    tokio::task::spawn_local(async move {
        let service = service_fn(|request| {
            let response = answer(&request);
            async move { Ok::<_, Infallible>(response) }
        });
        if let Err(error) = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await {
            tracing::debug!(%error, "demo upstream");
        }
    });
}

fn reply(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
}
