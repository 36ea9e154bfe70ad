//! Bad input on the wire: each gets the right answer or a clean end, reaches no plugin twice, and leaves the server as
//! it was.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

mod common;
#[path = "fuzz/mutate.rs"]
mod mutate;

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use common::{Reply, TestServer};
use mutate::Random;

const PLUGINS: &str = "
from plugincore.baseplugin import BasePlugin
class Hello(BasePlugin):
    async def request_handler(self, **data):
        return {'hello': 'world'}
class Echo(BasePlugin):
    calls = 0
    async def request_handler(self, **data):
        Echo.calls += 1
        body = await data['request'].read()
        return {'size': len(body), 'fields': len(data) - 5, 'subpath': data['subpath']}
class Text(BasePlugin):
    async def request_handler(self, request=None, **data):
        return {'text': await request.text()}
class Mirror(BasePlugin):
    async def request_handler(self, request=None, **data):
        return await request.read()
class Calls(BasePlugin):
    async def request_handler(self, **data):
        return {'calls': Echo.calls}
";

/// No case may take longer, neither in the server nor on the way.
const LONGEST: Duration = Duration::from_secs(10);

/// What stands behind each case: if it were taken for a request, the plugin would be called once more.
const BEHIND: &[u8] = b"GET /echo/smuggled HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

fn server() -> TestServer {
    TestServer::with_plugin("plugins.py", PLUGINS)
}

/// Sends bytes and reads until the server closes; a server that has heard enough may close before it got them all.
fn answer_to(server: &TestServer, bytes: &[u8]) -> Vec<u8> {
    let mut stream = common::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(LONGEST)).unwrap();
    stream.set_write_timeout(Some(LONGEST)).unwrap();
    let shown = || String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned();
    if let Err(problem) = stream.write_all(bytes) {
        assert!(is_closed(&problem), "{problem} while sending {:?}", shown());
    }
    let mut answer = Vec::new();
    if let Err(problem) = stream.read_to_end(&mut answer) {
        assert!(is_closed(&problem), "{problem} after {:?}: {}", shown(), String::from_utf8_lossy(&answer));
    }
    answer
}

fn is_closed(problem: &std::io::Error) -> bool {
    matches!(problem.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}

/// The replies in what a server has sent, each framed by its length.
fn replies(mut bytes: &[u8]) -> Vec<Reply> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let reply = common::parse(bytes).unwrap_or_else(|| panic!("no reply: {}", String::from_utf8_lossy(bytes)));
        let head = bytes.len() - reply.body.len();
        let has_no_body = reply.status < 200 || reply.status == 204;
        let length = reply.header("content-length").map_or(0, |length| length.parse().unwrap());
        assert!(has_no_body || reply.header("content-length").is_some(), "{}", String::from_utf8_lossy(bytes));
        let end = head + length;
        assert!(end <= bytes.len(), "shorter than announced: {}", String::from_utf8_lossy(bytes));
        found.push(Reply { body: bytes[head..end].to_vec(), ..reply });
        bytes = &bytes[end..];
    }
    found
}

fn calls(server: &TestServer) -> u64 {
    server.get("/calls").json()["calls"].as_u64().unwrap()
}

fn resident_kib(server: &TestServer) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid().as_raw_nonzero())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn request(line: &str, fields: &[&str], body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{line}\r\nHost: x\r\n").into_bytes();
    for field in fields {
        bytes.extend_from_slice(field.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(body);
    bytes
}

/// The case is refused as JSON with one of these codes, the connection ends, and no plugin has been called.
fn refused(server: &TestServer, bytes: &[u8], codes: &[u16]) {
    let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned();
    let before = calls(server);
    let started = Instant::now();
    let answer = answer_to(server, &[bytes, BEHIND].concat());
    let replies = replies(&answer);
    assert_eq!(replies.len(), 1, "{shown:?}: {}", String::from_utf8_lossy(&answer));
    assert!(codes.contains(&replies[0].status), "{shown:?}: {}", replies[0].status);
    assert!(replies[0].json()["error"].is_string(), "{shown:?}: {}", replies[0].text());
    assert_eq!(replies[0].header("content-type"), Some("application/json; charset=utf-8"), "{shown:?}");
    let is_closed = answer.starts_with(b"HTTP/1.0") || replies[0].header("connection") == Some("close");
    assert!(is_closed, "{shown:?}: {}", String::from_utf8_lossy(&answer));
    assert_eq!(calls(server), before, "{shown:?}");
    assert!(started.elapsed() < LONGEST, "{shown:?}");
}

/// The case is a request like any other, and so is what follows it.
fn served(server: &TestServer, bytes: &[u8]) -> Reply {
    let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned();
    let before = calls(server);
    let answer = answer_to(server, &[bytes, BEHIND].concat());
    let mut replies = replies(&answer);
    let codes: Vec<u16> = replies.iter().map(|reply| reply.status).collect();
    assert_eq!(codes, [200, 200], "{shown:?}: {}", String::from_utf8_lossy(&answer));
    assert_eq!(calls(server), before + 2, "{shown:?}");
    replies.swap_remove(0)
}

fn assert_alive(server: &TestServer) {
    assert_eq!(server.get("/hello").text(), r#"{"hello":"world"}"#);
}

#[test]
fn request_lines() {
    let server = server();
    let lines: &[&[u8]] = &[
        b"GET /echo",
        b"GET /echo HTTP/0.9",
        b"GET /echo HTTP/1.2",
        b"GET /echo HTTP/2.0",
        b"GET /echo HTTP/3.0",
        b"GET /echo HTTP/1.11",
        b"GET /echo HTTP/1.1x",
        b"GET /echo http/1.1",
        b"GET  /echo HTTP/1.1",
        b"GET /echo  HTTP/1.1",
        b"GET /echo HTTP/1.1 ",
        b"GET\t/echo\tHTTP/1.1",
        b" GET /echo HTTP/1.1",
        b"GET /echo\rHTTP/1.1",
        b"G\0T /echo HTTP/1.1",
        b"G\xffT /echo HTTP/1.1",
        b"GET /echo\0x HTTP/1.1",
        b"GET /echo/\xff\xfe HTTP/1.1",
        b"GET /echo/\x01\x7f HTTP/1.1",
        b"GET /echo/a b HTTP/1.1",
        b"GET \\echo HTTP/1.1",
        b"GET echo HTTP/1.1",
        b"GET x:80 HTTP/1.1",
        b"GET * HTTP/1.1",
        b"OPTIONS * HTTP/1.1",
        b"CONNECT x:80 HTTP/1.1",
        b"CONNECT /echo HTTP/1.1",
        b"GET",
    ];
    for line in lines {
        refused(&server, &[line, &b"\r\nHost: x\r\n\r\n"[..]].concat(), &[400]);
    }
    for line in ["GET http://x/echo HTTP/1.1", "GET http://x/echo?a=1 HTTP/1.1", "GET /echo/é HTTP/1.1"] {
        served(&server, &request(line, &[], b""));
    }
    let long_method = format!("{} /echo", "A".repeat(5000));
    for method in ["get /echo", "TRACE /echo", "Q /echo", "PRI /echo", &long_method] {
        let answer = answer_to(&server, &request(&format!("{method} HTTP/1.1"), &["Connection: close"], b""));
        assert_eq!(replies(&answer)[0].status, 405, "{method}");
    }
    assert_alive(&server);
}

#[test]
fn lines_that_do_not_end_as_they_should() {
    let server = server();
    refused(&server, b"GET /echo HTTP/1.1\rHost: x\r\r", &[400]);
    refused(&server, b"GET /echo HTTP/1.1\r\nHost: x\rX: y\r\n\r\n", &[400]);
    served(&server, b"\r\n\r\nGET /echo HTTP/1.1\r\nHost: x\r\n\r\n");
    // A bare line feed is a line's end to lenient readers (RFC 9112, 2.2), and then it is one everywhere.
    served(&server, b"GET /echo HTTP/1.1\nHost: x\n\n");
    refused(&server, &b"\r\n".repeat(100_000), &[431]);
}

#[test]
fn lengths() {
    let server = server();
    for length in ["+3", "-3", "0x3", "", "3 4", "3, 3", "3, 4", "3.0", "1_0", "３", "3;", "99999999999999999999999"] {
        refused(&server, &request("POST /echo HTTP/1.1", &[&format!("Content-Length: {length}")], b"abc"), &[400]);
    }
    let different = ["Content-Length: 3", "Content-Length: 4"];
    refused(&server, &request("POST /echo HTTP/1.1", &different, b"abcd"), &[400]);
    refused(&server, &request("POST /echo HTTP/1.1", &["Content-Length : 3"], b"abc"), &[400]);
    for same in [&["Content-Length: 3", "Content-Length: 3"][..], &["Content-Length: 003"], &["Content-Length:\t3\t"]] {
        assert_eq!(served(&server, &request("POST /echo HTTP/1.1", same, b"abc")).json()["size"], 3);
    }
    for endless in ["18446744073709551615", "9223372036854775807", "10000000000"] {
        let started = Instant::now();
        let bytes = request("POST /echo HTTP/1.1", &[&format!("Content-Length: {endless}")], b"abc");
        let answer = answer_to(&server, &bytes);
        assert!(matches!(replies(&answer)[..], [Reply { status: 413 | 431, .. }]), "{endless}");
        assert!(started.elapsed() < LONGEST / 2, "{endless}: the client waits for its answer");
    }
    assert_alive(&server);
}

#[test]
fn transfer_codings() {
    let server = server();
    let body = b"0\r\n\r\n";
    for coding in [
        "chunked, chunked",
        "gzip, chunked",
        "chunked, gzip",
        "xchunked",
        "identity",
        "\"chunked\"",
        "chunked;q=1",
        "chunked,",
        ",chunked",
        "",
        "\u{b}chunked",
        "chunked\u{b}",
        "chunked\0",
        "\r\n chunked",
        "chunked\rX: y",
        "chunked\r\nTransfer-Encoding: chunked",
        "identity\r\nTransfer-Encoding: chunked",
        "chunked\r\nTransfer-Encoding: identity",
    ] {
        for method in ["POST", "GET"] {
            let line = format!("{method} /echo HTTP/1.1");
            refused(&server, &request(&line, &[&format!("Transfer-Encoding: {coding}")], body), &[400]);
        }
    }
    refused(&server, &request("POST /echo HTTP/1.1", &["Transfer-Encoding : chunked"], body), &[400]);
    for fields in [
        &["Transfer-Encoding: chunked"][..],
        &["Transfer-Encoding: chunked", "Connection: keep-alive"],
        &["Content-Length: 5", "Transfer-Encoding: chunked", "Connection: keep-alive"],
    ] {
        refused(&server, &request("POST /echo HTTP/1.0", fields, body), &[400]);
    }
    for fine in ["Transfer-Encoding:   chunked  ", "TRANSFER-ENCODING: CHUNKED"] {
        served(&server, &request("POST /echo HTTP/1.1", &[fine], body));
    }
}

#[test]
fn two_framings_end_the_connection() {
    let server = server();
    let (length, coding) = ("Content-Length: 3", "Transfer-Encoding: chunked");
    for fields in [[length, coding], [coding, length]] {
        for method in ["POST", "GET"] {
            let before = calls(&server);
            let bytes = request(&format!("{method} /echo HTTP/1.1"), &fields, b"0\r\n\r\n");
            let answer = replies(&answer_to(&server, &[&bytes, BEHIND].concat()));
            assert_eq!((answer.len(), calls(&server)), (1, before + 1), "{method} {fields:?}");
            assert_eq!(answer[0].header("connection"), Some("close"), "{method} {fields:?}");
        }
    }
}

#[test]
fn chunks() {
    let server = server();
    let post = |body: &[u8]| request("POST /echo HTTP/1.1", &["Transfer-Encoding: chunked"], body);
    let long_extension = [b"3;", &b"a".repeat(100_000)[..], b"\r\nabc\r\n0\r\n\r\n"].concat();
    let many_extensions = [&b"1;aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\na\r\n".repeat(20_000)[..], b"0\r\n\r\n"].concat();
    let trailers: String = (0..10_000).map(|number| format!("X{number}: y\r\n")).collect();
    let many_trailers = format!("0\r\n{trailers}\r\n").into_bytes();
    let long_trailer = [b"0\r\nX: ", &b"y".repeat(1_000_000)[..], b"\r\n\r\n"].concat();
    let cases: &[&[u8]] = &[
        b"z\r\nabc\r\n0\r\n\r\n",
        b"\r\nabc\r\n0\r\n\r\n",
        b"-1\r\nabc\r\n0\r\n\r\n",
        b"+3\r\nabc\r\n0\r\n\r\n",
        b"0x3\r\nabc\r\n0\r\n\r\n",
        b" 3\r\nabc\r\n0\r\n\r\n",
        b"ffffffffffffffffff\r\nabc\r\n0\r\n\r\n",
        b"3\r\nabcX\r\n0\r\n\r\n",
        b"3\nabc\n0\n\n",
        b"3\r\nabc\n0\r\n\r\n",
        b"3;a\nb\r\nabc\r\n0\r\n\r\n",
        b"3;a\rb\r\nabc\r\n0\r\n\r\n",
        b"0\r\nbad trailer\r\n\r\n",
        b"0\r\nGET /echo HTTP/1.1\r\n\r\n",
        &long_extension,
        &many_extensions,
        &many_trailers,
        &long_trailer,
    ];
    for body in cases {
        refused(&server, &post(body), &[400]);
    }
    for (body, size) in [
        (&b"3 \r\nabc\r\n0\r\n\r\n"[..], 3),
        (b"3;a=b;c=\"d\"\r\nabc\r\n0\r\n\r\n", 3),
        (b"0\r\nX: y\r\n\r\n", 0),
        // What a trailer says of framing and keys counts for nothing (RFC 9110, 6.5.1).
        (b"3\r\nabc\r\n0\r\nContent-Length: 50\r\nTransfer-Encoding: gzip\r\nHost: y\r\n\r\n", 3),
        (b"00000000000000000000000000000003\r\nabc\r\n0\r\n\r\n", 3),
    ] {
        assert_eq!(served(&server, &post(body)).json()["size"], size, "{}", String::from_utf8_lossy(body));
    }
    let tiny = [&b"1\r\na\r\n".repeat(20_000)[..], b"0\r\n\r\n"].concat();
    assert_eq!(served(&server, &post(&tiny)).json()["size"], 20_000);
}

#[test]
fn a_body_that_breaks_off_reaches_no_plugin() {
    let server = server();
    for bytes in [
        request("POST /echo HTTP/1.1", &["Content-Length: 10"], b"abc"),
        request("POST /echo HTTP/1.1", &["Transfer-Encoding: chunked"], b"ffffffffffffffff\r\nabc"),
        request("POST /echo HTTP/1.1", &["Transfer-Encoding: chunked"], b"5\r\nab"),
    ] {
        let mut stream = common::connect(server.address()).unwrap();
        stream.write_all(&bytes).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 400"), "{}", String::from_utf8_lossy(&answer));
    }
    assert_eq!(calls(&server), 0);
}

#[test]
fn header_fields() {
    let server = server();
    for field in [
        "X Y: z",
        "X : z",
        ": z",
        "X",
        "X(y): z",
        "X\u{1}: z",
        "é: z",
        " X: first and folded",
        "X: a\r\n folded",
        "X: a\r\n\tfolded",
        "X: a\0b",
        "X: a\rb",
        "X: a\u{7f}",
        "X: a\u{b}b",
    ] {
        refused(&server, &request("GET /echo HTTP/1.1", &[field], b""), &[400]);
    }
    let many: Vec<String> = (0..10_000).map(|number| format!("X{number}: y")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    refused(&server, &request("GET /echo HTTP/1.1", &many, b""), &[431]);
    refused(&server, &request("GET /echo HTTP/1.1", &[&format!("X: {}", "y".repeat(1_000_000))], b""), &[431]);
    refused(&server, &request("GET /echo HTTP/1.1", &[&format!("{}: y", "X".repeat(1_000_000))], b""), &[431]);
    served(&server, &request("GET /echo HTTP/1.1", &many[..90], b""));
    for odd in [
        "Connection: ,,;;,",
        "Authorization: Bearer",
        "Cookie: ;;==;a;=;\u{e9}",
        "Range: bytes=0-,-1,a",
        "If-Modified-Since: nonsense",
        "If-None-Match: \"\"\"W/",
        "X-Forwarded-For: ,,é",
        "Forwarded: for=;;=\",,[",
        "Content-Type: é;;=",
        "Accept-Encoding: gzip;q=nan, ,;;q=",
        "Origin: é",
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__",
        "Connection: Upgrade\r\nUpgrade: nonsense",
        "Connection: Upgrade\r\nUpgrade: websocket",
    ] {
        served(&server, &request("GET /echo HTTP/1.1", &[odd], b""));
    }
}

#[test]
fn a_flood_is_answered_although_the_client_goes_on_sending() {
    let server = server();
    let before = resident_kib(&server);
    let flood = request("GET /echo HTTP/1.1", &[&format!("X: {}", "y".repeat(16 << 20))], b"");
    for _ in 0..5 {
        let mut stream = common::connect(server.address()).unwrap();
        // The whole of it goes out: the connection is not reset before the client has had its say.
        stream.write_all(&flood).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        assert_eq!(replies(&answer)[0].status, 431);
    }
    let grown = resident_kib(&server).saturating_sub(before);
    assert!(grown < 16 << 10, "{grown} KiB more");
    assert_alive(&server);
}

#[test]
fn hosts() {
    let server = server();
    for host in
        ["a b", "a, b", "a/b", "u@a", "a:-1", "a:8x", "a:1:2", "a\0b", "é", "[::1", "[::1]x", "<a>", "a?b", "a#b"]
    {
        refused(&server, format!("GET /echo HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes(), &[400]);
    }
    refused(&server, b"GET /echo HTTP/1.1\r\n\r\n", &[400]);
    refused(&server, b"GET /echo HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", &[400]);
    refused(&server, b"GET /echo HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", &[400]);
    for host in ["", "a", "a:80", "a_b.c-d:8080", "[::1]", "[::1]:80", "127.0.0.1:1", "xn--bcher-kva.example", "a%20b"]
    {
        served(&server, format!("GET /echo HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes());
    }
}

#[test]
fn expectations_that_nobody_meets_are_417() {
    let server = server();
    let fields = ["Expect: nonsense", "Content-Length: 3"];
    refused(&server, &request("POST /echo HTTP/1.1", &fields, b"abc"), &[417]);
    served(&server, &request("GET /echo HTTP/1.1", &["Expect: 100-Continue"], b""));
    let answer = server.raw(&request("GET /echo HTTP/1.0", &["Expect: nonsense"], b""));
    assert!(answer.contains(" 200 OK\r\n"), "{answer}");
}

#[test]
fn addresses() {
    let server = server();
    for (path, subpath) in [
        ("/echo/%00", "\0"),
        ("/echo/%zz%2", "%zz%2"),
        ("/echo/%c0%ae%c0%ae/%ff", "%c0%ae%c0%ae/%ff"),
        ("/echo/%ed%a0%80", "%ed%a0%80"),
        ("/echo/%2e%2e%2f%2e%2e", "../.."),
        ("/echo/../../etc/passwd", "../../etc/passwd"),
        ("/echo/%252e", "%2e"),
        ("/echo/[]{}|^?x", "[]{}|^"),
        ("/echo/?%00=%00&%=%&&=&==&%zz=%ff", ""),
    ] {
        let reply = served(&server, &request(&format!("GET {path} HTTP/1.1"), &[], b""));
        assert_eq!(reply.json()["subpath"], subpath, "{path}");
    }
    for path in ["/../echo", "/%2e%2e/etc/passwd", "/echo%00", "/%00echo", "/..%2fecho", "/.", "/%"] {
        assert_eq!(server.get(path).status, 404, "{path}");
    }
    for length in [8 << 10, 60_000] {
        served(&server, &request(&format!("GET /echo/{} HTTP/1.1", "y".repeat(length)), &[], b""));
        served(&server, &request(&format!("GET /echo?x={} HTTP/1.1", "y".repeat(length)), &[], b""));
    }
    for length in [66_000, 1_000_000] {
        refused(&server, &request(&format!("GET /echo/{} HTTP/1.1", "y".repeat(length)), &[], b""), &[414, 431]);
        refused(&server, &request(&format!("GET /echo?{} HTTP/1.1", "\"&".repeat(length)), &[], b""), &[414, 431]);
    }
    let reply = served(&server, &request(&format!("GET /echo?{} HTTP/1.1", "a&".repeat(30_000)), &[], b""));
    assert_eq!(reply.json()["fields"], 1);
}

/// Posts a body, and gives the status with the number of fields that the plugin got.
fn post(server: &TestServer, content_type: &str, fields: &[(&str, &str)], body: &[u8]) -> (u16, i64) {
    let started = Instant::now();
    let headers = [&[("Content-Type", content_type)], fields].concat();
    let reply = server.request("POST", "/echo", &headers, body);
    assert!(started.elapsed() < LONGEST, "{content_type}: {:?}", started.elapsed());
    (reply.status, reply.json()["fields"].as_i64().unwrap_or(-1))
}

#[test]
fn json_that_asks_too_much() {
    let server = server();
    let with_value = |value: String| format!("{{\"a\":{value}}}");
    let deep_array = |levels: usize| with_value("[".repeat(levels) + &"]".repeat(levels));
    let deep_object = |levels: usize| format!("{}1{}", "{\"a\":".repeat(levels), "}".repeat(levels));
    let before = resident_kib(&server);
    for (text, fields) in [
        (deep_array(500), 1),
        (deep_array(100_000), 0),
        (deep_object(100_000), 0),
        ("{\"a\":".repeat(170_000), 0),
        ("[".repeat(1_000_000), 0),
        (with_value("9".repeat(4000)), 1),
        (with_value("1e999999".to_owned()), 1),
        (with_value("-1E99999999999999999999".to_owned()), 1),
        (with_value("NaN".to_owned()), 1),
        (with_value("\"\\ud800\"".to_owned()), 1),
        ("{\"\\udfff\":1}".to_owned(), 1),
        ("{\"a\":1,\"a\":2}".to_owned(), 1),
        ("{\"a\":1}{\"b\":2}".to_owned(), 0),
        ("{\"a\":".to_owned(), 0),
        ("\u{feff}{\"a\":1}".to_owned(), 1),
        ("{\"request\":1,\"self\":2,\"log\":3,\"client_ip\":4,\"subpath\":5,\"request_headers\":6}".to_owned(), 0),
    ] {
        let shown = &text[..text.len().min(60)];
        assert_eq!(post(&server, "application/json", &[], text.as_bytes()), (200, fields), "{shown}");
    }
    // Newer versions of Python refuse to read so many digits, older ones take them.
    for digits in [10_000, 1_000_000] {
        assert_eq!(post(&server, "application/json", &[], with_value("9".repeat(digits)).as_bytes()).0, 200);
    }
    for bytes in [&b"{\"a\":\"\xff\xc0\x80\"}"[..], b"{\"a\0\":1}", b"{\"a\":\"\0\"}", b"\xff\xfe{\0", b"\0\0\0"] {
        assert_eq!(post(&server, "application/json", &[], bytes), (200, 0));
    }
    let grown = resident_kib(&server).saturating_sub(before);
    assert!(grown < 64 << 10, "{grown} KiB more");
    assert_alive(&server);
}

#[test]
fn charsets_that_are_none() {
    let server = server();
    for charset in ["nonsense", "rot13", "hex", "zlib", "undefined", "\"\"", "\"", "a\tb", "utf-7"] {
        let content_type = format!("application/json; charset={charset}");
        assert_eq!(post(&server, &content_type, &[], b"{\"a\":1").0, 200, "{charset}");
    }
    // Python's codec for host names takes time by the square of the length.
    let slow = format!("{{\"a\":\"{}-{}", "x".repeat(400_000), "a".repeat(400_000));
    for charset in ["punycode", "PunyCode", "-punycode.", "idna"] {
        let content_type = format!("application/json; charset={charset}");
        assert_eq!(post(&server, &content_type, &[], slow.as_bytes()).0, 200, "{charset}");
        let started = Instant::now();
        assert_eq!(server.post("/text", &content_type, slow.as_bytes()).status, 500, "{charset}");
        assert!(started.elapsed() < LONGEST, "{charset}");
    }
    let form = |charset: &str| format!("application/x-www-form-urlencoded; charset={charset}");
    for charset in ["utf-7", "utf-16", "nonsense", "ISO-2022-JP", "replacement", "x-user-defined", "\""] {
        assert_eq!(post(&server, &form(charset), &[], b"a=%ff&b=\xff&%00=1").0, 200, "{charset}");
    }
}

#[test]
fn forms_that_ask_too_much() {
    let server = server();
    let urlencoded = "application/x-www-form-urlencoded";
    let distinct: Vec<String> = (0..100_000).map(|number| format!("{number:x}")).collect();
    assert_eq!(post(&server, urlencoded, &[], distinct.join("&").as_bytes()), (200, 100_000));
    assert_eq!(post(&server, urlencoded, &[], &b"a&".repeat(500_000)), (200, 1));

    let multipart = "multipart/form-data; boundary=B";
    let part = |name: &str| format!("--B\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\nv\r\n");
    let end = "--B--\r\n";
    let many: String = (0..10_000).map(|number| part(&format!("n{number}"))).collect();
    let many_fields = "X: y\r\n".repeat(20_000);
    for (body, fields) in [
        (part("a") + end, 1),
        (many + end, 10_000),
        (part("a"), 0),
        (part(&"n".repeat(900_000)) + end, 1),
        (format!("--B\r\nContent-Disposition: form-data; name=\"a\"\r\n{many_fields}\r\nv\r\n{end}"), 0),
        (format!("--B\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n{}\r\n{end}", "\r\n-".repeat(100_000)), 1),
        (part("request") + &part("self") + end, 0),
        (part("a\0b") + end, 0),
        ("--B\nContent-Disposition: form-data; name=\"a\"\n\nv\n--B--\n".to_owned(), 0),
        ("junk".to_owned(), 0),
        ("-".repeat(1_000_000), 0),
    ] {
        let shown = &body[..body.len().min(80)];
        assert_eq!(post(&server, multipart, &[], body.as_bytes()), (200, fields), "{shown}");
    }
    let one = part("a") + end;
    for boundary in ["", "; boundary=", "; boundary=\"B", "; boundary=\"\"", "; boundary=--", "; boundary=é"] {
        let content_type = format!("multipart/form-data{boundary}");
        assert_eq!(post(&server, &content_type, &[], one.as_bytes()), (200, 0), "{boundary}");
    }
    let long = format!("multipart/form-data; boundary={}", "B".repeat(10_000));
    assert_eq!(post(&server, &long, &[], one.as_bytes()), (200, 0));
    assert_alive(&server);
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn compressed_bodies() {
    let server = server();
    let zeros = gzip(&vec![0; 16 << 20]);
    let bomb = zeros.repeat(4);
    let before = resident_kib(&server);
    let encoded = |encoding: &str, body: &[u8]| post(&server, "text/plain", &[("Content-Encoding", encoding)], body);
    for _ in 0..3 {
        assert_eq!(encoded("gzip", &bomb).0, 413);
    }
    // Only one layer is undone: the bomb inside is bytes like any others.
    assert_eq!(encoded("gzip", &gzip(&zeros)), (200, 0));
    assert_eq!(encoded("gzip, gzip", &gzip(&zeros)), (200, 0));
    let small = gzip(b"abc");
    let broken_sum = [&small[..small.len() - 8], &[0; 8]].concat();
    let members = gzip(b"").repeat(20_000);
    for (body, status) in [
        (&bomb[..1000], 400),
        (b"nonsense", 400),
        (&small[..small.len() - 4], 400),
        (&broken_sum, 400),
        (&[&small[..], b"junk"].concat(), 400),
        (b"", 200),
        (&small, 200),
        (&members, 200),
    ] {
        assert_eq!(encoded("gzip", body).0, status, "{:?}", &body[..body.len().min(20)]);
    }
    assert_eq!(encoded("deflate", b"nonsense").0, 400);
    assert_eq!(encoded("nonsense", b"nonsense").0, 200);
    let grown = resident_kib(&server).saturating_sub(before);
    assert!(grown < 32 << 10, "{grown} KiB more");
    assert_alive(&server);
}

#[test]
fn a_piece_of_a_body_that_looks_like_a_refusal_is_sent_as_it_is() {
    let plugin = "
from aiohttp import web
from plugincore.baseplugin import BasePlugin
FAKE = b'HTTP/1.1 400 Bad Request\\r\\ncontent-length: 0\\r\\n\\r\\n'
class Pieces(BasePlugin):
    async def request_handler(self, request=None, **data):
        response = web.StreamResponse(headers={'Content-Length': str(3 * len(FAKE))})
        await response.prepare(request)
        for _ in range(3):
            await response.write(FAKE)
        return response
";
    let server = TestServer::with_plugin("pieces.py", plugin);
    let reply = server.get("/pieces");
    assert_eq!(reply.text(), "HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n".repeat(3));
    assert_eq!(reply.header("content-length"), Some(reply.body.len().to_string().as_str()));
    // Behind a whole answer a refusal is one again.
    let answer = answer_to(&server, b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\nnonsense\r\n\r\n");
    assert_eq!(replies(&answer)[1].json()["error"], "malformed request");
}

#[test]
fn what_follows_the_last_request_is_not_read() {
    let server = server();
    let last = request("GET /echo HTTP/1.1", &["Connection: close"], b"");
    let answer = answer_to(&server, &[&last, BEHIND].concat());
    assert_eq!((replies(&answer).len(), calls(&server)), (1, 1));
    let answer =
        answer_to(&server, &[&request("GET /echo HTTP/1.1", &[], b"")[..], b"nonsense\r\n\r\n", BEHIND].concat());
    let codes: Vec<u16> = replies(&answer).iter().map(|reply| reply.status).collect();
    assert_eq!((codes, calls(&server)), (vec![200, 400], 2));
}

const CLIENT_HELLO: &[u8] =
    b"\x16\x03\x01\x00\x2f\x01\x00\x00\x2b\x03\x03abcdefghijklmnopqrstuvwxyz012345\x00\x00\x04\x13\x01\x13\x02\x01\x00";

#[test]
fn other_protocols_are_refused_at_once() {
    let server = server();
    let all_bytes: Vec<u8> = (0..=255).collect();
    for bytes in [
        CLIENT_HELLO,
        &[0; 100],
        &all_bytes.repeat(10),
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"EHLO x\r\n",
        b"*1\r\n$4\r\nPING\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01",
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
    ] {
        refused(&server, bytes, &[400]);
    }
    // HTTP/2 that goes wrong ends in its own way: with GOAWAY, or with nothing.
    for bytes in [&b"garbage".repeat(100)[..], &[0xff; 1000], &[0; 100]] {
        let answer = answer_to(&server, &[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", bytes].concat());
        assert!(!answer.starts_with(b"HTTP/1"), "{}", String::from_utf8_lossy(&answer));
    }
    assert_eq!(calls(&server), 0);
    assert_alive(&server);
}

#[test]
fn bodies_arrive_unchanged_however_they_are_cut() {
    let server = server();
    let pieces: [&[u8]; 6] = [b"GET /\"<> HTTP/1.1\r\n\r\n", b"\n", b"\"`<>", b"x", b"\r\n\r\n", b"POST /` HTTP/1.1\n"];
    let mut random = Random(7);
    for _ in 0..200 {
        let mut sent = Vec::new();
        let mut bodies = Vec::new();
        let count = 1 + random.below(5);
        for number in 1..=count {
            let end = if number == count { "Connection: close\r\n" } else { "" };
            let body: Vec<u8> = (0..random.below(5)).flat_map(|_| random.pick(&pieces).to_vec()).collect();
            let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
            // Later targets of a connection may be escaped or not; the first one surely is.
            let target = if number == 1 { "/mirror?f=\"<" } else { "/mirror" };
            sent.extend_from_slice(format!("POST {target} HTTP/1.1\r\nHost: x\r\n{length}{end}\r\n").as_bytes());
            sent.extend_from_slice(&body);
            bodies.push(body);
        }
        let mut stream = common::connect(server.address()).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut rest = &sent[..];
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at((1 + random.below(60)).min(rest.len()));
            stream.write_all(piece).unwrap();
            if random.below(3) == 0 {
                std::thread::yield_now();
            }
            rest = behind;
        }
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let received: Vec<Vec<u8>> = replies(&answer).into_iter().map(|reply| reply.body).collect();
        assert_eq!(received, bodies, "{}", sent.escape_ascii());
    }
}

#[test]
fn thousands_of_requests_that_are_nearly_right_leave_the_server_as_it_was() {
    let server = server();
    let form = "--B\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n--B--\r\n";
    let with_length = |content_type: &str, body: &[u8]| {
        let fields = [&*format!("Content-Type: {content_type}"), &format!("Content-Length: {}", body.len())];
        request("POST /echo?x=1 HTTP/1.1", &fields, body)
    };
    let seeds = [
        request("GET /echo/a%2Fb?f={\"a\":<1>} HTTP/1.1", &["Accept-Encoding: gzip", "Cookie: a=1; b=2"], b""),
        request("HEAD /echo HTTP/1.0", &["Connection: keep-alive", "Range: bytes=0-5"], b""),
        request("OPTIONS /echo HTTP/1.1", &["Origin: http://a", "Access-Control-Request-Method: POST"], b""),
        request("GET /plugins?verbose=1 HTTP/1.1", &["X-Forwarded-For: 10.1.1.1", "Forwarded: for=\"[::1]:1\""], b""),
        request(
            "POST /echo HTTP/1.1",
            &["Transfer-Encoding: chunked"],
            b"3;a=b\r\nabc\r\n2\r\nde\r\n0\r\nX: y\r\n\r\n",
        ),
        with_length("application/json", b"{\"a\":[1,{\"b\":null}],\"c\":\"\\ud800\",\"apikey\":\"k\"}"),
        with_length("application/x-www-form-urlencoded; charset=latin-1", b"a=1&a=%ff&b=x+y&apikey=k"),
        with_length("multipart/form-data; boundary=B", form.as_bytes()),
        with_length("text/plain\r\nContent-Encoding: gzip", &gzip(b"abcabcabc")),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x05\x01\x05\0\0\0\x01\x82\x84\x86\x41\x01x".to_vec(),
    ];
    let words: [&[u8]; 22] = [
        b"\r\n",
        b"\n",
        b"\r",
        b"\0",
        b" ",
        b"\t",
        b":",
        b"%00",
        b"%zz",
        b"\xff",
        b"0",
        b"-1",
        b"99999999999999999999",
        b"Content-Length: 3\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Host: y\r\n",
        b"Expect: 100-continue\r\n",
        b"Connection: Upgrade\r\nUpgrade: websocket\r\n",
        b"HTTP/1.0",
        b"--B",
        b"{\"a\":",
        b"\x16\x03\x01",
    ];
    let answered: usize = std::thread::scope(|scope| {
        let clients = (0..4).map(|number| {
            let (server, seeds) = (&server, &seeds);
            scope.spawn(move || {
                let mut random = Random(number);
                let changed = |_| {
                    let seed = &seeds[random.below(seeds.len())];
                    let answer = answer_within_moments(server, &random.changed(seed, &words));
                    usize::from(answer.starts_with(b"HTTP/1."))
                };
                (0..750).map(changed).sum::<usize>()
            })
        });
        clients.collect::<Vec<_>>().into_iter().map(|client| client.join().unwrap()).sum()
    });
    assert!(answered > 1000, "only {answered} answers");
    assert_alive(&server);
    assert!(!server.log().contains("panicked"), "{}", server.log());
}

/// Sends bytes and an end that closes the connection, and waits for what comes of it, but not for long: the server may
/// well wait for more.
fn answer_within_moments(server: &TestServer, bytes: &[u8]) -> Vec<u8> {
    let mut stream = common::connect(server.address()).unwrap();
    stream.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let mut answer = Vec::new();
    let bytes = [bytes, b"\r\n\r\n", BEHIND].concat();
    if let Err(problem) = stream.write_all(&bytes).and_then(|()| stream.read_to_end(&mut answer).map(drop)) {
        let is_waiting = matches!(problem.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut);
        assert!(is_waiting || is_closed(&problem), "{problem}: {}", bytes.escape_ascii());
    }
    answer
}
