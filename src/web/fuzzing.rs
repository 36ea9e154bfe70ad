//! A door for `tests/fuzz`: the readers of what clients send, one by one and without a connection. Not for anybody else.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::access_line::Access;
use super::activity::Activity;
use super::client::{Connection, client};
use super::client_stream::ClientStream;
use super::request_body::{self, ReceivedBody};
use super::request_line::HeadOnly;
use super::{auth, fields};
use crate::config::settings::{AccessLogFormat, BodyMode, Limits};
use crate::config::{KeyRule, Secret, Settings, Table};
use crate::exchange::{BodyFields, PluginRequest};
use crate::request_id::RequestId;

pub use super::client::Client;
pub use super::fields::{decode_path, url_encoded};

/// Header fields; what is none is left out.
pub type Pairs<'a> = [(&'a str, &'a [u8])];

/// The limits of a file that sets none.
fn limits() -> Limits {
    let file = Path::new("fuzzing.ini");
    let table = Table::parse_with("[paths]\nplugins=/\n", file, &|_| None).expect("a good table");
    Settings::from_table(&table, file).expect("good settings").limits
}

fn activity() -> Arc<Activity> {
    Arc::new(Activity::new(&limits(), Arc::default()))
}

/// What hyper gets to read when a client sends these pieces.
pub fn as_read(pieces: &[&[u8]]) -> Vec<u8> {
    let stream = Pieces {
        incoming: pieces.iter().filter(|piece| !piece.is_empty()).map(|piece| piece.to_vec()).collect(),
        outgoing: Vec::new(),
    };
    let mut stream = ClientStream::new(stream, HeadOnly::default(), activity());
    let mut read = Vec::new();
    run(stream.read_to_end(&mut read)).expect("memory can be read");
    read
}

/// What a client gets to see when hyper writes these pieces.
pub fn as_written(pieces: &[&[u8]]) -> Vec<u8> {
    let mut inner = Pieces::default();
    let mut stream = ClientStream::new(&mut inner, HeadOnly::default(), activity());
    run(async {
        for piece in pieces {
            stream.write_all(piece).await?;
        }
        stream.flush().await
    })
    .expect("memory can be written to");
    inner.outgoing
}

/// The fields of a body.
pub fn body_fields(content_type: &[u8], body: &[u8]) -> BodyFields {
    run(fields::body_fields(&headers(&[("content-type", content_type)]), &Bytes::copy_from_slice(body)))
}

/// A body that comes in pieces, read whole. Errs with what the client is told.
pub fn received(fields: &Pairs<'_>, pieces: &[&[u8]], limit_bytes: usize) -> Result<Bytes, String> {
    let pieces: Vec<Result<Bytes, warp::Error>> =
        pieces.iter().map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    let limits = Limits { max_body_bytes: limit_bytes, body_timeout: Duration::ZERO, ..limits() };
    let body = run(request_body::receive(&headers(fields), stream::iter(pieces), &limits, BodyMode::Read));
    match body {
        Ok(ReceivedBody::Whole(bytes)) => Ok(bytes),
        Ok(ReceivedBody::Streamed(_)) => Err("streamed".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Who is behind a connection.
pub fn client_of(fields: &Pairs<'_>, peer: SocketAddr, trusted: &str) -> Client {
    let connection = Connection::new(peer, peer, false, Version::HTTP_11);
    client(&connection, &headers(fields), &[trusted.parse().expect("a network")])
}

/// Whether this key opens the door to a request.
pub fn opens(key: &str, fields: &Pairs<'_>, query: &[u8], body: &[u8]) -> bool {
    let headers = headers(fields);
    let body = Bytes::copy_from_slice(body);
    let anybody = SocketAddr::from(([192, 0, 2, 1], 1));
    let target = [b"/x?", query].concat();
    let request = PluginRequest {
        method: Method::POST,
        target: PathAndQuery::try_from(target).unwrap_or(PathAndQuery::from_static("/x")),
        version: (1, 1),
        peer: anybody,
        local: anybody,
        client_ip: anybody.ip().to_string().into(),
        scheme: "http",
        forwarded_host: None,
        subpath: None,
        request_id: RequestId::make(),
        form: run(fields::body_fields(&headers, &body)),
        headers,
        body,
        streamed_body: None,
        max_body_bytes: usize::MAX,
        body_key: None,
    };
    let rule = Secret::new(key.to_owned()).map_or(KeyRule::Never, KeyRule::Own);
    matches!(auth::judge(&rule, None, &request), auth::Verdict::Allowed)
}

/// A line of the access log.
pub fn access_line(fields: &Pairs<'_>, client: &str, target: &str) -> String {
    let access = Access {
        client,
        method: &Method::GET,
        target,
        version: Version::HTTP_11,
        status: 200,
        body_bytes: 1,
        request_id: &RequestId::Made(1),
        headers: &headers(fields),
        duration: Duration::ZERO,
        plugin: None,
    };
    access.line(AccessLogFormat::Combined)
}

fn headers(fields: &Pairs<'_>) -> HeaderMap {
    let pairs = fields.iter().filter_map(|(name, value)| {
        let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
        Some((name, HeaderValue::from_bytes(value).ok()?))
    });
    let mut headers = HeaderMap::new();
    pairs.for_each(|(name, value)| {
        headers.append(name, value);
    });
    headers
}

/// Runs what waits for nothing but time.
fn run<T>(future: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime of one thread");
    }
    RUNTIME.with(|runtime| runtime.block_on(future))
}

/// A connection in memory that gives one piece for each read.
#[derive(Default)]
struct Pieces {
    incoming: std::collections::VecDeque<Vec<u8>>,
    outgoing: Vec<u8>,
}

impl AsyncRead for Pieces {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Some(mut piece) = self.incoming.pop_front() else {
            return Poll::Ready(Ok(()));
        };
        let rest = piece.split_off(piece.len().min(buffer.remaining()));
        buffer.put_slice(&piece);
        if !rest.is_empty() {
            self.incoming.push_front(rest);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pieces {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.outgoing.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
