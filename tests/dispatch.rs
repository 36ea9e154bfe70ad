//! Contract, section 3: which thread a handler runs on, and what one plugin may do to another.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

mod common;

use std::time::{Duration, Instant};

use common::{TestServer, send};

const PLAIN: &str = "
import asyncio, sqlite3, threading, time
from plugincore.baseplugin import BasePlugin
class Sleepy(BasePlugin):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inside = self.most = 0
    def request_handler(self, **data):
        self.inside += 1
        self.most = max(self.most, self.inside)
        self.log.info('asleep')
        time.sleep(float(data.get('seconds', 0.1)))
        self.inside -= 1
        return {'most': self.most, 'main': threading.current_thread() is threading.main_thread()}
class Quick(BasePlugin):
    async def request_handler(self, **data):
        return {'main': threading.current_thread() is threading.main_thread()}
class QuickPlain(BasePlugin):
    def request_handler(self, **data):
        return 'quick'
class Database(BasePlugin):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.connection = sqlite3.connect(':memory:')
        self.connection.execute('create table visits (n)')
    def request_handler(self, **data):
        self.connection.execute('insert into visits values (1)')
        return str(self.connection.execute('select count(*) from visits').fetchone()[0])
class Scheduler(BasePlugin):
    done = 0
    async def later(self, seconds):
        await asyncio.sleep(seconds)
        self.done += 1
    def bump(self):
        self.done += 10
    def request_handler(self, **data):
        if data.get('ask'):
            return str(self.done)
        loop = asyncio.get_running_loop()
        asyncio.create_task(self.later(0.01))
        loop.call_soon(self.bump)
        loop.call_later(0.01, self.bump)
        cancelled = loop.call_later(0.01, self.bump)
        cancelled.cancel()
        asyncio.run_coroutine_threadsafe(self.later(0), loop).result(timeout=30)
        return 'scheduled'
class Returner(BasePlugin):
    def request_handler(self, **data):
        return self.answer()
    async def answer(self):
        await asyncio.sleep(0)
        return 201, {'task': asyncio.current_task() is not None}
";

#[test]
fn a_plain_handler_that_sleeps_delays_no_other_plugin() {
    let server = TestServer::with_plugin("plain.py", PLAIN);
    let address = server.address();
    std::thread::scope(|scope| {
        let sleeping = scope.spawn(move || send(address, "GET", "/sleepy?seconds=5", &[], b"").unwrap().status);
        server.wait_for_log("asleep", 1);
        let asked = Instant::now();
        for _ in 0..20 {
            assert_eq!(server.get("/quick").status, 200);
            assert_eq!(server.get("/quickplain").text(), "quick");
            assert_eq!(server.get("/plugins").status, 200);
        }
        assert!(!sleeping.is_finished(), "sixty answers took {:?}", asked.elapsed());
        assert_eq!(sleeping.join().unwrap(), 200);
    });
}

fn at_the_same_time(server: &TestServer, path: &'static str, count: usize) -> Vec<serde_json::Value> {
    let address = server.address();
    std::thread::scope(|scope| {
        let calls: Vec<_> =
            (0..count).map(|_| scope.spawn(move || send(address, "GET", path, &[], b"").unwrap().json())).collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    })
}

#[test]
fn plain_calls_of_a_plugin_run_one_at_a_time_unless_it_says_more() {
    let server = TestServer::with_plugin("plain.py", PLAIN);
    for reply in at_the_same_time(&server, "/sleepy", 5) {
        assert_eq!(reply, serde_json::json!({"most": 1, "main": false}));
    }
    let server = TestServer::build().plugin("plain.py", PLAIN).ini("[plugin_options]\nsleepy=threads=3\n").start();
    let most = at_the_same_time(&server, "/sleepy?seconds=0.3", 9).iter().map(|reply| reply["most"].as_u64()).max();
    assert_eq!(most, Some(Some(3)));
}

#[test]
fn many_slow_calls_of_one_plugin_leave_a_thread_to_another() {
    let ini = "[plugin_options]\nsleepy=threads=8\n[limits]\nhandler_threads=4\n";
    let server = TestServer::build().plugin("plain.py", PLAIN).ini(ini).start();
    let address = server.address();
    std::thread::scope(|scope| {
        let slow: Vec<_> = (0..8)
            .map(|_| scope.spawn(move || send(address, "GET", "/sleepy?seconds=5", &[], b"").unwrap().status))
            .collect();
        server.wait_for_log("asleep", 4);
        for _ in 0..5 {
            assert_eq!(server.get("/quickplain").text(), "quick");
        }
        assert!(slow.iter().all(|call| !call.is_finished()));
    });
}

#[test]
fn async_handlers_run_on_the_main_thread() {
    let server = TestServer::with_plugin("plain.py", PLAIN);
    assert_eq!(server.get("/quick").json()["main"], true);
}

#[test]
fn a_sqlite_connection_of_the_constructor_works_in_a_plain_handler() {
    let server = TestServer::with_plugin("plain.py", PLAIN);
    for visits in 1..=5 {
        assert_eq!(server.get("/database").text(), visits.to_string());
    }
}

#[test]
fn a_plain_handler_may_use_the_event_loop() {
    let server = TestServer::with_plugin("plain.py", PLAIN);
    assert_eq!(server.get("/scheduler").text(), "scheduled");
    let deadline = Instant::now() + common::PATIENCE;
    while server.get("/scheduler?ask=1").text() != "22" {
        assert!(Instant::now() < deadline, "{}", server.get("/scheduler?ask=1").text());
        std::thread::sleep(Duration::from_millis(5));
    }
    // A moment more, in which the cancelled call must not come.
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(server.get("/scheduler?ask=1").text(), "22");
}

#[test]
fn what_a_plain_handler_returns_to_be_awaited_is_awaited() {
    let server = TestServer::with_plugin("plain.py", PLAIN);
    let reply = server.get("/returner");
    assert_eq!((reply.status, reply.json()["task"].as_bool()), (201, Some(true)));
}

#[test]
fn a_plugin_with_too_many_waiting_calls_is_503_with_retry_after() {
    let server = TestServer::build().plugin("plain.py", PLAIN).ini("[limits]\nwaiting_calls=2\n").start();
    let address = server.address();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(move || send(address, "GET", "/sleepy?seconds=1.5", &[], b"").unwrap());
        }
        server.wait_for_log("asleep", 1);
        let deadline = Instant::now() + common::PATIENCE;
        loop {
            let reply = server.get("/sleepy?seconds=0");
            if reply.status == 503 {
                assert_eq!(reply.header("retry-after"), Some("1"));
                break;
            }
            assert!(Instant::now() < deadline);
        }
        assert_eq!(server.get("/quick").status, 200);
    });
}

const HOSTILE: &str = "
import asyncio, os, signal, sys
from plugincore.baseplugin import BasePlugin
class Hostile(BasePlugin):
    async def request_handler(self, **data):
        return act(data['act'])
class HostilePlain(BasePlugin):
    def request_handler(self, **data):
        return act(data['act'])
class Fine(BasePlugin):
    count = 0
    async def request_handler(self, **data):
        self.count += 1
        return str(self.count)
def act(what):
    loop = asyncio.get_event_loop()
    if what == 'exit': sys.exit(3)
    if what == 'interrupt': raise KeyboardInterrupt('now')
    if what == 'cancelled': raise asyncio.CancelledError()
    if what == 'generator': raise GeneratorExit()
    if what == 'stop': loop.stop(); return 'stopped'
    if what == 'close': loop._thread_id = None; loop.close(); return 'closed'
    if what == 'task': asyncio.create_task(quit()); return 'task'
    if what == 'chdir': os.chdir('/'); return 'moved'
    if what == 'stdout': os.close(1); return 'closed'
    if what == 'signal':
        signal.signal(signal.SIGUSR2, lambda *_: None)
        return 'set'
    if what == 'fork':
        if os.fork() == 0:
            return 'from the child'
        return 'from the parent'
async def quit():
    sys.exit(4)
";

#[test]
fn base_exceptions_of_a_handler_are_that_requests_500_and_nothing_more() {
    let server = TestServer::with_plugin("hostile.py", HOSTILE);
    for name in ["hostile", "hostileplain"] {
        for (act, kind) in [
            ("exit", "SystemExit"),
            ("interrupt", "KeyboardInterrupt"),
            ("cancelled", "CancelledError"),
            ("generator", "GeneratorExit"),
        ] {
            let reply = server.get(&format!("/{name}?act={act}"));
            assert_eq!((reply.status, reply.json()["type"].as_str()), (500, Some(kind)), "{name} {act}");
        }
    }
    assert_eq!(server.get("/fine").text(), "1");
}

#[test]
fn what_a_plugin_does_to_the_process_does_not_end_the_server() {
    let server = TestServer::with_plugin("hostile.py", HOSTILE);
    for name in ["hostile", "hostileplain"] {
        for (act, answer) in [
            ("stop", "stopped"),
            ("task", "task"),
            ("chdir", "moved"),
            ("fork", "from the parent"),
            ("stdout", "closed"),
        ] {
            if name == "hostileplain" && act == "stdout" {
                continue;
            }
            assert_eq!(server.get(&format!("/{name}?act={act}")).text(), answer, "{name} {act}");
            assert_eq!(server.get("/fine").status, 200, "{name} {act}");
        }
    }
    // A signal handler can be set on the main thread only, as in any Python program.
    assert_eq!(server.get("/hostile?act=signal").text(), "set");
    assert_eq!(server.get("/reload/all").status, 200);
    // The log still comes out although the descriptor 1 is closed.
    server.wait_for_log("loaded /fine", 2);
}

#[test]
fn a_plugin_that_closes_the_event_loop_gets_a_new_one_and_every_plugin_again() {
    let server = TestServer::with_plugin("hostile.py", HOSTILE);
    assert_eq!(server.get("/fine").text(), "1");
    server.get("/hostile?act=close");
    server.wait_for_log("every plugin is reloaded", 1);
    // A new instance: it counts from the start.
    assert_eq!(server.get("/fine").text(), "1");
    assert_eq!(server.get("/hostileplain?act=chdir").text(), "moved");
}

#[test]
fn context_variables_are_each_requests_own() {
    let source = "
import asyncio, contextvars
from plugincore.baseplugin import BasePlugin
seen = contextvars.ContextVar('seen', default='nothing')
class Later(BasePlugin):
    async def request_handler(self, **data):
        before = seen.get()
        seen.set(data['who'])
        await asyncio.sleep(0.01)
        return [before, seen.get()]
class Plain(BasePlugin):
    def request_handler(self, **data):
        before = seen.get()
        seen.set(data['who'])
        return [before, seen.get()]
";
    let server = TestServer::with_plugin("context.py", source);
    for path in ["/later?who=a", "/plain?who=a", "/later?who=a", "/plain?who=a"] {
        assert_eq!(server.get(path).json(), serde_json::json!(["nothing", "a"]), "{path}");
    }
    for reply in at_the_same_time(&server, "/later?who=b", 8) {
        assert_eq!(reply, serde_json::json!(["nothing", "b"]));
    }
}
