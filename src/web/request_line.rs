//! Makes request targets readable that clients send although RFC 3986 wants them escaped: `/find?f={"a":1}`.
//!
//! The http crate refuses a raw `"`, `<`, `>` or backtick in a target, and with it the request; the program whose
//! clients come here took them. They are escaped on their way in, in request lines only: at the start of a connection,
//! and after a request without a body of which nothing but the head has come, so that what comes next can be nothing
//! else. A body must never be taken for a request line: escaping would make it longer than announced.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

/// A request line longer than this is passed on as it is; hyper refuses it.
const LONGEST_LINE: usize = 64 << 10;

/// Says that a request has ended with its head.
#[derive(Debug, Clone, Default)]
pub struct HeadOnly(Arc<AtomicBool>);

impl HeadOnly {
    /// To be called when a request without a body has been read.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// How far the reader has come since the last request line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Before a request line.
    RequestLine,
    /// In a head; whether the line so far is empty.
    Head { is_line_empty: bool },
    /// Right behind the empty line that ends a head.
    HeadEnd,
    /// In a body, or among requests that came together: nobody knows where a line begins, for the rest of the
    /// connection.
    Unknown,
}

impl Place {
    /// The place after these bytes.
    fn after(self, bytes: &[u8]) -> Self {
        let mut place = if self == Self::RequestLine { Self::Head { is_line_empty: true } } else { self };
        for byte in bytes {
            place = match (place, byte) {
                (Self::Head { is_line_empty: true }, b'\n') => Self::HeadEnd,
                (Self::Head { .. }, b'\n') => Self::Head { is_line_empty: true },
                (Self::Head { is_line_empty }, b'\r') => Self::Head { is_line_empty },
                (Self::Head { .. }, _) => Self::Head { is_line_empty: false },
                _ => return Self::Unknown,
            };
        }
        place
    }
}

/// What comes from a client, with request lines that can be read.
#[derive(Debug)]
pub struct ReadableTargets {
    head_only: HeadOnly,
    place: Place,
    /// The beginning of a line whose end has not come yet.
    partial: Vec<u8>,
    /// What is ready for the reader, from `given` on.
    ready: Vec<u8>,
    given: usize,
}

impl ReadableTargets {
    pub fn new(head_only: HeadOnly) -> Self {
        Self { head_only, place: Place::RequestLine, partial: Vec::new(), ready: Vec::new(), given: 0 }
    }

    fn give(&mut self, buffer: &mut ReadBuf<'_>) {
        let count = buffer.remaining().min(self.ready.len() - self.given);
        self.place = self.place.after(&self.ready[self.given..self.given + count]);
        buffer.put_slice(&self.ready[self.given..self.given + count]);
        self.given += count;
        if self.given == self.ready.len() {
            self.ready = Vec::new();
            self.given = 0;
        }
    }

    /// Whether what has come begins no request line, so that hyper can refuse it at once: TLS, or any other protocol.
    fn is_hopeless(&self, fresh: &[u8]) -> bool {
        let is_broken = self.partial.ends_with(b"\r") && !fresh.starts_with(b"\n");
        let is_in_method = !self.partial.contains(&b' ');
        is_broken || has_control(fresh) || (is_in_method && !begins_with_letters(fresh))
    }

    /// Reads from the client's stream.
    pub fn poll_read<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if !self.ready.is_empty() {
                self.give(buffer);
                return Poll::Ready(Ok(()));
            }
            if self.head_only.0.swap(false, Ordering::Relaxed) {
                self.place = if self.place == Place::HeadEnd { Place::RequestLine } else { Place::Unknown };
            }
            let before = buffer.filled().len();
            ready!(Pin::new(&mut *stream).poll_read(context, buffer))?;
            let fresh = &buffer.filled()[before..];
            let is_end = fresh.is_empty();
            if self.place != Place::RequestLine || (is_end && self.partial.is_empty()) {
                self.place = self.place.after(fresh);
                return Poll::Ready(Ok(()));
            }
            let is_whole = fresh.contains(&b'\n') || is_end || self.partial.len() + fresh.len() > LONGEST_LINE;
            let is_whole = is_whole || self.is_hopeless(fresh);
            if is_whole && self.partial.is_empty() && escaped(fresh).is_none() {
                // The usual case: nothing is copied.
                self.place = self.place.after(fresh);
                return Poll::Ready(Ok(()));
            }
            self.partial.extend_from_slice(fresh);
            buffer.set_filled(before);
            if is_whole {
                let bytes = std::mem::take(&mut self.partial);
                self.ready = escaped(&bytes).unwrap_or(bytes);
            }
        }
    }
}

/// The bytes with the target of their first line escaped; `None` when there is nothing to escape.
fn escaped(bytes: &[u8]) -> Option<Vec<u8>> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let line = &bytes[..end];
    if !begins_with_letters(line) || has_control(line) {
        return None;
    }
    let first = line.iter().position(|byte| *byte == b' ')?;
    let last = line.iter().rposition(|byte| *byte == b' ')?;
    let target = line.get(first + 1..last)?;
    if !line[last + 1..].starts_with(b"HTTP/1.") || !target.iter().any(|byte| is_refused(*byte)) {
        return None;
    }
    let mut result = bytes[..=first].to_vec();
    for byte in target {
        if is_refused(*byte) {
            result.extend_from_slice(format!("%{byte:02X}").as_bytes());
        } else {
            result.push(*byte);
        }
    }
    result.extend_from_slice(&bytes[last..]);
    Some(result)
}

/// Whether there are only letters before the first space.
fn begins_with_letters(bytes: &[u8]) -> bool {
    bytes.iter().take_while(|byte| !matches!(**byte, b' ' | b'\r')).all(u8::is_ascii_alphabetic)
}

/// Whether there is a control character but for a carriage return at the end.
fn has_control(bytes: &[u8]) -> bool {
    let bytes = bytes.strip_suffix(b"\r").unwrap_or(bytes);
    bytes.iter().any(u8::is_ascii_control)
}

fn is_refused(byte: u8) -> bool {
    matches!(byte, b'"' | b'<' | b'>' | b'`')
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::super::activity::Activity;
    use super::super::client_stream::ClientStream;
    use super::super::connections::tests::limits;
    use super::*;

    #[test]
    fn only_the_target_of_a_request_line_is_escaped() {
        let request = b"GET /a`?f={\"b\":<1>} HTTP/1.1\r\nX: \"<>`\r\n\r\n\"";
        let expected = b"GET /a%60?f={%22b%22:%3C1%3E} HTTP/1.1\r\nX: \"<>`\r\n\r\n\"";
        assert_eq!(escaped(request).as_deref(), Some(&expected[..]));
        for same in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"X-Y: \"a\" HTTP/1.1\r\n", b"no line \" yet", b"\"\n"] {
            assert_eq!(escaped(same), None);
        }
    }

    #[test]
    fn only_a_head_with_nothing_behind_it_is_followed_by_a_line() {
        let after = |bytes: &[u8]| Place::RequestLine.after(bytes);
        assert_eq!(after(b"GET / HTTP/1.1\r\nA: b\r\n\r\n"), Place::HeadEnd);
        assert_eq!(after(b"GET / HTTP/1.1\n\n"), Place::HeadEnd);
        assert_eq!(after(b"GET / HTTP/1.1\r\nA: b\r\n"), Place::Head { is_line_empty: true });
        assert_eq!(after(b"GET / HTTP/1.1\r\n\r\nPOST / HTTP/1.1\r\n\r\n"), Place::Unknown);
        assert_eq!(after(b"\r\nGET / HTTP/1.1\r\n\r\n"), Place::Unknown);
        assert_eq!(after(b"GET / HT").after(b"TP/1.1\r").after(b"\n\r").after(b"\n"), Place::HeadEnd);
    }

    #[tokio::test]
    async fn what_can_be_no_request_line_is_not_held_back() {
        for bytes in [&b"\x16\x03\x01\x02\x00"[..], b"\0\0\0", b"GET /\rHost", b"G\xc3T", b"GET /a\x7f"] {
            let (mut client, server) = tokio::io::duplex(64);
            let mut stream =
                ClientStream::new(server, HeadOnly::default(), Arc::new(Activity::new(&limits(), Arc::default())));
            for byte in bytes {
                tokio::io::AsyncWriteExt::write_all(&mut client, &[*byte]).await.expect("writable");
            }
            let mut read = vec![0; bytes.len()];
            stream.read_exact(&mut read).await.expect("readable");
            assert_eq!(read, bytes);
        }
    }

    #[tokio::test]
    async fn a_line_that_comes_in_pieces_is_put_together() {
        let pieces: Vec<&[u8]> = vec![b"GE", b"T /\"x HTTP", b"/1.1\r\nA: \"", b"b\"\r\n\r\n"];
        let (mut client, server) = tokio::io::duplex(64);
        let activity = Arc::new(Activity::new(&limits(), Arc::default()));
        let mut stream = ClientStream::new(server, HeadOnly::default(), activity);
        let read = tokio::spawn(async move {
            let mut all = Vec::new();
            stream.read_to_end(&mut all).await.expect("readable");
            all
        });
        for piece in pieces {
            tokio::io::AsyncWriteExt::write_all(&mut client, piece).await.expect("writable");
            tokio::task::yield_now().await;
        }
        drop(client);
        assert_eq!(read.await.expect("ended"), b"GET /%22x HTTP/1.1\r\nA: \"b\"\r\n\r\n");
    }
}
