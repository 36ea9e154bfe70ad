//! What must hold for everything that comes where the head of a request should: its first line and its fields.

use std::hash::{DefaultHasher, Hash, Hasher};

use pserve::web::fuzzing::{access_line, as_read, as_written, client_of, opens};

/// Longer lines are not looked at.
const LONGEST_LINE: usize = 32 << 10;

/// The first bytes say where to cut the rest, up to the first line feed.
pub fn check(data: &[u8]) {
    let middle = data.iter().take(16).position(|byte| *byte == b'\n').unwrap_or(0);
    let (cuts, bytes) = data.split_at(middle);
    if bytes.len() > LONGEST_LINE {
        return;
    }
    let bytes = bytes.strip_prefix(b"\n").unwrap_or(bytes);
    let pieces = pieces(bytes, cuts);
    let read = as_read(&[bytes]);
    assert_eq!(as_read(&pieces), read, "cut in other places, the same bytes are read");
    assert_only_the_target_is_escaped(bytes, &read);
    assert_written_as_it_is(&pieces);
    assert_refusals_are_whole(bytes);
    check_fields(bytes);
}

fn assert_only_the_target_is_escaped(sent: &[u8], read: &[u8]) {
    if sent == read {
        return;
    }
    let end = |bytes: &[u8]| bytes.iter().position(|byte| *byte == b'\n').expect("only whole lines are escaped");
    let (line, rest) = sent.split_at(end(sent));
    let (read_line, read_rest) = read.split_at(end(read));
    assert_eq!(rest, read_rest, "what follows the first line is not touched");
    let mut back = String::from_utf8_lossy(read_line).into_owned();
    let mut plain = String::from_utf8_lossy(line).into_owned();
    for (raw, escape) in [("\"", "%22"), ("<", "%3C"), (">", "%3E"), ("`", "%60")] {
        back = back.replace(escape, raw);
        plain = plain.replace(escape, raw);
    }
    assert_eq!(back, plain);
    let (before_version, _) = cut_at_last_space(read_line);
    assert!(!before_version.iter().any(|byte| b"\"<>`".contains(byte)));
}

fn cut_at_last_space(line: &[u8]) -> (&[u8], &[u8]) {
    line.split_at(line.iter().rposition(|byte| *byte == b' ').expect("a request line has spaces"))
}

fn assert_written_as_it_is(pieces: &[&[u8]]) {
    if !pieces.iter().any(|piece| piece.starts_with(b"HTTP/1.1 4")) {
        assert_eq!(as_written(pieces), pieces.concat());
    }
}

fn assert_refusals_are_whole(bytes: &[u8]) {
    let written = as_written(&[bytes]);
    if written == bytes {
        return;
    }
    let text = String::from_utf8(written).expect("a refusal is text");
    let (head, body) = text.split_once("\r\n\r\n").expect("a refusal has a head");
    assert!(head.contains(&format!("content-length: {}", body.len())), "{text}");
    assert!(body.starts_with("{\"error\":"), "{text}");
}

fn check_fields(bytes: &[u8]) {
    let lines = bytes.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let fields: Vec<(&str, &[u8])> = lines
        .filter_map(|line| {
            let middle = line.iter().position(|byte| *byte == b':')?;
            Some((std::str::from_utf8(&line[..middle]).ok()?, line[middle + 1..].trim_ascii()))
        })
        .collect();
    let target = String::from_utf8_lossy(bytes.split(|byte| *byte == b'\n').next().unwrap_or_default());

    let peer = ([192, 0, 2, 1], 1).into();
    assert_eq!(client_of(&fields, peer, "127.0.0.0/8").ip.as_ref(), "192.0.2.1", "nobody else speaks for a client");
    let client = client_of(&fields, peer, "192.0.2.0/24");
    assert!(!client.ip.is_empty() && !client.ip.contains(char::is_control));
    assert!(matches!(client.scheme, "http" | "https"));

    // Nobody can know this key.
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    let key = format!("{:016x}", hasher.finish());
    assert!(!opens(&key, &fields, target.as_bytes(), bytes));
    let in_query = format!("{}&apikey={key}", target.replace('?', "&"));
    assert_one_clean_line(&access_line(&fields, &client.ip, &format!("/x?{in_query}")), &key);
}

/// A line of the access log is one line with its columns, whatever the client sends, and holds no key.
fn assert_one_clean_line(line: &str, key: &str) {
    let (line, rest) = line.split_once('\n').expect("a line has an end");
    assert!(rest.is_empty() && !line.contains(char::is_control), "{line:?}");
    assert!(!line.contains(key), "{line:?}");
    let quotes = line.replace("\\\\", "").replace("\\\"", "").matches('"').count();
    assert_eq!(quotes, 6, "{line:?}");
    let columns: Vec<&str> = line.split(' ').collect();
    assert_eq!(&columns[1..3], ["-", "-"], "{line:?}");
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
