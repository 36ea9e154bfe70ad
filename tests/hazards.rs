//! What plugins may do to the process, the interpreter and the event loop without harm to others.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

mod common;

use common::{TestServer, eventually, send};

const HAZARDS: &str = r#"
import asyncio, faulthandler, gc, os, resource, signal, sys, threading, time, warnings
from plugincore.baseplugin import BasePlugin
class Hazard(BasePlugin):
    async def request_handler(self, **data):
        return do(data['subpath'])
class PlainHazard(BasePlugin):
    def request_handler(self, **data):
        return do(data['subpath'])
class Fine(BasePlugin):
    async def request_handler(self, **data):
        await asyncio.sleep(0)
        print('printed')
        return {'deep': deep(100)}
class FinePlain(BasePlugin):
    def request_handler(self, **data):
        return {'deep': deep(100)}
def deep(levels):
    return 0 if levels == 0 else 1 + deep(levels - 1)
class Bottomless:
    def __str__(self):
        return str(self)
def endless():
    return endless()
def do(what):
    if what == 'cwd': os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone')
    if what == 'umask': os.umask(0o777)
    if what == 'closerange': os.closerange(3, 1000)
    if what == 'forked':
        child = os.fork()
        if child == 0: os.closerange(3, 1000); os._exit(0)
        os.waitpid(child, 0)
    if what == 'fds': os.close(0); os.close(1); os.close(2)
    if what == 'stdout': sys.stdout = sys.stderr = sys.stdin = None
    if what == 'closed': sys.__stdout__ and sys.__stdout__.close(); sys.stdout and sys.stdout.close()
    if what == 'recursionlimit': sys.setrecursionlimit(60)
    if what == 'switchinterval': sys.setswitchinterval(1000)
    if what == 'gc': gc.disable()
    if what == 'faulthandler': faulthandler.disable(); faulthandler.enable(); faulthandler.register(signal.SIGHUP)
    if what == 'handlers': sys.excepthook = sys.unraisablehook = threading.excepthook = None
    if what == 'warnings': warnings.simplefilter('error')
    if what == 'noloop': asyncio.set_event_loop(None)
    if what == 'factory': asyncio.get_event_loop().set_task_factory(None)
    if what == 'finders': sys.meta_path.clear(); sys.path.clear()
    if what == 'timer' and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGALRM, lambda *_: 1 / 0); signal.setitimer(signal.ITIMER_REAL, 0.05)
    if what == 'trace': sys.settrace(lambda *_: None)
    if what == 'recursion': endless()
    if what == 'memory': raise MemoryError('all of it')
    if what == 'allocate': bytearray(1 << 60)
    if what == 'generator': return (i for i in range(3))
    if what == 'agenerator': return agen()
    if what == 'bottomless': return Bottomless()
    if what == 'nested':
        value = []
        for _ in range(100000): value = [value]
        return value
    if what == 'huge': return 'x' * (64 << 20)
    return 'done'
async def agen():
    yield 1
"#;

fn others_are_well(server: &TestServer, after: &str) {
    for path in ["/fine", "/fineplain"] {
        let reply = server.get(path);
        assert_eq!(reply.status, 200, "{path} after {after}: {}\n{}", reply.text(), server.log());
        assert_eq!(reply.json()["deep"], 100, "{path} after {after}");
    }
}

#[test]
fn what_a_plugin_changes_in_the_process_harms_no_other() {
    for own in ["hazard", "plainhazard"] {
        let server = TestServer::build().plugin("hazards.py", HAZARDS).start();
        for what in [
            "umask",
            "closerange",
            "forked",
            "cwd",
            "stdout",
            "closed",
            "fds",
            "recursionlimit",
            "switchinterval",
            "gc",
            "faulthandler",
            "handlers",
            "warnings",
            "noloop",
            "factory",
            "timer",
            "trace",
        ] {
            let reply = server.get(&format!("/{own}/{what}"));
            assert_eq!((reply.status, reply.text().as_str()), (200, "done"), "{own}/{what}\n{}", server.log());
            others_are_well(&server, what);
        }
        assert_eq!(server.get("/reload/all").status, 200, "{}", server.log());
        others_are_well(&server, "a reload");
    }
}

#[test]
fn finders_that_are_gone_do_not_keep_handlers_from_running() {
    let server = TestServer::build().plugin("hazards.py", HAZARDS).start();
    assert_eq!(server.get("/hazard/finders").text(), "done");
    others_are_well(&server, "finders");
}

#[test]
fn what_a_handler_exhausts_is_its_own_500() {
    let server = TestServer::build().plugin("hazards.py", HAZARDS).start();
    for own in ["hazard", "plainhazard"] {
        for (what, kind) in [
            ("recursion", "RecursionError"),
            ("memory", "MemoryError"),
            ("allocate", "MemoryError"),
            ("bottomless", "RecursionError"),
            ("nested", "ValueError"),
        ] {
            let reply = server.get(&format!("/{own}/{what}"));
            assert_eq!((reply.status, reply.json()["type"].as_str()), (500, Some(kind)), "{own}/{what}");
            others_are_well(&server, what);
        }
        for what in ["generator", "agenerator"] {
            let reply = server.get(&format!("/{own}/{what}"));
            assert!(reply.json()["result"].as_str().unwrap().contains("generator"), "{}", reply.text());
        }
        assert_eq!(server.get(&format!("/{own}/huge")).body.len(), 64 << 20);
        others_are_well(&server, "a huge answer");
    }
}

const LOOP: &str = "
import asyncio, gc
from plugincore.baseplugin import BasePlugin
gc.disable()
class Sleeper(BasePlugin):
    async def request_handler(self, **data):
        self.log.info('asleep')
        future = asyncio.get_running_loop().create_future()
        self.kept = future
        await future
class Later(BasePlugin):
    def request_handler(self, **data):
        return self.later()
    async def later(self):
        self.log.info('asleep')
        await asyncio.sleep(100)
class Closer(BasePlugin):
    async def request_handler(self, **data):
        loop = asyncio.get_event_loop()
        loop._thread_id = None
        loop.close()
        return 'closed'
class Fine(BasePlugin):
    async def request_handler(self, **data):
        return 'fine'
";

const HANGS_AT_INITIALIZE: &str = "
import asyncio
from plugincore.baseplugin import BasePlugin
class Hangs(BasePlugin):
    async def initialize(self, **kwargs):
        self.log.info('hanging')
        await asyncio.sleep(100)
";

#[test]
fn calls_that_wait_on_a_loop_that_a_plugin_closes_are_answered() {
    let server = TestServer::with_plugin("loop.py", LOOP);
    let address = server.address();
    server.write_plugin("hangs.py", HANGS_AT_INITIALIZE);
    std::thread::scope(|scope| {
        let waiting: Vec<_> = ["/sleeper", "/later", "/load/hangs"]
            .into_iter()
            .map(|path| scope.spawn(move || (path, send(address, "GET", path, &[], b"").unwrap())))
            .collect();
        server.wait_for_log("asleep", 2);
        server.wait_for_log("hanging", 1);
        std::fs::remove_file(server.path("plugins/hangs.py")).unwrap();
        server.get("/closer");
        for call in waiting {
            let (path, reply) = call.join().unwrap();
            assert_eq!(reply.status, 500, "{path}: {}", reply.text());
        }
    });
    server.wait_for_log("every plugin is reloaded", 1);
    assert_eq!(server.get("/fine").text(), "fine");
}

#[test]
fn a_loop_whose_descriptor_was_closed_is_replaced() {
    let source = format!(
        "{LOOP}
import os
class Careless(BasePlugin):
    async def request_handler(self, **data):
        os.close(asyncio.get_running_loop()._selector.fileno())
        return 'closed'
"
    );
    let server = TestServer::with_plugin("loop.py", &source);
    assert_eq!(server.get("/fine").text(), "fine");
    let reply = server.get("/careless");
    assert!([200, 500].contains(&reply.status), "{}", reply.text());
    server.wait_for_log("every plugin is reloaded", 1);
    assert_eq!(server.get("/fine").text(), "fine");
}

#[test]
fn plain_calls_are_503_when_no_thread_can_be_started() {
    let source = "
import threading, time
from plugincore.baseplugin import BasePlugin
real = threading.Thread.start
def broken(self):
    raise RuntimeError('can not start new thread')
class Breaker(BasePlugin):
    async def request_handler(self, **data):
        threading.Thread.start = real if data.get('undo') else broken
        return 'done'
class Plain(BasePlugin):
    def request_handler(self, **data):
        time.sleep(0.05)
        return 'plain'
";
    let server = TestServer::with_plugin("threads.py", source);
    let address = server.address();
    server.get("/breaker");
    std::thread::scope(|scope| {
        let calls: Vec<_> =
            (0..8).map(|_| scope.spawn(move || send(address, "GET", "/plain", &[], b"").unwrap())).collect();
        for call in calls {
            let reply = call.join().unwrap();
            assert_eq!(reply.status, 503, "{}", reply.text());
            assert_eq!(reply.header("retry-after"), Some("1"));
        }
    });
    server.get("/breaker?undo=1");
    assert_eq!(server.get("/plain").text(), "plain");
}

#[test]
fn thousands_of_threads_of_one_plugin_leave_the_others_working() {
    let source = "
import threading
from plugincore.baseplugin import BasePlugin
release = threading.Event()
class Starter(BasePlugin):
    def request_handler(self, **data):
        for _ in range(2000):
            threading.Thread(target=release.wait, daemon=True).start()
        return str(threading.active_count())
class Ender(BasePlugin):
    async def request_handler(self, **data):
        release.set()
        return str(threading.active_count())
class Plain(BasePlugin):
    def request_handler(self, **data):
        return 'plain'
";
    let server = TestServer::with_plugin("threads.py", source);
    assert!(server.get("/starter").text().parse::<usize>().unwrap() > 2000);
    for _ in 0..20 {
        assert_eq!(server.get("/plain").text(), "plain");
    }
    eventually(|| server.get("/ender").text().parse::<usize>().unwrap() < 10);
}
