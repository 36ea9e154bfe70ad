//! What bounds a connection: time for each of its stages, and how many there may be.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::{TestServer, connect, eventually, send};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, prlimit};

const PLUGINS: &str = "
import asyncio, base64, hashlib
from aiohttp import web
from plugincore.baseplugin import BasePlugin
ANSWER = b'x' * (50 << 20)
class Quick(BasePlugin):
    async def request_handler(self, **data):
        return {'size': len(await data['request'].read())}
class Big(BasePlugin):
    async def request_handler(self, **data):
        return ANSWER
class Slow(BasePlugin):
    async def request_handler(self, **data):
        self.log.info('slow begins')
        await asyncio.sleep(float(data['seconds']))
        return 'slept'
class Endless(BasePlugin):
    async def request_handler(self, **data):
        response = web.StreamResponse()
        await response.prepare(data['request'])
        try:
            while True:
                await response.write(b'x' * 65536)
        except (ConnectionResetError, asyncio.CancelledError):
            self.log.info('the reader has left')
            raise
class Echo(BasePlugin):
    async def request_handler(self, **data):
        ws = web.WebSocketResponse()
        await ws.prepare(data['request'])
        async for message in ws:
            await ws.send_str(message.data)
        return ws
";

const UPLOAD: &str = "
from plugincore.baseplugin import BasePlugin
class Upload(BasePlugin):
    async def request_handler(self, **data):
        size = 0
        async for chunk in data['request'].content.iter_any():
            size += len(chunk)
        return {'size': size}
";

fn start(limits: &str) -> TestServer {
    let ini = format!("[limits]\n{limits}\n[plugin_options]\nupload=body=stream\n");
    TestServer::build().plugin("plugins.py", PLUGINS).plugin("upload.py", UPLOAD).ini(&ini).start()
}

fn open(address: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = connect(address).unwrap();
    stream.write_all(bytes).unwrap();
    stream
}

/// What comes until the server closes.
fn rest(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    if let Err(problem) = stream.read_to_end(&mut answer) {
        assert_eq!(problem.kind(), ErrorKind::ConnectionReset, "{problem}");
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// One answer with a length on a connection that stays.
fn one_answer(stream: &mut TcpStream) -> std::io::Result<String> {
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let length = stream.read(&mut piece)?;
        if length == 0 {
            return Err(std::io::Error::other(format!("closed after {:?}", String::from_utf8_lossy(&answer))));
        }
        answer.extend_from_slice(&piece[..length]);
        let text = String::from_utf8_lossy(&answer);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.to_ascii_lowercase().split("content-length: ").nth(1).map(str::to_owned);
            let length: usize = length.and_then(|rest| rest.split("\r\n").next()?.parse().ok()).unwrap();
            if body.len() >= length {
                return Ok(text.into_owned());
            }
        }
    }
}

fn assert_is_json_error(answer: &str, status: u16) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {answer:?}"));
    assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    assert!(head.to_ascii_lowercase().contains("connection: close"), "{answer}");
    let body: serde_json::Value = serde_json::from_str(body).unwrap_or_else(|problem| panic!("{problem}: {answer}"));
    assert!(body["error"].is_string(), "{answer}");
}

const GET: &[u8] = b"GET /quick HTTP/1.1\r\nHost: x\r\n\r\n";

#[test]
fn a_connection_that_says_nothing_is_closed_without_a_word() {
    let server = start("first_byte_timeout=0.2");
    let mut silent = connect(server.address()).unwrap();
    assert_eq!(rest(&mut silent), "");
    // Empty lines are no beginning of a request.
    let mut empty = open(server.address(), b"\r\n\r\n");
    assert_eq!(rest(&mut empty), "");
}

#[test]
fn a_head_that_does_not_end_is_a_408_however_it_comes() {
    let server = start("header_timeout=0.4\nfirst_byte_timeout=30");
    for beginning in [&b"G"[..], b"GET /quick HTTP/1.1\r\nHost"] {
        let mut slow = open(server.address(), beginning);
        assert_is_json_error(&rest(&mut slow), 408);
    }
    let dripping = connect(server.address()).unwrap();
    let mut writer = dripping.try_clone().unwrap();
    std::thread::spawn(move || {
        while writer.write_all(b"a").is_ok() {
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let mut dripping = dripping;
    let asked = Instant::now();
    assert_is_json_error(&rest(&mut dripping), 408);
    assert!(asked.elapsed() < Duration::from_secs(20));
    // The second request of a connection has the same limit.
    let mut kept = open(server.address(), GET);
    one_answer(&mut kept).unwrap();
    kept.write_all(b"GET /qui").unwrap();
    assert_is_json_error(&rest(&mut kept), 408);
}

#[test]
fn an_idle_connection_is_closed_without_a_word_and_a_busy_one_is_not() {
    let server = start("idle_timeout=0.3\nheader_timeout=0.3\nfirst_byte_timeout=0.3");
    let mut idle = open(server.address(), GET);
    assert!(one_answer(&mut idle).unwrap().starts_with("HTTP/1.1 200"));
    assert_eq!(rest(&mut idle), "");
    let mut busy = open(server.address(), b"GET /slow?seconds=1 HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(one_answer(&mut busy).unwrap().ends_with("slept"));
}

#[test]
fn requests_that_come_together_are_answered_in_turn() {
    let server = start("idle_timeout=0.5");
    let mut together = open(server.address(), &GET.repeat(20));
    let answers = rest(&mut together);
    assert_eq!(answers.matches("HTTP/1.1 200").count(), 20, "{answers}");
}

#[test]
fn a_websocket_may_be_silent() {
    let server = start("idle_timeout=0.2\nheader_timeout=0.2\nfirst_byte_timeout=0.2\nsend_timeout=0.2");
    let request = b"GET /echo HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let mut socket = open(server.address(), request);
    let mut head = [0; 12];
    socket.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 101");
    std::thread::sleep(Duration::from_millis(800));
    socket.write_all(b"\x81\x82\0\0\0\0hi").unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"\x81\x02hi") {
        let mut byte = [0];
        socket.read_exact(&mut byte).unwrap();
        seen.push(byte[0]);
    }
}

#[test]
fn a_body_that_stops_coming_is_a_408_whole_or_streamed() {
    let server = start("body_timeout=0.4");
    for path in ["quick", "upload"] {
        let head = format!("POST /{path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\npart");
        let mut slow = open(server.address(), head.as_bytes());
        assert_is_json_error(&rest(&mut slow), 408);
    }
}

#[test]
fn a_body_that_goes_on_coming_is_taken() {
    let server = start("body_timeout=0.5");
    for path in ["quick", "upload"] {
        let head = format!("POST /{path} HTTP/1.1\r\nHost: x\r\nContent-Length: 8192\r\n\r\n");
        let mut steady = open(server.address(), head.as_bytes());
        for _ in 0..8 {
            steady.write_all(&[b'x'; 1024]).unwrap();
            std::thread::sleep(Duration::from_millis(120));
        }
        assert!(one_answer(&mut steady).unwrap().contains("8192"));
    }
}

#[test]
fn a_reader_that_does_not_read_is_cut_off_and_its_handler_learns_it() {
    let server = start("send_timeout=0.5");
    let _reader = open(server.address(), b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n");
    server.wait_for_log("the reader has left", 1);
    let mut reader = open(server.address(), b"GET /big HTTP/1.1\r\nHost: x\r\n\r\n");
    std::thread::sleep(Duration::from_secs(2));
    let mut length = 0;
    let mut piece = vec![0; 1 << 20];
    while let Ok(count @ 1..) = reader.read(&mut piece) {
        length += count;
    }
    assert!(length < 50 << 20, "all {length} bytes came");
    // One that reads slowly, but does, gets everything.
    let mut reader = open(server.address(), b"GET /big HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let mut length = 0;
    loop {
        let count = reader.read(&mut piece).unwrap();
        length += count;
        if count == 0 {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(length > 50 << 20, "only {length} bytes came");
}

#[test]
fn a_full_house_takes_a_newcomer_for_an_idle_one_and_else_says_503() {
    let server = start("connections=3");
    let mut idle = Vec::new();
    for _ in 0..3 {
        let mut stream = open(server.address(), GET);
        one_answer(&mut stream).unwrap();
        idle.push(stream);
        std::thread::sleep(Duration::from_millis(60));
    }
    std::thread::sleep(Duration::from_millis(100));
    let slow = b"GET /slow?seconds=600 HTTP/1.1\r\nHost: x\r\n\r\n";
    let _newcomer = open(server.address(), slow);
    server.wait_for_log("slow begins", 1);
    assert_eq!(rest(&mut idle[0]), "", "the oldest makes room");
    idle[2].write_all(GET).unwrap();
    one_answer(&mut idle[2]).unwrap();
    for stream in &mut idle[1..] {
        stream.write_all(slow).unwrap();
    }
    server.wait_for_log("slow begins", 3);
    let mut refused = open(server.address(), &[GET, &[b'x'; 50_000]].concat());
    let answer = rest(&mut refused);
    assert_is_json_error(&answer, 503);
    assert!(answer.contains("retry-after: 1\r\n"), "{answer}");
    server.wait_for_log("connections are refused: the server has too many connections (limit 3)", 1);
}

#[test]
fn everybody_in_a_crowd_learns_that_there_is_no_place() {
    let server = start("connections=1");
    let _busy = open(server.address(), b"GET /slow?seconds=600 HTTP/1.1\r\nHost: x\r\n\r\n");
    server.wait_for_log("slow begins", 1);
    let mut crowd: Vec<_> = (0..300).map(|_| open(server.address(), GET)).collect();
    for stream in &mut crowd {
        assert_is_json_error(&rest(stream), 503);
    }
}

#[test]
fn a_client_with_too_many_connections_gets_a_429() {
    let server = start("connections_per_client=2");
    let mut first = open(server.address(), GET);
    let mut second = open(server.address(), GET);
    one_answer(&mut first).unwrap();
    one_answer(&mut second).unwrap();
    let answer = rest(&mut open(server.address(), GET));
    assert_is_json_error(&answer, 429);
    assert!(answer.contains("retry-after: 1\r\n"), "{answer}");
    drop(first);
    eventually(|| rest(&mut open(server.address(), b"GET /quick HTTP/1.0\r\n\r\n")).contains(" 200 "));
}

#[test]
fn a_server_out_of_descriptors_serves_on_and_takes_them_from_idle_connections() {
    let server = start("");
    let mut kept = open(server.address(), GET);
    one_answer(&mut kept).unwrap();
    let open_files =
        std::fs::read_dir(format!("/proc/{}/fd", server.worker().as_raw_nonzero())).unwrap().count() as u64;
    let maximum = getrlimit(Resource::Nofile).maximum;
    let limit = |most| Rlimit { current: Some(most), maximum };
    prlimit(Some(server.worker()), Resource::Nofile, limit(open_files + 10)).unwrap();
    // Busy, so that nothing can be taken from them.
    let slow = b"GET /slow?seconds=600 HTTP/1.1\r\nHost: x\r\n\r\n";
    let _busy: Vec<_> = (0..10).map(|_| open(server.address(), slow)).collect();
    server.wait_for_log("slow begins", 5);
    let _more: Vec<_> = (0..20).map(|_| open(server.address(), slow)).collect();
    server.wait_for_log("cannot accept connections for the moment", 1);
    assert_eq!(rest(&mut kept), "", "it stood idle");
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(server.log().matches("cannot accept connections for the moment").count(), 1);
    prlimit(Some(server.worker()), Resource::Nofile, limit(1000)).unwrap();
    eventually(|| server.get("/quick").status == 200 && server.log().contains("connections are accepted again"));
}

#[test]
fn a_stop_under_load_loses_no_request() {
    let mut server = start("");
    let address = server.address();
    let stopping = AtomicBool::new(false);
    let answered = AtomicUsize::new(0);
    // A connection without a request at the time of the stop is served, too.
    let mut fresh: Vec<_> = (0..5).map(|_| connect(address).unwrap()).collect();
    std::thread::scope(|scope| {
        let keepers: Vec<_> = (0..6)
            .map(|number| {
                let answered = &answered;
                let mut stream = connect(address).unwrap();
                scope.spawn(move || {
                    loop {
                        stream.write_all(GET).unwrap_or_else(|problem| panic!("{number}: {problem}"));
                        let answer = one_answer(&mut stream).unwrap();
                        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
                        answered.fetch_add(1, Ordering::SeqCst);
                        if answer.to_ascii_lowercase().contains("connection: close") {
                            // Others would go on elsewhere.
                            return;
                        }
                        std::thread::sleep(Duration::from_millis(number * 60));
                    }
                })
            })
            .collect();
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    match send(address, "GET", "/quick", &[], b"") {
                        Ok(reply) => assert_eq!(reply.status, 200),
                        Err(_) if stopping.load(Ordering::SeqCst) => return,
                        Err(problem) => panic!("{problem}"),
                    }
                }
            });
        }
        eventually(|| answered.load(Ordering::SeqCst) > 100);
        stopping.store(true, Ordering::SeqCst);
        server.signal(Signal::TERM);
        server.wait_for_log("finishing what is in flight", 1);
        for stream in &mut fresh {
            // The line may be there a moment before the worker has heard of the stop.
            loop {
                stream.write_all(GET).unwrap();
                let answer = one_answer(stream).unwrap();
                assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
                if answer.to_ascii_lowercase().contains("connection: close") {
                    break;
                }
            }
        }
        keepers.into_iter().for_each(|keeper| keeper.join().unwrap());
    });
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn hundreds_of_slow_clients_cost_nothing_but_their_places() {
    let server = start("first_byte_timeout=60\nheader_timeout=60\nbody_timeout=60\nsend_timeout=60");
    let address = server.address();
    server.get("/quick");
    let before = resident_kib(&server);
    let post = b"POST /quick HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nx";
    let upload = b"POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nx";
    let endless = b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n";
    let kinds: [&[u8]; 5] = [b"", b"GET /quick HT", post, upload, endless];
    let mut slow = Vec::new();
    for kind in kinds {
        let count = if kind == endless { 50 } else { 200 };
        slow.extend((0..count).map(|_| open(address, kind)));
        let asked = Instant::now();
        assert_eq!(server.get("/quick").status, 200);
        assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    }
    for stream in &mut slow[200..800] {
        stream.write_all(b"x").unwrap();
    }
    assert_eq!(send(address, "GET", "/quick", &[], b"").unwrap().status, 200);
    let grown = resident_kib(&server).saturating_sub(before);
    assert!(grown < 100 << 10, "{grown} KiB more");
}

/// An HTTP/2 frame (RFC 9113, 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The beginning of an HTTP/2 connection, with the room that each stream has.
fn http2(address: SocketAddr, window: u32) -> TcpStream {
    let settings = [&[0, 4][..], &window.to_be_bytes()].concat();
    open(address, &[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame(4, 0, 0, &settings)[..]].concat())
}

/// A GET that opens a stream.
fn http2_get(stream: u32, path: &str) -> Vec<u8> {
    let length = u8::try_from(path.len()).unwrap();
    let block = [&[0x82, 0x86, 0x04, length][..], path.as_bytes(), b"\x41\x01x"].concat();
    frame(1, 5, stream, &block)
}

#[test]
fn an_http2_connection_that_stands_idle_or_takes_nothing_is_closed() {
    let server = start("idle_timeout=0.3\nsend_timeout=0.3\nfirst_byte_timeout=60");
    rest(&mut http2(server.address(), 65535));
    let mut reader = http2(server.address(), 0);
    reader.write_all(&http2_get(1, "/big")).unwrap();
    rest(&mut reader);
}

#[test]
fn taking_http2_requests_back_again_and_again_ends_the_connection() {
    let server = start("");
    let mut stream = http2(server.address(), 65535);
    let mut reset = stream.try_clone().unwrap();
    std::thread::spawn(move || {
        for number in 0..10_000 {
            let id = 2 * number + 1;
            let request = [http2_get(id, "/slow?seconds=9"), frame(3, 0, id, &8_u32.to_be_bytes())].concat();
            if reset.write_all(&request).is_err() {
                return;
            }
            // The server shall have seen each of them.
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    rest(&mut stream);
    assert!(server.log().matches("slow begins").count() < 1000);
    assert_eq!(server.get("/quick").status, 200);
}

#[test]
fn a_stop_answers_what_http2_has_open_and_says_goodbye() {
    let mut server = start("");
    let mut stream = http2(server.address(), 65535);
    stream.write_all(&http2_get(1, "/slow?seconds=0.3")).unwrap();
    server.wait_for_log("slow begins", 1);
    server.signal(Signal::TERM);
    let mut seen = Vec::new();
    stream.read_to_end(&mut seen).unwrap();
    assert!(seen.windows(5).any(|window| window == b"slept"));
    let goodbye = frame(7, 0, 0, &[0; 8]);
    assert!(seen.windows(9).any(|window| window[3..] == goodbye[3..9]), "{seen:?}");
    assert_eq!(server.wait().code(), Some(0));
}

fn resident_kib(server: &TestServer) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid().as_raw_nonzero())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
