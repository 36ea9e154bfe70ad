//! What the HTTP layer answers by itself: misses, methods, limits, malformed requests.

mod common;

use std::io::{Read, Write};

use common::TestServer;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};

const ECHO: &str = "
from plugincore.baseplugin import BasePlugin
class Echo(BasePlugin):
    async def request_handler(self, **data):
        return {'method': data['request'].method, 'subpath': data['subpath'], 'size': len(await data['request'].read())}
class Putter(BasePlugin):
    methods = ('PUT', 'OPTIONS')
    async def request_handler(self, **data):
        return data['request'].method
";

#[test]
fn an_unknown_route_is_404_as_json() {
    let server = TestServer::with_plugin("echo.py", ECHO);
    for path in ["/nope", "/", "/Echo", "/echox", "/plugins/", "/reload", "//echo"] {
        let reply = server.get(path);
        assert_eq!(reply.status, 404, "{path}");
        assert!(reply.json()["error"].is_string(), "{path}");
        assert_eq!(reply.header("content-type"), Some("application/json; charset=utf-8"));
    }
}

#[test]
fn a_miss_of_a_broken_file_says_so() {
    let server = TestServer::with_plugin("broken.py", "def");
    assert!(server.get("/broken").text().contains("broken.py failed to load"));
}

#[test]
fn methods_beside_get_and_post_are_405_with_allow() {
    let server = TestServer::with_plugin("echo.py", ECHO);
    for method in ["PUT", "DELETE", "PATCH", "BREW"] {
        let reply = server.request(method, "/echo", &[], b"");
        assert_eq!((reply.status, reply.header("allow")), (405, Some("GET, HEAD, POST, OPTIONS")), "{method}");
        assert!(reply.json()["error"].is_string());
    }
    assert_eq!(server.request("PUT", "/plugins", &[], b"").status, 405);
}

#[test]
fn a_class_opens_other_methods() {
    let server = TestServer::with_plugin("echo.py", ECHO);
    assert_eq!(server.request("PUT", "/putter", &[], b"").text(), "PUT");
    assert_eq!(server.request("OPTIONS", "/putter", &[], b"").text(), "OPTIONS");
    let reply = server.request("DELETE", "/putter", &[], b"");
    assert_eq!(reply.header("allow"), Some("GET, HEAD, POST, OPTIONS, PUT"));
}

#[test]
fn head_has_the_length_and_no_body_and_options_names_the_methods() {
    let server = TestServer::with_plugin("echo.py", ECHO);
    let length = server.get("/echo").body.len() + "HEAD".len() - "GET".len();
    let reply = server.request("HEAD", "/echo", &[], b"");
    assert_eq!((reply.status, reply.body.len()), (200, 0));
    assert_eq!(reply.header("content-length"), Some(length.to_string().as_str()));
    let reply = server.request("OPTIONS", "/echo", &[], b"");
    assert_eq!((reply.status, reply.header("allow")), (204, Some("GET, HEAD, POST, OPTIONS")));
}

#[test]
fn subpaths_are_decoded_and_not_normalised() {
    let server = TestServer::with_plugin("echo.py", ECHO);
    let cases = [
        ("/echo", None),
        ("/echo/", Some("")),
        ("/echo/a/b", Some("a/b")),
        ("/echo//a//b/", Some("/a//b/")),
        ("/echo/a%2Fb", Some("a/b")),
        ("/echo/%C3%A9", Some("é")),
        ("/echo/%zz", Some("%zz")),
        ("/echo/%ff", Some("%ff")),
        ("/echo/a%20b+c", Some("a b+c")),
        ("/echo/../x", Some("../x")),
        ("/ech%6f/x", Some("x")),
    ];
    for (path, subpath) in cases {
        assert_eq!(server.get(path).json()["subpath"], serde_json::json!(subpath), "{path}");
    }
}

#[test]
fn targets_that_should_have_been_escaped_are_read() {
    let server = TestServer::with_plugin("echo.py", ECHO);
    assert_eq!(server.get("/echo/a\"b<c>`d?f={\"a\":1}").json()["subpath"], "a\"b<c>`d");
    // Also later on a connection, and never inside a body.
    let answer = server.raw(
        b"GET /echo/1\" HTTP/1.1\r\nHost: x\r\n\r\nPOST /echo/2 HTTP/1.1\r\nHost: x\r\nContent-Length: 21\r\nConnection: close\r\n\r\nGET /\"<> HTTP/1.1\r\n\r\n",
    );
    assert!(answer.contains("\"subpath\":\"1\\\"\"") && answer.contains("\"size\":21"), "{answer}");
}

#[test]
fn a_body_over_the_limit_is_413_and_one_at_the_limit_passes() {
    let server = TestServer::build().plugin("echo.py", ECHO).ini("[limits]\nbody=1000").start();
    assert_eq!(server.post("/echo", "text/plain", &[b'x'; 1000]).json()["size"], 1000);
    let reply = server.post("/echo", "text/plain", &[b'x'; 1001]);
    assert_eq!(reply.status, 413);
    assert!(reply.json()["error"].as_str().unwrap().contains("1000 bytes"));
    // The answer arrives although the client sends it all first.
    assert_eq!(server.post("/echo", "text/plain", &vec![b'x'; 8 << 20]).status, 413);
    let chunked = format!(
        "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n7d0\r\n{}\r\n0\r\n\r\n",
        "x".repeat(2000)
    );
    assert!(server.raw(chunked.as_bytes()).starts_with("HTTP/1.1 413"));
}

#[test]
fn the_usual_limit_is_one_mebibyte() {
    let server = TestServer::with_plugin("echo.py", ECHO);
    assert_eq!(server.post("/echo", "text/plain", &vec![b'x'; 1 << 20]).status, 200);
    assert_eq!(server.post("/echo", "text/plain", &vec![b'x'; (1 << 20) + 1]).status, 413);
}

#[test]
fn a_chunked_body_is_read() {
    let server = TestServer::with_plugin("echo.py", ECHO);
    let answer = server.raw(
        b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
    );
    assert!(answer.contains("\"size\":5"), "{answer}");
}

#[test]
fn malformed_requests_are_400_as_json() {
    let server = TestServer::with_plugin("echo.py", ECHO);
    let cases: [&[u8]; 11] = [
        b"GET echo HTTP/1.1\r\nHost: x\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nConnection: close\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"GET  /echo HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /echo HTTP/1.1\r\nbad header\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: abc\r\n\r\n",
        b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    ];
    for bytes in cases {
        let answer = server.raw(bytes);
        let shown = String::from_utf8_lossy(bytes);
        assert!(answer.starts_with("HTTP/1.1 400"), "{shown}: {answer}");
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.to_lowercase().contains("content-type: application/json"), "{shown}: {answer}");
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert!(body["error"].is_string());
    }
}

#[test]
fn what_follows_an_odd_transfer_coding_is_not_taken_for_a_request() {
    let server = TestServer::with_plugin("echo.py", ECHO);
    let answer = server.raw(
        b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\nGET /plugins HTTP/1.1\r\nHost: x\r\n\r\n",
    );
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
}

#[test]
fn what_follows_two_contradicting_lengths_is_not_taken_for_a_request() {
    let server = TestServer::with_plugin("echo.py", ECHO);
    let answer = server.raw(
        b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /plugins HTTP/1.1\r\nHost: x\r\n\r\n",
    );
    // RFC 9112, 6.3: the coding counts, and the connection ends with the answer.
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    assert!(answer.to_lowercase().contains("connection: close"), "{answer}");
}

#[test]
fn a_body_that_looks_like_a_request_line_keeps_its_length() {
    let server = TestServer::with_plugin("echo.py", ECHO);
    let mut stream = common::connect(server.address()).unwrap();
    // The body comes after both heads, when the first request has been answered already.
    let body = b"GET /a\"\"\"b HTTP/1.1\r\nHost: x\r\n\r\n";
    let second =
        format!("POST /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
    stream.write_all(format!("GET /echo HTTP/1.1\r\nHost: x\r\n\r\n{second}").as_bytes()).unwrap();
    let mut first = [0; 12];
    stream.read_exact(&mut first).unwrap();
    stream.write_all(body).unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert_eq!(rest.matches("HTTP/1.1 ").count(), 1, "{rest}");
    assert!(rest.contains(&format!("\"size\":{}", body.len())), "{rest}");
}

#[test]
fn a_header_that_is_too_large_is_431_as_json() {
    let server = TestServer::with_plugin("echo.py", ECHO);
    let answer = server.raw(format!("GET /echo HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "y".repeat(100_000)).as_bytes());
    assert!(answer.starts_with("HTTP/1.1 431"), "{}", &answer[..200.min(answer.len())]);
    assert!(answer.contains("{\"error\":"), "{answer}");
}

#[test]
fn requests_in_one_packet_are_answered_in_their_order() {
    let server = TestServer::with_plugin("echo.py", ECHO);
    let answer = server.raw(
        b"GET /echo/1 HTTP/1.1\r\nHost: x\r\n\r\nGET /echo/2 HTTP/1.1\r\nHost: x\r\n\r\nGET /echo/3 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    );
    let order: Vec<_> =
        answer.match_indices("\"subpath\":\"").map(|(at, found)| &answer[at + found.len()..][..1]).collect();
    assert_eq!(order, ["1", "2", "3"]);
}

#[test]
fn the_access_log_is_in_combined_format_with_keys_masked() {
    let server = TestServer::build().plugin("echo.py", ECHO).ini("[server]\naccess_log=access.log").start();
    let headers =
        [("User-Agent", "tester \"1\""), ("Referer", "http://x/?apikey=hush"), ("X-Forwarded-For", "10.1.1.1")];
    server.request("GET", "/echo/a?x=1&apikey=topsecret", &headers, b"");
    let path = server.path("access.log");
    let deadline = std::time::Instant::now() + common::PATIENCE;
    let text = loop {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        if text.ends_with('\n') {
            break text;
        }
        assert!(std::time::Instant::now() < deadline, "no line in the access log");
        std::thread::sleep(std::time::Duration::from_millis(10));
    };
    assert!(text.starts_with("10.1.1.1 - - ["), "{text}");
    assert!(text.contains("] \"GET /echo/a?x=1&apikey=*** HTTP/1.1\" 200 "), "{text}");
    assert!(text.contains("\"http://x/?apikey=***\" \"tester \\\"1\\\"\""), "{text}");
}

#[tokio::test]
async fn http_2_with_prior_knowledge_serves_get_post_and_head() {
    let server = TestServer::with_plugin("echo.py", ECHO);
    let stream = tokio::net::TcpStream::connect(server.address()).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    for (method, status, length) in [("GET", 200, 0), ("POST", 200, 5), ("HEAD", 200, 0), ("PUT", 405, 0)] {
        let body = Full::new(bytes::Bytes::from(vec![b'x'; length]));
        let uri = format!("http://{}/echo/two", server.address());
        let request = http::Request::builder().method(method).uri(uri).body(body).unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status().as_u16(), status, "{method}");
        assert!(response.headers()["content-length"].to_str().unwrap().parse::<usize>().unwrap() > 0);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        if method == "HEAD" {
            assert!(body.is_empty());
        } else if status == 200 {
            let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(body, serde_json::json!({"method": method, "subpath": "two", "size": length}));
        }
    }
}

#[tokio::test]
async fn cookies_that_http_2_has_split_are_one_field() {
    let plugin = "
from plugincore.baseplugin import BasePlugin
class Jar(BasePlugin):
    async def request_handler(self, request=None, request_headers=None, **data):
        return [dict(request.cookies), request_headers['Cookie'], request.headers.getall('Cookie')]
";
    let server = TestServer::with_plugin("jar.py", plugin);
    let stream = tokio::net::TcpStream::connect(server.address()).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::builder()
        .uri(format!("http://{}/jar", server.address()))
        .header("cookie", "a=1")
        .header("cookie", "b=2; c=3")
        .body(Full::new(bytes::Bytes::new()))
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    let body: serde_json::Value =
        serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap();
    let joined = "a=1; b=2; c=3";
    assert_eq!(body, serde_json::json!([{"a": "1", "b": "2", "c": "3"}, joined, [joined]]));
}

#[test]
fn connections_that_end_leave_no_descriptor_behind() {
    let server = TestServer::with_plugin("echo.py", ECHO);
    let descriptors = || {
        let folder = format!("/proc/{}/fd", server.pid().as_raw_nonzero());
        std::fs::read_dir(folder).unwrap().count()
    };
    assert_eq!(server.get("/echo").status, 200);
    let before = descriptors();
    for round in 0..3 {
        let open: Vec<_> = (0..100).map(|_| common::connect(server.address()).unwrap()).collect();
        for mut stream in &open {
            std::io::Write::write_all(&mut stream, b"GET /echo HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        }
        for mut stream in &open {
            let mut first = [0; 15];
            std::io::Read::read_exact(&mut stream, &mut first).unwrap();
            assert_eq!(&first, b"HTTP/1.1 200 OK", "round {round}");
        }
    }
    let deadline = std::time::Instant::now() + common::PATIENCE;
    while descriptors() > before {
        assert!(std::time::Instant::now() < deadline, "{before} before, {} now", descriptors());
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}
