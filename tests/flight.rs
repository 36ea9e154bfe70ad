//! A worker process of the test's own, with a flight recorder: what is left after its death, and what its interpreter
//! tells about itself. Python wants the process's main thread, so that this file is its own harness.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]
#![allow(clippy::print_stdout, reason = "it is its own harness")]

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use pserve::config::Table;
use pserve::exchange::{BodyFields, PluginRequest};
use pserve::flight::{self, Culprits, FlightRecorder, FlightReport};
use pserve::python::{FileToLoad, Interpreter, InterpreterOptions};
use pserve::request_id::RequestId;
use rustix::io::FdFlags;

/// Told when a call begins.
struct Watched(Arc<tokio::sync::Notify>);

impl pserve::python::CallWatch for Watched {
    fn begins(&self) {
        self.0.notify_one();
    }
    fn raised(&self) {}
}

const PLUGINS: &str = "
import asyncio, ctypes, os, signal, sys, threading, time
from plugincore.baseplugin import BasePlugin
class Killer(BasePlugin):
    async def request_handler(self, **data):
        asyncio.create_task(act(data['subpath']), name='the act')
        await asyncio.sleep(100)
class Plain(BasePlugin):
    def request_handler(self, **data):
        do(data['subpath'])
class Waiter(BasePlugin):
    async def request_handler(self, **data):
        await asyncio.sleep(100)
async def act(what):
    await asyncio.sleep(0.01)
    do(what)
def do(what):
    if what == 'exit': os._exit(3)
    if what == 'abort': os.abort()
    if what == 'kill': os.kill(os.getpid(), signal.SIGKILL)
    if what == 'term': os.kill(os.getpid(), signal.SIGVTALRM)
    if what == 'raise': signal.raise_signal(signal.SIGALRM)
    if what == 'harmless': os.kill(os.getpid(), 0); signal.raise_signal(signal.SIGWINCH); os._exit(0)
    if what == 'segv': ctypes.string_at(0)
    if what == 'thread': threading.Thread(target=os._exit, args=(4,)).start(); time.sleep(100)
    if what == 'lambda': threading.Thread(target=lambda: os._exit(4)).start(); time.sleep(100)
    if what == 'fork':
        child = os.fork()
        if child == 0: os._exit(0)
        os.waitpid(child, 0)
        os.kill(os.getpid(), signal.SIGKILL)
    if what == 'sleep': time.sleep(2.5)
    if what == 'hold': hold()
def hold():
    ctypes.PyDLL(None).sleep(3)
";

const DIES_AT_IMPORT: &str = "
import os
os._exit(7)
";

fn main() {
    match std::env::var("PSERVE_TEST_ROLE") {
        Ok(role) => worker(&role),
        Err(_) => {
            what_ends_the_process_is_noted_with_its_plugin();
            a_crash_is_found_on_the_stack();
            a_file_that_dies_at_its_import_is_named();
            a_forked_child_leaves_nothing();
            health_and_stacks_tell_where_python_is_stuck();
        }
    }
}

fn what_ends_the_process_is_noted_with_its_plugin() {
    for (role, words) in [
        ("killer/exit", "called os._exit(3) at "),
        ("killer/abort", "called os.abort() at "),
        ("killer/kill", "sent SIGKILL to its own process with os.kill at "),
        ("killer/term", "sent SIGVTALRM to its own process with os.kill at "),
        ("plain/raise", "sent SIGALRM to its own process with signal.raise_signal at "),
        ("plain/lambda", "called os._exit(4) at "),
    ] {
        let death = death_of(role, PLUGINS);
        let note = death.report.note.clone().unwrap_or_else(|| panic!("{role}: {death:?}"));
        assert!(note.words.starts_with(words) && note.words.contains("plugins/one.py:"), "{role}: {note:?}");
        // A thread of the plugin's own is known by its file.
        let plugin = if role == "plain/lambda" { "one" } else { role.split('/').next().unwrap() };
        assert_eq!(note.plugin, plugin, "{role}");
        let running: Vec<_> = death.report.running.iter().map(|one| one.request.as_str()).collect();
        assert!(running.contains(&"GET /waiter") && running.contains(&format!("GET /{role}").as_str()), "{death:?}");
    }
    assert_eq!(
        death_of("plain/harmless", PLUGINS).report.note.unwrap().words.split(" at ").next(),
        Some("called os._exit(0)")
    );
    println!("what ends the process is noted with its plugin ... ok");
}

fn a_crash_is_found_on_the_stack() {
    for role in ["killer/segv", "plain/segv"] {
        let death = death_of(role, PLUGINS);
        assert_eq!(death.culprits(), Culprits::OnStack(death.file.clone()), "{role}: {death:?}");
    }
    println!("a crash is found on the stack ... ok");
}

fn a_file_that_dies_at_its_import_is_named() {
    let death = death_of("none", DIES_AT_IMPORT);
    assert_eq!(death.culprits(), Culprits::Noted("one".to_owned()), "{death:?}");
    assert_eq!(death.report.running[0].request, death.file.to_string_lossy());
    println!("a file that dies at its import is named ... ok");
}

fn a_forked_child_leaves_nothing() {
    let death = death_of("plain/fork", PLUGINS);
    assert!(death.report.note.unwrap().words.starts_with("sent SIGKILL"));
    assert!(death.report.running.iter().any(|one| one.request == "GET /plain/fork"));
    println!("a forked child leaves nothing ... ok");
}

fn health_and_stacks_tell_where_python_is_stuck() {
    for role in ["watch/sleep", "watch/hold"] {
        let death = death_of(role, PLUGINS);
        assert_eq!(death.status, Some(0), "{role}: {death:?}");
    }
    println!("health and stacks tell where Python is stuck ... ok");
}

#[derive(Debug)]
struct Death {
    status: Option<i32>,
    report: FlightReport,
    crash_text: String,
    file: PathBuf,
}

impl Death {
    fn culprits(&self) -> Culprits {
        flight::culprits(&self.report, &self.crash_text, self.file.parent().unwrap())
    }
}

/// Runs a worker that does something, to its end.
fn death_of(role: &str, source: &str) -> Death {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("plugins/one.py");
    std::fs::create_dir(file.parent().unwrap()).unwrap();
    std::fs::write(&file, source).unwrap();
    let recorder = flight::create().unwrap();
    let crash_path = dir.path().join("crash");
    let crash = File::create(&crash_path).unwrap();
    for fd in [recorder.as_raw_fd(), crash.as_raw_fd()] {
        assert!(fd > 2);
    }
    rustix::io::fcntl_setfd(&recorder, FdFlags::empty()).unwrap();
    rustix::io::fcntl_setfd(&crash, FdFlags::empty()).unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .env("PSERVE_TEST_ROLE", role)
        .env("PSERVE_TEST_FDS", format!("{} {}", recorder.as_raw_fd(), crash.as_raw_fd()))
        .env("PSERVE_TEST_FILE", &file)
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let crash_text = std::fs::read_to_string(crash_path).unwrap();
    Death { status: status.code(), report: flight::read(&recorder), crash_text, file }
}

/// The worker's life.
fn worker(role: &str) {
    let text = std::env::var("PSERVE_TEST_FDS").unwrap();
    let fds: Vec<i32> = text.split(' ').map(|fd| fd.parse().unwrap()).collect();
    let memory = File::options().read(true).write(true).open(format!("/proc/self/fd/{}", fds[0])).unwrap();
    let file = PathBuf::from(std::env::var("PSERVE_TEST_FILE").unwrap());
    let options = InterpreterOptions {
        venv: None,
        plugins_dir: file.parent().unwrap().to_owned(),
        handler_threads: 4,
        max_lost_threads: 2,
        flight: Some(Arc::new(FlightRecorder::open(&memory).unwrap())),
        crash_report_fd: Some(fds[1]),
        ini_file: String::new(),
        log_file: None,
        level_as_typed: String::new(),
    };
    let interpreter = Interpreter::start(&options).unwrap();
    let (role, for_thread) = (role.to_owned(), interpreter.clone());
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            runtime.block_on(act(&for_thread, &role, &file));
        }));
        pserve::exit_status::leave(i32::from(ended.is_err()));
    });
    interpreter.run().unwrap();
}

async fn act(interpreter: &Interpreter, role: &str, file: &Path) {
    let files = vec![FileToLoad { path: file.to_owned(), params: Vec::new(), json_file: None }];
    let (folder, table) = (file.parent().unwrap().to_owned(), Arc::new(Table::parse("", file).unwrap()));
    let limit = Duration::from_secs(5);
    let mut outcomes = interpreter.load(folder, files, table, false, limit, |_| Default::default()).await.unwrap();
    let instances = outcomes.remove(0).result.unwrap();
    let call = |path: &str| {
        let id = path.split('/').next().unwrap();
        let instance = instances.iter().find(|instance| instance.id() == id).unwrap();
        let begun = Arc::<tokio::sync::Notify>::default();
        (interpreter.call(instance, Box::new(request(path)), None, Box::new(Watched(Arc::clone(&begun)))), begun)
    };
    let (waiter, waits) = call("waiter");
    let waiting = tokio::spawn(waiter.answer());
    waits.notified().await;
    if let Some(what) = role.strip_prefix("watch/") {
        let stuck = tokio::spawn(call(&format!("killer/{what}")).0.answer());
        check_the_watch(interpreter, what).await;
        drop((stuck, waiting));
        return;
    }
    let answer = call(role).0.answer();
    let _ = tokio::time::timeout(Duration::from_secs(20), answer).await;
    panic!("{role} has survived");
}

async fn check_the_watch(interpreter: &Interpreter, what: &str) {
    let until = |is_so: fn(&Interpreter) -> bool| async move {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !is_so(interpreter) {
            assert!(Instant::now() < deadline, "it does not come to be: {:?}", interpreter.health());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    until(|interpreter| interpreter.health().stalled_for > Duration::from_millis(300)).await;
    let (asked, for_thread) = (Instant::now(), interpreter.clone());
    let stacks = tokio::task::spawn_blocking(move || for_thread.stacks(Duration::from_millis(300))).await.unwrap();
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    if what == "hold" {
        assert!(stacks.contains("was not to be had") && stacks.contains("in hold\n"), "{stacks}");
        assert!(interpreter.health().gil_wait > Duration::from_millis(300), "{:?}", interpreter.health());
    } else {
        assert!(stacks.contains("thread MainThread") && stacks.contains("time.sleep(2.5)"), "{stacks}");
    }
    until(|interpreter| interpreter.health().stalled_for.is_zero()).await;
    until(|interpreter| interpreter.health().lag < Duration::from_millis(300)).await;
    // The watch goes on when the interpreter is free again; tasks are listed.
    let for_thread = interpreter.clone();
    let stacks = tokio::task::spawn_blocking(move || for_thread.stacks(Duration::from_secs(20))).await.unwrap();
    assert!(stacks.contains("task ") && stacks.contains("await asyncio.sleep(100)"), "{stacks}");
}

fn request(path: &str) -> PluginRequest {
    PluginRequest {
        method: "GET".parse().unwrap(),
        target: format!("/{path}?apikey=hush").parse().expect("a target"),
        version: (1, 1),
        headers: Default::default(),
        peer: ([127, 0, 0, 1], 1).into(),
        local: ([127, 0, 0, 1], 2).into(),
        client_ip: "127.0.0.1".into(),
        scheme: "http",
        forwarded_host: None,
        subpath: path.split_once('/').map(|(_, rest)| rest.to_owned()),
        request_id: RequestId::make(),
        body: Default::default(),
        streamed_body: None,
        max_body_bytes: 1 << 20,
        form: BodyFields::None,
        body_key: None,
    }
}
