//! Messages over the socket between supervisor and worker: JSON, each with its length before it.

use std::io;
use std::os::unix::net::UnixStream as StdStream;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio_util::codec::{FramedRead, FramedWrite, LengthDelimitedCodec};

/// The longest message; one with the state of a thousand plugins has about a megabyte.
const LONGEST_MESSAGE: usize = 256 << 20;

/// Reads messages; `None` when the other side has gone.
#[derive(Debug)]
pub struct MessageReader(FramedRead<OwnedReadHalf, LengthDelimitedCodec>);

/// Writes messages.
#[derive(Debug)]
pub struct MessageWriter(FramedWrite<OwnedWriteHalf, LengthDelimitedCodec>);

/// The two ways of a connection. Needs a tokio runtime.
pub fn split(stream: StdStream) -> io::Result<(MessageReader, MessageWriter)> {
    stream.set_nonblocking(true)?;
    let (reading, writing) = UnixStream::from_std(stream)?.into_split();
    let codec = || LengthDelimitedCodec::builder().max_frame_length(LONGEST_MESSAGE).new_codec();
    Ok((MessageReader(FramedRead::new(reading, codec())), MessageWriter(FramedWrite::new(writing, codec()))))
}

impl MessageReader {
    /// The next message. A side that sends nonsense counts as gone.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Option<T> {
        let bytes = self.0.next().await?.ok()?;
        serde_json::from_slice(&bytes).inspect_err(|problem| log::error!("a message makes no sense: {problem}")).ok()
    }
}

impl MessageWriter {
    /// Sends one message. Errs when the other side has gone.
    pub async fn send<T: Serialize>(&mut self, message: &T) -> io::Result<()> {
        self.0.send(Bytes::from(serde_json::to_vec(message)?)).await
    }
}
