//! A server that load is reported to (LRS): says what it wants, and keeps what it is told.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use h2::{RecvStream, SendStream, server};
use http::{Request, Response};
use outrider_proto::pb::envoy::service::load_stats::v3::{LoadStatsRequest, LoadStatsResponse};
use outrider_proto::pb::google::protobuf;
use outrider_proto::prost::Message;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
};

use crate::wait;

const PATH: &str = "/envoy.service.load_stats.v3.LoadReportingService/StreamLoadStats";

/// A running server. It ends with this.
#[derive(Debug)]
pub struct LoadReports {
    /// Where it listens.
    pub address: SocketAddr,
    wanted: watch::Sender<LoadStatsResponse>,
    cut: watch::Sender<u32>,
    reports: mpsc::UnboundedReceiver<LoadStatsRequest>,
}

/// Wants reports of `clusters` (of all when there are none), so often.
#[must_use]
pub fn wanted(clusters: &[&str], every: Duration, endpoints: bool) -> LoadStatsResponse {
    LoadStatsResponse {
        clusters: clusters.iter().map(|name| (*name).to_owned()).collect(),
        send_all_clusters: clusters.is_empty(),
        load_reporting_interval: Some(protobuf::Duration {
            seconds: i64::try_from(every.as_secs()).unwrap_or(i64::MAX),
            nanos: i32::try_from(every.subsec_nanos()).unwrap_or(0),
        }),
        report_endpoint_granularity: endpoints,
    }
}

impl LoadReports {
    /// Starts one that wants this.
    ///
    /// # Errors
    /// There is no port.
    pub async fn start(first: LoadStatsResponse) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (wanted, _) = watch::channel(first);
        let (cut, _) = watch::channel(0);
        let (sender, reports) = mpsc::unbounded_channel();
        let (wants, cuts) = (wanted.clone(), cut.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (sender, wants, mut cut) = (sender.clone(), wants.subscribe(), cuts.subscribe());
                tokio::spawn(async move {
                    tokio::select! {
                        // How a stream ends, shows in what comes after it.
                        _ = connection(stream, wants, sender) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        Ok(Self { address, wanted, cut, reports })
    }

    /// Wants something else from now on.
    pub fn want(&self, wanted: LoadStatsResponse) {
        self.wanted.send_replace(wanted);
    }

    /// Ends all connections; new ones are welcome.
    pub fn cut(&self) {
        self.cut.send_modify(|count| *count += 1);
    }

    /// The next message of which this is true.
    ///
    /// # Errors
    /// None comes in time.
    pub async fn report(
        &mut self,
        what: &str,
        is: impl Fn(&LoadStatsRequest) -> bool,
    ) -> Result<LoadStatsRequest> {
        wait::within(what, wait::LIMIT, async {
            loop {
                let report = self.reports.recv().await.context("the server ended")?;
                if is(&report) {
                    return Ok(report);
                }
            }
        })
        .await
    }
}

async fn connection(
    stream: TcpStream,
    wanted: watch::Receiver<LoadStatsResponse>,
    reports: mpsc::UnboundedSender<LoadStatsRequest>,
) -> Result<()> {
    let mut connection = server::handshake(stream).await?;
    while let Some(accepted) = connection.accept().await {
        let (request, mut respond) = accepted?;
        ensure!(request.uri().path() == PATH, "{}", request.uri());
        let head = Response::builder().header("content-type", "application/grpc").body(())?;
        let answers = respond.send_response(head, false)?;
        tokio::spawn(answer(answers, wanted.clone()));
        tokio::spawn(read(request, reports.clone()));
    }
    Ok(())
}

async fn answer(
    mut answers: SendStream<Bytes>,
    mut wanted: watch::Receiver<LoadStatsResponse>,
) -> Result<()> {
    loop {
        let message = wanted.borrow_and_update().clone();
        let mut frame = BytesMut::new();
        frame.put_u8(0);
        frame.put_u32(u32::try_from(message.encoded_len())?);
        frame.extend_from_slice(&message.encode_to_vec());
        answers.send_data(frame.freeze(), false)?;
        wanted.changed().await?;
    }
}

async fn read(request: Request<RecvStream>, reports: mpsc::UnboundedSender<LoadStatsRequest>) -> Result<()> {
    let mut body = request.into_body();
    let mut buffer = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        buffer.extend_from_slice(&data);
        while let Some([_, a, b, c, d]) = buffer.first_chunk::<5>() {
            let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
            if buffer.len() < 5 + length {
                break;
            }
            buffer.advance(5);
            reports.send(LoadStatsRequest::decode(buffer.split_to(length))?)?;
        }
    }
    Ok(())
}
