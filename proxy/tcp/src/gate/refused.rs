//! The end of a connection that is not let in.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Poll, ready};
use std::time::Duration;

use outrider_core::StreamInfo;
use outrider_net::handler::{ConnectionHandler, Downstream};
use outrider_net::io::IoStream;
use tokio::io::{AsyncRead as _, AsyncWriteExt as _, ReadBuf};
use tokio::time::timeout;

use super::Refusal;

/// How long a client's first byte is waited for. Closed before it, the client would take the end for a reset.
const FIRST_BYTE: Duration = Duration::from_secs(5);
/// How long the end of a TLS session may take.
const GOOD_BYE: Duration = Duration::from_secs(1);

/// Takes what the client says first, and closes.
pub(super) async fn close(
    last: Rc<dyn ConnectionHandler>,
    downstream: Downstream,
    mut info: Box<StreamInfo>,
    refusal: Refusal,
) {
    let Downstream { mut stream, drain: _drain, session, .. } = downstream;
    let mut received = 0;
    let _ = timeout(FIRST_BYTE, first_bytes(&mut stream, &mut received)).await;
    info.bytes_received = received;
    let Refusal { details, delay } = refusal;
    let _ = info.conn.termination_details.set(details.into());
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    let _ = timeout(GOOD_BYE, stream.shutdown()).await;
    drop(stream);
    info.duration = Some(info.start.elapsed());
    last.refused(&info);
    if let Some(session) = session {
        session.replace(Some(info));
    }
}

/// Reads what is there as soon as anything is, the client's end among it; counts the bytes.
async fn first_bytes(stream: &mut IoStream, received: &mut u64) {
    let mut buffer = [0; 2048];
    std::future::poll_fn(|cx| {
        loop {
            let mut buffer = ReadBuf::new(&mut buffer);
            let read = Pin::new(&mut *stream).poll_read(cx, &mut buffer);
            if read.is_pending() && *received > 0 {
                return Poll::Ready(());
            }
            let outcome = ready!(read);
            if outcome.is_err() || buffer.filled().is_empty() {
                return Poll::Ready(());
            }
            *received += buffer.filled().len() as u64;
        }
    })
    .await;
}
