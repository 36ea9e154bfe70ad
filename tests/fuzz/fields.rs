//! What must hold for every query, form and body.

use pserve::exchange::BodyFields;
use pserve::web::fuzzing::{body_fields, decode_path, received, url_encoded};

/// More than most cases have, and little enough that some are too large.
const LIMIT_BYTES: usize = 2000;

/// A character that takes the place of a byte is three bytes long, and no charset makes more of one.
const MOST_GROWTH: usize = 4;

/// The first line is the content type, the second the content coding, the third says by its bytes where to cut.
pub fn check(data: &[u8]) {
    let mut lines = data.splitn(4, |byte| *byte == b'\n');
    let mut line = || lines.next().unwrap_or_default();
    let (content_type, coding, cuts, body) = (line(), line(), line(), line());

    let pairs = url_encoded(body);
    assert!(pairs.len() <= body.len());
    assert!(bytes_of(&pairs) <= body.len() * MOST_GROWTH);
    match body_fields(content_type, body) {
        BodyFields::None => {}
        BodyFields::UrlEncoded(pairs) => {
            assert!(pairs.len() <= body.len());
            assert!(bytes_of(&pairs) <= body.len() * MOST_GROWTH);
        }
        BodyFields::Multipart(parts) => {
            assert!(parts.len() <= body.len());
            let bytes: usize = parts.iter().map(|part| part.name.len() + part.data.len()).sum();
            assert!(bytes <= body.len() * MOST_GROWTH);
        }
    }

    let path = String::from_utf8_lossy(body);
    let decoded = decode_path(&path);
    assert!(decoded.len() <= path.len());
    assert!(path.contains('%') || decoded == path);

    let fields = [("content-encoding", coding)];
    let whole = received(&fields, &[body], LIMIT_BYTES);
    let in_pieces = received(&fields, &pieces(body, cuts), LIMIT_BYTES);
    // Why a body is refused may depend on what is noticed first; whether it is may not.
    assert_eq!(whole.as_ref().ok(), in_pieces.as_ref().ok(), "{whole:?} {in_pieces:?}");
    assert!(whole.is_ok_and(|bytes| bytes.len() <= LIMIT_BYTES) || in_pieces.is_err());
}

fn bytes_of(pairs: &[(String, String)]) -> usize {
    pairs.iter().map(|(name, value)| name.len() + value.len()).sum()
}

fn pieces<'a>(mut bytes: &'a [u8], cuts: &[u8]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::new();
    for cut in cuts {
        let (piece, rest) = bytes.split_at(usize::from(*cut).min(bytes.len()));
        pieces.push(piece);
        bytes = rest;
    }
    pieces.push(bytes);
    pieces
}
