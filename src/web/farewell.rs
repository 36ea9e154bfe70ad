//! The last words on a connection: a reply that hyper has no part in, the end of sending, and a moment in which what
//! the client still sends is taken in, so that it gets to see the reply (RFC 9112, 9.6).

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::problem;
use super::server::SERVER_NAME;
use crate::exchange::JSON;

/// How much is taken in.
const MOST_BYTES: usize = 64 << 20;

/// How much at a time.
const READ_BYTES: usize = 16 << 10;

/// A reply and the end after it.
#[derive(Debug)]
pub struct LastWords {
    reply: Vec<u8>,
    sent: usize,
    is_shut: bool,
    taken_in: usize,
}

impl LastWords {
    pub fn new(reply: Vec<u8>) -> Self {
        Self { reply, sent: 0, is_shut: false, taken_in: 0 }
    }

    /// Ready when the client has left, has sent too much, or cannot be reached. The time is the caller's to limit.
    pub fn poll<S>(&mut self, stream: &mut S, context: &mut Context<'_>) -> Poll<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        while self.sent < self.reply.len() {
            match ready!(Pin::new(&mut *stream).poll_write(context, &self.reply[self.sent..])) {
                Ok(0) | Err(_) => return Poll::Ready(()),
                Ok(count) => self.sent += count,
            }
        }
        if !self.is_shut {
            if ready!(Pin::new(&mut *stream).poll_shutdown(context)).is_err() {
                return Poll::Ready(());
            }
            self.is_shut = true;
        }
        let mut scratch = [0; READ_BYTES];
        while self.taken_in < MOST_BYTES {
            let mut buffer = ReadBuf::new(&mut scratch);
            match ready!(Pin::new(&mut *stream).poll_read(context, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => self.taken_in += buffer.filled().len(),
                _ => break,
            }
        }
        Poll::Ready(())
    }
}

/// An error as a whole reply, for clients of HTTP/1.
pub fn refusal(status: StatusCode, reason: &str, retry_after: Option<u32>) -> Vec<u8> {
    let body = problem::body(status, reason).to_string();
    let words = status.canonical_reason().unwrap_or_default();
    let retry_after = retry_after.map(|seconds| format!("retry-after: {seconds}\r\n")).unwrap_or_default();
    format!(
        "HTTP/1.1 {} {words}\r\ncontent-type: {JSON}\r\ncontent-length: {}\r\n{retry_after}server: {SERVER_NAME}\r\nconnection: close\r\n\r\n{body}",
        status.as_u16(),
        body.len()
    )
    .into_bytes()
}
