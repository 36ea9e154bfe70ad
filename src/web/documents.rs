//! Static files under `[paths] documents`: which file a path means, and never one outside the folder.
//!
//! warp's file filter sends large files, and does ranges and what is conditional on a date. Small files are read and sent
//! here; entity tags, precompressed neighbours and the index file are added for both.

use std::fs::Metadata;
use std::path::{Component, Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, header};
use serde_json::json;
use tower_service::Service;
use warp::reply::{Reply, Response};

use super::compression::accepts;
use super::problem;
use super::reply::{ApiError, options_reply};
use crate::config::settings::Documents;

/// Files up to this size are read at once.
const MOST_BYTES_AT_ONCE: u64 = 256 << 10;

/// Fields with which a client may want a part of a file, or nothing of it, for warp to tell.
const PARTLY_WANTED: [HeaderName; 4] =
    [header::RANGE, header::IF_RANGE, header::IF_MODIFIED_SINCE, header::IF_UNMODIFIED_SINCE];

const ALLOW: &str = "GET, HEAD, OPTIONS";

/// Encodings of neighbours, the better first: `style.css.br` beside `style.css`.
const PRECOMPRESSED: [(&str, &str); 2] = [("br", "br"), ("gzip", "gz")];

/// What a path under the documents means.
enum Found {
    File(PathBuf),
    /// A folder that was asked for without its slash: relative links in its index would go wrong.
    FolderWithoutSlash,
}

/// Answers a request for `rest`, the decoded path under the documents' route. `None` when there is nothing to send.
pub async fn answer(
    documents: &Documents,
    method: &Method,
    raw_path: &str,
    rest: Option<&str>,
    headers: &HeaderMap,
) -> Result<Option<Response>, ApiError> {
    if *method == Method::OPTIONS {
        return Ok(Some(options_reply(ALLOW)));
    }
    if !matches!(*method, Method::GET | Method::HEAD) {
        return Err(ApiError::MethodNotAllowed { method: method.to_string(), allow: ALLOW.to_owned() });
    }
    let Some(rest) = rest else {
        return Ok(Some(redirect(&format!("{raw_path}/"))));
    };
    // One visit to a thread that may wait for the disk, whatever there is to look at.
    let (documents, rest, headers_there) = (documents.clone(), rest.to_owned(), headers.clone());
    let looked = tokio::task::spawn_blocking(move || look(&documents, &rest, &headers_there));
    match looked.await.ok().flatten() {
        None => Ok(None),
        Some(Looked::FolderWithoutSlash) => Ok(Some(redirect(&format!("{raw_path}/")))),
        Some(Looked::File(file)) => send(*file, method, headers).await,
    }
}

/// What is known of a file when it has been looked at.
enum Looked {
    File(Box<Document>),
    FolderWithoutSlash,
}

struct Document {
    /// The file to send: the one that was asked for, or its compressed neighbour.
    path: PathBuf,
    encoding: Option<&'static str>,
    media_type: HeaderValue,
    tag: HeaderValue,
    changed: SystemTime,
    /// The whole file, when it is small and nothing but all of it can be wanted.
    bytes: Option<Bytes>,
}

fn look(documents: &Documents, rest: &str, headers: &HeaderMap) -> Option<Looked> {
    let asked = match find(documents, rest)? {
        Found::File(path) => path,
        Found::FolderWithoutSlash => return Some(Looked::FolderWithoutSlash),
    };
    let kind = mime_guess::from_path(&asked).first_or_octet_stream();
    let media_type = HeaderValue::from_str(kind.as_ref()).ok()?;
    let (encoding, path) = match precompressed(documents, &asked, headers) {
        Some((encoding, neighbour)) => (Some(encoding), neighbour),
        None => (None, asked),
    };
    let metadata = std::fs::metadata(&path).ok()?;
    let changed = metadata.modified().ok()?;
    let is_plain = PARTLY_WANTED.iter().all(|name| !headers.contains_key(name));
    // One that cannot be read is warp's to tell of.
    let bytes = (is_plain && metadata.len() <= MOST_BYTES_AT_ONCE).then(|| std::fs::read(&path).ok()).flatten();
    let tag = entity_tag(&metadata, encoding)?;
    Some(Looked::File(Box::new(Document { path, encoding, media_type, tag, changed, bytes: bytes.map(Bytes::from) })))
}

fn find(documents: &Documents, rest: &str) -> Option<Found> {
    let relative = Path::new(rest);
    if rest.contains(['\0', '\\']) || rest.starts_with('/') || !relative.components().all(is_plain) {
        return None;
    }
    let path = inside(documents, &documents.folder.join(relative))?;
    let metadata = std::fs::metadata(&path).ok()?;
    match (metadata.is_dir(), rest.is_empty() || rest.ends_with('/')) {
        // A pipe or a device would hold the reader for ever.
        (false, false) => metadata.is_file().then_some(Found::File(path)),
        (false, true) => None,
        (true, false) => Some(Found::FolderWithoutSlash),
        (true, true) => {
            let index = inside(documents, &path.join(&documents.index_file))?;
            std::fs::metadata(&index).ok()?.is_file().then_some(Found::File(index))
        }
    }
}

/// The real place of a path, when it lies inside the folder and not in hiding: a link that leads elsewhere is followed
/// no further.
fn inside(documents: &Documents, path: &Path) -> Option<PathBuf> {
    let real = std::fs::canonicalize(path).ok()?;
    let is_shown = real.strip_prefix(&documents.folder).ok()?.components().all(is_plain);
    is_shown.then_some(real)
}

/// Dot files are nobody's business (`.git`, `.htpasswd`), but for the one folder that is meant to be public.
fn is_plain(component: Component<'_>) -> bool {
    match component {
        Component::Normal(name) => !name.to_string_lossy().starts_with('.') || name == ".well-known",
        _ => false,
    }
}

async fn send(document: Document, method: &Method, headers: &HeaderMap) -> Result<Option<Response>, ApiError> {
    let Document { path, encoding, media_type, tag, changed, bytes } = document;
    if headers.get(header::IF_MATCH).is_some_and(|tags| !names_strongly(tags, &tag)) {
        return Ok(Some(StatusCode::PRECONDITION_FAILED.into_response()));
    }
    if headers.get(header::IF_NONE_MATCH).is_some_and(|tags| names(tags, &tag)) {
        let mut response = StatusCode::NOT_MODIFIED.into_response();
        response.headers_mut().insert(header::ETAG, tag);
        return Ok(Some(response));
    }
    let mut response = match bytes {
        Some(bytes) => whole(bytes, media_type.clone(), changed),
        None => match sent_by_warp(path, method, headers, &tag).await {
            Some(response) => response,
            None => return Ok(None),
        },
    };
    // warp says it in plain text.
    if response.status() == StatusCode::FORBIDDEN {
        let body = json!({"error": "this document cannot be read"});
        return Ok(Some(problem::reply(StatusCode::FORBIDDEN, body)));
    }
    let fields = response.headers_mut();
    fields.insert(header::ETAG, tag);
    fields.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    if let Some(encoding) = encoding {
        fields.insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding));
        fields.insert(header::CONTENT_TYPE, media_type);
    }
    Ok(Some(response))
}

/// A file that has been read, with the fields that warp gives to those that it sends.
fn whole(bytes: Bytes, media_type: HeaderValue, changed: SystemTime) -> Response {
    let mut response = Response::new(bytes.into());
    let fields = response.headers_mut();
    fields.insert(header::CONTENT_TYPE, media_type);
    fields.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if let Ok(changed) = HeaderValue::from_str(&httpdate::fmt_http_date(changed)) {
        fields.insert(header::LAST_MODIFIED, changed);
    }
    response
}

/// A file that warp's filter sends, whole or in part, or says why not. `None` when it is not there any more.
async fn sent_by_warp(file: PathBuf, method: &Method, headers: &HeaderMap, tag: &HeaderValue) -> Option<Response> {
    let mut request = Request::builder().method(method).uri("/").body(String::new()).expect("a plain request");
    *request.headers_mut() = headers_for_warp(headers, tag);
    // In a task of its own: warp's filters cannot be run from inside one another.
    let sending = tokio::spawn(async move { warp::service(warp::fs::file(file)).call(request).await });
    let response = sending.await.ok()?.ok()?;
    (response.status() != StatusCode::NOT_FOUND).then_some(response)
}

/// RFC 9110, 8.8.3: from the time of the last change and the size, as other file servers make it. Every encoding has its
/// own: a download that goes on must not mix them.
fn entity_tag(metadata: &Metadata, encoding: Option<&str>) -> Option<HeaderValue> {
    let changed = metadata.modified().ok()?.duration_since(UNIX_EPOCH).unwrap_or_default();
    let encoding = encoding.map(|encoding| format!("-{encoding}")).unwrap_or_default();
    HeaderValue::from_str(&format!("\"{:x}-{:x}{encoding}\"", changed.as_nanos(), metadata.len())).ok()
}

/// The strong comparison (RFC 9110, 8.8.3.2).
fn names_strongly(tags: &HeaderValue, tag: &HeaderValue) -> bool {
    let (Ok(tags), Ok(tag)) = (tags.to_str(), tag.to_str()) else {
        return false;
    };
    tags.split(',').map(str::trim).any(|known| known == tag || known == "*")
}

fn names(tags: &HeaderValue, tag: &HeaderValue) -> bool {
    let (Ok(tags), Ok(tag)) = (tags.to_str(), tag.to_str()) else {
        return false;
    };
    tags.split(',').map(|known| known.trim().trim_start_matches("W/")).any(|known| known == tag || known == "*")
}

/// The request's conditions without what has been dealt with here: entity tags, and `If-Range` with one of them.
fn headers_for_warp(headers: &HeaderMap, tag: &HeaderValue) -> HeaderMap {
    let mut passed = headers.clone();
    if passed.remove(header::IF_NONE_MATCH).is_some() {
        // RFC 9110, 13.1.3: the date does not count beside a tag.
        passed.remove(header::IF_MODIFIED_SINCE);
    }
    if let Some(condition) = headers.get(header::IF_RANGE).filter(|condition| condition.as_bytes().contains(&b'"')) {
        passed.remove(header::IF_RANGE);
        if condition != tag {
            passed.remove(header::RANGE);
        }
    }
    passed
}

/// A neighbour that was compressed beforehand, when the client takes it. A range is one of the file itself.
fn precompressed(documents: &Documents, path: &Path, headers: &HeaderMap) -> Option<(&'static str, PathBuf)> {
    if headers.contains_key(header::RANGE) {
        return None;
    }
    for (encoding, ending) in PRECOMPRESSED {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{ending}"));
        if accepts(headers, encoding)
            && let Some(neighbour) = inside(documents, Path::new(&name))
            && std::fs::metadata(&neighbour).is_ok_and(|found| found.is_file())
        {
            return Some((encoding, neighbour));
        }
    }
    None
}

fn redirect(to: &str) -> Response {
    let mut response = StatusCode::PERMANENT_REDIRECT.into_response();
    if let Ok(location) = HeaderValue::from_str(to) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}
