//! `[limits] request_timeout`, `[plugin_options] timeout=` and `cancel_on_disconnect=`, lost threads.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

mod common;

use std::io::Write;
use std::time::{Duration, Instant};

use common::{TestServer, connect, eventually, send};
use http_body_util::Empty;
use hyper_util::rt::{TokioExecutor, TokioIo};

const SLOW: &str = "
import asyncio, threading, time
from plugincore.baseplugin import BasePlugin
from aiohttp import web
release = threading.Event()
class Waiter(BasePlugin):
    async def request_handler(self, **data):
        self.log.info('waiting')
        try:
            await asyncio.sleep(float(data['seconds']))
        except asyncio.CancelledError:
            self.log.info('was cancelled')
            if data.get('stubborn'):
                return 'all the same'
            raise
        self.log.info('waited to the end')
        return 'waited'
class Blocker(BasePlugin):
    def request_handler(self, **data):
        self.log.info('blocking')
        if data.get('free'):
            return 'free'
        wait_here()
        self.log.info('released')
        return 'late'
class Releaser(BasePlugin):
    async def request_handler(self, **data):
        release.set()
        return str(threading.active_count())
class Unlimited(BasePlugin):
    async def request_handler(self, **data):
        await asyncio.sleep(0.6)
        return 'slept'
class Streamer(BasePlugin):
    async def request_handler(self, **data):
        response = web.StreamResponse()
        await response.prepare(data['request'])
        for _ in range(6):
            await asyncio.sleep(0.1)
            await response.write(b'x')
        return response
class Mixed(BasePlugin):
    def request_handler(self, **data):
        return self.later()
    async def later(self):
        try:
            await asyncio.sleep(100)
        except asyncio.CancelledError:
            self.log.info('the later part was cancelled')
            raise
class Quick(BasePlugin):
    def request_handler(self, **data):
        return 'quick'
def wait_here():
    release.wait(30)
";

const LIMITS: &str =
    "[limits]\nrequest_timeout=0.4\nhandler_threads=4\nlost_threads=2\n[plugin_options]\nunlimited=timeout=0\n";

fn server(ini: &str) -> TestServer {
    TestServer::build().plugin("slow.py", SLOW).ini(ini).start()
}

#[test]
fn an_async_call_over_the_limit_is_504_and_cancelled() {
    let server = server(LIMITS);
    for stubborn in ["", "&stubborn=1"] {
        let asked = Instant::now();
        let reply = server.get(&format!("/waiter?seconds=50{stubborn}"));
        assert_eq!(reply.status, 504);
        assert_eq!(reply.json()["error"], "plugin `waiter` gave no answer within 0.4 s");
        assert!(asked.elapsed() < Duration::from_secs(20));
    }
    server.wait_for_log("was cancelled", 2);
    server.wait_for_log("GET /waiter gave no answer within 0.4 s; it is cancelled", 2);
    assert_eq!(server.get("/waiter?seconds=0").text(), "waited");
    assert!(!server.log().contains("raised"), "{}", server.log());
}

#[test]
fn a_call_over_the_limit_is_504_with_the_old_statuses_too() {
    let server = server(&format!("{LIMITS}[server]\nlegacy_status=true\n"));
    assert_eq!(server.get("/waiter?seconds=50").status, 504);
}

#[test]
fn what_a_plain_handler_left_for_the_loop_is_cancelled_too() {
    let server = server(LIMITS);
    assert_eq!(server.get("/mixed").status, 504);
    server.wait_for_log("the later part was cancelled", 1);
}

#[test]
fn a_plugin_may_have_a_limit_of_its_own_and_a_stream_that_has_begun_has_none() {
    let server = server(LIMITS);
    assert_eq!(server.get("/unlimited").text(), "slept");
    let reply = server.get("/streamer");
    assert_eq!((reply.status, reply.text().matches('x').count()), (200, 6));
}

#[test]
fn a_plain_call_over_the_limit_is_abandoned_and_its_thread_comes_back() {
    let server = server(LIMITS);
    let address = server.address();
    std::thread::scope(|scope| {
        // The first one blocks the only place of its plugin; the second waits for its turn from the same moment on.
        let calls: Vec<_> = (0..2)
            .map(|_| scope.spawn(move || send(address, "GET", "/blocker?apikey=hush", &[], b"").unwrap()))
            .collect();
        for call in calls {
            assert_eq!(call.join().unwrap().status, 504);
        }
    });
    server.wait_for_log("its thread is lost, 1 are now", 1);
    // Where it stands, by file and function; and no query.
    server.wait_for_log("in wait_here", 1);
    assert!(!server.log().contains("hush"), "{}", server.log());
    // Its place is free again.
    assert_eq!(server.get("/blocker?free=1").text(), "free");
    assert_eq!(server.get("/quick").text(), "quick");
    server.get("/releaser");
    server.wait_for_log("has ended after all", 1);
    assert_eq!(server.get("/blocker?free=1").text(), "free");
}

#[test]
fn lost_threads_are_replaced_up_to_the_bound() {
    let ini = "[limits]\nrequest_timeout=0.3\nhandler_threads=1\nlost_threads=3\n[plugin_options]\nquick=timeout=0\n";
    let server = server(ini);
    for _ in 0..3 {
        assert_eq!(server.get("/blocker").status, 504);
    }
    server.wait_for_log("its thread is lost, 3 are now", 1);
    for _ in 0..5 {
        assert_eq!(server.get("/quick").text(), "quick");
    }
    server.get("/releaser");
    server.wait_for_log("has ended after all", 3);
    // Those that are one too many have ended.
    eventually(|| server.get("/releaser").text().parse::<usize>().unwrap() <= 3);
    assert_eq!(server.get("/quick").text(), "quick");
}

/// Sends a request and leaves as soon as its handler runs.
fn ask_and_leave(server: &TestServer, path: &str, sign: &str, count: usize) {
    let mut stream = connect(server.address()).unwrap();
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).unwrap();
    server.wait_for_log(sign, count);
    drop(stream);
}

#[test]
fn a_handler_whose_client_has_left_runs_on_unless_it_asks_to_be_cancelled() {
    let server = server("");
    ask_and_leave(&server, "/waiter?seconds=0.3", "waiting", 1);
    server.wait_for_log("waited to the end", 1);
    assert!(!server.log().contains("was cancelled"));

    let server = self::server("[plugin_options]\nwaiter=cancel_on_disconnect=1\nblocker=cancel_on_disconnect=1\n");
    ask_and_leave(&server, "/waiter?seconds=50", "waiting", 1);
    server.wait_for_log("was cancelled", 1);
    assert_eq!(server.get("/waiter?seconds=0").text(), "waited");
    // One that waits for its turn does not run any more.
    ask_and_leave(&server, "/blocker", "blocking", 1);
    eventually(|| {
        let mut waiting = connect(server.address()).unwrap();
        waiting.write_all(b"GET /blocker HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        // One that leaves before it is read is not even handed over.
        std::thread::sleep(Duration::from_millis(50));
        drop(waiting);
        std::thread::sleep(Duration::from_millis(50));
        server.log().contains("GET /blocker: its client has left, it is cancelled")
    });
    server.get("/releaser");
    server.wait_for_log("released", 1);
    assert_eq!(server.get("/blocker?free=1").text(), "free");
    server.wait_for_log("blocking", 2);
    assert_eq!(server.log().matches("blocking").count(), 2, "{}", server.log());
}

#[test]
fn the_limit_holds_when_the_client_has_left() {
    let server = server(LIMITS);
    ask_and_leave(&server, "/waiter?seconds=50", "waiting", 1);
    server.wait_for_log("was cancelled", 1);
    ask_and_leave(&server, "/blocker", "blocking", 1);
    server.wait_for_log("its thread is lost", 1);
    server.get("/releaser");
}

#[test]
fn a_stop_does_not_wait_for_calls_that_were_given_up() {
    let mut server = server("[limits]\nrequest_timeout=0.3\ndrain_timeout=500\n");
    assert_eq!(server.get("/blocker").status, 504);
    server.signal(rustix::process::Signal::TERM);
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn the_stack_is_logged_though_the_handler_holds_the_interpreter() {
    let holder = "
import ctypes
from plugincore.baseplugin import BasePlugin
class Holder(BasePlugin):
    def request_handler(self, **data):
        hold_it()
def hold_it():
    ctypes.PyDLL(None).sleep(5)
";
    let server = TestServer::build().plugin("holder.py", holder).ini("[limits]\nrequest_timeout=0.3\n").start();
    let asked = Instant::now();
    assert_eq!(server.get("/holder").status, 504);
    server.wait_for_log("in hold_it", 1);
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn over_http_2_a_request_that_is_taken_back_is_cancelled_and_its_neighbour_is_not() {
    let server = server("[plugin_options]\nwaiter=cancel_on_disconnect=1\n");
    let stream = tokio::net::TcpStream::connect(server.address()).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let ask = |seconds: &str| {
        let uri = format!("http://{}/waiter?seconds={seconds}", server.address());
        let request = http::Request::builder().uri(uri).body(Empty::<bytes::Bytes>::new()).unwrap();
        let mut sender = sender.clone();
        tokio::spawn(async move { sender.send_request(request).await.unwrap().status().as_u16() })
    };
    let (taken_back, kept) = (ask("50"), ask("1"));
    server.wait_for_log("waiting", 2);
    taken_back.abort();
    assert_eq!(kept.await.unwrap(), 200);
    server.wait_for_log("was cancelled", 1);
    assert_eq!(server.log().matches("was cancelled").count(), 1);
}
