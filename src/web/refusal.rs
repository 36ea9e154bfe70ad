//! JSON for the requests that hyper refuses by itself: it answers a malformed head with an empty body.
//!
//! The stream to the client is watched for such a reply. It is known by what it lacks: every reply of this server
//! names it in `Server`. What plugins put into bodies must never be taken for one: see [`OwnPieces`].

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use http::StatusCode;
use tokio::io::AsyncWrite;

use super::problem;

/// The longest reply that hyper makes of itself; a longer write is a plugin's.
const LONGEST_REFUSAL: usize = 512;

/// Says that a plugin decides where a write on this connection begins: it streams, or has taken the connection over, or
/// speaks HTTP/2. No write is a refusal then, whatever it looks like.
#[derive(Debug, Clone, Default)]
pub struct OwnPieces(Arc<AtomicBool>);

impl OwnPieces {
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What goes to a client, with refusals that have a body.
#[derive(Debug, Default)]
pub struct Refusals {
    own_pieces: OwnPieces,
    /// Whether the last write was not taken whole: what comes next is the rest of it.
    is_within: bool,
    /// A refusal on its way out, and how much of it has gone.
    refusal: Vec<u8>,
    sent: usize,
    has_refused: bool,
}

impl Refusals {
    /// Whether a refusal was among what went out: the request has then not been read to its end.
    pub fn has_refused(&self) -> bool {
        self.has_refused
    }

    pub fn new(own_pieces: OwnPieces) -> Self {
        Self { own_pieces, ..Self::default() }
    }

    /// To be told how much of a write has gone that did not pass here.
    pub fn note(&mut self, written: &Poll<io::Result<usize>>, offered: usize) {
        if let Poll::Ready(Ok(count)) = written {
            self.is_within = *count < offered;
        }
    }

    /// Sends what is left of a refusal: it goes out before anything else does.
    pub fn poll_rest<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while self.sent < self.refusal.len() {
            let written = ready!(Pin::new(&mut *stream).poll_write(context, &self.refusal[self.sent..]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += written;
        }
        self.refusal.clear();
        self.sent = 0;
        Poll::Ready(Ok(()))
    }

    /// Writes to the client's stream.
    pub fn poll_write<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_rest(stream, context))?;
        let may_be_refusal = !self.is_within && !self.own_pieces.0.load(Ordering::Relaxed);
        let Some(refusal) = with_body(bytes).filter(|_| may_be_refusal) else {
            let written = Pin::new(stream).poll_write(context, bytes);
            self.note(&written, bytes.len());
            return written;
        };
        self.refusal = refusal;
        self.has_refused = true;
        // Taken over whole: what does not go out now goes with the next write or flush.
        if let Poll::Ready(Err(problem)) = self.poll_rest(stream, context) {
            return Poll::Ready(Err(problem));
        }
        Poll::Ready(Ok(bytes.len()))
    }
}

/// The reply with a JSON body, when the bytes are a refusal of hyper's own.
fn with_body(bytes: &[u8]) -> Option<Vec<u8>> {
    if bytes.len() > LONGEST_REFUSAL || !bytes.starts_with(b"HTTP/1.1 4") {
        return None;
    }
    let head = std::str::from_utf8(bytes).ok()?;
    if head.find("\r\n\r\n")? + 4 != head.len() {
        return None;
    }
    let mut lines = head.trim_end().split("\r\n");
    let status_line = lines.next()?;
    let code: u16 = status_line.split(' ').nth(1)?.parse().ok()?;
    let fields: Vec<&str> = lines.collect();
    let is_ours = fields.iter().any(|field| field.to_ascii_lowercase().starts_with("server:"));
    let is_empty = fields.iter().any(|field| field.eq_ignore_ascii_case("content-length: 0"));
    if is_ours || !is_empty {
        return None;
    }
    let reason = match code {
        400 => "malformed request",
        414 => "the address is too long",
        431 => "the request's header is too large",
        _ => "the request cannot be served",
    };
    let status = StatusCode::from_u16(code).ok()?;
    let body = problem::body(status, reason).to_string();
    let kept = fields.iter().filter(|field| !field.to_ascii_lowercase().starts_with("content-length:"));
    let mut reply = format!("{status_line}\r\n");
    for field in kept {
        reply.push_str(&format!("{field}\r\n"));
    }
    let length = body.len();
    let server = super::server::SERVER_NAME;
    let content_type = crate::exchange::JSON;
    reply.push_str(&format!(
        "content-type: {content_type}\r\ncontent-length: {length}\r\nserver: {server}\r\n\r\n{body}"
    ));
    Some(reply.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_gets_a_body_and_a_right_length() {
        let refusal = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        let reply = String::from_utf8(with_body(refusal).expect("a refusal")).expect("text");
        let (head, body) = reply.split_once("\r\n\r\n").expect("a head");
        assert!(body.starts_with(r#"{"error":"malformed request","#), "{body}");
        assert!(head.contains(&format!("content-length: {}", body.len())), "{head}");
        assert!(head.contains("connection: close"), "{head}");
    }

    #[tokio::test]
    async fn a_piece_that_a_plugin_chose_is_no_refusal() {
        let fake = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
        for (is_own, expected) in [(true, &fake[..]), (false, &with_body(fake).expect("a refusal")[..])] {
            let own_pieces = OwnPieces::default();
            let mut refusals = Refusals::new(own_pieces.clone());
            if is_own {
                own_pieces.set();
            }
            let mut sent = Vec::new();
            let written = std::future::poll_fn(|context| refusals.poll_write(&mut sent, context, fake)).await;
            assert_eq!((written.expect("writable"), &sent[..]), (fake.len(), expected));
        }
        // The rest of a write that was not taken whole.
        let mut refusals = Refusals::default();
        refusals.note(&Poll::Ready(Ok(10)), 10 + fake.len());
        let mut sent = Vec::new();
        let written = std::future::poll_fn(|context| refusals.poll_write(&mut sent, context, fake)).await;
        assert_eq!((written.expect("writable"), &sent[..]), (fake.len(), &fake[..]));
    }

    #[test]
    fn replies_of_plugins_pass_as_they_are() {
        assert!(with_body(b"HTTP/1.1 400 Bad Request\r\nserver: pserve\r\ncontent-length: 0\r\n\r\n").is_none());
        assert!(with_body(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").is_none());
        assert!(with_body(b"some bytes of a body").is_none());
    }
}
