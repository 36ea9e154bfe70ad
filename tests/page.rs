//! The live page under `/-/`, as HTTP: who gets it, what it tells, and when it ends. pytests/test_page.py looks at it in a
//! browser.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;

use common::{TestServer, connect};
use rustix::process::Signal;
use serde_json::Value;

const GREETER: &str = "
from plugincore.baseplugin import BasePlugin
class Greeter(BasePlugin):
    async def request_handler(self, **data):
        if data.get('fail'):
            raise ValueError('asked to')
        return {'hello': 'world'}
";

const ON: &str = "[server]\npage=bool:true\n";

/// The stream of events, read as it comes.
struct Events {
    stream: TcpStream,
    text: String,
    taken: usize,
}

impl Events {
    fn open(server: &TestServer, headers: &str) -> Self {
        let mut stream = connect(server.address()).unwrap();
        write!(stream, "GET /-/events HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n").unwrap();
        Self { stream, text: String::new(), taken: 0 }
    }

    /// The next event as its name and data; `None` at the end of the answer.
    fn next(&mut self) -> Option<(String, Value)> {
        loop {
            let rest = &self.text[self.taken..];
            if let Some(start) = rest.find("event: ")
                && let Some(length) = rest[start..].find("\n\n")
            {
                let event = &rest[start..start + length];
                self.taken += start + length + 2;
                let (name, data) = event["event: ".len()..].split_once("\ndata: ").unwrap();
                return Some((name.to_owned(), serde_json::from_str(data).unwrap()));
            }
            if rest.contains("\r\n0\r\n\r\n") {
                return None;
            }
            let mut piece = [0; 65536];
            let length = self.stream.read(&mut piece).unwrap();
            if length == 0 {
                return None;
            }
            self.text.push_str(std::str::from_utf8(&piece[..length]).unwrap());
        }
    }

    /// Reads on until an event of that name is as wanted.
    fn until(&mut self, name: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        loop {
            let (found, data) = self.next().unwrap_or_else(|| panic!("no such {name}:\n{}", self.text));
            if found == name && is_it(&data) {
                return data;
            }
        }
    }
}

#[test]
fn it_is_off_unless_it_is_switched_on() {
    let server = TestServer::build().start();
    for path in ["/-", "/-/", "/-/page.js", "/-/events"] {
        assert_eq!(server.get(path).status, 404, "{path}");
    }
}

#[test]
fn its_files_come_with_fields_that_keep_it_to_itself() {
    let server = TestServer::build().ini(ON).start();
    for (path, kind) in [
        ("/-/", "text/html; charset=utf-8"),
        ("/-/page.css", "text/css; charset=utf-8"),
        ("/-/page.js", "text/javascript; charset=utf-8"),
        ("/-/icon.svg", "image/svg+xml"),
    ] {
        let reply = server.get(path);
        assert_eq!((reply.status, reply.header("content-type")), (200, Some(kind)), "{path}");
        let policy = reply.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none';") && !policy.contains("unsafe"), "{policy}");
        assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(reply.header("referrer-policy"), Some("no-referrer"));
    }
    assert_eq!(server.get("/-").header("location"), Some("/-/"));
    assert_eq!(server.get("/-/other").status, 404);
    let refused = server.post("/-/", "text/plain", b"x");
    assert_eq!((refused.status, refused.header("allow")), (405, Some("GET, HEAD")));
}

#[test]
fn a_plugin_of_that_name_wins() {
    let source = GREETER.replace(
        "    async def",
        "    def __init__(self, **kwargs):\n        super().__init__(**kwargs)\n        self._plugin_id = '-'\n    async def",
    );
    let server = TestServer::build().plugin("dash.py", &source).ini(ON).start();
    assert!(server.get("/-/").text().contains("hello"), "{}", server.log());
}

#[test]
fn it_tells_of_plugins_requests_log_and_workers() {
    let server = TestServer::build()
        .plugin("greeter.py", GREETER)
        .plugin("broken.py", "def broken(:\n")
        .plugin("empty.py", "")
        .ini("[server]\npage=bool:true\nworkers=2\n")
        .start();
    assert_eq!(server.get("/greeter?apikey=verysecret").status, 200);
    let mut events = Events::open(&server, "");
    assert_eq!(events.next().unwrap().0, "hello");
    let plugins = events.until("plugins", |_| true);
    let file = |name: &str| {
        let files = plugins["files"].as_array().unwrap();
        files.iter().find(|file| file["file"].as_str().unwrap().ends_with(name)).unwrap().clone()
    };
    assert_eq!(file("greeter.py")["plugins"][0]["name"], "greeter");
    let error = &file("broken.py")["error"];
    assert_eq!((error["type"].as_str(), error["line"].as_u64()), (Some("SyntaxError"), Some(1)));
    assert!(error["traceback"].as_str().unwrap().contains("def broken(:"));
    assert_eq!(plugins["not_loaded"], serde_json::json!(["empty"]));
    let requests = events.until("requests", |data| data["requests"].as_array().is_some_and(|all| !all.is_empty()));
    assert_eq!(
        (&requests["requests"][0]["path"], &requests["requests"][0]["status"]),
        (&"/greeter".into(), &200.into())
    );
    let log = events.until("log", |_| true);
    let lines: Vec<&str> =
        log["lines"].as_array().unwrap().iter().map(|line| line["message"].as_str().unwrap()).collect();
    assert!(lines.iter().any(|line| line.contains("serves http://")), "the supervisor's lines are there: {lines:?}");
    assert_eq!(
        lines.iter().filter(|line| line.starts_with("loaded /greeter")).count(),
        2,
        "each worker's are: {lines:?}"
    );
    let pulse = events.until("pulse", |data| data["plugins"]["greeter"]["answers"] == 1);
    assert_eq!(pulse["workers"].as_array().unwrap().len(), 2);
    assert!(pulse["workers"].as_array().unwrap().iter().all(|worker| worker["answers"] == true));

    // What comes later is told once, whichever worker has it.
    for _ in 0..8 {
        assert_eq!(server.get("/greeter?fail=1").status, 500);
    }
    let mut told = 0;
    while told < 8 {
        let data = events.until("requests", |_| true);
        told += data["requests"].as_array().unwrap().iter().filter(|request| request["status"] == 500).count();
    }
    assert_eq!(told, 8);
    events.until("pulse", |data| data["plugins"]["greeter"]["errors"] == 8);
    assert!(!events.text.contains("verysecret") && !events.text.contains("apikey"), "a query is nobody's business");
}

#[test]
fn a_file_that_is_broken_and_mended_is_told_as_it_happens() {
    let server = TestServer::build().plugin("greeter.py", GREETER).ini(ON).start();
    let mut events = Events::open(&server, "");
    events.until("plugins", |data| data["files"][0]["error"].is_null());
    server.write_plugin("greeter.py", "def broken(:\n");
    assert_eq!(server.post("/reload/greeter", "text/plain", b"").status, 500);
    let data = events.until("plugins", |data| !data["files"][0]["error"].is_null());
    assert_eq!(data["files"][0]["plugins"][0]["name"], "greeter", "the old one goes on");
    server.write_plugin("greeter.py", GREETER);
    assert_eq!(server.post("/reload/greeter", "text/plain", b"").status, 200);
    events.until("plugins", |data| data["files"][0]["error"].is_null());
}

#[test]
fn the_key_opens_what_the_page_shows_and_not_the_page() {
    let server = TestServer::build().ini(&format!("{ON}[auth]\napikey=opensesame\n")).start();
    assert_eq!(server.get("/-/").status, 200);
    assert_eq!(server.get("/-/events").status, 403);
    assert_eq!(server.request("GET", "/-/events", &[("Authorization", "Bearer wrong")], b"").status, 403);
    let mut events = Events::open(&server, "Authorization: Bearer opensesame\r\n");
    assert_eq!(events.until("hello", |_| true)["has_key"], true);
    // A key that is in force no more shows nothing more.
    server.write_ini(&server.read_ini().replace("opensesame", "another1"));
    let reload = server.request("POST", "/reload/all", &[("Authorization", "Bearer opensesame")], b"");
    assert_eq!(reload.status, 200, "{}", reload.text());
    while events.next().is_some() {}
    assert!(!events.text.contains("opensesame"));
}

#[test]
fn without_a_key_pages_of_other_sites_learn_and_do_nothing() {
    let server = TestServer::build().plugin("greeter.py", GREETER).ini(ON).start();
    let cross = ("Sec-Fetch-Site", "cross-site");
    let rebound = "GET /-/events HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n";
    assert!(server.raw(rebound.as_bytes()).starts_with("HTTP/1.1 403"));
    assert_eq!(server.request("GET", "/-/events", &[cross], b"").status, 403);
    for method in ["GET", "POST"] {
        assert_eq!(server.request(method, "/unload/greeter", &[cross], b"").status, 403, "{method}");
    }
    assert_eq!(server.get("/greeter").status, 200);
    let clicked = [cross, ("Sec-Fetch-User", "?1"), ("Sec-Fetch-Dest", "document")];
    assert_eq!(server.request("GET", "/reload/greeter", &clicked, b"").status, 200, "a link that somebody clicks");
    assert_eq!(server.request("POST", "/reload/greeter", &[("Sec-Fetch-Site", "same-origin")], b"").status, 200);
}

#[test]
fn without_the_page_control_routes_are_as_they_were() {
    let server = TestServer::with_plugin("greeter.py", GREETER);
    assert_eq!(server.request("GET", "/reload/greeter", &[("Sec-Fetch-Site", "cross-site")], b"").status, 200);
}

#[test]
fn who_watches_holds_up_neither_a_restart_nor_the_end() {
    let mut server = TestServer::build().plugin("greeter.py", GREETER).ini(ON).start();
    let mut events = Events::open(&server, "");
    events.until("pulse", |_| true);
    server.signal(Signal::HUP);
    while events.next().is_some() {}
    server.wait_for_log("the new workers serve", 1);
    let mut events = Events::open(&server, "");
    events.until("pulse", |_| true);
    let before = std::time::Instant::now();
    server.signal(Signal::TERM);
    while events.next().is_some() {}
    assert!(server.wait().success());
    assert!(before.elapsed() < std::time::Duration::from_secs(9), "it was not waited for: {:?}", before.elapsed());
}

#[test]
fn so_many_may_watch_and_no_more() {
    let server = TestServer::build().ini(ON).start();
    let mut open: Vec<Events> = (0..32).map(|_| Events::open(&server, "")).collect();
    open.iter_mut().for_each(|events| assert_eq!(events.next().unwrap().0, "hello"));
    let refused = server.get("/-/events");
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    open.pop();
    common::eventually(|| {
        let mut events = Events::open(&server, "Connection: close\r\n");
        events.next().is_some()
    });
}
