//! Contract, section 8: graceful reload and graceful end.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

mod common;

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use common::{TestServer, connect, send};
use rustix::process::Signal;

const SLEEPER: &str = "
import asyncio, atexit, time
from plugincore.baseplugin import BasePlugin
async def forever(log):
    try:
        await asyncio.sleep(1000)
    except asyncio.CancelledError:
        log.info('task cancelled')
        raise
class Sleeper(BasePlugin):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        atexit.register(lambda: print('atexit ran', flush=True))
        asyncio.create_task(forever(self.log))
    async def request_handler(self, **data):
        self.log.info('sleeping')
        await asyncio.sleep(float(data.get('seconds', 0.4)))
        return 'slept'
    async def terminate_plugin(self):
        self.log.info('terminated')
class Hanger(BasePlugin):
    async def request_handler(self, **data):
        self.log.info('hanging')
        time.sleep(1000)
class PlainHanger(BasePlugin):
    def request_handler(self, **data):
        self.log.info('hanging plainly')
        time.sleep(1000)
";

#[test]
fn a_stop_finishes_what_is_in_flight_and_cleans_up() {
    for (signal, name) in [(Signal::TERM, "SIGTERM"), (Signal::INT, "SIGINT"), (Signal::ABORT, "SIGABRT")] {
        let mut server = TestServer::with_plugin("sleeper.py", SLEEPER);
        assert!(server.path("pserve.pid").exists());
        let address = server.address();
        let running = std::thread::spawn(move || send(address, "GET", "/sleeper", &[], b"").unwrap().text());
        server.wait_for_log("sleeping", 1);
        server.signal(signal);
        assert_eq!(server.wait().code(), Some(0), "{name}");
        assert_eq!(running.join().unwrap(), "slept", "{name}");
        server.wait_for_log("atexit ran", 1);
        let log = server.log();
        for needle in [name, "terminated", "task cancelled"] {
            assert!(log.contains(needle), "{name}: no {needle:?} in\n{log}");
        }
        assert!(!server.path("pserve.pid").exists());
    }
}

#[test]
fn a_stop_is_bounded_when_a_handler_hangs() {
    for (path, needle) in [("/hanger", "hanging"), ("/plainhanger", "hanging plainly")] {
        let mut server = TestServer::build().plugin("sleeper.py", SLEEPER).ini("[limits]\ndrain_timeout=0.3\n").start();
        let address = server.address();
        std::thread::spawn(move || send(address, "GET", path, &[], b""));
        server.wait_for_log(needle, 1);
        let asked = Instant::now();
        server.signal(Signal::TERM);
        assert_eq!(server.wait().code(), Some(0), "{path}");
        assert!(asked.elapsed() < Duration::from_secs(30), "{path}: {:?}", asked.elapsed());
        assert!(!server.path("pserve.pid").exists());
    }
}

#[test]
fn a_second_signal_ends_at_once() {
    let mut server = TestServer::build().plugin("sleeper.py", SLEEPER).ini("[limits]\ndrain_timeout=500\n").start();
    let address = server.address();
    std::thread::spawn(move || send(address, "GET", "/sleeper?seconds=500", &[], b""));
    server.wait_for_log("sleeping", 1);
    server.signal(Signal::TERM);
    server.wait_for_log("finishing what is in flight", 1);
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn an_idle_connection_does_not_hold_a_stop() {
    let mut server = TestServer::with_plugin("sleeper.py", SLEEPER);
    let mut idle = connect(server.address()).unwrap();
    idle.write_all(b"GET /plugins HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut first = [0; 12];
    idle.read_exact(&mut first).unwrap();
    let asked = Instant::now();
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(8), "{:?}", asked.elapsed());
}

const VERSION: &str = "
from plugincore.baseplugin import BasePlugin
class Version(BasePlugin):
    async def request_handler(self, **data):
        return 'VERSION'
";

#[test]
fn hangup_takes_up_everything_in_new_workers_and_answers_old_connections() {
    for (signal, name) in [(Signal::HUP, "SIGHUP"), (Signal::USR1, "SIGUSR1")] {
        let server = TestServer::with_plugin("version.py", VERSION);
        let pid = server.pid();
        let mut kept = connect(server.address()).unwrap();
        let mut ask = || {
            kept.write_all(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
            let mut answer = [0; 4096];
            let length = kept.read(&mut answer).unwrap();
            String::from_utf8_lossy(&answer[..length]).into_owned()
        };
        let first = ask();
        assert!(first.ends_with("VERSION") && !first.contains("connection: close"), "{first}");
        let mut probing = connect(server.address()).unwrap();
        probing.write_all(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let mut piece = [0; 4096];
        assert!(probing.read(&mut piece).unwrap() > 0);
        server.write_plugin("version.py", &VERSION.replace("VERSION", "second"));
        server.write_plugin("other.py", &VERSION.replace("Version", "Other"));
        server.signal(signal);
        server.wait_for_log("every plugin is reloaded", 1);
        // Its worker is leaving: it answers what comes right away, and says that this was the last time.
        let last = ask();
        assert!(last.contains("connection: close"), "{name}: {last}");
        // The server is ready as before, whoever of it is asked.
        probing.write_all(b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        let length = probing.read(&mut piece).unwrap();
        assert!(piece[..length].starts_with(b"HTTP/1.1 200"), "{name}");
        assert_eq!(server.get("/version").text(), "second", "{name}");
        assert_eq!(server.get("/other").status, 200, "{name}");
        assert_eq!(server.pid(), pid);
    }
}

#[test]
fn hangup_with_a_broken_configuration_leaves_the_old_state_serving() {
    let server = TestServer::with_plugin("version.py", VERSION);
    let good = server.read_ini();
    server.write_plugin("version.py", &VERSION.replace("VERSION", "second"));
    server.write_ini(&good.replace("port=0", "port=many"));
    server.signal(Signal::HUP);
    server.wait_for_log("the old configuration stays", 1);
    assert!(server.log().contains("[network] port"), "{}", server.log());
    assert_eq!(server.get("/version").text(), "VERSION");
    server.write_ini(&good);
    server.signal(Signal::HUP);
    server.wait_for_log("every plugin is reloaded", 1);
    assert_eq!(server.get("/version").text(), "second");
}

#[test]
fn hangup_moves_to_another_port_and_back_off_from_a_taken_one() {
    let server = TestServer::with_plugin("version.py", VERSION);
    let good = server.read_ini();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    server.write_ini(&good.replace("port=0", &format!("port={port}")));
    server.signal(Signal::HUP);
    server.wait_for_log("the old addresses stay", 1);
    assert_eq!(server.get("/version").text(), "VERSION");
    drop(taken);
    server.signal(Signal::HUP);
    server.wait_for_log(&format!("serves http://127.0.0.1:{port}"), 1);
    let reply = send(([127, 0, 0, 1], port).into(), "GET", "/version", &[], b"").unwrap();
    assert_eq!(reply.text(), "VERSION");
}

#[test]
fn hangup_under_load_loses_no_request() {
    let server = TestServer::with_plugin("version.py", VERSION);
    let address = server.address();
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let stop = &stop;
            scope.spawn(move || {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    assert_eq!(send(address, "GET", "/version", &[], b"").unwrap().status, 200);
                }
            });
        }
        for round in 1..=10 {
            server.signal(Signal::HUP);
            server.wait_for_log("every plugin is reloaded", round);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}

#[test]
fn the_log_file_is_opened_again_after_a_rotation() {
    let server = TestServer::build().plugin("version.py", VERSION).argument("-l").argument("server.log").start();
    std::fs::rename(server.path("server.log"), server.path("server.log.1")).unwrap();
    server.signal(Signal::HUP);
    server.wait_for_log("every plugin is reloaded", 1);
    let fresh = std::fs::read_to_string(server.path("server.log")).unwrap();
    assert!(fresh.contains(" - pserve - INFO - loaded /version"), "{fresh}");
}

/// Starts a server whose log is followed by hand, since it never gets as far as to serve.
struct Starting {
    child: std::process::Child,
    out: std::process::ChildStdout,
    text: String,
    _dir: tempfile::TempDir,
    pidfile: std::path::PathBuf,
}

impl Starting {
    fn new(plugins: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("plugins")).unwrap();
        for (name, source) in plugins {
            std::fs::write(dir.path().join("plugins").join(name), source).unwrap();
        }
        let ini = "[network]\nport=0\n[paths]\nplugins=plugins\npidfile=x.pid\n[limits]\ndrain_timeout=0.1\n";
        std::fs::write(dir.path().join("pserve.ini"), ini).unwrap();
        let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_pserve"))
            .current_dir(dir.path())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let out = child.stdout.take().unwrap();
        Self { child, out, text: String::new(), pidfile: dir.path().join("x.pid"), _dir: dir }
    }

    fn wait_for(&mut self, needle: &str) {
        while !self.text.contains(needle) {
            let mut piece = [0; 1024];
            let length = self.out.read(&mut piece).unwrap();
            assert!(length > 0, "no {needle:?} in:\n{}", self.text);
            self.text.push_str(&String::from_utf8_lossy(&piece[..length]));
        }
    }

    fn signal(&self, signal: Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const NEVER: &str = "
import time
from plugincore.baseplugin import BasePlugin
class Never(BasePlugin):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.log.info('constructing')
        time.sleep(1000)
";
const SLOW_START: &str = "
import asyncio
from plugincore.baseplugin import BasePlugin
class SlowStart(BasePlugin):
    async def initialize(self, **kwargs):
        self.log.info('initializing')
        await asyncio.sleep(SECONDS)
";

#[test]
fn a_constructor_that_hangs_does_not_hold_a_stop() {
    let mut server = Starting::new(&[("never.py", NEVER)]);
    server.wait_for("constructing");
    server.signal(Signal::TERM);
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
    assert!(!server.pidfile.exists());
}

#[test]
fn a_stop_during_the_first_load_terminates_what_is_loaded() {
    let slow = SLOW_START.replace("SECONDS", "1000");
    let mut server = Starting::new(&[("a.py", SLEEPER), ("slow.py", &slow)]);
    server.wait_for("initializing");
    server.signal(Signal::TERM);
    server.wait_for("terminated");
    assert_eq!(server.child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_hangup_during_the_first_load_is_done_after_it() {
    let slow = SLOW_START.replace("SECONDS", "0.5");
    let mut server = Starting::new(&[("slow.py", &slow)]);
    server.wait_for("initializing");
    server.signal(Signal::HUP);
    server.wait_for("every plugin is reloaded");
}

#[test]
fn a_reload_that_hangs_does_not_hold_a_stop() {
    let mut server = TestServer::build().plugin("version.py", VERSION).ini("[limits]\ndrain_timeout=0.3\n").start();
    server.write_plugin("slow.py", &SLOW_START.replace("SECONDS", "1000"));
    server.signal(Signal::HUP);
    server.wait_for_log("initializing", 1);
    assert_eq!(server.get("/version").status, 200);
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(0));
}

#[test]
fn a_hangup_moves_the_pidfile() {
    let server = TestServer::with_plugin("version.py", VERSION);
    server.write_ini(&server.read_ini().replace("pserve.pid", "other.pid"));
    server.signal(Signal::HUP);
    server.wait_for_log("every plugin is reloaded", 1);
    let deadline = Instant::now() + common::PATIENCE;
    while server.path("pserve.pid").exists() {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(5));
    }
    let number = std::fs::read_to_string(server.path("other.pid")).unwrap();
    assert_eq!(number.trim(), server.pid().as_raw_nonzero().to_string());
}
