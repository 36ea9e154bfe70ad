//! Query and body -> fields. Which of them wins is decided where they meet, in the keyword arguments.

use std::borrow::Cow;
use std::convert::Infallible;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use encoding_rs::Encoding;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, header};
use multer::Multipart;
use percent_encoding::percent_decode;

use crate::exchange::{BodyFields, FormPart};

/// The fields of a query or of a URL-encoded body, in their order.
pub fn url_encoded(text: &[u8]) -> Vec<(String, String)> {
    form_urlencoded::parse(text).into_owned().collect()
}

/// What the content type makes of a body. A form that cannot be read has no fields; the body itself stays.
pub async fn body_fields(headers: &HeaderMap, body: &Bytes) -> BodyFields {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = content_type.split(';').next().unwrap_or_default().trim();
    if body.is_empty() {
        BodyFields::None
    } else if kind.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        BodyFields::UrlEncoded(match charset(content_type) {
            Some(encoding) => url_encoded_in(body, encoding),
            None => url_encoded(body),
        })
    } else if kind.eq_ignore_ascii_case("multipart/form-data") {
        multipart(content_type, body).await.map_or(BodyFields::None, BodyFields::Multipart)
    } else {
        BodyFields::None
    }
}

/// Whether a body of this type is one that fields are looked for in: JSON under its own name, and forms.
pub fn may_be_fields(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let is_form = kind == "application/x-www-form-urlencoded" || kind == "multipart/form-data";
    is_form || kind == "application/json" || kind.ends_with("+json")
}

/// The charset of a content type, when it is known and not UTF-8.
fn charset(content_type: &str) -> Option<&'static Encoding> {
    let parameters = content_type.split(';').skip(1).filter_map(|parameter| parameter.split_once('='));
    let (_, label) = parameters.into_iter().find(|(name, _)| name.trim().eq_ignore_ascii_case("charset"))?;
    let label = label.trim().trim_matches('"');
    // Python's spelling is `latin-1`, the encoding standard's `latin1`.
    let encoding = Encoding::for_label(label.as_bytes())
        .or_else(|| Encoding::for_label(label.replace(['-', '_'], "").as_bytes()))?;
    (encoding != encoding_rs::UTF_8).then_some(encoding)
}

/// As [`url_encoded`], for a form that a page in another encoding has sent.
fn url_encoded_in(text: &[u8], encoding: &'static Encoding) -> Vec<(String, String)> {
    let decoded = |piece: &[u8]| {
        let spaced: Vec<u8> = piece.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
        let bytes: Vec<u8> = percent_decode(&spaced).collect();
        encoding.decode_without_bom_handling(&bytes).0.into_owned()
    };
    let pairs = text.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let middle = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
            (decoded(&pair[..middle]), decoded(pair.get(middle + 1..).unwrap_or_default()))
        })
        .collect()
}

/// RFC 7578.
async fn multipart(content_type: &str, body: &Bytes) -> multer::Result<Vec<FormPart>> {
    let boundary = multer::parse_boundary(content_type)?;
    let whole = stream::iter([Ok::<_, Infallible>(body.clone())]);
    let mut multipart = Multipart::new(whole, boundary);
    let mut parts = Vec::new();
    while let Some(field) = multipart.next_field().await? {
        let name = field.name().unwrap_or_default().to_owned();
        let file_name = field.file_name().map(str::to_owned).or_else(|| extended_file_name(field.headers()));
        let content_type = field.content_type().map(ToString::to_string);
        let transfer = field.headers().get("content-transfer-encoding").cloned();
        let mut data = transfer_decoded(field.bytes().await?, transfer.as_ref());
        if let (None, Some(encoding)) = (&file_name, content_type.as_deref().and_then(charset)) {
            data = encoding.decode_without_bom_handling(&data).0.into_owned().into();
        }
        parts.push(FormPart { name, file_name, content_type, data });
    }
    Ok(parts)
}

/// `filename*=utf-8''...` (RFC 8187), which multer leaves alone.
fn extended_file_name(headers: &HeaderMap) -> Option<String> {
    let disposition = headers.get(header::CONTENT_DISPOSITION)?.to_str().ok()?;
    let mut parameters = disposition.split(';').skip(1).filter_map(|parameter| parameter.split_once('='));
    let (_, value) = parameters.find(|(name, _)| name.trim().eq_ignore_ascii_case("filename*"))?;
    let mut pieces = value.trim().splitn(3, '\'');
    let (charset, _, text) = (pieces.next()?, pieces.next()?, pieces.next()?);
    let bytes: Vec<u8> = percent_decode(text.as_bytes()).collect();
    let encoding = Encoding::for_label(charset.as_bytes()).unwrap_or(encoding_rs::UTF_8);
    Some(encoding.decode_without_bom_handling(&bytes).0.into_owned())
}

/// Undoes `Content-Transfer-Encoding` (RFC 2045, 6). What does not follow it stays as it was sent.
fn transfer_decoded(data: Bytes, encoding: Option<&HeaderValue>) -> Bytes {
    let name = encoding.and_then(|value| value.to_str().ok()).unwrap_or_default().trim().to_ascii_lowercase();
    let decoded = match name.as_str() {
        "base64" => {
            let digits: Vec<u8> = data.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
            BASE64_STANDARD.decode(digits).ok()
        }
        "quoted-printable" => quoted_printable::decode(&data, quoted_printable::ParseMode::Robust).ok(),
        _ => None,
    };
    decoded.map_or(data, Bytes::from)
}

/// Decodes a piece of a path. What is not UTF-8 when decoded, and what is no escape at all, stays as it was sent.
pub fn decode_path(piece: &str) -> Cow<'_, str> {
    if !piece.contains('%') {
        return Cow::Borrowed(piece);
    }
    let sent = piece.as_bytes();
    let (mut bytes, mut spellings) = (Vec::with_capacity(sent.len()), Vec::with_capacity(sent.len()));
    let mut from = 0;
    while from < sent.len() {
        let escaped = sent.get(from..from + 3).and_then(escaped_byte);
        let to = from + if escaped.is_some() { 3 } else { 1 };
        bytes.push(escaped.unwrap_or(sent[from]));
        spellings.push(&sent[from..to]);
        from = to;
    }
    let mut decoded = String::with_capacity(piece.len());
    let mut at = 0;
    for chunk in bytes.utf8_chunks() {
        decoded.push_str(chunk.valid());
        at += chunk.valid().len();
        for spelling in &spellings[at..at + chunk.invalid().len()] {
            decoded.push_str(&String::from_utf8_lossy(spelling));
        }
        at += chunk.invalid().len();
    }
    Cow::Owned(decoded)
}

/// The byte of `%XX`.
fn escaped_byte(escape: &[u8]) -> Option<u8> {
    let [b'%', high, low] = escape else {
        return None;
    };
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_decoded_as_far_as_they_can_be() {
        for (sent, decoded) in [
            ("a%2Fb", "a/b"),
            ("%C3%A9", "é"),
            ("%zz", "%zz"),
            ("%ff", "%ff"),
            ("%FF%C3x", "%FF%C3x"),
            ("%+1", "%+1"),
            ("%", "%"),
            ("a%20b+c", "a b+c"),
            ("%00", "\0"),
        ] {
            assert_eq!(decode_path(sent), decoded, "{sent}");
        }
    }

    #[test]
    fn repeated_and_blank_fields_are_kept() {
        let pairs = url_encoded(b"a=1&a=2&b=&c&d=%ff&e=x+y");
        let expected = [("a", "1"), ("a", "2"), ("b", ""), ("c", ""), ("d", "\u{fffd}"), ("e", "x y")];
        assert_eq!(pairs, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
}
