//! Contract, section 7: load, reload and unload as transactions, under load without a lost request.

mod common;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use common::{TestServer, send};
use serde_json::json;

fn greeter(text: &str) -> String {
    format!(
        "
from plugincore.baseplugin import BasePlugin
class Greeter(BasePlugin):
    async def request_handler(self, **data):
        return '{text}'
    def terminate_plugin(self):
        self.log.info('terminated {text}')
"
    )
}

const PAIR: &str = "
from plugincore.baseplugin import BasePlugin
class One(BasePlugin):
    def request_handler(self, **data):
        return 'VERSION'
class Two(BasePlugin):
    async def request_handler(self, **data):
        return 'VERSION'
";

#[test]
fn plugins_lists_what_is_loaded_in_the_order_of_files_and_classes() {
    let server = TestServer::build().plugin("pair.py", PAIR).plugin("a.py", &greeter("hello")).start();
    let expected = json!({"loaded_plugins": ["greeter", "one", "two"]});
    assert_eq!(server.get("/plugins").json(), expected);
    assert_eq!(server.post("/plugins", "application/json", b"{}").json(), expected);
}

#[test]
fn a_reload_puts_the_new_code_in_place_and_terminates_the_old_plugin() {
    let server = TestServer::with_plugin("greeter.py", &greeter("hello"));
    server.write_plugin("greeter.py", &greeter("world"));
    assert_eq!(server.get("/greeter").text(), "hello");
    assert_eq!(server.get("/reload/greeter").json(), json!({"reloaded": "greeter", "success": true}));
    assert_eq!(server.get("/greeter").text(), "world");
    server.wait_for_log("terminated hello", 1);
}

#[test]
fn a_change_within_the_same_second_and_of_the_same_size_is_seen() {
    let server = TestServer::with_plugin("greeter.py", &greeter("0"));
    for round in 1..6 {
        server.write_plugin("greeter.py", &greeter(&round.to_string()));
        server.get("/reload/greeter");
        assert_eq!(server.get("/greeter").text(), round.to_string());
    }
}

#[test]
fn reload_of_a_broken_file_keeps_the_running_plugin_and_says_why() {
    let server = TestServer::with_plugin("greeter.py", &greeter("hello"));
    let breaks = [
        ("def", "SyntaxError", Some(1)),
        ("import nowhere_to_be_found\n", "ModuleNotFoundError", Some(1)),
        ("\nraise RuntimeError('at import')\n", "RuntimeError", Some(2)),
        (
            "from plugincore.baseplugin import BasePlugin\nclass Greeter(BasePlugin):\n    def __init__(self, **kwargs):\n        1/0\n",
            "ZeroDivisionError",
            Some(4),
        ),
        (
            "from plugincore.baseplugin import BasePlugin\nclass Greeter(BasePlugin):\n    async def initialize(self, **kwargs):\n        raise SystemExit(3)\n",
            "SystemExit",
            Some(4),
        ),
    ];
    for (source, kind, line) in breaks {
        server.write_plugin("greeter.py", source);
        let reply = server.get("/reload/greeter");
        let body = reply.json();
        assert_eq!((reply.status, body["type"].as_str()), (500, Some(kind)), "{body}");
        assert_eq!(body["line"].as_u64(), line, "{body}");
        assert!(body["file"].as_str().unwrap().ends_with("greeter.py"), "{body}");
        assert!(body["message"].is_string(), "{body}");
        assert!(body.get("traceback").is_none(), "{body}");
        assert_eq!(server.get("/greeter").text(), "hello");
    }
    assert!(!server.log().contains("terminated hello"));
    let state = server.get("/plugins?verbose=1").json();
    assert_eq!(state["files"][0]["error"]["type"], "SystemExit");
}

#[test]
fn all_classes_of_a_file_change_together() {
    let server = TestServer::with_plugin("pair.py", &PAIR.replace("VERSION", "1"));
    server.write_plugin("pair.py", &PAIR.replace("VERSION", "2"));
    assert_eq!(server.get("/reload/two").status, 200);
    assert_eq!((server.get("/one").text(), server.get("/two").text()), ("2".into(), "2".into()));
    server.write_plugin("pair.py", &format!("{}\nclass Three(Two): pass\n", PAIR.replace("One", "Uno")));
    let gone = server.get("/reload/one");
    assert_eq!(gone.status, 404);
    assert!(gone.text().contains("no longer defines it"), "{}", gone.text());
    assert_eq!(server.get("/plugins").json()["loaded_plugins"], json!(["uno", "two", "three"]));
    assert_eq!(server.get("/one").status, 404);
}

#[test]
fn reload_all_takes_new_files_up_drops_removed_ones_and_names_broken_ones() {
    let server = TestServer::build().plugin("greeter.py", &greeter("hello")).plugin("pair.py", PAIR).start();
    assert_eq!(
        server.get("/reload/all").json(),
        json!({"status": "All plugins reloaded", "loaded_plugins": ["greeter", "one", "two"]})
    );
    server.write_plugin("greeter.py", "broken here");
    server.write_plugin("new.py", &PAIR.replace("One", "Three").replace("Two", "Four"));
    std::fs::remove_file(server.path("plugins/pair.py")).unwrap();
    let body = server.get("/reload/all").json();
    assert_eq!(body["loaded_plugins"], json!(["greeter", "three", "four"]));
    assert_eq!(body["failed"]["greeter"]["type"], "SyntaxError");
    assert_eq!(server.get("/greeter").text(), "hello");
    assert_eq!(server.get("/one").status, 404);
}

#[test]
fn load_and_unload_by_name() {
    let server = TestServer::build().start();
    assert_eq!(server.get("/load/greeter").status, 404);
    server.write_plugin("Greeter.py", &greeter("hello"));
    assert_eq!(server.get("/greeter").status, 404);
    assert_eq!(
        server.get("/load/greeter").json(),
        json!({"loaded": "greeter", "success": true, "plugins": ["greeter"]})
    );
    assert_eq!(server.get("/greeter").text(), "hello");
    assert_eq!(server.get("/unload/greeter").json(), json!({"unloaded": "greeter", "success": true}));
    assert_eq!(server.get("/greeter").status, 404);
    assert_eq!(server.get("/plugins").json(), json!({"loaded_plugins": []}));
    assert!(server.log().contains("terminated hello"));
    assert_eq!(server.get("/unload/greeter").status, 404);
    assert_eq!(server.get("/reload/greeter").status, 404);
    assert_eq!(server.get("/load/..%2Fgreeter").status, 404);
}

#[test]
fn names_with_slashes_are_routed_and_reloaded() {
    let ini = "[plugin_parms]\ngreeter=route_path=api/v1\n";
    let server = TestServer::build().plugin("greeter.py", &greeter("v1")).ini(ini).start();
    assert_eq!(server.get("/api/v1").text(), "v1");
    assert_eq!(server.get("/api/v1/more").text(), "v1");
    assert_eq!(server.get("/api").status, 404);
    server.write_plugin("greeter.py", &greeter("v2"));
    assert_eq!(server.get("/reload/api/v1").json()["reloaded"], "api/v1");
    assert_eq!(server.get("/api/v1").text(), "v2");
}

#[test]
fn the_ini_file_is_read_again_first_and_a_broken_one_changes_nothing() {
    let source = "
from plugincore.baseplugin import BasePlugin
class Told(BasePlugin):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.word = kwargs.get('word')
    def request_handler(self, **data):
        return self.word + self.config.main.get('tail', '')
";
    let server =
        TestServer::build().plugin("told.py", source).ini("[plugin_parms]\ntold=word=old\n[main]\ntail=.\n").start();
    assert_eq!(server.get("/told").text(), "old.");
    let good = server.read_ini();
    server.write_ini(&good.replace("word=old", "word=new").replace("tail=.", "tail=!"));
    server.get("/reload/told");
    assert_eq!(server.get("/told").text(), "new!");
    server.write_ini(&good.replace("tail=.", "tail=${nothing}"));
    let reply = server.get("/reload/told");
    assert_eq!(reply.status, 500);
    assert!(reply.text().contains("[main] tail"), "{}", reply.text());
    assert_eq!(server.get("/told").text(), "new!");
}

#[test]
fn helper_modules_are_imported_afresh_and_shared_by_a_reload_of_all() {
    let plugin = |name: &str| {
        format!(
            "
import helper
from plugincore.baseplugin import BasePlugin
class {name}(BasePlugin):
    def request_handler(self, **data):
        return {{'word': helper.WORD, 'id': id(helper)}}
"
        )
    };
    let server = TestServer::build()
        .plugin("helper.py", "WORD = 'one'\n")
        .plugin("a.py", &plugin("Alpha"))
        .plugin("b.py", &plugin("Beta"))
        .start();
    assert_eq!(server.get("/alpha").json(), server.get("/beta").json());
    server.write_plugin("helper.py", "WORD = 'two'\n");
    assert_eq!(server.get("/reload/alpha").status, 200);
    assert_eq!(server.get("/alpha").json()["word"], "two");
    assert_eq!(server.get("/beta").json()["word"], "one");
    server.write_plugin("helper.py", "WORD = 'six'\n");
    assert_eq!(server.get("/reload/all").status, 200);
    assert_eq!(server.get("/alpha").json()["word"], "six");
    assert_eq!(server.get("/alpha").json(), server.get("/beta").json());
    server.write_plugin("helper.py", "WORD = \n");
    assert_eq!(server.get("/reload/alpha").status, 500);
    assert_eq!(server.get("/alpha").json()["word"], "six");
}

#[test]
fn the_later_of_two_plugins_with_one_name_is_an_error() {
    let server = TestServer::build().plugin("a.py", &greeter("first")).plugin("b.py", &greeter("second")).start();
    assert_eq!(server.get("/greeter").text(), "first");
    assert!(server.log().contains("/greeter is served by"), "{}", server.log());
    let state = server.get("/plugins?verbose=1").json();
    assert!(state["files"][1]["error"]["message"].as_str().unwrap().contains("a.py"), "{state}");
    assert_eq!(server.get("/load/b").status, 500);
    assert_eq!(server.get("/greeter").text(), "first");
}

#[test]
fn fifty_reloads_under_load_lose_no_request() {
    let server = TestServer::build().plugin("greeter.py", &greeter("0")).plugin("pair.py", PAIR).start();
    let (stop, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    let address = server.address();
    std::thread::scope(|scope| {
        for path in ["/greeter", "/greeter", "/one", "/two"] {
            let (stop, answered) = (&stop, &answered);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let reply = send(address, "GET", path, &[], b"").unwrap();
                    assert_eq!(reply.status, 200, "{path}: {}", reply.text());
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for round in 1..=50 {
            server.write_plugin("greeter.py", &greeter(&round.to_string()));
            let path = if round % 2 == 0 { "/reload/all" } else { "/reload/greeter" };
            let reply = server.get(path);
            assert_eq!(reply.status, 200, "{}", reply.text());
            assert_eq!(server.get("/greeter").text(), round.to_string());
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(answered.load(Ordering::Relaxed) > 50);
}

#[test]
fn calls_in_flight_finish_on_the_old_plugin() {
    let slow = |version: &str| {
        format!(
            "
import asyncio
from plugincore.baseplugin import BasePlugin
class Slow(BasePlugin):
    ended = False
    async def request_handler(self, **data):
        self.log.info('entered {version}')
        await asyncio.sleep(0.5)
        return '{version} ended' if self.ended else '{version}'
    def terminate_plugin(self):
        self.ended = True
"
        )
    };
    let server = TestServer::with_plugin("slow.py", &slow("old"));
    let address = server.address();
    std::thread::scope(|scope| {
        let running = scope.spawn(move || send(address, "GET", "/slow", &[], b"").unwrap().text());
        server.wait_for_log("entered old", 1);
        server.write_plugin("slow.py", &slow("new"));
        assert_eq!(server.get("/reload/slow").status, 200);
        assert_eq!(server.get("/slow").text(), "new");
        assert_eq!(running.join().unwrap(), "old");
    });
}

#[test]
fn a_plugin_with_something_exclusive_restarts_and_requests_wait() {
    let source = |version: &str| {
        format!(
            "
import asyncio, socket
from plugincore.baseplugin import BasePlugin
class Owner(BasePlugin):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.bind('\\0pserve-test-' + str(__import__('os').getpid()))
    async def initialize(self, **kwargs):
        await asyncio.sleep(0.2)
    async def request_handler(self, **data):
        return '{version}'
    def terminate_plugin(self):
        self.socket.close()
"
        )
    };
    let server =
        TestServer::build().plugin("owner.py", &source("1")).ini("[plugin_options]\nowner=reload=restart\n").start();
    server.write_plugin("owner.py", &source("2"));
    let address = server.address();
    std::thread::scope(|scope| {
        let reload = scope.spawn(move || send(address, "GET", "/reload/owner", &[], b"").unwrap().status);
        while !reload.is_finished() {
            assert_eq!(send(address, "GET", "/owner", &[], b"").unwrap().status, 200);
        }
        assert_eq!(reload.join().unwrap(), 200);
    });
    assert_eq!(server.get("/owner").text(), "2");
}

#[test]
fn a_refused_class_does_not_spoil_the_reload_of_the_others() {
    let file = |version: &str| PAIR.replace("One", "Greeter").replace("VERSION", version);
    let server = TestServer::build().plugin("a.py", &greeter("first")).plugin("b.py", &file("1")).start();
    assert_eq!(server.get("/two").text(), "1");
    server.write_plugin("b.py", &file("2"));
    assert_eq!(server.get("/reload/two").status, 200);
    assert_eq!(server.get("/two").text(), "2");
    assert_eq!(server.get("/greeter").text(), "first");
}

#[test]
fn head_does_not_reload() {
    let server = TestServer::with_plugin("greeter.py", &greeter("hello"));
    for path in ["/reload/greeter", "/reload/all", "/load/greeter", "/unload/greeter"] {
        let reply = server.request("HEAD", path, &[], b"");
        assert_eq!((reply.status, reply.header("allow")), (405, Some("GET, POST, OPTIONS")), "{path}");
    }
    assert_eq!(server.request("HEAD", "/plugins", &[], b"").status, 200);
    assert!(!server.log().contains("terminated"));
}

#[test]
fn a_client_that_hangs_up_does_not_leave_a_reload_half_done() {
    let slow = |version: &str| {
        greeter(version)
            + "    async def initialize(self, **kwargs):\n        import asyncio\n        self.log.info('initializing')\n        await asyncio.sleep(0.3)\n"
    };
    let server = TestServer::with_plugin("greeter.py", &slow("old"));
    server.write_plugin("greeter.py", &slow("new"));
    let mut stream = common::connect(server.address()).unwrap();
    std::io::Write::write_all(&mut stream, b"GET /reload/greeter HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    server.wait_for_log("initializing", 2);
    drop(stream);
    server.wait_for_log("terminated old", 1);
    assert_eq!(server.get("/greeter").text(), "new");
}
