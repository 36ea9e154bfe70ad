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
