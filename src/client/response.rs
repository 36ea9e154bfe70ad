//! An answer read whole: its head, and its body by the length or the chunks that the head announces (RFC 9112, 6).

use std::io::{self, BufRead, Read};

/// The largest head, in bytes; a server that sends more is none of ours.
const MAX_HEAD_BYTES: u64 = 64 << 10;

/// The largest body, in bytes: the metrics of the most plugins that are counted one by one stay below it.
const MAX_BODY_BYTES: u64 = 64 << 20;

/// Header fields of one answer.
const MAX_FIELDS: usize = 100;

/// What the server has answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    /// In the order in which they came.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The first header of a name, whatever its case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The body as text; what is no UTF-8 is replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON, of any shape that the caller wants.
    pub fn json<T: serde::de::DeserializeOwned>(&self) -> serde_json::Result<T> {
        serde_json::from_slice(&self.body)
    }

    /// Reads the answer to a GET from a connection.
    pub(super) fn read(connection: &mut impl BufRead) -> io::Result<Self> {
        let mut answer = read_head(connection)?;
        // 100 Continue and its like: the answer proper comes after them.
        while (100..200).contains(&answer.status) {
            answer = read_head(connection)?;
        }
        answer.body = answer.read_body(connection)?;
        Ok(answer)
    }

    fn read_body(&self, connection: &mut impl BufRead) -> io::Result<Vec<u8>> {
        if matches!(self.status, 204 | 304) {
            return Ok(Vec::new());
        }
        let codings = self.header("transfer-encoding").unwrap_or_default();
        if codings.trim().eq_ignore_ascii_case("chunked") {
            return read_chunks(connection);
        }
        match self.header("content-length") {
            Some(length) => {
                let length = length.parse().map_err(|_| malformed("its Content-Length is no number"))?;
                read_exactly(connection, length)
            }
            None => {
                let mut body = Vec::new();
                connection.take(MAX_BODY_BYTES + 1).read_to_end(&mut body)?;
                check_size(body.len() as u64)?;
                Ok(body)
            }
        }
    }
}

fn read_head(connection: &mut impl BufRead) -> io::Result<Response> {
    let mut head = Vec::new();
    let mut limited = connection.take(MAX_HEAD_BYTES);
    while !head.ends_with(b"\n\r\n") && !head.ends_with(b"\n\n") {
        if limited.read_until(b'\n', &mut head)? == 0 {
            return Err(if head.is_empty() { io::ErrorKind::UnexpectedEof.into() } else { not_http() });
        }
    }
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut fields);
    parsed.parse(&head).ok().filter(httparse::Status::is_complete).ok_or_else(not_http)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(Response {
        status: parsed.code.ok_or_else(not_http)?,
        headers: parsed.headers.iter().map(|field| (field.name.to_owned(), text(field.value))).collect(),
        body: Vec::new(),
    })
}

fn read_chunks(connection: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = read_line(connection)?;
        let digits = line.split(';').next().unwrap_or_default().trim();
        let size = u64::from_str_radix(digits, 16).map_err(|_| malformed("a chunk has no size"))?;
        if size == 0 {
            break;
        }
        check_size(size.saturating_add(body.len() as u64))?;
        body.extend(read_exactly(connection, size)?);
        if !read_line(connection)?.is_empty() {
            return Err(malformed("a chunk is longer than it says"));
        }
    }
    // Fields may follow, up to an empty line.
    while !read_line(connection)?.is_empty() {}
    Ok(body)
}

/// A line without its end.
fn read_line(connection: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    connection.take(MAX_HEAD_BYTES).read_line(&mut line)?;
    if !line.ends_with('\n') {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

fn read_exactly(connection: &mut impl BufRead, length: u64) -> io::Result<Vec<u8>> {
    check_size(length)?;
    let mut bytes = Vec::new();
    if connection.take(length).read_to_end(&mut bytes)? as u64 != length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes)
}

fn check_size(bytes: u64) -> io::Result<()> {
    if bytes > MAX_BODY_BYTES { Err(malformed("it is too large")) } else { Ok(()) }
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn not_http() -> io::Error {
    malformed("it does not speak HTTP/1.1 (or speaks TLS where [SSL] is not enabled)")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(mut bytes: &[u8]) -> io::Result<Response> {
        Response::read(&mut bytes)
    }

    #[test]
    fn a_body_has_the_length_that_was_announced() {
        let answer = read(b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\nX-A: b\r\n\r\nhello, more").expect("whole");
        assert_eq!((answer.status, answer.text(), answer.header("x-a")), (404, "hello".to_owned(), Some("b")));
        assert!(!answer.is_success());
        let cut = read(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell").expect_err("cut off");
        assert_eq!(cut.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn chunks_are_joined() {
        let head = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n";
        let answer = read(format!("{head}3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nT: r\r\n\r\n").as_bytes()).expect("whole");
        assert_eq!(answer.body, b"abcde");
        assert!(read(format!("{head}3\r\nabc\r\n").as_bytes()).is_err(), "the last chunk is missing");
        assert!(read(format!("{head}3\r\nabcd\r\n0\r\n\r\n").as_bytes()).is_err(), "longer than it says");
        assert!(read(format!("{head}ffffffffffffffff\r\n").as_bytes()).is_err(), "larger than anybody sends");
    }

    #[test]
    fn a_body_without_a_length_goes_to_the_end() {
        let answer = read(b"HTTP/1.0 200 OK\r\n\r\n{\"a\": 1}").expect("whole");
        assert_eq!(answer.json::<serde_json::Value>().expect("JSON"), serde_json::json!({"a": 1}));
        assert_eq!(read(b"HTTP/1.1 204 No Content\r\n\r\nxx").expect("whole").body, b"");
    }

    #[test]
    fn what_is_no_http_is_said_to_be_none() {
        for bytes in [&b"\x15\x03\x03\x00\x02\x02\x32"[..], b"SSH-2.0-x\r\n\r\n", b"HTTP/1.1 200 OK\r\nA: b"] {
            assert!(read(bytes).expect_err("no HTTP").to_string().contains("does not speak HTTP"));
        }
        assert_eq!(read(b"").expect_err("nothing").kind(), io::ErrorKind::UnexpectedEof);
    }
}
