//! Static files under `[paths] documents`: which file a path means, and never one outside the folder.
//!
//! warp's file filter does the sending: content types, ranges, `Last-Modified` and what is conditional on it. Entity
//! tags, precompressed neighbours and the index file are added here.

use std::path::{Component, Path, PathBuf};
use std::time::UNIX_EPOCH;

use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use serde_json::json;
use tower_service::Service;
use warp::reply::{Reply, Response};

use super::compression::accepts;
use super::problem;
use super::reply::{ApiError, options_reply};
use crate::config::settings::Documents;

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
    let found = match rest {
        None => Some(Found::FolderWithoutSlash),
        Some(rest) => find(documents, rest).await,
    };
    match found {
        None => Ok(None),
        Some(Found::FolderWithoutSlash) => Ok(Some(redirect(&format!("{raw_path}/")))),
        Some(Found::File(path)) => send(documents, &path, method, headers).await,
    }
}

async fn find(documents: &Documents, rest: &str) -> Option<Found> {
    let relative = Path::new(rest);
    if rest.contains(['\0', '\\']) || rest.starts_with('/') || !relative.components().all(is_plain) {
        return None;
    }
    let path = inside(documents, &documents.folder.join(relative)).await?;
    let is_folder = tokio::fs::metadata(&path).await.ok()?.is_dir();
    match (is_folder, rest.is_empty() || rest.ends_with('/')) {
        // A pipe or a device would hold the reader for ever.
        (false, false) => tokio::fs::metadata(&path).await.ok()?.is_file().then_some(Found::File(path)),
        (false, true) => None,
        (true, false) => Some(Found::FolderWithoutSlash),
        (true, true) => {
            let index = inside(documents, &path.join(&documents.index_file)).await?;
            tokio::fs::metadata(&index).await.ok()?.is_file().then_some(Found::File(index))
        }
    }
}

/// The real place of a path, when it lies inside the folder and not in hiding: a link that leads elsewhere is followed
/// no further.
async fn inside(documents: &Documents, path: &Path) -> Option<PathBuf> {
    let real = tokio::fs::canonicalize(path).await.ok()?;
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

async fn send(
    documents: &Documents,
    path: &Path,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Option<Response>, ApiError> {
    let encoded = precompressed(documents, path, headers).await;
    let file = encoded.as_ref().map_or(path, |(_, path)| path.as_path()).to_owned();
    let Some(tag) = entity_tag(&file, encoded.as_ref().map(|(encoding, _)| *encoding)).await else {
        return Ok(None);
    };
    if headers.get(header::IF_MATCH).is_some_and(|tags| !names_strongly(tags, &tag)) {
        return Ok(Some(StatusCode::PRECONDITION_FAILED.into_response()));
    }
    if headers.get(header::IF_NONE_MATCH).is_some_and(|tags| names(tags, &tag)) {
        let mut response = StatusCode::NOT_MODIFIED.into_response();
        response.headers_mut().insert(header::ETAG, tag);
        return Ok(Some(response));
    }
    let mut request = Request::builder().method(method).uri("/").body(String::new()).expect("a plain request");
    *request.headers_mut() = headers_for_warp(headers, &tag);
    // In a task of its own: warp's filters cannot be run from inside one another.
    let sending = tokio::spawn(async move { warp::service(warp::fs::file(file)).call(request).await });
    let Ok(Ok(mut response)) = sending.await else {
        return Ok(None);
    };
    match response.status() {
        StatusCode::NOT_FOUND => return Ok(None),
        // warp says it in plain text.
        StatusCode::FORBIDDEN => {
            let body = json!({"error": "this document cannot be read"});
            return Ok(Some(problem::reply(StatusCode::FORBIDDEN, body)));
        }
        _ => {}
    }
    let fields = response.headers_mut();
    fields.insert(header::ETAG, tag);
    fields.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    if let Some((encoding, _)) = encoded {
        fields.insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding));
        let kind = mime_guess::from_path(path).first_or_octet_stream();
        fields.insert(header::CONTENT_TYPE, HeaderValue::from_str(kind.as_ref()).expect("a media type"));
    }
    Ok(Some(response))
}

/// RFC 9110, 8.8.3: from the time of the last change and the size, as other file servers make it. Every encoding has its
/// own: a download that goes on must not mix them.
async fn entity_tag(path: &Path, encoding: Option<&str>) -> Option<HeaderValue> {
    let metadata = tokio::fs::metadata(path).await.ok()?;
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
async fn precompressed(documents: &Documents, path: &Path, headers: &HeaderMap) -> Option<(&'static str, PathBuf)> {
    if headers.contains_key(header::RANGE) {
        return None;
    }
    for (encoding, ending) in PRECOMPRESSED {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{ending}"));
        if accepts(headers, encoding)
            && let Some(neighbour) = inside(documents, Path::new(&name)).await
            && tokio::fs::metadata(&neighbour).await.is_ok_and(|found| found.is_file())
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
