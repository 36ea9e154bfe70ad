//! `pserve dev`: what is saved is served, what does not load is shown, requests are shown.

mod common;

use std::fs;
use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

use common::{Log, PATIENCE, Reply, eventually};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

const GREETER: &str = "\
from plugincore.baseplugin import BasePlugin

class Greeter(BasePlugin):
    async def request_handler(self, **data):
        return {\"hello\": \"one\"}
";

/// A folder in which somebody writes plugins.
struct Desk {
    dir: TempDir,
    arguments: Vec<String>,
}

/// `pserve dev`, stopped on drop.
struct Dev {
    dir: TempDir,
    child: Child,
    output: std::sync::Arc<Log>,
    address: SocketAddr,
}

impl Desk {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        fs::create_dir(dir.path().join("plugins")).expect("made");
        Self { dir, arguments: Vec::new() }
    }

    fn file(self, name: &str, text: &str) -> Self {
        write(&self.dir.path().join(name), text);
        self
    }

    fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pserve"));
        command
            .current_dir(self.dir.path())
            .arg("dev")
            .args(&self.arguments)
            .env_remove("VIRTUAL_ENV")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// On a port that the system chooses.
    fn start(self) -> Dev {
        let mut child = self.command().args(["--port", "0"]).spawn().expect("started");
        let output = std::sync::Arc::new(Log::default());
        output.follow(child.stdout.take().expect("a pipe"));
        output.follow(child.stderr.take().expect("a pipe"));
        let Some(text) = output.wait_until(|text| text.contains("ready after")) else {
            let _ = child.kill();
            panic!("it does not start:\n{}", output.text());
        };
        let address = address_in(&text).expect("an address");
        Dev { dir: self.dir, child, output, address }
    }
}

fn address_in(text: &str) -> Option<SocketAddr> {
    let (_, rest) = text.split_once("http://")?;
    rest.split(|c: char| c == '/' || c.is_whitespace()).next()?.parse().ok()
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().expect("a folder")).expect("made");
    fs::write(path, text).expect("written");
}

impl Dev {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn save(&self, name: &str, text: &str) {
        write(&self.path(name), text);
    }

    fn get(&self, path: &str) -> Reply {
        common::send(self.address, "GET", path, &[], b"").expect("an answer")
    }

    /// Waits for a text on the terminal. The answer is all that is there then.
    fn sees(&self, needle: &str) -> String {
        self.output.wait_until(|text| text.contains(needle)).unwrap_or_else(|| {
            panic!("no {needle:?} on the terminal:\n{}", self.output.text());
        })
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("signalled");
    }

    fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("a status") {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end:\n{}", self.output.text());
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_folder_is_served_without_an_ini_file_and_told_with_its_addresses() {
    let dev = Desk::new().file("plugins/greeter.py", GREETER).start();
    assert_eq!(dev.get("/greeter").json()["hello"], "one");
    let text = dev.sees("/greeter  http://127.0.0.1:");
    assert!(text.contains("without an INI file"), "{text}");
    assert!(text.contains(&format!("http://{}/greeter", dev.address)), "{text}");
    assert!(!text.contains('\u{1b}'), "no colours in a pipe: {text:?}");
}

#[test]
fn a_saved_plugin_is_reloaded_and_told_in_one_line() {
    let dev = Desk::new().file("plugins/greeter.py", GREETER).start();
    dev.save("plugins/greeter.py", &GREETER.replace("one", "two"));
    let text = dev.sees("reloaded greeter.py: /greeter (");
    assert_eq!(dev.get("/greeter").json()["hello"], "two");
    let line = text.lines().find(|line| line.contains("  reloaded ")).expect("a line");
    assert!(line.ends_with("ms)"), "{line}");
}

#[test]
fn a_broken_save_is_shown_and_answered_until_it_is_mended() {
    let dev = Desk::new().file("plugins/greeter.py", GREETER).start();
    dev.save("plugins/greeter.py", &GREETER.replace("return {", "return {{"));
    let text = dev.sees("greeter.py does not load: SyntaxError");
    dev.sees("> 5 |         return {{");
    assert!(!text.contains("pserve_runtime"), "frames of the server: {text}");
    let reply = dev.get("/greeter");
    assert_eq!(reply.status, 500);
    let body = reply.json();
    assert!(body["error"].as_str().expect("text").starts_with("greeter.py does not load: SyntaxError"), "{body}");
    assert_eq!((body["line"].as_u64(), body["type"].as_str()), (Some(5), Some("SyntaxError")));
    let source = body["source"].as_array().expect("lines");
    assert!(source.iter().any(|line| line.as_str().is_some_and(|line| line.starts_with("> 5 |"))), "{body}");
    dev.save("plugins/greeter.py", &GREETER.replace("one", "three"));
    dev.sees("mended greeter.py: http://127.0.0.1:");
    assert_eq!(dev.get("/greeter").json()["hello"], "three");
}

#[test]
fn a_file_that_never_loaded_answers_with_its_error_too() {
    let dev = Desk::new().file("plugins/greeter.py", "import no_such_module\n").start();
    dev.sees("greeter.py does not load: ModuleNotFoundError");
    let text = dev.sees("> 1 | import no_such_module");
    assert!(text.contains("/greeter  does not load  greeter.py"), "{text}");
    let reply = dev.get("/greeter");
    assert_eq!(reply.status, 500);
    assert!(reply.json()["error"].as_str().expect("text").contains("no_such_module"));
    dev.save("plugins/greeter.py", GREETER);
    dev.sees("mended greeter.py");
    assert_eq!(dev.get("/greeter").json()["hello"], "one");
}

#[test]
fn a_helper_module_reloads_the_plugins_that_import_it_and_no_others() {
    let counting = GREETER.replace("class Greeter", "class Other");
    let dev = Desk::new()
        .file("plugins/greeter.py", &format!("from pkg import words\n{}", GREETER.replace("\"one\"", "words.WORD")))
        .file("plugins/pkg/__init__.py", "")
        .file("plugins/pkg/words.py", "from .deep import WORD\n")
        .file("plugins/pkg/deep.py", "WORD = 'first'\n")
        .file("plugins/other.py", &counting)
        .start();
    assert_eq!(dev.get("/greeter").json()["hello"], "first");
    dev.save("plugins/pkg/deep.py", "WORD = 'second'\n");
    let text = dev.sees("reloaded pkg/deep.py: /greeter (");
    assert!(!text.contains("/other ("), "{text}");
    assert_eq!(dev.get("/greeter").json()["hello"], "second");
    // A plugin that does not load for its helper's sake is mended with it.
    dev.save("plugins/pkg/deep.py", "WORD = \n");
    dev.sees("greeter.py does not load: SyntaxError");
    let text = dev.sees("> 1 | WORD =");
    assert!(text.contains("pkg/deep.py, line 1"), "{text}");
    dev.save("plugins/pkg/deep.py", "WORD = 'third'\n");
    dev.sees("mended greeter.py");
    assert_eq!(dev.get("/greeter").json()["hello"], "third");
}

#[test]
fn new_files_come_and_removed_ones_go() {
    let dev = Desk::new().start();
    dev.sees("no plugin yet: pserve new NAME");
    dev.save("plugins/greeter.py", GREETER);
    dev.sees(&format!("loaded greeter.py: http://{}/greeter (", dev.address));
    assert_eq!(dev.get("/greeter").json()["hello"], "one");
    // As editors save: into another file, which takes the place of the old one.
    dev.save("plugins/.greeter.py.tmp", &GREETER.replace("one", "two"));
    fs::rename(dev.path("plugins/.greeter.py.tmp"), dev.path("plugins/greeter.py")).expect("renamed");
    dev.sees("reloaded greeter.py: /greeter (");
    assert_eq!(dev.get("/greeter").json()["hello"], "two");
    dev.save("plugins/greeter.py", &GREETER.replace("Greeter", "Other"));
    dev.sees("/other; /greeter has gone (");
    fs::remove_file(dev.path("plugins/greeter.py")).expect("removed");
    dev.sees("removed greeter.py: /other unloaded (");
    assert_eq!(dev.get("/other").status, 404);
}

#[test]
fn the_ini_file_and_parameter_files_are_watched_where_they_are_named() {
    let greeter = GREETER.replace("\"one\"", "self.args.get(\"word\"), \"section\": self.config.greeting.word");
    let ini =
        "[paths]\nplugins=plugins\npidfile=dev.pid\n[plugin_parms]\ngreeter=json=greeter.json\n[greeting]\nword=a\n";
    let dev = Desk::new()
        .file("plugins/greeter.py", &greeter)
        .file("plugins/greeter.json", "{\"word\": \"one\"}")
        .file("pserve.ini", ini)
        .argument("-i")
        .argument("pserve.ini")
        .start();
    assert!(!dev.path("dev.pid").exists(), "the pidfile is the production server's");
    dev.save("plugins/greeter.json", "{\"word\": \"two\"}");
    dev.sees("reloaded greeter.json: /greeter (");
    assert_eq!(dev.get("/greeter").json()["hello"], "two");
    dev.save("pserve.ini", &ini.replace("word=a", "word=b"));
    dev.sees("reloaded pserve.ini, with new workers (");
    eventually(|| dev.get("/greeter").json()["section"] == "b");
    dev.save("pserve.ini", &ini.replace("word=a", "word=c\nnonsense"));
    let text = dev.sees("the old configuration stays");
    assert!(text.contains("pserve.ini:8: "), "{text}");
    assert_eq!(dev.get("/greeter").json()["section"], "b");
    dev.save("pserve.ini", &ini.replace("word=a", "word=d"));
    eventually(|| dev.get("/greeter").json()["section"] == "d");
}

#[test]
fn an_exception_of_a_handler_is_in_the_terminal_and_in_the_answer() {
    let dev = Desk::new().file("plugins/greeter.py", &GREETER.replace("\"one\"", "1 / 0")).start();
    let body = dev.get("/greeter").json();
    assert!(body["traceback"].as_str().expect("text").contains("ZeroDivisionError"), "{body}");
    dev.sees("ZeroDivisionError: division by zero");
    dev.sees("500  GET");
}

#[test]
fn requests_are_shown_without_keys() {
    let dev = Desk::new().file("plugins/greeter.py", GREETER).start();
    dev.get("/greeter?apikey=very-secret&x=1");
    let text = dev.sees("/greeter?apikey=***&x=1");
    assert!(!text.contains("very-secret"), "{text}");
    let line = text.lines().find(|line| line.contains("/greeter?")).expect("a line");
    let words: Vec<&str> = line.split_whitespace().collect();
    assert_eq!((words[1], words[2], words[4], words[5], words[6]), ("200", "GET", "ms", "15", "B"), "{line}");
}

#[test]
fn polling_notices_what_events_would_tell() {
    let dev = Desk::new().file("plugins/greeter.py", GREETER).argument("--poll").start();
    dev.sees("looked at again and again");
    dev.save("plugins/greeter.py", &GREETER.replace("one", "two"));
    dev.sees("reloaded greeter.py: /greeter (");
}

#[test]
fn a_port_that_was_asked_for_and_is_taken_is_an_error() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    let desk = Desk::new().argument("--port").argument(&port);
    let output = desk.command().output().expect("run");
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{complaint}");
    assert!(complaint.contains(&format!("127.0.0.1:{port}")), "{complaint}");
}

#[test]
fn an_interrupt_ends_it_soon_even_with_a_request_in_flight() {
    let slow =
        GREETER.replace("        return", "        import asyncio\n        await asyncio.sleep(60)\n        return");
    let mut dev = Desk::new().file("plugins/greeter.py", &slow).start();
    let mut client = common::connect(dev.address).expect("connected");
    std::io::Write::write_all(&mut client, b"GET /greeter HTTP/1.1\r\nHost: x\r\n\r\nGET /greeter").expect("sent");
    eventually(|| dev.get("/plugins?verbose=1").json()["files"][0]["plugins"][0]["calls"] == 1);
    let asked = Instant::now();
    dev.signal(Signal::INT);
    assert_eq!(dev.wait().code(), Some(0));
    assert!(asked.elapsed().as_secs() < 5, "{:?}", asked.elapsed());
    let mut rest = Vec::new();
    let _ = client.read_to_end(&mut rest);
}

/// Runs it on a terminal of its own, by way of `script`, and gives what was on it.
fn on_a_terminal(environment: &[(&str, &str)]) -> String {
    let desk = Desk::new().file("plugins/greeter.py", GREETER);
    let command = format!("{} dev --port 0", env!("CARGO_BIN_EXE_pserve"));
    let mut child = Command::new("script")
        .args(["--quiet", "--flush", "--command", &command, "typescript"])
        .current_dir(desk.dir.path())
        .env_remove("VIRTUAL_ENV")
        .env_remove("NO_COLOR")
        .env("TERM", "xterm")
        .envs(environment.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script of util-linux");
    let output = std::sync::Arc::new(Log::default());
    output.follow(child.stdout.take().expect("a pipe"));
    output.wait_until(|text| text.contains("ready after")).expect("it starts");
    // The key for an interrupt, as the terminal takes it.
    let mut keys = child.stdin.take().expect("a pipe");
    std::io::Write::write_all(&mut keys, b"\x03").expect("typed");
    assert!(output.wait_until(|text| text.contains("stopping")).is_some(), "{}", output.text());
    assert_eq!(child.wait().expect("ended").code(), Some(0));
    output.text()
}

#[test]
fn a_terminal_has_colours_unless_no_color_is_set() {
    let text = on_a_terminal(&[]);
    assert!(text.contains("\u{1b}[36mhttp://127.0.0.1:"), "{text:?}");
    let text = on_a_terminal(&[("NO_COLOR", "1")]);
    assert!(text.contains("  http://127.0.0.1:") && !text.contains('\u{1b}'), "{text:?}");
}

#[test]
fn a_file_that_the_control_routes_do_not_load_is_shown_too() {
    let picky = format!("import os\nif os.path.exists('flag'):\n    raise RuntimeError('a flag')\n{GREETER}");
    let dev = Desk::new().file("plugins/greeter.py", &picky).start();
    dev.save("flag", "");
    assert_eq!(dev.get("/reload/greeter").status, 500);
    dev.sees("greeter.py does not load: RuntimeError: a flag");
    assert_eq!(dev.get("/greeter").status, 500);
    fs::remove_file(dev.path("flag")).expect("removed");
    assert_eq!(dev.get("/reload/greeter").status, 200);
    assert_eq!(dev.get("/greeter").json()["hello"], "one");
}

#[test]
fn a_folder_that_has_been_away_is_watched_again() {
    let dev = Desk::new().file("plugins/greeter.py", GREETER).start();
    fs::rename(dev.path("plugins"), dev.path("elsewhere")).expect("renamed");
    write(&dev.path("plugins/greeter.py"), &GREETER.replace("one", "two"));
    eventually(|| dev.get("/greeter").json()["hello"] == "two");
    dev.save("plugins/greeter.py", &GREETER.replace("one", "three"));
    eventually(|| dev.get("/greeter").json()["hello"] == "three");
}

#[test]
fn a_save_that_takes_its_time_is_told_before_it_is_done() {
    let dev = Desk::new().file("plugins/greeter.py", GREETER).start();
    let slow = format!(
        "{GREETER}\n    async def initialize(self, **kwargs):\n        import asyncio\n        await asyncio.sleep(2.6)\n"
    );
    dev.save("plugins/greeter.py", &slow);
    dev.sees("still loading");
    dev.sees("reloaded greeter.py: /greeter (");
}

#[test]
fn a_hangup_of_the_terminal_ends_it() {
    let mut dev = Desk::new().file("plugins/greeter.py", GREETER).start();
    dev.signal(Signal::HUP);
    assert_eq!(dev.wait().code(), Some(0));
}

#[test]
fn programs_in_the_current_folder_are_not_run() {
    let desk = Desk::new().file("clean_up.py", "# as the tests of a plugin do\nimport plugincore\nopen('ran', 'w')\n");
    fs::remove_dir(desk.dir.path().join("plugins")).expect("removed");
    let output = desk.command().output().expect("run");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("name the folder"));
    assert!(!desk.dir.path().join("ran").exists());
}

#[test]
fn the_current_folder_is_served_when_it_is_named() {
    let dev = Desk::new().file("greeter.py", GREETER).argument(".").start();
    assert_eq!(dev.get("/greeter").json()["hello"], "one");
}

#[test]
fn the_live_page_is_there_and_told() {
    let dev = Desk::new().file("plugins/greeter.py", GREETER).start();
    dev.sees(&format!("http://{}/-/", dev.address));
    assert_eq!(dev.get("/-/").status, 200);
}

#[test]
fn a_save_that_takes_the_worker_down_is_told_and_the_next_one_serves() {
    let dev = Desk::new().file("plugins/greeter.py", GREETER).start();
    dev.save("plugins/greeter.py", &format!("import os\nos.abort()\n{GREETER}"));
    dev.sees("greeter.py cannot be taken up: the worker ended");
    dev.save("plugins/greeter.py", &GREETER.replace("one", "two"));
    eventually(|| {
        common::send(dev.address, "GET", "/greeter", &[], b"").is_ok_and(|reply| reply.text().contains("two"))
    });
}
