//! What systemd is told, and the sockets that it hands over (sd_notify(3), sd_listen_fds(3)).

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

mod common;

use std::os::unix::net::UnixDatagram;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use common::{TestServer, eventually, send};
use rustix::process::Signal;

const HELLO: &str = "
import os, time
from plugincore.baseplugin import BasePlugin
class Hello(BasePlugin):
    async def request_handler(self, **data):
        return {'env': [name for name in os.environ if name.startswith(('NOTIFY_', 'WATCHDOG_', 'LISTEN_', 'PSERVE_WORKER'))]}
class Hanger(BasePlugin):
    async def request_handler(self, **data):
        time.sleep(1000)
";

/// A service manager that takes down what it is told.
struct Manager {
    told: Arc<Mutex<Vec<String>>>,
    path: std::path::PathBuf,
    _dir: tempfile::TempDir,
}

impl Manager {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let told = Arc::new(Mutex::new(Vec::new()));
        let all = Arc::clone(&told);
        std::thread::spawn(move || {
            let mut message = [0; 4096];
            while let Ok(length) = socket.recv(&mut message) {
                all.lock().unwrap().push(String::from_utf8_lossy(&message[..length]).into_owned());
            }
        });
        Self { told, path, _dir: dir }
    }

    fn was_told(&self, needle: &str) -> usize {
        self.told.lock().unwrap().iter().filter(|message| message.contains(needle)).count()
    }
}

#[test]
fn it_learns_of_start_reload_and_end_in_their_order() {
    let manager = Manager::new();
    let mut server =
        TestServer::build().plugin("hello.py", HELLO).env("NOTIFY_SOCKET", manager.path.to_str().unwrap()).start();
    eventually(|| manager.was_told("READY=1") == 1);
    assert!(manager.was_told("STATUS=2 plugins") == 1, "{:?}", manager.told.lock().unwrap());
    assert_eq!(server.get("/hello").json()["env"], serde_json::json!([]));
    server.signal(Signal::HUP);
    eventually(|| manager.was_told("READY=1") == 2);
    let reloading = manager.told.lock().unwrap().iter().find(|text| text.contains("RELOADING=1")).cloned().unwrap();
    assert!(reloading.contains("MONOTONIC_USEC="), "{reloading}");
    // A reload that fails ends, too: `systemctl reload` must not wait for ever.
    let good = server.read_ini();
    server.write_ini(&good.replace("port=0", "port=many"));
    server.signal(Signal::HUP);
    eventually(|| manager.was_told("READY=1") == 3);
    assert_eq!(manager.was_told("the last reload failed"), 1);
    server.signal(Signal::TERM);
    assert_eq!(server.wait().code(), Some(0));
    eventually(|| manager.was_told("STOPPING=1") == 1);
}

#[test]
fn the_watchdog_is_fed_while_the_event_loops_turn() {
    let manager = Manager::new();
    let server = TestServer::build()
        .plugin("hello.py", HELLO)
        .ini("[limits]\nloop_stall=1\ndrain_timeout=1\n")
        .env("NOTIFY_SOCKET", manager.path.to_str().unwrap())
        .env("WATCHDOG_USEC", "600000")
        .start();
    eventually(|| manager.was_told("WATCHDOG=1") >= 3);
    let address = server.address();
    std::thread::spawn(move || send(address, "GET", "/hanger", &[], b""));
    server.wait_for_log("has stood still", 1);
    let fed = manager.was_told("WATCHDOG=1");
    // It goes on with the worker that takes the place.
    eventually(|| manager.was_told("WATCHDOG=1") > fed + 2);
    assert_eq!(server.get("/hello").status, 200);
}

/// Starts the server as the service manager does: with a socket as descriptor 3.
const ACTIVATE: &str = "
import os, socket, sys
listener = socket.create_server(('127.0.0.1', 0))
print(listener.getsockname()[1], flush=True)
os.dup2(listener.fileno(), 3)
os.set_inheritable(3, True)
os.environ['LISTEN_FDS'] = '1'
os.environ['LISTEN_PID'] = str(os.getpid())
os.execv(sys.argv[1], ['pserve'])
";

#[test]
fn sockets_of_the_service_manager_are_served_across_reloads() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("plugins")).unwrap();
    std::fs::write(dir.path().join("plugins/hello.py"), HELLO).unwrap();
    // The port of the file is another's: that of the service manager counts.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    std::fs::write(dir.path().join("pserve.ini"), format!("[network]\nport={port}\n[paths]\nplugins=plugins\n"))
        .unwrap();
    let mut child = Command::new("python3")
        .args(["-c", ACTIVATE, env!("CARGO_BIN_EXE_pserve")])
        .current_dir(dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut first = String::new();
    std::io::BufRead::read_line(&mut log, &mut first).unwrap();
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], first.trim().parse().unwrap()));
    let text = Arc::new(Mutex::new(String::new()));
    let all = Arc::clone(&text);
    std::thread::spawn(move || {
        for line in std::io::BufRead::lines(log).map_while(Result::ok) {
            all.lock().unwrap().push_str(&line);
        }
    });
    // The socket listens already: the request waits until the server has started.
    assert_eq!(send(address, "GET", "/hello", &[], b"").unwrap().json()["env"], serde_json::json!([]));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, Signal::HUP).unwrap();
    eventually(|| text.lock().unwrap().contains("every plugin is reloaded"));
    assert_eq!(send(address, "GET", "/hello", &[], b"").unwrap().status, 200);
    rustix::process::kill_process(pid, Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
