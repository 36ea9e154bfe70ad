//! gzip for answers that are worth it, when the client takes it (RFC 9110, 8.4 and 12.5.3).

use std::io::{self, Write};

use async_compression::tokio::bufread::GzipEncoder;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use futures_util::StreamExt;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt, BodyStream};
use tokio_util::io::{ReaderStream, StreamReader};

use super::body::{BoxError, ByteStream, FlowingBody, Outgoing};

/// Below this the headers and the work cost more than the bytes that are saved.
const LEAST_BYTES: u64 = 1024;

/// What takes longer than a fraction of a millisecond goes to another thread.
const MOST_BYTES_IN_PLACE: usize = 32 << 10;

/// Fields that say something of the bytes as they are (RFC 9530 and its forerunners).
const DIGESTS: [&str; 4] = ["content-md5", "digest", "content-digest", "repr-digest"];

/// A little less than zlib's default, for two thirds of its time.
const LEVEL: u32 = 5;

/// Whether an `Accept-Encoding` takes this encoding.
pub fn accepts(headers: &HeaderMap, encoding: &str) -> bool {
    let quality_of = |wanted: &str| {
        let values = headers.get_all(header::ACCEPT_ENCODING).into_iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).find_map(|item| {
            let mut parts = item.split(';').map(str::trim);
            let is_it = parts.next().is_some_and(|name| name.eq_ignore_ascii_case(wanted));
            let quality = parts.find_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q=")));
            is_it.then(|| quality.map_or(1.0, |quality| quality.trim().parse::<f32>().unwrap_or(0.0)))
        })
    };
    quality_of(encoding).or_else(|| quality_of("*")).is_some_and(|quality| quality > 0.0)
}

/// Compresses a response that [`is_worth_it`]. `is_accepted` says whether the client takes gzip. An answer to HEAD gets the
/// fields that one to GET would have, without the work: its length is then not known.
pub async fn compress<B>(mut response: Response<Outgoing<B>>, is_accepted: bool, is_head: bool) -> Response<Outgoing<B>>
where
    B: http_body::Body<Data = Bytes> + From<Bytes> + Default + Unpin + Send + 'static,
    B::Error: Into<BoxError>,
{
    let varies = response.headers().get_all(header::VARY).iter().any(|value| {
        value.to_str().is_ok_and(|value| value.to_ascii_lowercase().contains("accept-encoding") || value.contains('*'))
    });
    if !varies {
        response.headers_mut().append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    }
    if !is_accepted {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let Outgoing::Whole(body) = body else {
        return Response::from_parts(parts, body);
    };
    let compressed = match body.size_hint().exact() {
        _ if is_head => Outgoing::Flowing(FlowingBody::of_compressor(Box::pin(futures_util::stream::empty()))),
        Some(_) => match gzip_whole(body).await {
            Ok(compressed) => compressed,
            Err(original) => return Response::from_parts(parts, Outgoing::Whole(B::from(original))),
        },
        // A file, read as it is sent.
        None => Outgoing::Flowing(FlowingBody::of_compressor(gzip_stream(body))),
    };
    parts.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.remove(header::ACCEPT_RANGES);
    weaken_tag(&mut parts.headers);
    Response::from_parts(parts, compressed)
}

/// RFC 9110, 8.8.3: two encodings of one thing are not the same bytes.
fn weaken_tag(headers: &mut HeaderMap) {
    let weak = headers.get(header::ETAG).filter(|tag| tag.as_bytes().starts_with(b"\"")).map(|tag| {
        let mut bytes = b"W/".to_vec();
        bytes.extend_from_slice(tag.as_bytes());
        HeaderValue::from_bytes(&bytes).expect("a valid value behind two letters")
    });
    if let Some(weak) = weak {
        headers.insert(header::ETAG, weak);
    }
}

/// Whether it has the size and the kind for it.
pub fn is_worth_it<B: http_body::Body>(response: &Response<Outgoing<B>>) -> bool {
    let headers = response.headers();
    let Outgoing::Whole(body) = response.body() else {
        return false;
    };
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let length = body.size_hint().exact().or(announced);
    let has = |name| headers.contains_key(name);
    let is_fixed = headers
        .get(header::CACHE_CONTROL)
        .is_some_and(|control| control.to_str().is_ok_and(|control| control.contains("no-transform")));
    length.is_some_and(|length| length >= LEAST_BYTES)
        && response.status() != StatusCode::PARTIAL_CONTENT
        && !has(header::CONTENT_ENCODING)
        && !has(header::CONTENT_RANGE)
        && DIGESTS.iter().all(|name| !headers.contains_key(*name))
        && !is_fixed
        && headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).is_some_and(shrinks)
}

/// Whether content of this type becomes smaller: text in any form. Pictures, sound and archives are compressed already.
fn shrinks(content_type: &str) -> bool {
    let kind = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    if kind.starts_with("text/") {
        // Events must reach the client as they are written.
        return kind != "text/event-stream";
    }
    let known = ["json", "javascript", "xml", "yaml", "wasm", "x-ndjson", "manifest+json", "toml", "graphql", "sql"];
    let named = known.iter().any(|known| kind.strip_prefix("application/") == Some(known));
    named || kind.ends_with("+json") || kind.ends_with("+xml") || kind == "application/x-javascript"
}

/// The compressed body, or the original when that is no larger.
async fn gzip_whole<B>(body: B) -> Result<Outgoing<B>, Bytes>
where
    B: http_body::Body<Data = Bytes> + From<Bytes> + Unpin,
{
    // Whole bodies are in memory and cannot fail.
    let original = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let compressed = if original.len() <= MOST_BYTES_IN_PLACE {
        gzip(&original)
    } else {
        let bytes = original.clone();
        tokio::task::spawn_blocking(move || gzip(&bytes)).await.unwrap_or_else(|problem| Err(io::Error::other(problem)))
    };
    match compressed {
        Ok(compressed) if compressed.len() < original.len() => Ok(Outgoing::Whole(B::from(compressed.into()))),
        _ => Err(original),
    }
}

fn gzip(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 4), Compression::new(LEVEL));
    encoder.write_all(bytes)?;
    encoder.finish()
}

fn gzip_stream<B>(body: B) -> ByteStream
where
    B: http_body::Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: Into<BoxError>,
{
    let bytes = BodyStream::new(body).map(|frame| match frame {
        Ok(frame) => Ok(frame.into_data().unwrap_or_default()),
        Err(problem) => Err(io::Error::other(problem)),
    });
    Box::pin(ReaderStream::new(GzipEncoder::new(StreamReader::new(bytes))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_encoding_may_be_refused() {
        let accepted = |text: &'static str, encoding: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(text));
            accepts(&headers, encoding)
        };
        assert!(accepted("gzip, deflate, br", "br"));
        assert!(accepted("br;q=0.5", "br"));
        assert!(!accepted("br;q=0, gzip", "br"));
        assert!(!accepted("broken", "br"));
        assert!(accepted("*", "gzip"));
        assert!(!accepted("*, gzip;q=0.000", "gzip"));
        assert!(!accepts(&HeaderMap::new(), "gzip"));
    }

    #[test]
    fn text_shrinks_and_pictures_do_not() {
        for kind in ["text/html; charset=utf-8", "application/json", "image/svg+xml", "application/problem+json"] {
            assert!(shrinks(kind), "{kind}");
        }
        for kind in ["image/png", "application/zip", "text/event-stream", "application/octet-stream"] {
            assert!(!shrinks(kind), "{kind}");
        }
    }
}
