//! The body of a request: read to its end within the limit, or handed to the plugin as it comes; gzip and deflate
//! undone on the way.

use std::io;
use std::pin::Pin;
use std::time::Duration;

use async_compression::tokio::bufread::{DeflateDecoder, GzipDecoder, ZlibDecoder};
use bytes::{Buf, Bytes, BytesMut};
use futures_util::stream::{self, Stream, StreamExt};
use http::{HeaderMap, header};
use tokio::io::AsyncRead;
use tokio_util::io::{ReaderStream, StreamReader};

use super::body_pace::{HandedOn, Paced};
use super::fields::may_be_fields;
use super::reply::ApiError;
use crate::config::settings::{BodyMode, Limits};
use crate::pipe::{PipeReader, PipeWriter, pipe};

/// How much of a body that nobody wants is still read, so that the client gets to see the answer.
const DISCARD_BYTES: usize = 64 << 20;
const DISCARD_TIME: Duration = Duration::from_secs(5);
/// How long it may stand still: a client that has stopped to send waits for its answer.
const DISCARD_PAUSE: Duration = Duration::from_secs(1);

/// A body as the plugin gets it.
#[derive(Debug)]
pub enum ReceivedBody {
    Whole(Bytes),
    Streamed(PipeReader),
}

/// Receives a body. Errs when it is too large to be read whole and must be, comes too slowly, or cannot be read at all.
pub async fn receive<B: Buf>(
    headers: &HeaderMap,
    body: impl Stream<Item = Result<B, warp::Error>> + Send + 'static,
    limits: &Limits,
    mode: BodyMode,
) -> Result<ReceivedBody, ApiError> {
    let handed_on = HandedOn::default();
    let bytes = body.map(|chunk| match chunk {
        Ok(mut chunk) => Ok(chunk.copy_to_bytes(chunk.remaining())),
        Err(problem) => Err(io::Error::other(problem)),
    });
    let bytes = Paced::new(Box::pin(bytes), limits.body_timeout, handed_on.clone());
    let limit_bytes = limits.max_body_bytes;
    let received = match Encoding::of(headers) {
        None => take_in(headers, Box::pin(bytes), limit_bytes, mode, &handed_on).await,
        Some(encoding) => take_in(headers, decoded(bytes, encoding), limit_bytes, mode, &handed_on).await,
    };
    received.map_err(|problem| match problem {
        Unreadable::TooLarge => ApiError::BodyTooLarge { limit_bytes },
        Unreadable::Broken(problem) if problem.kind() == io::ErrorKind::TimedOut => ApiError::BodyTooSlow,
        Unreadable::Broken(problem) => ApiError::BadRequest(format!("the body cannot be read: {problem}")),
    })
}

/// Why a body was not received.
enum Unreadable {
    TooLarge,
    Broken(io::Error),
}

async fn take_in<S>(
    headers: &HeaderMap,
    mut body: Pin<Box<S>>,
    limit_bytes: usize,
    mode: BodyMode,
    handed_on: &HandedOn,
) -> Result<ReceivedBody, Unreadable>
where
    S: Stream<Item = io::Result<Bytes>> + Send + ?Sized + 'static,
{
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    let is_announced_too_large = announced.is_some_and(|length| length > limit_bytes as u64);
    if mode == BodyMode::Stream && !may_be_fields(headers) {
        return stream_at_once(headers, body, handed_on).await;
    }
    if mode != BodyMode::Read && is_announced_too_large {
        return Ok(ReceivedBody::Streamed(stream_from(Bytes::new(), body, handed_on)));
    }
    if is_announced_too_large {
        // A client that waits for a 100 has sent nothing yet, and shall not.
        if !headers.contains_key(header::EXPECT) {
            discard(&mut body).await;
        }
        return Err(Unreadable::TooLarge);
    }
    let mut read = BytesMut::new();
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(Unreadable::Broken)?;
        if read.len() + chunk.len() <= limit_bytes {
            read.extend_from_slice(&chunk);
            continue;
        }
        if mode != BodyMode::Read {
            read.extend_from_slice(&chunk);
            return Ok(ReceivedBody::Streamed(stream_from(read.freeze(), body, handed_on)));
        }
        discard(&mut body).await;
        return Err(Unreadable::TooLarge);
    }
    Ok(ReceivedBody::Whole(read.freeze()))
}

/// Hands a body over from its first byte. One that the head does not announce may not be there at all.
async fn stream_at_once<S>(
    headers: &HeaderMap,
    mut body: Pin<Box<S>>,
    handed_on: &HandedOn,
) -> Result<ReceivedBody, Unreadable>
where
    S: Stream<Item = io::Result<Bytes>> + Send + ?Sized + 'static,
{
    let is_announced = headers.contains_key(header::TRANSFER_ENCODING)
        || headers.get(header::CONTENT_LENGTH).is_some_and(|length| length != "0");
    if is_announced {
        return Ok(ReceivedBody::Streamed(stream_from(Bytes::new(), body, handed_on)));
    }
    match body.next().await {
        None => Ok(ReceivedBody::Whole(Bytes::new())),
        Some(Ok(first)) => Ok(ReceivedBody::Streamed(stream_from(first, body, handed_on))),
        Some(Err(problem)) => Err(Unreadable::Broken(problem)),
    }
}

/// Reads on, in a task of its own, as fast as the plugin does.
fn stream_from<S>(first: Bytes, body: Pin<Box<S>>, handed_on: &HandedOn) -> PipeReader
where
    S: Stream<Item = io::Result<Bytes>> + Send + ?Sized + 'static,
{
    handed_on.set();
    let (writer, reader) = pipe();
    writer.push(first);
    tokio::spawn(fill(writer, body));
    reader
}

async fn fill<S>(writer: PipeWriter, mut body: Pin<Box<S>>)
where
    S: Stream<Item = io::Result<Bytes>> + Send + ?Sized,
{
    while std::future::poll_fn(|context| writer.poll_room(context)).await {
        let next = tokio::select! {
            next = body.next() => next,
            () = writer.abandoned() => break,
        };
        match next {
            None => return writer.finish(),
            Some(Err(problem)) => return writer.fail(problem.to_string()),
            Some(Ok(bytes)) => {
                writer.push(bytes);
            }
        }
    }
    // The plugin has ended without reading the rest.
    discard(&mut body).await;
}

async fn discard<S: Stream<Item = io::Result<Bytes>> + ?Sized>(body: &mut Pin<Box<S>>) {
    let reading = async {
        let mut discarded = 0;
        while let Ok(Some(Ok(chunk))) = tokio::time::timeout(DISCARD_PAUSE, body.next()).await {
            discarded += chunk.len();
            if discarded > DISCARD_BYTES {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(DISCARD_TIME, reading).await;
}

#[derive(Debug, Clone, Copy)]
enum Encoding {
    Gzip,
    Deflate,
}

impl Encoding {
    /// What is to be undone. Other encodings are the plugin's own affair, as with aiohttp.
    fn of(headers: &HeaderMap) -> Option<Self> {
        let value = headers.get(header::CONTENT_ENCODING)?.to_str().ok()?;
        match value.trim().to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => Some(Self::Gzip),
            "deflate" => Some(Self::Deflate),
            _ => None,
        }
    }
}

type Decoded = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

fn decoded(body: impl Stream<Item = io::Result<Bytes>> + Send + 'static, encoding: Encoding) -> Decoded {
    let body = Box::pin(body.filter(|chunk| std::future::ready(!matches!(chunk, Ok(bytes) if bytes.is_empty()))));
    // What it is can be told from its first bytes.
    Box::pin(stream::once(begin_decoding(body, encoding)).flatten())
}

async fn begin_decoding(
    mut body: Pin<Box<impl Stream<Item = io::Result<Bytes>> + Send + 'static>>,
    encoding: Encoding,
) -> Decoded {
    let first = match body.next().await {
        None => return Box::pin(stream::empty()),
        Some(first) => first,
    };
    // `deflate` means zlib's format (RFC 9110, 8.4.1.2); some send the bare one. zlib's begins with method 8.
    let is_zlib = first.as_ref().is_ok_and(|bytes| bytes.first().is_some_and(|byte| byte & 0x0f == 8));
    let reader = StreamReader::new(stream::iter([first]).chain(body));
    match encoding {
        Encoding::Gzip => {
            let mut decoder = GzipDecoder::new(reader);
            decoder.multiple_members(true);
            chunks(decoder)
        }
        Encoding::Deflate if is_zlib => chunks(ZlibDecoder::new(reader)),
        Encoding::Deflate => chunks(DeflateDecoder::new(reader)),
    }
}

fn chunks(reader: impl AsyncRead + Send + 'static) -> Decoded {
    Box::pin(ReaderStream::with_capacity(reader, 16 << 10))
}
