//! TCP upstreams.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Place;
use crate::{
    io::Io,
    record::{Ending, Seen},
};

/// What a TCP upstream does with a connection.
#[derive(Clone, Debug)]
pub enum TcpScript {
    /// Sends back every byte; on the peer's end of data says `bye` and ends too.
    Echo,
    /// Speaks first, then echoes.
    Greet(String),
    /// Says this and closes at once.
    Say(String),
    /// Reads everything, answers with this at the end of data.
    AfterEof(String),
}

pub(super) async fn serve(mut io: Io, script: TcpScript, place: Place) {
    let entry = place.diary.open(Seen {
        upstream: place.name,
        protocol: "TCP".to_owned(),
        method: String::new(),
        path: String::new(),
        headers: Vec::new(),
        body: Vec::new(),
        framing: "none",
        trailers: Vec::new(),
        ending: Ending::Open,
        connection: place.connection,
        tls: place.tls,
    });
    // A write that fails shows as what the client does not get.
    let (echo, last) = match &script {
        TcpScript::Echo => (true, "bye"),
        TcpScript::Greet(text) => {
            let _ = io.write_all(text.as_bytes()).await;
            (true, "")
        }
        TcpScript::Say(text) => {
            let _ = io.write_all(text.as_bytes()).await;
            let _ = io.shutdown().await;
            (false, "")
        }
        TcpScript::AfterEof(text) => (false, text.as_str()),
    };
    let mut buffer = vec![0; 64 << 10];
    let ending = loop {
        match io.read(&mut buffer).await {
            Ok(0) => break Ending::Complete,
            Ok(n) => {
                place.diary.edit(entry, |seen| seen.body.extend_from_slice(&buffer[..n]));
                if echo && io.write_all(&buffer[..n]).await.is_err() {
                    break Ending::Cut;
                }
            }
            Err(_) => break Ending::Cut,
        }
    };
    place.diary.edit(entry, |seen| seen.ending = ending);
    let _ = io.write_all(last.as_bytes()).await;
    let _ = io.shutdown().await;
}
