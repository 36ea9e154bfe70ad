//! `pserve top`: once for scripts, and on a terminal with its keys.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

mod common;

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use common::{TestServer, eventually, run_to_end};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

const PLUGINS: &str = "
from plugincore.baseplugin import BasePlugin
class Good(BasePlugin):
    def request_handler(self, **data):
        return 'good'
class Bad(BasePlugin):
    def request_handler(self, **data):
        raise ValueError('bad')
";

/// Runs `pserve top` for the server to its end.
fn top(server: &TestServer, arguments: &[&str]) -> (i32, String, String) {
    let ini = server.read_ini().replace("port=0", &format!("port={}", server.address().port()));
    std::fs::write(server.path("top.ini"), ini).unwrap();
    let all: Vec<&str> = ["top", "-i", "top.ini"].iter().chain(arguments).copied().collect();
    run_to_end(server.path("plugins").parent().unwrap(), &all)
}

/// The columns of the row that begins with a name.
fn row(text: &str, name: &str) -> Vec<String> {
    let row = text.lines().find(|line| line.split_whitespace().next() == Some(name));
    let row = row.unwrap_or_else(|| panic!("no row {name:?} in\n{text}"));
    row.split_whitespace().map(str::to_owned).collect()
}

#[test]
fn once_it_shows_what_happens_within_the_interval() {
    let server = TestServer::with_plugin("both.py", PLUGINS);
    for _ in 0..20 {
        server.get("/good");
    }
    let is_done = Arc::new(AtomicBool::new(false));
    let (address, stop) = (server.address(), Arc::clone(&is_done));
    let load = std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            common::send(address, "GET", "/good", &[], b"").unwrap();
            common::send(address, "GET", "/bad", &[], b"").unwrap();
        }
    });
    let (status, text, complaint) = top(&server, &["--once", "--interval", "0.5"]);
    is_done.store(true, Ordering::Relaxed);
    load.join().unwrap();
    assert_eq!((status, complaint.as_str()), (0, ""), "{text}");
    let first = text.lines().next().unwrap();
    assert!(first.starts_with(concat!("pserve ", env!("CARGO_PKG_VERSION"), ", Python 3.")), "{first}");
    assert!(first.contains(&format!("http://{}", server.address())), "{first}");
    for name in ["good", "bad"] {
        let row = row(&text, name);
        assert!(row[1].parse::<f64>().unwrap() > 0.0, "requests: {text}");
        assert!(row[2].ends_with("ms") || row[2].ends_with('s'), "p50: {text}");
        let errors: f64 = row[4].parse().unwrap();
        assert_eq!(errors > 0.0, name == "bad", "errors: {text}");
    }
    let worker = row(&text, "1");
    assert_eq!(worker[1], server.worker().as_raw_pid().to_string());
    assert!(worker[3].ends_with('M'), "memory: {text}");
    assert!(!text.contains('\u{1b}'), "no colours on a pipe: {text:?}");
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
}

#[test]
fn once_an_idle_server_shows_no_times() {
    let server = TestServer::with_plugin("both.py", PLUGINS);
    let (status, text, _) = top(&server, &["--interval=0.1", "--sort=name"]);
    assert_eq!(status, 0, "without a terminal it is once");
    assert_eq!(row(&text, "good"), ["good", "0.0", "-", "-", "0.0", "0", "0"]);
    assert!(text.find("\nbad ") < text.find("\ngood "), "{text}");
}

#[test]
fn no_server_is_said_at_once() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("plugins")).unwrap();
    let ini = format!("[network]\nbindto=unix:{}/none.sock\n[paths]\nplugins=plugins\n", dir.path().display());
    std::fs::write(dir.path().join("pserve.ini"), ini).unwrap();
    let (status, text, complaint) = run_to_end(dir.path(), &["top", "--once"]);
    assert_eq!((status, text.as_str()), (1, ""));
    assert!(complaint.contains("none.sock") && complaint.contains("is it running?"), "{complaint}");
    let (status, _, complaint) = run_to_end(dir.path(), &["top", "--interval", "0"]);
    assert_eq!(status, 2);
    assert!(complaint.contains("from 0.1 to 3600"), "{complaint}");
}

/// `pserve top` on a terminal of its own.
struct OnTerminal {
    child: Child,
    ours: std::fs::File,
    seen: Arc<Mutex<String>>,
}

impl OnTerminal {
    fn start(server: &TestServer, columns: u16) -> Self {
        let ini = server.read_ini().replace("port=0", &format!("port={}", server.address().port()));
        std::fs::write(server.path("top.ini"), ini).unwrap();
        let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&ours).unwrap();
        unlockpt(&ours).unwrap();
        let name = ptsname(&ours, Vec::new()).unwrap().into_string().unwrap();
        let theirs: OwnedFd = std::fs::OpenOptions::new().read(true).write(true).open(name).unwrap().into();
        tcsetwinsize(&ours, Winsize { ws_row: 24, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_pserve"))
            .args(["top", "-i", "top.ini", "--interval", "0.2"])
            .current_dir(server.path("plugins").parent().unwrap())
            .env("TERM", "xterm")
            .env_remove("NO_COLOR")
            .stdin(Stdio::from(theirs.try_clone().unwrap()))
            .stdout(Stdio::from(theirs.try_clone().unwrap()))
            .stderr(Stdio::from(theirs))
            .spawn()
            .unwrap();
        let ours = std::fs::File::from(ours);
        let (mut reader, seen) = (ours.try_clone().unwrap(), Arc::new(Mutex::new(String::new())));
        let sink = Arc::clone(&seen);
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut bytes) {
                sink.lock().unwrap().push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        });
        Self { child, ours, seen }
    }

    fn seen(&self) -> String {
        self.seen.lock().unwrap().clone()
    }

    /// What was shown last, without colours.
    fn screen(&self) -> String {
        let seen = self.seen();
        let frames: Vec<&str> = seen.split("\u{1b}[H").collect();
        // The last one may not be whole yet.
        let last = frames.iter().rev().find(|frame| frame.contains("\u{1b}[J")).copied().unwrap_or_default();
        let mut text = String::new();
        for piece in last.split('\u{1b}') {
            text.push_str(piece.split_once(|c: char| c.is_ascii_alphabetic()).map_or(piece, |(_, rest)| rest));
        }
        text
    }

    fn press(&mut self, keys: &str) {
        self.ours.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits for the end: the exit status.
    fn end(mut self) -> (Option<i32>, String) {
        let mut status = None;
        eventually(|| {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        eventually(|| self.seen().ends_with("\u{1b}[?25h\u{1b}[?1049l"));
        (status.and_then(|status| status.code()), self.seen())
    }
}

impl Drop for OnTerminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn on_a_terminal_it_is_live_and_keys_sort() {
    let server = TestServer::with_plugin("both.py", PLUGINS);
    let mut top = OnTerminal::start(&server, 80);
    eventually(|| top.screen().contains("PLUGIN") && top.screen().contains("q quit"));
    assert!(top.seen().starts_with("\u{1b}[?1049h\u{1b}[?25l"), "{:?}", top.seen());
    assert!(top.seen().contains("\u{1b}[1m"), "a terminal has colours: {:?}", top.seen());
    server.get("/good");
    eventually(|| top.seen().contains("good") && row_on(&top, "good").is_some_and(|row| row[1] != "0.0"));
    let order = |first: &str, second: &str| {
        let screen = top.screen();
        screen.find(&format!("\n{first} ")) < screen.find(&format!("\n{second} "))
    };
    eventually(|| row_on(&top, "good").is_some_and(|row| row[1] == "0.0") && order("bad", "good"));
    // The second one turns the order round.
    top.press("nn");
    eventually(|| {
        let screen = top.screen();
        screen.find("\ngood ").is_some() && screen.find("\ngood ") < screen.find("\nbad ")
    });
    let before = rustix::termios::tcgetattr(&top.ours).unwrap();
    assert!(!before.local_modes.contains(rustix::termios::LocalModes::ICANON), "keys come as they are pressed");
    top.press("q");
    let ours = top.ours.try_clone().unwrap();
    let (status, seen) = top.end();
    assert_eq!(status, Some(0), "{seen:?}");
    let after = rustix::termios::tcgetattr(&ours).unwrap();
    assert!(after.local_modes.contains(rustix::termios::LocalModes::ICANON), "the terminal is as it was");
}

#[test]
fn on_a_terminal_it_follows_its_size_and_a_server_that_goes() {
    let server = TestServer::with_plugin("both.py", PLUGINS);
    let top = OnTerminal::start(&server, 120);
    let width =
        || top.screen().lines().find(|line| line.starts_with("PLUGIN")).map(|line| line.trim_end().chars().count());
    eventually(|| width() == Some(120));
    tcsetwinsize(&top.ours, Winsize { ws_row: 15, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    eventually(|| width() == Some(80) && top.screen().lines().count() == 15);
    drop(server);
    eventually(|| top.screen().contains("no server at http://127.0.0.1:"));
    kill_process(Pid::from_child(&top.child), Signal::TERM).unwrap();
    assert_eq!(top.end().0, Some(0));
}

/// The columns of a row on the terminal, when it is there.
fn row_on(top: &OnTerminal, name: &str) -> Option<Vec<String>> {
    let screen = top.screen();
    let row = screen.lines().find(|line| line.split_whitespace().next() == Some(name))?;
    Some(row.split_whitespace().map(str::to_owned).collect())
}
