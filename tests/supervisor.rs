//! Nothing takes it down: workers that die, hang or tire, and what the supervisor does about it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

mod common;

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::{TestServer, connect, eventually, send};
use rustix::process::{Signal, kill_process};

const HELLO: &str = "
from plugincore.baseplugin import BasePlugin
class Hello(BasePlugin):
    async def request_handler(self, **data):
        return {'hello': 'world'}
";

/// Everything that a plugin can do to its process.
const KILLER: &str = "
import asyncio, ctypes, os, signal, sys, threading, time
from plugincore.baseplugin import BasePlugin
def act(how):
    libc = ctypes.CDLL(None)
    if how == 'segv': ctypes.string_at(0)
    if how == 'sentsegv': os.kill(os.getpid(), signal.SIGSEGV)
    if how == 'exit': os._exit(3)
    if how == 'exit0': os._exit(0)
    if how == 'cexit': libc._exit(4)
    if how == 'abort': os.abort()
    if how == 'cabort': libc.abort()
    if how == 'kill': os.kill(os.getpid(), signal.SIGKILL)
    if how == 'killpg': os.killpg(os.getpgrp(), signal.SIGKILL)
    if how == 'kill0': os.kill(0, signal.SIGKILL)
    if how == 'term': os.kill(os.getpid(), signal.SIGTERM)
    if how == 'sysexit': sys.exit(5)
    if how == 'stdout': os.close(1); os.close(2)
    if how == 'stop': asyncio.get_running_loop().stop()
    if how == 'close': asyncio.get_running_loop().call_soon(lambda: asyncio.get_event_loop().close())
    return how
class Killer(BasePlugin):
    async def request_handler(self, how='', **data):
        return act(how)
class PlainKiller(BasePlugin):
    def request_handler(self, how='', **data):
        return act(how)
class Hanger(BasePlugin):
    async def request_handler(self, seconds='1000', **data):
        self.log.info('hanging')
        time.sleep(float(seconds))
        return 'hung'
";

const STATE: &str = "
import os
from plugincore.baseplugin import BasePlugin
class State(BasePlugin):
    async def request_handler(self, **data):
        return {'pid': os.getpid(), 'version': 'ONE'}
";

fn server(ini: &str) -> TestServer {
    TestServer::build().plugin("hello.py", HELLO).plugin("killer.py", KILLER).ini(ini).start()
}

/// Waits until `/hello` answers on a new connection, no longer than the two seconds that are promised.
fn answers_soon(server: &TestServer, what: &str) {
    let since = Instant::now();
    loop {
        if send(server.address(), "GET", "/hello", &[], b"").is_ok_and(|reply| reply.status == 200) {
            return;
        }
        // Machines are slow at times: twice the promise.
        assert!(since.elapsed() < Duration::from_secs(4), "{what}:\n{}", server.log());
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn whatever_a_plugin_does_to_its_process_the_others_answer_again_soon() {
    for plugin in ["killer", "plainkiller"] {
        let server = server("[limits]\ncrash_quarantine=0\n");
        let supervisor = server.pid();
        for how in ["segv", "sentsegv", "exit", "exit0", "cexit", "abort", "cabort", "kill", "killpg", "kill0"] {
            let before = server.log().matches("ended ").count();
            let _ = send(server.address(), "GET", &format!("/{plugin}?how={how}"), &[], b"");
            answers_soon(&server, how);
            server.wait_for_log("ended ", before + 1);
            assert!(server.log().contains(&format!("GET /{plugin}")), "{how}: {}", server.log());
        }
        for how in ["sysexit", "stdout", "stop", "close", "term"] {
            let _ = send(server.address(), "GET", &format!("/{plugin}?how={how}"), &[], b"");
            answers_soon(&server, how);
        }
        assert_eq!(server.pid(), supervisor);
    }
}

#[test]
fn the_log_names_the_plugin_the_request_and_the_line() {
    let server = server("");
    let _ = send(server.address(), "GET", "/plainkiller?how=segv&apikey=hush", &[], b"");
    server.wait_for_log("is held responsible", 1);
    let log = server.log();
    assert!(
        log.contains("by SIGSEGV") && log.contains("/plainkiller was handling a request, GET /plainkiller"),
        "{log}"
    );
    assert!(log.contains("killer.py\", line 6 in act"), "{log}");
    assert!(!log.contains("hush"), "{log}");
    let _ = send(server.address(), "GET", "/killer?how=exit", &[], b"");
    server.wait_for_log("called os._exit(3) at ", 1);
}

#[test]
fn a_plugin_that_kills_its_worker_again_and_again_is_put_in_quarantine() {
    let server = server("[server]\nworkers=2\n[limits]\ncrash_quarantine=2\n");
    for _ in 0..2 {
        let _ = send(server.address(), "GET", "/killer?how=segv", &[], b"");
        answers_soon(&server, "segv");
    }
    server.wait_for_log("killer.py is in quarantine", 1);
    eventually(|| server.get("/killer").status == 503);
    eventually(|| (0..20).all(|_| server.get("/killer").status == 503));
    let refused = server.get("/killer/x").json();
    let words = refused["error"].as_str().unwrap();
    assert!(words.contains("quarantine") && words.contains("/reload/killer"), "{words}");
    assert_eq!(server.get("/hello").status, 200);
    let list = server.get("/plugins?verbose=1").json();
    assert_eq!(list["loaded_plugins"], serde_json::json!(["hello"]));
    assert_eq!(list["quarantine"][0]["plugins"], serde_json::json!(["killer", "plainkiller", "hanger"]));
    assert_eq!(server.get("/reload/killer").json()["success"], true);
    for _ in 0..20 {
        assert_eq!(server.get("/killer?how=nothing").text(), "nothing");
    }
    assert_eq!(server.get("/plugins?verbose=1").json()["quarantine"], serde_json::json!([]));
}

#[test]
fn a_worker_killed_from_outside_puts_nobody_in_quarantine() {
    let server = server("[limits]\ncrash_quarantine=1\n");
    for round in 1..=3 {
        let address = server.address();
        let waiting = std::thread::spawn(move || send(address, "GET", "/hanger?seconds=20", &[], b"").is_err());
        server.wait_for_log("hanging", round);
        kill_process(server.worker(), Signal::KILL).unwrap();
        assert!(waiting.join().unwrap(), "its connection ends with the worker");
        answers_soon(&server, "kill -9");
    }
    assert!(!server.log().contains("in quarantine"), "{}", server.log());
    assert_eq!(server.get("/hanger?seconds=0").text(), "hung");
}

#[test]
fn a_file_that_kills_at_its_import_costs_itself_only() {
    let server = TestServer::build()
        .plugin("hello.py", HELLO)
        .plugin("dead.py", "import os\nos._exit(9)\n")
        .ini("[limits]\ncrash_quarantine=2\n")
        .start();
    assert_eq!(server.get("/hello").status, 200);
    let list = server.get("/plugins?verbose=1").json();
    assert!(list["quarantine"][0]["file"].as_str().unwrap().ends_with("dead.py"), "{list}");
    server.write_plugin("dead.py", &HELLO.replace("Hello", "Alive"));
    assert_eq!(server.get("/load/dead").json()["plugins"], serde_json::json!(["alive"]));
    assert_eq!(server.get("/alive").status, 200);
}

#[test]
fn a_reload_of_a_file_that_kills_at_its_import_leaves_the_server_serving() {
    let server = server("[limits]\ncrash_quarantine=2\n");
    server.write_plugin("killer.py", "import os\nos._exit(9)\n");
    let _ = send(server.address(), "GET", "/reload/killer", &[], b"");
    answers_soon(&server, "reload");
    server.write_plugin("killer.py", KILLER);
    eventually(|| server.get("/reload/killer").status == 200 || server.get("/load/killer").status == 200);
    assert_eq!(server.get("/killer?how=nothing").text(), "nothing");
}

#[test]
fn every_worker_takes_part_in_a_change_and_a_later_one_comes_up_with_the_same_set() {
    let server = TestServer::build()
        .plugin("hello.py", HELLO)
        .plugin("state.py", STATE)
        .plugin("gone.py", &HELLO.replace("Hello", "Gone"))
        .ini("[server]\nworkers=3\n")
        .start();
    let all = |path: &str, expected: u16| (0..30).all(|_| server.get(path).status == expected);
    server.write_plugin("state.py", &STATE.replace("ONE", "TWO"));
    assert_eq!(server.get("/reload/state").json(), serde_json::json!({"reloaded": "state", "success": true}));
    assert!((0..30).all(|_| server.get("/state").json()["version"] == "TWO"));
    server.write_plugin("fresh.py", &HELLO.replace("Hello", "Fresh"));
    server.write_plugin("unasked.py", &HELLO.replace("Hello", "Unasked"));
    assert_eq!(server.get("/load/fresh").status, 200);
    assert_eq!(server.get("/unload/gone").status, 200);
    assert!(all("/fresh", 200) && all("/gone", 404) && all("/unasked", 404));
    let list = || server.get("/plugins").json()["loaded_plugins"].clone();
    assert_eq!(list(), serde_json::json!(["fresh", "hello", "state"]));
    for worker in server.workers() {
        kill_process(worker, Signal::KILL).unwrap();
    }
    answers_soon(&server, "all killed");
    eventually(|| server.workers().len() == 3 && server.log().matches(") serves").count() >= 3);
    assert!(all("/fresh", 200) && all("/gone", 404) && all("/unasked", 404), "{}", server.log());
    let mut pids: Vec<u64> = (0..60).map(|_| server.get("/state").json()["pid"].as_u64().unwrap()).collect();
    pids.sort_unstable();
    pids.dedup();
    assert!(!pids.contains(&(server.pid().as_raw_nonzero().get() as u64)), "the supervisor serves nobody itself");
    let verbose = server.get("/plugins?verbose=1").json();
    assert_eq!(verbose["workers"].as_array().unwrap().len(), 3);
    assert!(verbose["workers"].as_array().unwrap().iter().all(|worker| worker["restarts"]["crash"] == 1), "{verbose}");
}

#[test]
fn a_change_that_fails_changes_no_worker() {
    let server = TestServer::build().plugin("state.py", STATE).ini("[server]\nworkers=2\n").start();
    server.write_plugin("state.py", "this is no python");
    let failed = server.get("/reload/state");
    assert_eq!((failed.status, &failed.json()["type"]), (500, &serde_json::json!("SyntaxError")));
    assert!((0..20).all(|_| server.get("/state").json()["version"] == "ONE"));
    assert_eq!(server.get("/reload/nobody").status, 404);
    assert_eq!(server.get("/load/nofile").status, 404);
}

/// Clients with kept connections and with new ones; every answer must be there and good.
fn under_load(server: &TestServer, act: impl FnOnce()) -> usize {
    let (stop, answered) = (AtomicBool::new(false), AtomicUsize::new(0));
    let address = server.address();
    std::thread::scope(|scope| {
        for number in 0..6 {
            let (stop, answered) = (&stop, &answered);
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    if number % 2 == 0 {
                        assert_eq!(send(address, "GET", "/hello", &[], b"").unwrap().status, 200);
                        answered.fetch_add(1, Ordering::Relaxed);
                        continue;
                    }
                    let mut kept = connect(address).unwrap();
                    loop {
                        kept.write_all(b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
                        let mut answer = [0; 4096];
                        let length = kept.read(&mut answer).unwrap();
                        let text = String::from_utf8_lossy(&answer[..length]).into_owned();
                        assert!(text.starts_with("HTTP/1.1 200") && text.ends_with('}'), "{text:?}");
                        answered.fetch_add(1, Ordering::Relaxed);
                        if text.contains("connection: close") || stop.load(Ordering::Relaxed) {
                            break;
                        }
                    }
                }
            });
        }
        // The threads end even when the scenario fails.
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act));
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    });
    answered.load(Ordering::Relaxed)
}

#[test]
fn ten_hangups_in_a_row_are_invisible_to_clients() {
    let server = server("[server]\nworkers=2\n");
    let pid = server.pid();
    let answered = under_load(&server, || {
        for round in 1..=10 {
            server.signal(Signal::HUP);
            server.wait_for_log("every plugin is reloaded", round);
        }
    });
    assert!(answered > 50, "{answered}");
    assert_eq!(server.pid(), pid);
    eventually(|| server.workers().len() == 2);
}

#[test]
fn a_storm_of_hangups_ends_with_the_last_configuration() {
    let server = server("[server]\nworkers=1\n");
    let good = server.read_ini();
    under_load(&server, || {
        for count in [2, 1, 3] {
            server.write_ini(&good.replace("workers=1", &format!("workers={count}")));
            for _ in 0..5 {
                server.signal(Signal::HUP);
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        eventually(|| server.workers().len() == 3 && server.get("/readyz").status == 200);
    });
    eventually(|| server.workers().len() == 3);
}

#[test]
fn a_plugin_that_would_be_lost_leaves_the_old_workers_serving_and_says_why() {
    let server = TestServer::with_plugin("state.py", STATE);
    let workers = server.workers();
    server.write_plugin("state.py", "this is no python");
    server.signal(Signal::HUP);
    server.wait_for_log("the old workers go on", 1);
    assert_eq!(server.get("/state").json()["version"], "ONE");
    let failure = server.get("/plugins?verbose=1").json()["last_reload_failure"].as_str().unwrap().to_owned();
    assert!(failure.contains("state.py") && failure.contains("SyntaxError"), "{failure}");
    eventually(|| server.workers() == workers);
    server.write_plugin("state.py", &STATE.replace("ONE", "TWO"));
    server.signal(Signal::HUP);
    server.wait_for_log("every plugin is reloaded", 1);
    // The old worker may accept one more until it has read that it shall not.
    eventually(|| server.get("/state").json()["version"] == "TWO");
    assert!(server.get("/plugins?verbose=1").json()["last_reload_failure"].is_null());
}

#[test]
fn a_set_that_crashes_at_its_start_leaves_the_old_workers_serving() {
    let server = server("");
    server.write_plugin("dead.py", "import ctypes\nctypes.string_at(0)\n");
    server.signal(Signal::HUP);
    server.wait_for_log("the old workers go on", 1);
    assert_eq!(server.get("/hello").status, 200);
    assert!(server.get("/plugins?verbose=1").json()["last_reload_failure"].is_string());
}

#[test]
fn a_reload_whose_file_kills_puts_nothing_that_serves_in_quarantine() {
    let server = server("[limits]\ncrash_quarantine=2\n");
    server.write_plugin("killer.py", "import os\nos._exit(9)\n");
    for round in 1..=3 {
        server.signal(Signal::HUP);
        server.wait_for_log("the old workers go on", round);
    }
    assert_eq!(server.get("/killer?how=nothing").text(), "nothing");
    assert_eq!(server.get("/plugins?verbose=1").json()["quarantine"], serde_json::json!([]));
}

#[test]
fn a_change_that_fails_leaves_the_configuration_of_every_worker() {
    let server =
        TestServer::build().plugin("state.py", STATE).ini("[server]\nworkers=2\n[auth]\napikey=first-key\n").start();
    let status = |key: &str| server.request("GET", "/plugins", &[("X-Custom-Auth", key)], b"").status;
    assert_eq!((status("first-key"), status("second-key")), (200, 403));
    server.write_ini(&server.read_ini().replace("first-key", "second-key"));
    server.write_plugin("state.py", "this is no python");
    let failed = server.request("GET", "/reload/state", &[("X-Custom-Auth", "first-key")], b"");
    assert_eq!(failed.status, 500, "{}", failed.text());
    for _ in 0..20 {
        assert_eq!((status("first-key"), status("second-key")), (200, 403));
    }
    server.write_plugin("state.py", STATE);
    assert_eq!(server.request("GET", "/reload/state", &[("X-Custom-Auth", "first-key")], b"").status, 200);
    for _ in 0..20 {
        assert_eq!((status("first-key"), status("second-key")), (403, 200));
    }
}

#[test]
fn a_worker_that_says_twice_that_it_is_tired_is_replaced_once() {
    let slow = HELLO.replace("import BasePlugin", "import BasePlugin\nimport time\ntime.sleep(1)");
    let server = TestServer::with_plugin("hello.py", &slow);
    let first = server.worker();
    kill_process(first, Signal::TERM).unwrap();
    server.wait_for_log("is replaced", 1);
    kill_process(first, Signal::TERM).unwrap();
    server.wait_for_log("has ended", 1);
    // Another replacement would begin within a second.
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(server.log().matches("is replaced").count(), 1, "{}", server.log());
}

#[test]
fn a_worker_whose_loop_stands_still_is_replaced() {
    let server = server("[limits]\nloop_stall=1\ndrain_timeout=0.5\n");
    let stuck = server.worker();
    let address = server.address();
    std::thread::spawn(move || send(address, "GET", "/hanger", &[], b""));
    server.wait_for_log("has stood still", 1);
    eventually(|| !server.workers().contains(&stuck));
    assert_eq!(server.get("/hello").status, 200);
    let log = server.log();
    assert!(log.contains("/hanger was handling a request") && log.contains("time.sleep"), "{log}");
}

#[test]
fn tired_workers_are_replaced_without_a_lost_request() {
    let server = server("[server]\nworkers=2\n[limits]\nmax_requests=300\n");
    let answered = under_load(&server, || server.wait_for_log("is replaced: it has answered", 3));
    assert!(answered > 300);
    let server = self::server("[limits]\nmax_age=1\n");
    under_load(&server, || server.wait_for_log("is replaced: it is ", 2));
    let leaker = "
from plugincore.baseplugin import BasePlugin
class Leaker(BasePlugin):
    async def request_handler(self, **data):
        self.kept = bytearray(b'x') * (400 << 20)
        return 'leaked'
";
    let server = TestServer::build()
        .plugin("hello.py", HELLO)
        .plugin("leaker.py", leaker)
        .ini("[limits]\nmax_memory_mb=300\n")
        .start();
    let first = server.worker();
    assert_eq!(server.get("/leaker").text(), "leaked");
    server.wait_for_log("of memory", 1);
    eventually(|| {
        let now = server.workers();
        now.len() == 1 && now != [first]
    });
    assert_eq!(server.get("/hello").status, 200);
}

#[test]
fn one_worker_that_is_asked_to_go_is_replaced_first() {
    let server = server("");
    let first = server.worker();
    under_load(&server, || {
        kill_process(first, Signal::TERM).unwrap();
        eventually(|| !server.workers().contains(&first));
    });
    // Signals that `pkill` sends to everything of the name do no harm.
    for signal in [Signal::HUP, Signal::INT, Signal::USR1, Signal::USR2] {
        kill_process(server.worker(), signal).unwrap();
    }
    let second = server.worker();
    assert_eq!(server.get("/hello").status, 200);
    assert_eq!(server.worker(), second);
}

#[test]
fn workers_end_with_a_supervisor_that_was_killed() {
    let mut server = server("[server]\nworkers=2\n");
    let workers = server.workers();
    server.signal(Signal::KILL);
    server.wait();
    eventually(|| workers.iter().all(|pid| !std::path::Path::new(&format!("/proc/{}", pid.as_raw_nonzero())).exists()));
    // Nobody holds the port any more.
    std::net::TcpListener::bind(server.address()).unwrap();
}

#[test]
fn a_dump_tells_how_everything_is() {
    let server = server("[server]\nworkers=2\n");
    server.signal(Signal::USR2);
    server.wait_for_log("SIGUSR2: ", 1);
    server.wait_for_log("thread MainThread", 2);
    assert_eq!(server.get("/hello").status, 200);
}

#[test]
fn a_plugin_that_owns_something_restarts_across_workers_without_a_lost_request() {
    let owner = "
import os
from plugincore.baseplugin import BasePlugin
LOCK = os.path.join(os.path.dirname(__file__), 'port.lock')
class Owner(BasePlugin):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.fd = os.open(LOCK, os.O_CREAT | os.O_EXCL)
    async def request_handler(self, **data):
        return 'owned'
    async def terminate_plugin(self):
        os.unlink(LOCK)
";
    let server = TestServer::build()
        .plugin("hello.py", HELLO)
        .plugin("owner.py", owner)
        .ini("[plugin_options]\nowner=reload=restart\n")
        .start();
    let address = server.address();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let reply = send(address, "GET", "/owner", &[], b"").unwrap();
                assert_eq!((reply.status, reply.text().as_str()), (200, "owned"));
            }
        });
        let outcome = std::panic::catch_unwind(|| {
            for round in 1..=3 {
                server.signal(Signal::HUP);
                server.wait_for_log("every plugin is reloaded", round);
            }
            eventually(|| server.workers().len() == 1);
        });
        stop.store(true, Ordering::Relaxed);
        asking.join().unwrap();
        assert!(outcome.is_ok(), "{}", server.log());
    });
}

#[test]
fn a_log_that_nobody_reads_holds_nobody_up() {
    const CHATTER: &str = "
from plugincore.baseplugin import BasePlugin
class Chatter(BasePlugin):
    async def request_handler(self, **data):
        for _ in range(2000):
            self.log.error('y' * 200)
            print('x' * 200)
        return 'said'
";
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("plugins")).unwrap();
    std::fs::write(dir.path().join("plugins/chatter.py"), CHATTER).unwrap();
    let socket = dir.path().join("s");
    let ini = format!("[network]\nbindto=unix:{}\n[paths]\nplugins=plugins\n", socket.display());
    std::fs::write(dir.path().join("pserve.ini"), ini).unwrap();
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_pserve"))
        .current_dir(dir.path())
        .env_remove("VIRTUAL_ENV")
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut stream = None;
    eventually(|| {
        stream = std::os::unix::net::UnixStream::connect(&socket).ok();
        stream.is_some()
    });
    let mut stream = stream.unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(b"GET /chatter HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    let read = stream.read_to_string(&mut answer);
    kill_process(rustix::process::Pid::from_child(&child), Signal::TERM).unwrap();
    let mut status = None;
    let since = Instant::now();
    while status.is_none() && since.elapsed() < Duration::from_secs(20) {
        status = child.try_wait().unwrap();
        std::thread::sleep(Duration::from_millis(10));
    }
    let _ = child.kill();
    let _ = child.wait();
    assert!(read.is_ok() && answer.ends_with("said"), "{answer}");
    assert_eq!(status.and_then(|status| status.code()), Some(0));
}

#[test]
fn an_address_can_change_while_its_port_stays() {
    let server = TestServer::with_plugin("hello.py", HELLO);
    let port = server.address().port();
    let ini = server.read_ini().replace("port=0", &format!("port={port}"));
    for (round, address) in ["0.0.0.0", "127.0.0.1", "0.0.0.0"].into_iter().enumerate() {
        server.write_ini(&ini.replace("bindto=127.0.0.1", &format!("bindto={address}")));
        server.signal(Signal::HUP);
        server.wait_for_log("every plugin is reloaded", round + 1);
        assert!(server.log().contains(&format!("serves http://{address}:{port}")));
        assert_eq!(server.get("/hello").status, 200);
    }
    // The port is nobody else's, whatever another program agrees to.
    let rival = std::net::TcpListener::bind(("127.0.0.1", port));
    assert!(rival.is_err());
}

#[test]
fn who_waits_at_an_address_that_is_given_up_is_answered() {
    let server = TestServer::with_plugin("hello.py", HELLO);
    let old = server.address();
    // Nobody accepts while the only worker stands still.
    kill_process(server.worker(), Signal::STOP).unwrap();
    let mut waiting: Vec<_> = (0..5).map(|_| connect(old).unwrap()).collect();
    for stream in &mut waiting {
        stream.write_all(b"GET /hello HTTP/1.0\r\n\r\n").unwrap();
    }
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    server.write_ini(&server.read_ini().replace("port=0", &format!("port={}", free.port())));
    let stopped = server.worker();
    server.signal(Signal::HUP);
    server.wait_for_log("every plugin is reloaded", 1);
    let _ = kill_process(stopped, Signal::CONT);
    for mut stream in waiting {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.0 200"), "{answer}\n{}", server.log());
    }
}

#[test]
fn many_hangups_at_once_do_not_start_as_many_workers() {
    let server = TestServer::with_plugin("state.py", STATE);
    let mut most = 0;
    for round in 0..60 {
        if round == 55 {
            server.write_plugin("state.py", &STATE.replace("ONE", "TWO"));
        }
        server.signal(Signal::HUP);
        std::thread::sleep(Duration::from_millis(10));
        most = most.max(server.workers().len());
    }
    assert!(most <= 8, "{most} workers at a time");
    eventually(|| server.get("/state").text().contains("TWO"));
}

#[test]
fn a_reload_that_hangs_at_an_import_does_not_hold_a_stop() {
    let mut server = TestServer::with_plugin("hello.py", HELLO);
    server.write_plugin("hang.py", "import logging, time\nlogging.error('it hangs')\ntime.sleep(1000)\n");
    server.signal(Signal::HUP);
    server.wait_for_log("it hangs", 1);
    let since = Instant::now();
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(0));
    assert!(since.elapsed() < Duration::from_secs(8), "{:?}", since.elapsed());
}

#[test]
fn a_vanished_plugins_folder_stops_nothing_and_is_taken_up_again() {
    let server = TestServer::with_plugin("hello.py", HELLO);
    let (folder, aside) = (server.path("plugins"), server.path("aside"));
    std::fs::rename(&folder, &aside).unwrap();
    assert_eq!(server.get("/hello").status, 200);
    let refused = server.get("/reload/all");
    assert_eq!(refused.status, 500);
    assert!(refused.text().contains("is not a folder"), "{}", refused.text());
    server.signal(Signal::HUP);
    server.wait_for_log("the old workers go on", 1);
    assert_eq!(server.get("/hello").status, 200);
    // A worker that dies now has nothing to load, and says so.
    let first = server.worker();
    kill_process(first, Signal::KILL).unwrap();
    eventually(|| send(server.address(), "GET", "/livez", &[], b"").is_ok_and(|reply| reply.status == 200));
    let missing = server.get("/hello");
    assert!(missing.status == 404 && missing.text().contains("hello.py failed to load"), "{}", missing.text());
    std::fs::rename(&aside, &folder).unwrap();
    assert_eq!(server.get("/reload/all").status, 200);
    assert_eq!(server.get("/hello").status, 200);
}

#[test]
fn a_child_that_a_plugin_has_forked_does_not_hold_the_address() {
    let forker = "
import multiprocessing, os, time
from plugincore.baseplugin import BasePlugin
class Forker(BasePlugin):
    def request_handler(self, **data):
        pid = os.fork()
        if pid == 0:
            time.sleep(30)
            os._exit(0)
        return str(pid)
";
    let mut server = TestServer::with_plugin("forker.py", forker);
    let child: i32 = server.get("/forker").text().parse().unwrap();
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(0));
    let bound = std::net::TcpListener::bind(server.address());
    kill_process(rustix::process::Pid::from_raw(child).unwrap(), Signal::KILL).unwrap();
    assert!(bound.is_ok(), "{bound:?}");
}

#[test]
fn a_worker_starts_without_logs_whose_place_has_gone_and_has_them_again_later() {
    let builder = TestServer::build().plugin("hello.py", HELLO).ini("[server]\naccess_log=logs/access.log\n");
    let logs = builder.path().join("logs");
    std::fs::create_dir(&logs).unwrap();
    let server = builder.argument("-l").argument("logs/server.log").start();
    std::fs::remove_dir_all(&logs).unwrap();
    kill_process(server.worker(), Signal::KILL).unwrap();
    answers_soon(&server, "no place for logs");
    server.wait_for_log("cannot write the access log", 1);
    server.signal(Signal::HUP);
    server.wait_for_log("every plugin is reloaded", 1);
    std::fs::create_dir(&logs).unwrap();
    eventually(|| {
        assert_eq!(server.get("/hello").status, 200);
        std::fs::read_to_string(logs.join("access.log")).is_ok_and(|text| text.contains("GET /hello"))
    });
}
