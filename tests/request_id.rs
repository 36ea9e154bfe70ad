//! `X-Request-Id`: made or taken over, in every answer and in every log line of the request.

mod common;

use common::TestServer;

const PLUGIN: &str = "
import asyncio, logging
from plugincore.baseplugin import BasePlugin
class Later(BasePlugin):
    async def request_handler(self, request, **data):
        await asyncio.sleep(0)
        self.log.info('by name', data.get('mark'))
        async def child():
            await asyncio.sleep(0)
            logging.getLogger('other').warning('by a child task')
        await asyncio.create_task(child())
        await asyncio.to_thread(logging.warning, 'by a thread')
        return {'id': request.request_id}
class Plain(BasePlugin):
    def request_handler(self, request, **data):
        self.log.info('by a plain handler', data.get('mark'))
        async def later():
            await asyncio.sleep(0)
            self.log.info('by what it left to the loop', data.get('mark'))
            return {'id': request.request_id}
        return later()
class Checked(BasePlugin):
    async def _check_auth(self, data):
        self.log.info('checked')
        return data.get('ok')
    def request_handler(self, **data):
        self.log.info('after the check')
        return 'ok'
class Raises(BasePlugin):
    async def request_handler(self, **data):
        raise ValueError('on purpose')
class Slow(BasePlugin):
    async def request_handler(self, **data):
        await asyncio.sleep(60)
class Own(BasePlugin):
    async def request_handler(self, **data):
        from aiohttp import web
        return web.Response(text='own', headers={'X-Request-Id': 'of-another'})
class Outside(BasePlugin):
    async def initialize(self, **kwargs):
        self.log.info('outside of requests')
    async def request_handler(self, **data):
        return 'x'
";

fn server() -> TestServer {
    let ini = "[limits]\nrequest_timeout=0.5\n[server]\naccess_log=access.log\n";
    TestServer::build().plugin("plugins.py", PLUGIN).ini(ini).start()
}

fn id_of(reply: &common::Reply) -> String {
    reply.header("x-request-id").expect("an id").to_owned()
}

#[test]
fn every_answer_has_an_id_of_its_own() {
    let server = server();
    let paths = ["/later", "/plain", "/raises", "/nowhere", "/plugins", "/livez", "/-/openapi.json"];
    let mut ids: Vec<String> = paths.iter().map(|path| id_of(&server.get(path))).collect();
    ids.push(id_of(&server.request("DELETE", "/later", &[], b"")));
    ids.push(id_of(&server.request("OPTIONS", "/later", &[], b"")));
    ids.push(id_of(&server.request("GET", "/later", &[("Expect", "wonders")], b"")));
    let prefix = ids[0].split('-').next().unwrap().to_owned();
    assert!(prefix.len() == 8 && ids.iter().all(|id| id.starts_with(&prefix) && id.len() < 16), "{ids:?}");
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), paths.len() + 3, "{ids:?}");
}

#[test]
fn a_trusted_peer_gives_the_id_and_a_plugin_reads_it() {
    let server = server();
    for path in ["/later", "/plain"] {
        let reply = server.request("GET", path, &[("X-Request-Id", "1-5759e988:abc")], b"");
        assert_eq!(
            (id_of(&reply).as_str(), &reply.json()["id"]),
            ("1-5759e988:abc", &"1-5759e988:abc".into()),
            "{path}"
        );
        let reply = server.get(path);
        assert_eq!(id_of(&reply), reply.json()["id"].as_str().unwrap(), "{path}");
    }
    let long = "a".repeat(129);
    for unfit in ["a b", "\"x\"", "[x]", long.as_str(), ""] {
        let id = id_of(&server.request("GET", "/later", &[("X-Request-Id", unfit)], b""));
        assert!(id != unfit && id.contains('-'), "{unfit}: {id}");
    }
}

#[test]
fn nobody_else_does() {
    let ini = "[server]\ntrusted_proxies=10.0.0.0/8\n";
    let server = TestServer::build().plugin("plugins.py", PLUGIN).ini(ini).start();
    let reply = server.request("GET", "/later", &[("X-Request-Id", "mine")], b"");
    assert_ne!(id_of(&reply), "mine");
    assert_eq!(id_of(&reply), reply.json()["id"].as_str().unwrap());
}

#[test]
fn a_plugin_that_names_an_id_itself_keeps_it() {
    assert_eq!(id_of(&server().get("/own")), "of-another");
}

#[test]
fn every_log_line_of_a_request_has_its_id() {
    let server = server();
    let ask = |path: &str, id: &str| server.request("GET", path, &[("X-Request-Id", id)], b"").status;
    assert_eq!(ask("/later?mark=1", "id-later"), 200);
    assert_eq!(ask("/plain?mark=1", "id-plain"), 200);
    assert_eq!(ask("/checked?ok=1", "id-checked"), 200);
    assert_eq!(ask("/raises", "id-raises"), 500);
    assert_eq!(ask("/slow", "id-slow"), 504);
    let made = id_of(&server.get("/later?mark=2"));
    for line in [
        "later - by name 1 [request id-later]".to_owned(),
        "other - by a child task [request id-later]".to_owned(),
        "root - by a thread [request id-later]".to_owned(),
        "plain - by a plain handler 1 [request id-plain]".to_owned(),
        "plain - by what it left to the loop 1 [request id-plain]".to_owned(),
        "checked - checked [request id-checked]".to_owned(),
        "checked - after the check [request id-checked]".to_owned(),
        "raises - GET /raises raised ValueError [request id-raises]".to_owned(),
        "slow - GET /slow gave no answer within 0.5 s; it is cancelled [request id-slow]".to_owned(),
        format!("later - by name 2 [request {made}]"),
    ] {
        server.wait_for_log(&line, 1);
    }
    assert!(server.log().contains("outside - outside of requests\n"), "{}", server.log());
    let access = || std::fs::read_to_string(server.path("access.log")).unwrap_or_default();
    let lines = ["\"GET /later?mark=1 HTTP/1.1\" 200", "\"GET /raises HTTP/1.1\" 500", "\"GET /slow HTTP/1.1\" 504"];
    for (line, id) in lines.iter().zip(["id-later", "id-raises", "id-slow"]) {
        common::eventually(|| access().lines().any(|one| one.contains(line) && one.ends_with(&format!(" {id}"))));
    }
}
