//! `/metrics`: what it says after requests of every kind, and while some still run.

mod common;

use std::io::Write;

use common::{TestServer, connect, eventually};

const COUNTED: &str = "
import asyncio, threading
from plugincore.baseplugin import BasePlugin

class Answers(BasePlugin):
    async def request_handler(self, **data):
        if data.get('raise'):
            raise ValueError('as asked')
        return int(data.get('code', 200)), 'answer'

class Plain(BasePlugin):
    release = threading.Event()
    def request_handler(self, **data):
        self.release.wait(30)
        return 'plain'

class Waiter(BasePlugin):
    async def request_handler(self, **data):
        if data.get('release'):
            Plain.release.set()
            return 'released'
        await asyncio.sleep(60)
";

/// The value of one series.
fn value(text: &str, series: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.rsplit_once(' ').is_some_and(|(name, _)| name == series))?;
    line.rsplit_once(' ')?.1.parse().ok()
}

fn scrape(server: &TestServer, series: &str) -> f64 {
    let text = server.get("/metrics").text();
    value(&text, series).unwrap_or_else(|| panic!("no {series} in\n{text}"))
}

#[test]
fn the_answer_is_prometheus_text_and_needs_no_python() {
    let server = TestServer::build().plugin("counted.py", COUNTED).ini("[auth]\napikey=secret\n").start();
    let reply = server.get("/metrics");
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    let text = reply.text();
    assert!(text.contains("# TYPE pserve_request_duration_seconds histogram"), "{text}");
    assert!(
        text.contains(&format!("pserve_worker_info{{worker=\"1\",pid=\"{}\"}} 1", server.worker().as_raw_nonzero()))
    );
    assert!(text.contains(concat!("pserve_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\",python=\"3.")));
    assert!(value(&text, "pserve_worker_resident_memory_bytes{worker=\"1\"}") > Some(1e6), "{text}");
    assert!(value(&text, "pserve_worker_open_fds{worker=\"1\"}") > Some(5.0), "{text}");
    assert_eq!(value(&text, "pserve_worker_plugins{worker=\"1\"}"), Some(3.0));
    let head = server.request("HEAD", "/metrics", &[], b"");
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(server.post("/metrics", "text/plain", b"").status, 405);
    assert_eq!(server.get("/metrics/x").status, 404);
}

#[test]
fn requests_count_by_the_code_that_the_client_saw() {
    let server = TestServer::build().plugin("counted.py", COUNTED).ini("[limits]\nbody=10\n").start();
    for _ in 0..3 {
        assert_eq!(server.get("/answers").status, 200);
    }
    assert_eq!(server.get("/answers/sub?code=404").status, 404);
    assert_eq!(server.get("/answers?raise=1").status, 500);
    assert_eq!(server.request("DELETE", "/answers", &[], b"").status, 405);
    assert_eq!(server.post("/answers", "text/plain", b"more than ten bytes").status, 413);
    for code in 460..480 {
        assert_eq!(server.get(&format!("/answers?code={code}")).status, code);
    }
    for path in ["/nowhere", "/neither"] {
        assert_eq!(server.get(path).status, 404);
    }
    let text = server.get("/metrics").text();
    let code = |code: &str| value(&text, &format!("pserve_requests_total{{plugin=\"answers\",code=\"{code}\"}}"));
    assert_eq!([code("200"), code("404"), code("500"), code("405"), code("413")], [3.0, 1.0, 1.0, 1.0, 1.0].map(Some));
    assert_eq!((code("4xx"), code("465")), (Some(20.0), None), "clients cannot make labels: {text}");
    assert_eq!(value(&text, "pserve_request_errors_total{plugin=\"answers\"}"), Some(1.0));
    assert_eq!(value(&text, "pserve_http_responses_total{code=\"404\"}"), Some(3.0));
    assert!(!text.contains("nowhere"), "{text}");
    // What was refused before the plugin took no time of it.
    assert_eq!(value(&text, "pserve_request_duration_seconds_count{plugin=\"answers\"}"), Some(25.0));
    assert_eq!(value(&text, "pserve_requests_in_flight{plugin=\"answers\"}"), Some(0.0));
}

#[test]
fn calls_that_run_and_calls_that_wait_are_told_apart() {
    let server = TestServer::with_plugin("counted.py", COUNTED);
    std::thread::scope(|scope| {
        let calls: Vec<_> = (0..3).map(|_| scope.spawn(|| server.get("/plain").text())).collect();
        eventually(|| {
            scrape(&server, "pserve_requests_waiting{plugin=\"plain\"}") == 2.0
                && scrape(&server, "pserve_requests_in_flight{plugin=\"plain\"}") == 1.0
        });
        assert!(scrape(&server, "pserve_worker_handler_threads{worker=\"1\"}") >= 1.0);
        assert_eq!(server.get("/waiter?release=1").text(), "released");
        for call in calls {
            assert_eq!(call.join().unwrap(), "plain");
        }
    });
    eventually(|| scrape(&server, "pserve_requests_in_flight{plugin=\"plain\"}") == 0.0);
    assert_eq!(scrape(&server, "pserve_requests_waiting{plugin=\"plain\"}"), 0.0);
    assert_eq!(scrape(&server, "pserve_request_duration_seconds_count{plugin=\"plain\"}"), 3.0);
}

#[test]
fn a_client_that_leaves_before_its_answer_is_counted() {
    let server = TestServer::with_plugin("counted.py", COUNTED);
    let mut stream = connect(server.address()).unwrap();
    stream.write_all(b"GET /waiter HTTP/1.1\r\nHost: test\r\n\r\n").unwrap();
    eventually(|| scrape(&server, "pserve_requests_in_flight{plugin=\"waiter\"}") == 1.0);
    drop(stream);
    eventually(|| scrape(&server, "pserve_client_disconnects_total{plugin=\"waiter\"}") == 1.0);
    assert_eq!(scrape(&server, "pserve_requests_total{plugin=\"waiter\",code=\"200\"}"), 0.0);
    // The handler goes on without its client.
    assert_eq!(scrape(&server, "pserve_requests_in_flight{plugin=\"waiter\"}"), 1.0);
}

#[test]
fn counters_outlive_reloads_and_reloads_are_counted() {
    let server = TestServer::with_plugin("counted.py", COUNTED);
    let reloads = |result: &str| {
        scrape(&server, &format!("pserve_plugin_reloads_total{{plugin=\"answers\",result=\"{result}\"}}"))
    };
    let last_load = || scrape(&server, "pserve_plugin_last_load_success_timestamp_seconds{plugin=\"answers\"}");
    server.get("/answers");
    let first = last_load();
    assert_eq!((reloads("success"), reloads("failure"), first > 1e9), (0.0, 0.0, true));
    assert_eq!(server.get("/reload/answers").status, 200);
    let second = last_load();
    assert_eq!((reloads("success"), reloads("failure"), second > first), (1.0, 0.0, true));
    server.write_plugin("counted.py", "this is no python");
    assert_eq!(server.get("/reload/answers").status, 500);
    assert_eq!((reloads("success"), reloads("failure"), last_load()), (1.0, 1.0, second));
    assert_eq!(scrape(&server, "pserve_worker_plugin_files_failed{worker=\"1\"}"), 1.0);
    server.get("/answers");
    assert_eq!(scrape(&server, "pserve_requests_total{plugin=\"answers\",code=\"200\"}"), 2.0);
}

#[test]
fn connections_are_counted_and_those_that_find_no_place_too() {
    let server = TestServer::build().plugin("counted.py", COUNTED).ini("[limits]\nconnections_per_client=2\n").start();
    // The place of a scrape before may not be free yet: then there is no answer but a refusal.
    let scrape_if_let_in = |series: &str| {
        let reply =
            common::send(server.address(), "GET", "/metrics", &[], b"").ok().filter(|reply| reply.status == 200);
        reply.and_then(|reply| value(&reply.text(), series))
    };
    let held = connect(server.address()).unwrap();
    eventually(|| scrape_if_let_in("pserve_worker_open_connections{worker=\"1\"}") == Some(2.0));
    let second = connect(server.address()).unwrap();
    eventually(|| common::send(server.address(), "GET", "/answers", &[], b"").is_ok_and(|reply| reply.status == 429));
    drop((held, second));
    eventually(|| scrape_if_let_in("pserve_connections_dropped_total{reason=\"client_full\"}") >= Some(1.0));
    eventually(|| scrape_if_let_in("pserve_connections_accepted_total") >= Some(4.0));
    eventually(|| scrape_if_let_in("pserve_connections_dropped_total{reason=\"full\"}") == Some(0.0));
}

#[test]
fn scrapes_stay_out_of_the_access_log() {
    let server = TestServer::build().plugin("counted.py", COUNTED).ini("[server]\naccess_log=access.log\n").start();
    server.get("/metrics");
    server.get("/answers");
    let path = server.path("access.log");
    let lines = || std::fs::read_to_string(&path).unwrap_or_default();
    eventually(|| lines().contains("/answers"));
    assert!(!lines().contains("/metrics"), "{}", lines());
}

#[test]
fn a_plugin_of_that_name_takes_its_place() {
    let plugin = COUNTED.replace("class Answers", "class Metrics");
    let server = TestServer::with_plugin("counted.py", &plugin);
    assert_eq!(server.get("/metrics").text(), "answer");
    assert!(server.log().contains("/metrics of"), "{}", server.log());
}
