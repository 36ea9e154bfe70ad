//! The bodies of errors: `error` for old clients, the members of RFC 9457 beside it, their own content type when asked.

mod common;

use common::{Reply, TestServer};
use serde_json::{Value, json};

const PLUGIN: &str = "
import asyncio
from plugincore.baseplugin import BasePlugin
class Raises(BasePlugin):
    async def request_handler(self, **data):
        raise KeyError('lost')
class Locked(BasePlugin):
    def _check_auth(self, data):
        return False
    async def request_handler(self, **data):
        return 'in'
class Own(BasePlugin):
    async def request_handler(self, **data):
        return 404, {'error': 'mine'}
class Slow(BasePlugin):
    async def request_handler(self, **data):
        await asyncio.sleep(60)
";

const LIMITS: &str = "[limits]\nrequest_timeout=0.3\nbody=100\n";

fn server(more: &str) -> TestServer {
    TestServer::build().plugin("plugins.py", PLUGIN).ini(&format!("{LIMITS}{more}")).start()
}

fn ask(server: &TestServer, path: &str, accept: &str) -> Reply {
    server.request("GET", path, &[("Accept", accept), ("X-Request-Id", "the-id")], b"")
}

/// What every error of the server's own says, whoever asks.
fn check(reply: &Reply, status: u16, title: &str) -> Value {
    let body = reply.json();
    assert_eq!(reply.status, status, "{body}");
    assert_eq!(
        (&body["type"], &body["title"], &body["status"]),
        (&json!("about:blank"), &json!(title), &json!(status))
    );
    assert!(body["error"].is_string() && body["error"] == body["detail"], "{body}");
    assert!(reply.text().starts_with("{\"error\":"), "{body}");
    body
}

#[test]
fn errors_carry_the_members_of_rfc_9457_beside_error() {
    let server = server("");
    let body = check(&ask(&server, "/nowhere?apikey=secret", "*/*"), 404, "Not Found");
    assert_eq!(body["error"], "no such route: /nowhere");
    assert_eq!(body["instance"], "/nowhere#the-id");
    assert_eq!(check(&ask(&server, "/locked", "*/*"), 403, "Forbidden")["error"], "unauthorized");
    check(&ask(&server, "/slow", "*/*"), 504, "Gateway Timeout");
    check(&ask(&server, "/unload/nobody", "*/*"), 404, "Not Found");
    check(&server.request("DELETE", "/raises", &[], b""), 405, "Method Not Allowed");
    check(&server.post("/raises", "text/plain", &[b'x'; 200]), 413, "Payload Too Large");
    let encoded = [("Content-Encoding", "gzip"), ("Content-Type", "text/plain")];
    check(&server.request("POST", "/raises", &encoded, b"no gzip"), 400, "Bad Request");
    check(&server.request("GET", "/raises", &[("Expect", "wonders")], b""), 417, "Expectation Failed");
}

#[test]
fn problem_json_is_for_who_asks_for_it() {
    let server = server("");
    for (path, status, title) in [("/nowhere", 404, "Not Found"), ("/raises", 500, "Internal Server Error")] {
        let reply = ask(&server, path, "text/html;q=0.5, application/problem+json");
        assert_eq!(reply.header("content-type"), Some("application/problem+json"));
        assert!(reply.headers.iter().any(|(name, value)| name.eq_ignore_ascii_case("vary") && value == "Accept"));
        assert_eq!(reply.header("content-length"), Some(reply.body.len().to_string().as_str()));
        let body = reply.json();
        assert_eq!((&body["title"], &body["status"]), (&json!(title), &json!(status)), "{body}");
        for accept in ["*/*", "application/json", "application/problem+json;q=0"] {
            assert_eq!(ask(&server, path, accept).header("content-type"), Some("application/json; charset=utf-8"));
        }
    }
}

#[test]
fn an_exception_keeps_its_form_unless_a_problem_is_asked_for() {
    let server = server("");
    let as_ever = json!({"status": "exception", "type": "KeyError", "message": "'lost'"});
    assert_eq!(ask(&server, "/raises", "*/*").json(), as_ever);
    let problem = ask(&server, "/raises", "application/problem+json").json();
    let expected = json!({
        "status": 500,
        "type": "about:blank",
        "message": "'lost'",
        "exception": "KeyError",
        "error": "KeyError: 'lost'",
        "title": "Internal Server Error",
        "detail": "KeyError: 'lost'",
        "instance": "/raises#the-id",
    });
    assert_eq!(problem, expected);
}

#[test]
fn a_failed_reload_tells_the_same_in_both_forms() {
    let server = server("");
    server.write_plugin("plugins.py", "no python");
    let body = ask(&server, "/reload/raises", "*/*").json();
    assert_eq!(
        (&body["status"], &body["type"], &body["success"]),
        (&json!("exception"), &json!("SyntaxError"), &json!(false))
    );
    let problem = ask(&server, "/reload/raises", "application/problem+json").json();
    assert_eq!(
        (&problem["status"], &problem["exception"], &problem["success"]),
        (&json!(500), &json!("SyntaxError"), &json!(false))
    );
    assert_eq!(problem["line"], 1);
}

#[test]
fn what_a_plugin_answers_is_its_own() {
    let reply = ask(&server(""), "/own", "application/problem+json");
    assert_eq!((reply.status, reply.json()), (404, json!({"error": "mine"})));
    assert_eq!(reply.header("content-type"), Some("application/json; charset=utf-8"));
}

#[test]
fn legacy_status_keeps_the_bodies_of_old() {
    let reply = ask(&server("[server]\nlegacy_status=true\n"), "/locked", "application/problem+json");
    assert_eq!((reply.status, reply.json()), (200, json!({"error": "unauthorized"})));
}

#[test]
fn a_request_that_is_none_gets_the_same_form() {
    let server = server("");
    let answer = server.raw(b"GET / HTTP/1.1\r\nHost: a\r\nbroken\r\n\r\n");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 400 "), "{answer}");
    let body: Value = serde_json::from_str(body).unwrap();
    let expected = json!({"error": "malformed request", "type": "about:blank", "title": "Bad Request", "status": 400, "detail": "malformed request"});
    assert_eq!(body, expected);
}
