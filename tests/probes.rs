//! Probes: answered without Python, and what they say.

mod common;

use common::TestServer;

const BUSY: &str = "
import time
from plugincore.baseplugin import BasePlugin
class Busy(BasePlugin):
    async def request_handler(self, **data):
        time.sleep(3)
        return 'done'
";

#[test]
fn a_server_that_serves_says_so() {
    let server = TestServer::with_plugin("busy.py", BUSY);
    for path in ["/livez", "/readyz"] {
        let reply = server.get(path);
        assert_eq!((reply.status, reply.json()["status"].as_str()), (200, Some("ok")), "{path}");
        assert_eq!(reply.header("cache-control"), Some("no-store"));
    }
    let health = server.get("/healthz").json();
    assert_eq!((health["status"].as_str(), health["plugins"].as_u64()), (Some("ok"), Some(1)));
    assert!(health["uptime_seconds"].is_u64() && health["requests"].as_u64() >= Some(3));
    assert_eq!(server.request("HEAD", "/livez", &[], b"").status, 200);
    assert_eq!(server.post("/livez", "text/plain", b"").status, 405);
    assert_eq!(server.get("/livez/x").status, 404);
}

#[test]
fn probes_answer_while_python_is_busy() {
    let server = TestServer::with_plugin("busy.py", BUSY);
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| (server.get("/busy").text(), std::time::Instant::now()));
        std::thread::sleep(std::time::Duration::from_millis(200));
        for path in ["/livez", "/readyz", "/healthz"] {
            assert_eq!(server.get(path).status, 200);
        }
        let probed = std::time::Instant::now();
        let (answer, answered) = slow.join().unwrap();
        assert!(answer == "done" && probed < answered);
    });
}

#[test]
fn a_required_plugin_that_is_missing_is_named() {
    let server = TestServer::build()
        .plugin("broken.py", "this is no python")
        .ini("[server]\nrequired_plugins=busy broken\n")
        .plugin("busy.py", BUSY)
        .start();
    let ready = server.get("/readyz");
    assert_eq!((ready.status, ready.json()["status"].as_str()), (503, Some("unavailable")));
    assert_eq!(ready.json()["reasons"], serde_json::json!(["the plugin broken is not loaded"]));
    let health = server.get("/healthz");
    assert_eq!((health.status, &health.json()["files_with_errors"]), (503, &serde_json::json!(["broken.py"])));
    assert_eq!(server.get("/livez").status, 200);
    server.write_plugin("broken.py", &BUSY.replace("Busy", "Broken"));
    assert_eq!(server.get("/load/broken").status, 200);
    assert_eq!(server.get("/readyz").status, 200);
}

#[test]
fn good_probes_stay_out_of_the_access_log() {
    let server = TestServer::build()
        .plugin("busy.py", BUSY)
        .ini("[server]\naccess_log=access.log\nrequired_plugins=none\n")
        .start();
    for path in ["/livez", "/readyz", "/nowhere"] {
        server.get(path);
    }
    let path = server.path("access.log");
    let lines = || std::fs::read_to_string(&path).unwrap_or_default();
    common::eventually(|| lines().contains("/nowhere"));
    assert!(lines().contains("/readyz") && !lines().contains("/livez"), "{}", lines());
}

#[test]
fn a_plugin_may_take_a_probes_place() {
    let server =
        TestServer::with_plugin("health.py", &BUSY.replace("Busy", "Healthz").replace("time.sleep(3)", "pass"));
    assert_eq!(server.get("/healthz").text(), "done");
    assert!(server.log().contains("takes the place of the server's own probe"), "{}", server.log());
}
