//! `pserve call`: one handler, once, without a server.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]
mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use common::run_to_end;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

const ECHO: &str = "
import sys
from plugincore.baseplugin import BasePlugin
class Echo(BasePlugin):
    methods = ('PUT',)
    async def initialize(self, **data):
        print('begun')
        return True
    async def request_handler(self, **data):
        print('called')
        request = data['request']
        return {'method': request.method, 'path': request.path, 'name': data.get('name'), 'subpath': data.get('subpath'),
                'x': request.headers.get('X-A')}
    async def terminate_plugin(self):
        print('ended')
";

const ODD: &str = "
import asyncio, os
from plugincore.baseplugin import BasePlugin
class Odd(BasePlugin):
    def request_handler(self, **data):
        wanted = data.get('do')
        if wanted == 'raise':
            raise ValueError('no luck')
        if wanted == 'code':
            return int(data['code']), {'code': data['code']}
        if wanted == 'bytes':
            return bytes(range(256))
        return {}
class Forever(BasePlugin):
    async def request_handler(self, **data):
        print('waits', flush=True)
        await asyncio.sleep(3600)
    async def terminate_plugin(self):
        print('ended', flush=True)
";

/// Every way to die at once, and where it happens.
const DYING: &str = "
import ctypes, os, signal, sys, threading, time
from plugincore.baseplugin import BasePlugin
def die(how):
    libc = ctypes.CDLL(None)
    if how == 'kill_segv': os.kill(os.getpid(), signal.SIGSEGV)
    if how == 'kill_bus': os.kill(os.getpid(), signal.SIGBUS)
    if how == 'raise_segv': libc['raise'](11)
    if how == 'segv': ctypes.string_at(0)
    if how == 'kill_abrt': os.kill(os.getpid(), signal.SIGABRT)
    if how == 'abort': os.abort()
    if how == 'kill': os.kill(os.getpid(), signal.SIGKILL)
    if how == 'exit0': os._exit(0)
    if how == 'exit3': os._exit(3)
    if how == 'cexit0': libc.exit(0)
    if how == 'sysexit': sys.exit(0)
    if how == 'term': os.kill(os.getpid(), signal.SIGTERM)
    if how == 'printing':
        def talk():
            while True: print('noise', flush=True)
        threading.Thread(target=talk, daemon=True).start()
        time.sleep(0.05)
        os._exit(0)
";

fn dying(place: &str) -> String {
    let class = match place {
        "plain" => "    def request_handler(self, do, **data):\n        die(do)",
        "async" => "    async def request_handler(self, do, **data):\n        die(do)",
        "constructor" => "    def __init__(self, **data):\n        die('HOW')",
        "initialize" => "    async def initialize(self, **data):\n        die('HOW')",
        "terminate" => {
            "    async def terminate_plugin(self):\n        die('HOW')\n    def request_handler(self, **data):\n        return 'x'"
        }
        _ => "    pass\ndie('HOW')",
    };
    format!("{DYING}class Dying(BasePlugin):\n{class}\n")
}

fn folder() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("plugins")).unwrap();
    for (name, source) in [("echo.py", ECHO), ("odd.py", ODD)] {
        std::fs::write(dir.path().join("plugins").join(name), source).unwrap();
    }
    dir
}

fn call(dir: &Path, arguments: &[&str]) -> (i32, String, String) {
    run_to_end(dir, &[&["call"], arguments].concat())
}

#[test]
fn the_answer_and_nothing_else_goes_to_standard_output() {
    let dir = folder();
    let (status, out, err) = call(dir.path(), &["echo", "name=Ada & Co", "--subpath", "a/b c", "--header", "X-A: 1"]);
    assert_eq!(status, 0, "{err}");
    let answer: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(answer["name"], "Ada & Co");
    assert_eq!((&answer["method"], &answer["subpath"], &answer["x"]), (&"GET".into(), &"a/b c".into(), &"1".into()));
    // The plugin lives as it does in the server; what it prints goes to standard error.
    let printed: Vec<usize> = ["begun", "called", "ended"].iter().map(|word| err.find(word).unwrap()).collect();
    assert!(printed.is_sorted(), "{err}");
}

#[test]
fn a_json_body_comes_from_a_file_or_from_standard_input() {
    let dir = folder();
    std::fs::write(dir.path().join("in.json"), r#"{"name": "Bo"}"#).unwrap();
    let (status, out, err) = call(dir.path(), &["echo", "--json", "in.json", "--method", "put"]);
    assert_eq!(status, 0, "{err}");
    assert!(out.contains(r#""method":"PUT""#) && out.contains(r#""name":"Bo""#), "{out}");
    let mut child = Command::new(env!("CARGO_BIN_EXE_pserve"))
        .current_dir(dir.path())
        .args(["call", "echo", "--json", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(br#"{"name": "Cy"}"#).unwrap();
    let output = child.wait_with_output().unwrap();
    let out = String::from_utf8(output.stdout).unwrap();
    assert!(out.contains(r#""method":"POST""#) && out.contains(r#""name":"Cy""#), "{out}");
    std::fs::write(dir.path().join("in.json"), "{name: 1}").unwrap();
    let (status, out, err) = call(dir.path(), &["echo", "--json", "in.json"]);
    assert_eq!((status, out.as_str()), (2, ""));
    assert!(err.contains("in.json is no JSON") && err.contains("line 1"), "{err}");
}

#[test]
fn errors_are_in_the_exit_status() {
    let dir = folder();
    let (status, out, err) = call(dir.path(), &["odd", "do=raise"]);
    assert_eq!(status, 1);
    assert!(out.contains("no luck") && err.contains("Traceback") && err.contains("status 500"), "{out} {err}");
    for (code, expected) in [("204", 0), ("302", 0), ("404", 1), ("503", 1)] {
        let (status, _, err) = call(dir.path(), &["odd", "do=code", &format!("code={code}")]);
        assert_eq!(status, expected, "{code}: {err}");
    }
    // What the server refuses is refused here, too.
    let (status, _, err) = call(dir.path(), &["odd", "--method", "DELETE"]);
    assert_eq!(status, 1);
    assert!(err.contains("405"), "{err}");
}

#[test]
fn a_plugin_that_ends_its_process_is_named_and_nothing_is_answered() {
    let sent = "dying sent SIG";
    let forms = [
        ("kill_segv", "by SIGSEGV", sent),
        ("kill_bus", "by SIGBUS", sent),
        ("raise_segv", "by SIGSEGV", "Fatal Python error"),
        ("segv", "by SIGSEGV", "line 9 in die"),
        ("kill_abrt", "by SIGABRT", sent),
        ("abort", "by SIGABRT", "dying called os.abort() at "),
        ("kill", "by SIGKILL", sent),
        ("exit0", "with status 0", "dying called os._exit(0) at "),
        ("exit3", "with status 3", "dying called os._exit(3) at "),
        ("cexit0", "with status 0", ""),
        ("printing", "with status 0", "dying called os._exit(0) at "),
    ];
    let folders = ["plain", "async"].map(|place| {
        let dir = folder();
        std::fs::write(dir.path().join("plugins/dying.py"), dying(place)).unwrap();
        dir
    });
    std::thread::scope(|scope| {
        for dir in &folders {
            scope.spawn(move || {
                for (how, ending, word) in forms {
                    let (status, out, err) = call(dir.path(), &["dying", &format!("do={how}")]);
                    assert_eq!((status, out.as_str()), (1, ""), "{how}: {err}");
                    let line = err.lines().find(|line| line.starts_with("pserve: ")).unwrap_or_default();
                    assert!(line.starts_with(&format!("pserve: the plugin's process ended {ending}")), "{how}: {err}");
                    assert!(err.contains(word), "{how}: {err}");
                }
                // These two do not die at once: the one is answered as any exception is, the other ends in order.
                let (status, out, err) = call(dir.path(), &["dying", "do=sysexit"]);
                assert_eq!(status, 1, "{err}");
                assert!(out.contains("SystemExit") && err.contains("status 500"), "{out} {err}");
                assert_eq!(call(dir.path(), &["dying", "do=term"]).0, 130);
            });
        }
    });
}

#[test]
fn a_plugin_that_dies_before_or_after_its_call_is_an_error_too() {
    let places = [
        ("module", "loading a file", ""),
        ("constructor", "loading a file", ""),
        ("initialize", "loading a file", ""),
        ("terminate", "terminating /dying", "x"),
    ];
    std::thread::scope(|scope| {
        for (place, doing, answer) in places {
            scope.spawn(move || {
                let dir = folder();
                for (how, ending) in [("exit0", "with status 0"), ("kill_segv", "by SIGSEGV"), ("abort", "by SIGABRT")]
                {
                    let source = dying(place).replace("HOW", how);
                    std::fs::write(dir.path().join("plugins/dying.py"), source).unwrap();
                    let (status, out, err) = call(dir.path(), &["dying"]);
                    assert_eq!((status, out.as_str()), (1, answer), "{place} {how}: {err}");
                    let line = format!("the plugin's process ended {ending}, {doing}");
                    assert!(err.contains(&line), "{place} {how}: {err}");
                }
                let source = dying(place).replace("HOW", "sysexit");
                std::fs::write(dir.path().join("plugins/dying.py"), source).unwrap();
                let (status, _, err) = call(dir.path(), &["dying"]);
                let is_error = place != "terminate";
                assert_eq!((status, err.contains("dying.py does not load")), (i32::from(is_error), is_error), "{err}");
            });
        }
    });
}

#[test]
fn a_plugin_reads_what_the_command_is_given() {
    let dir = folder();
    let asking = "from plugincore.baseplugin import BasePlugin
class Asking(BasePlugin):
    def request_handler(self, **data):
        return input()
";
    std::fs::write(dir.path().join("plugins/asking.py"), asking).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_pserve"))
        .current_dir(dir.path())
        .args(["call", "asking"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"given\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), b"given".as_slice()));
}

#[test]
fn bytes_come_as_they_are_and_the_head_when_it_is_asked_for() {
    let dir = folder();
    let output = Command::new(env!("CARGO_BIN_EXE_pserve"))
        .current_dir(dir.path())
        .args(["call", "odd", "do=bytes", "--include"])
        .output()
        .unwrap();
    let end = output.stdout.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    let head = String::from_utf8_lossy(&output.stdout[..end]).into_owned();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("content-length: 256"), "{head}");
    assert_eq!(output.stdout[end + 4..], (0..=255).collect::<Vec<u8>>());
}

#[test]
fn keys_are_asked_for_as_in_the_server() {
    let dir = folder();
    let ini = "[paths]\nplugins=plugins\n[auth]\napikey=opensesame\n[plugin_parms]\nodd=auth_type=global\n";
    std::fs::write(dir.path().join("my.ini"), ini).unwrap();
    let (status, _, err) = call(dir.path(), &["-i", "my.ini", "odd"]);
    assert_eq!(status, 1);
    assert!(err.contains("403") && err.contains("--key"), "{err}");
    let (status, out, err) = call(dir.path(), &["-i", "my.ini", "odd", "--key", "opensesame"]);
    assert_eq!((status, out.as_str()), (0, "{}"), "{err}");
    assert_eq!(run_to_end(dir.path(), &["-i", "my.ini", "call", "odd", "apikey=opensesame"]).0, 0);
}

#[test]
fn names_that_are_none_are_mistakes_and_broken_files_are_errors() {
    let dir = folder();
    let (status, out, err) = call(dir.path(), &["ecko"]);
    assert_eq!((status, out.as_str()), (2, ""));
    assert!(err.contains("did you mean `echo`"), "{err}");
    let (status, _, err) = call(dir.path(), &["reload/echo"]);
    assert_eq!(status, 2);
    assert!(err.contains("route of the server itself"), "{err}");
    std::fs::write(dir.path().join("plugins/bad.py"), "\nx = = 1\n").unwrap();
    let (status, _, err) = call(dir.path(), &["bad"]);
    assert_eq!(status, 1);
    assert!(err.contains("bad.py does not load") && err.contains("SyntaxError"), "{err}");
    // A plugin whose route is not its file's name is found, past the file that is broken.
    std::fs::write(dir.path().join("plugins/zed.py"), ECHO).unwrap();
    std::fs::write(dir.path().join("my.ini"), "[paths]\nplugins=plugins\n[plugin_parms]\nzed=route_path=deep/er\n")
        .unwrap();
    let (status, out, err) = call(dir.path(), &["-i", "my.ini", "deep/er"]);
    assert_eq!(status, 0, "{err}");
    assert!(out.contains(r#""path":"/deep/er""#), "{out}");
}

#[test]
fn a_folder_does_without_an_ini_file() {
    let dir = folder();
    let other = tempfile::tempdir().unwrap();
    let plugins = dir.path().join("plugins");
    let (status, _, err) = call(other.path(), &["odd", "--plugins", plugins.to_str().unwrap()]);
    assert_eq!(status, 0, "{err}");
    let (status, _, err) = call(other.path(), &["odd", "--plugins", "nowhere"]);
    assert_eq!((status, err.lines().count()), (2, 1), "{err}");
    assert_eq!(call(other.path(), &["odd", "-i", "nowhere.ini"]).0, 2);
    // Programs that lie in the current folder are not run unasked, not even beside a plugin.
    std::fs::write(other.path().join("odd.py"), ODD).unwrap();
    std::fs::write(other.path().join("program.py"), "open('was_run', 'w')").unwrap();
    for command in [&["call", "odd"][..], &["plugins"], &["plugins", "--files"]] {
        let (status, out, err) = run_to_end(other.path(), command);
        assert_eq!((status, out.as_str(), err.lines().count()), (2, "", 1), "{err}");
        assert!(err.contains("--plugins FOLDER"), "{err}");
    }
    assert!(!other.path().join("was_run").exists());
}

#[test]
fn an_interrupted_call_ends_its_plugin() {
    let dir = folder();
    let mut child = Command::new(env!("CARGO_BIN_EXE_pserve"))
        .current_dir(dir.path())
        .args(["call", "forever"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut err = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("waits") {
        line.clear();
        assert!(err.read_line(&mut line).unwrap() > 0, "it ended before it waited");
    }
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let mut rest = String::new();
    err.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest}");
    assert!(rest.contains("ended"), "{rest}");
}

#[test]
fn the_page_about_it_shows_what_the_sample_plugins_answer() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("docs/commands.md")).unwrap();
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("python_plugins")).unwrap();
    for name in ["hello.py", "systeminfo.py"] {
        std::fs::copy(root.join("python_plugins").join(name), dir.path().join("python_plugins").join(name)).unwrap();
    }
    let (status, out, err) = call(dir.path(), &["hello", "name=Ada"]);
    assert_eq!((status, out.as_str()), (0, r#"{"hello":"Ada"}"#), "{err}");
    assert!(page.contains(&format!("$ pserve call hello name=Ada\n{out}\n")), "{out}");
    std::fs::write(
        dir.path().join("my.ini"),
        "[paths]\nplugins=python_plugins\n[plugin_parms]\nsysteminfo=interval=3\n",
    )
    .unwrap();
    let (_, out, _) = run_to_end(dir.path(), &["plugins", "--files", "-i", "my.ini"]);
    // The server's list differs in its state, and knows no lines.
    let words = |text: &str| {
        let text = text.replace("serving", "loads").replace(".py:14", ".py").replace(".py:23", ".py");
        text.split_whitespace().map(str::to_owned).collect::<Vec<_>>().join(" ")
    };
    let (_, table) = out.split_once("\n\n").unwrap();
    assert!(words(&page).contains(&words(table)), "{}", words(table));
}
