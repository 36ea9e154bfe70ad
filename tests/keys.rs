//! Contract, section 6: where a key may stand, which one decides, and that none is ever written.

mod common;

use common::TestServer;

const GUARDED: &str = "
from plugincore.baseplugin import BasePlugin
class Own(BasePlugin):
    async def request_handler(self, **data):
        self.log.debug('handling')
        return 'in'
";
const GLOBAL: &str = "
from plugincore.baseplugin import BasePlugin
class Everybodys(BasePlugin):
    def request_handler(self, **data):
        return 'in'
class OldStyle(BasePlugin):
    async def handle_request(self, **data):
        return 'in'
";
const INI: &str = "
[auth]
apikey=global-key-1234
[plugin_parms]
own=auth_type=plugin&apikey=own-key-5678
everybodys=auth_type=global
";

/// Path, headers and body of one attempt to get in.
type Attempt = (&'static str, &'static [(&'static str, &'static str)], &'static [u8]);

fn server() -> TestServer {
    TestServer::build()
        .plugin("own.py", GUARDED)
        .plugin("everybodys.py", GLOBAL)
        .ini(INI)
        .argument("-v")
        .argument("DEBUG")
        .start()
}

#[test]
fn every_place_for_a_key_works_and_the_first_one_decides() {
    let server = server();
    let open: [Attempt; 10] = [
        ("/own", &[("Authorization", "Bearer own-key-5678")], b""),
        ("/own", &[("authorization", "bEARER   own-key-5678  ")], b""),
        ("/own", &[("x-custom-auth", "own-key-5678")], b""),
        ("/own?apikey=own-key-5678", &[], b""),
        ("/own?apikey=own%2Dkey%2D5678", &[("Authorization", "Basic zzz")], b""),
        ("/own?apikey=own-key-5678", &[("Authorization", "Bearer ")], b""),
        ("/own", &[("Content-Type", "application/json")], b"{\"apikey\": \"own-key-5678\"}"),
        ("/own", &[("Content-Type", "application/x-www-form-urlencoded")], b"{\"apikey\": \"own-key-5678\"}"),
        ("/own", &[("Content-Type", "application/x-www-form-urlencoded")], b"x=1&apikey=own-key-5678"),
        ("/own?apikey=wrong", &[("X-Custom-Auth", "own-key-5678")], b""),
    ];
    for (path, headers, body) in open {
        let reply = server.request("POST", path, headers, body);
        assert_eq!((reply.status, reply.text().as_str()), (200, "in"), "{path} {headers:?}");
    }
    let shut: [Attempt; 9] = [
        ("/own", &[], b""),
        ("/own", &[("Authorization", "own-key-5678")], b""),
        ("/own", &[("Authorization", "Token own-key-5678")], b""),
        ("/own", &[("X-Custom-Auth", "own-key-567")], b""),
        ("/own", &[("X-Custom-Auth", "own-key-56789")], b""),
        ("/own?apikey=own-key-5678", &[("Authorization", "Bearer wrong")], b""),
        ("/own?apikey=wrong", &[], b"{\"apikey\": \"own-key-5678\"}"),
        ("/own?apikey=global-key-1234", &[], b""),
        ("/own?apikey=", &[], b""),
    ];
    for (path, headers, body) in shut {
        let reply = server.request("POST", path, headers, body);
        assert_eq!((reply.status, &reply.json()["error"]), (403, &"unauthorized".into()), "{path} {headers:?}");
    }
}

#[test]
fn json_that_only_python_reads_may_hold_the_key() {
    let server = server();
    let utf_16: Vec<u8> = "\u{feff}{\"apikey\":\"own-key-5678\"}".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let right: [&[u8]; 3] =
        [br#"{"x":NaN,"apikey":"own-key-5678"}"#, br#"{"\ud800":1,"apikey":"own-key-5678"}"#, &utf_16];
    for body in right {
        let reply = server.post("/own", "application/json", body);
        assert_eq!((reply.status, reply.text().as_str()), (200, "in"), "{}", String::from_utf8_lossy(body));
    }
    let wrong: [&[u8]; 4] = [br#"{"x":NaN,"apikey":"wrong"}"#, br#"{"x":NaN}"#, br#"{"x":NaN,"apikey":5}"#, b"{broken"];
    for body in wrong {
        assert_eq!(server.post("/own", "application/json", body).status, 403, "{}", String::from_utf8_lossy(body));
    }
}

#[test]
fn the_global_key_opens_global_plugins_and_the_control_routes() {
    let server = server();
    for path in ["/everybodys", "/oldstyle", "/plugins", "/reload/own", "/reload/all", "/load/own", "/unload/nobody"] {
        assert_eq!(server.get(path).status, 403, "{path}");
        assert_eq!(server.get(&format!("{path}?apikey=own-key-5678")).status, 403, "{path}");
        assert_ne!(server.get(&format!("{path}?apikey=global-key-1234")).status, 403, "{path}");
    }
}

#[test]
fn an_unknown_auth_type_and_a_missing_key_never_open_a_door() {
    let text = "[plugin_parms]\nown=auth_type=everyone\neverybodys=auth=global\n";
    let server = TestServer::build().plugin("own.py", GUARDED).plugin("everybodys.py", GLOBAL).ini(text).start();
    assert_eq!(server.get("/own").status, 404);
    assert_eq!(server.get("/everybodys").status, 404);
    let log = server.log();
    assert!(log.contains("auth_type=everyone is unknown"), "{log}");
    assert!(log.contains("auth_type=global needs a key"), "{log}");
}

#[test]
fn a_plugin_that_decides_for_itself_is_asked() {
    let source = "
from plugincore.baseplugin import BasePlugin
class Sync(BasePlugin):
    def _check_auth(self, data):
        return data.get('who') == 'me'
    async def request_handler(self, **data):
        return 'in'
class Later(BasePlugin):
    async def _check_auth(self, data):
        return data.get('who') == 'me'
    def request_handler(self, **data):
        return 'in'
class Stricter(BasePlugin):
    def _check_auth(self, data):
        return super()._check_auth(data) and data.get('who') == 'me'
    def request_handler(self, **data):
        return 'in'
";
    let ini = "[plugin_parms]\nguard=auth_type=plugin&apikey=thekey99\n";
    let server = TestServer::build().plugin("guard.py", source).ini(ini).start();
    for name in ["sync", "later"] {
        assert_eq!(server.get(&format!("/{name}")).status, 403, "{name}");
        assert_eq!(server.get(&format!("/{name}?who=me")).text(), "in", "{name}");
    }
    assert_eq!(server.get("/stricter?who=me").status, 403);
    assert_eq!(server.get("/stricter?apikey=thekey99").status, 403);
    assert_eq!(server.get("/stricter?apikey=thekey99&who=me").text(), "in");
}

#[test]
fn a_plugin_may_change_its_key_while_it_runs() {
    let source = "
from plugincore.baseplugin import BasePlugin
class Turner(BasePlugin):
    async def request_handler(self, **data):
        self._apikey = data['next']
        return 'turned'
";
    let ini = "[plugin_parms]\nturner=auth_type=plugin&apikey=first-key\n";
    let server = TestServer::build().plugin("turner.py", source).ini(ini).start();
    assert_eq!(server.get("/turner?apikey=first-key&next=second-key").text(), "turned");
    assert_eq!(server.get("/turner?apikey=first-key&next=x").status, 403);
    assert_eq!(server.get("/turner?apikey=second-key&next=third-key").text(), "turned");
}

#[test]
fn no_key_is_ever_in_a_log() {
    let source = "
import logging
from plugincore.baseplugin import BasePlugin
class Talker(BasePlugin):
    def request_handler(self, **data):
        logging.getLogger('careless').warning('the key is %s', self._apikey)
        self.log.info(data['request'].path_qs)
        raise ValueError(f'no {self._apikey} please')
";
    let ini = format!("{INI}talker=auth_type=plugin&apikey=talker-key-9\n[server]\naccess_log=access.log\n");
    let server = TestServer::build()
        .plugin("own.py", GUARDED)
        .plugin("everybodys.py", GLOBAL)
        .plugin("talker.py", source)
        .ini(&ini)
        .argument("-v")
        .argument("debug")
        .argument("-l")
        .argument("server.log")
        .start();
    server.get("/own?apikey=own-key-5678");
    server.get("/own?apikey=wrong-key-of-a-client");
    server.request("GET", "/everybodys", &[("Authorization", "Bearer global-key-1234")], b"");
    server.get("/talker?apikey=talker-key-9");
    server.request("GET", "/own/own-key-5678?token=own-key-5678", &[("User-Agent", "own-key-5678")], b"");
    server.get("/reload/all?apikey=global-key-1234");
    server.wait_for_log("loaded /talker", 2);
    // The lines are written by a thread of their own, in the order of the requests.
    let deadline = std::time::Instant::now() + common::PATIENCE;
    while !std::fs::read_to_string(server.path("access.log")).unwrap().contains("/reload/all") {
        assert!(std::time::Instant::now() < deadline);
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let logs = [
        server.log(),
        std::fs::read_to_string(server.path("server.log")).unwrap(),
        std::fs::read_to_string(server.path("access.log")).unwrap(),
    ];
    for log in logs {
        for key in ["global-key-1234", "own-key-5678", "talker-key-9", "wrong-key-of-a-client"] {
            assert!(!log.contains(key), "{key} in:\n{log}");
        }
    }
}
