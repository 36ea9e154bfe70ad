//! `--log-format`, `[server] log_format` and `log_level`, and levels of single plugins.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

mod common;

use common::{TestServer, eventually, run_to_end};
use rustix::process::Signal;
use serde_json::Value;

const TALKER: &str = r#"
import logging
from plugincore.baseplugin import BasePlugin
module = logging.getLogger(__name__)
class Talker(BasePlugin):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self._plugin_id = 'the/talker'
    def request_handler(self, **data):
        module.debug('module debug')
        module.info('module info')
        logging.getLogger('lib.part').debug('lib debug')
        logging.getLogger('lib.part').info('lib info')
        self.log.debug('own debug')
        self.log.info('own info')
        self.log.error('said')
        return 'talked'
class Other(BasePlugin):
    def request_handler(self, **data):
        self.log.debug('other debug')
        self.log.info('other info')
        logging.getLogger('lib.part').info('lib for other')
        self.log.error('said')
        return 'talked'
"#;

const ODD: &str = r#"
import logging
from plugincore.baseplugin import BasePlugin
class Odd(BasePlugin):
    def request_handler(self, **data):
        self.log.warning('line\none \udc80 \x00 \x1b[2J \x7f \x9b \u2028 "quoted\\" \U0001f600')
        logging.getLogger('bad \udc80\n name').error('%s', 'a name')
        try:
            int('no number')
        except ValueError:
            logging.getLogger('odd.part').exception('it failed')
        raise KeyError('opensesame')
"#;

/// Lines of the log that are not those of a start.
fn lines(server: &TestServer) -> Vec<Value> {
    let log = server.log();
    log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|problem| panic!("{problem}: {line}"))).collect()
}

fn line(server: &TestServer, message: &str) -> Value {
    let found = lines(server).into_iter().find(|line| line["message"] == message);
    found.unwrap_or_else(|| panic!("no line {message:?} in\n{}", server.log()))
}

/// What the request is called; this machine is trusted.
const NAMED: [(&str, &str); 1] = [("X-Request-Id", "the-id")];

/// The plugin's lines of one request, in the order in which they came, without the request's id.
fn said(server: &TestServer, path: &str, requests: usize) -> String {
    let before = server.log().len();
    assert_eq!(server.request("GET", path, &NAMED, b"").status, 200);
    server.wait_for_log("said", requests);
    server.log()[before..].replace(" [request the-id]\n", "\n")
}

#[test]
fn every_line_is_an_object_whatever_a_plugin_logs() {
    // The address in a log line ends with the line elsewhere; here a quotation mark follows.
    let server = TestServer::build()
        .plugin("odd.py", ODD)
        .plugin("broken.py", "1 / 0\n")
        .ini("[auth]\napikey=opensesame")
        .argument("--log-format=json")
        .start();
    assert_eq!(server.request("GET", "/odd", &NAMED, b"").status, 500);
    server.wait_for_log("GET /odd raised KeyError", 1);
    let odd = line(&server, "line\none \\udc80 \0 \u{1b}[2J \u{7f} \u{9b} \u{2028} \"quoted\\\" \u{1f600}");
    assert_eq!((&odd["level"], &odd["logger"], &odd["plugin"]), (&"WARNING".into(), &"odd".into(), &"odd".into()));
    assert_eq!((&odd["worker"], &odd["pid"]), (&1.into(), &server.worker().as_raw_pid().into()));
    assert!(odd.get("traceback").is_none());
    let time = odd["time"].as_str().unwrap();
    assert!(chrono::DateTime::parse_from_rfc3339(time).is_ok() && time.ends_with('Z') && time.contains('.'), "{time}");
    assert_eq!(line(&server, "a name")["logger"], "bad \\udc80\n name");
    let failed = line(&server, "it failed");
    assert!(
        failed["traceback"]
            .as_str()
            .unwrap()
            .ends_with("ValueError: invalid literal for int() with base 10: 'no number'")
    );
    assert_eq!((&failed["logger"], &failed["plugin"]), (&"odd.part".into(), &"odd".into()));
    let raised = line(&server, "GET /odd raised KeyError");
    assert!(raised["traceback"].as_str().unwrap().ends_with("KeyError: '***'"), "{raised}");
    assert_eq!(raised["plugin"], "odd");
    assert_eq!([&odd["request_id"], &raised["request_id"]], ["the-id"; 2]);
    let broken = lines(&server).into_iter().find(|line| line["message"].as_str().unwrap().contains("broken.py failed"));
    assert!(broken.unwrap()["traceback"].as_str().unwrap().ends_with("ZeroDivisionError: division by zero"));
    let first = &lines(&server)[0];
    assert!(first["message"].as_str().unwrap().starts_with("pserve "), "{first}");
    assert_eq!(first["pid"], server.pid().as_raw_pid());
    assert!(first.get("worker").is_none(), "the supervisor is none");
}

#[test]
fn the_command_line_stands_above_the_ini_file() {
    let build = TestServer::build().plugin("talker.py", TALKER).argument("--log-format").argument("text");
    let file = build.path().join("own.log");
    let server = build.argument("-l").argument("own.log").ini("[server]\nlog_format=json").start();
    let first = server.log().lines().next().unwrap().to_owned();
    assert!(first.contains(" - pserve - INFO - pserve "), "{first}");
    assert!(std::fs::read_to_string(&file).unwrap().starts_with(&first), "the file is text as well");
}

#[test]
fn a_file_is_json_with_the_json_form() {
    let build = TestServer::build();
    let file = build.path().join("own.log");
    let server = build.argument("-l").argument("own.log").ini("[server]\nlog_format=JSON").start();
    let text = std::fs::read_to_string(&file).unwrap();
    let line: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!(line["pid"], server.pid().as_raw_pid());
}

#[test]
fn a_form_or_level_that_is_none_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("plugins")).unwrap();
    let (status, _, complaint) = run_to_end(dir.path(), &["--log-format", "xml"]);
    assert_eq!(status, 2);
    assert!(complaint.contains("give auto, text, systemd or json"), "{complaint}");
    for (text, expected) in [
        ("[server]\nlog_format=xml", "[server] log_format: `xml` will not do; give auto, text, systemd or json"),
        ("[server]\nlog_level=loud", "[server] log_level: `loud` will not do; give DEBUG, INFO"),
        ("[plugin_options]\na=log=loud", "[plugin_options] a: log=loud will not do; give log=LEVEL: DEBUG, INFO"),
        ("[server]\naccess_log_format=apache", "`apache` will not do; give common, combined or json"),
    ] {
        std::fs::write(dir.path().join("pserve.ini"), format!("[paths]\nplugins=plugins\n{text}\n")).unwrap();
        let (status, _, complaint) = run_to_end(dir.path(), &[]);
        assert_eq!((status, complaint.contains(expected)), (2, true), "{complaint}");
    }
}

#[test]
fn one_plugin_tells_more_than_the_others() {
    let server = TestServer::build().plugin("Loud.py", TALKER).ini("[plugin_options]\nthe/talker=log=DEBUG").start();
    let log = said(&server, "/the/talker", 1);
    for expected in
        ["<7>DEBUG - Loud - module debug\n", "<7>DEBUG - talker - own debug\n", "<6>INFO - lib.part - lib info\n"]
    {
        assert!(log.contains(expected), "{expected} is not in\n{log}");
    }
    assert!(!log.contains("lib debug"), "a library is no plugin: {log}");
    let log = said(&server, "/other", 2);
    assert!(log.contains("other info") && !log.contains("other debug"), "{log}");
}

#[test]
fn a_noisy_plugin_is_quieted_with_everything_that_it_calls() {
    let server = TestServer::build().plugin("loud.py", TALKER).ini("[plugin_options]\nthe/talker=log=WARNING").start();
    let log = said(&server, "/the/talker", 1);
    assert_eq!(log, "<3>ERROR - talker - said\n");
    let log = said(&server, "/other", 2);
    assert!(log.contains("lib for other") && log.contains("other info"), "{log}");
}

#[test]
fn a_library_may_have_a_level_of_its_own() {
    let server = TestServer::build()
        .plugin("loud.py", TALKER)
        .ini("[plugin_options]\nlib=log=debug\n[server]\nlog_level=error")
        .start();
    let log = said(&server, "/the/talker", 1);
    assert_eq!(log, "<7>DEBUG - lib.part - lib debug\n<6>INFO - lib.part - lib info\n<3>ERROR - talker - said\n");
}

#[test]
fn levels_and_form_change_with_a_signal() {
    let server = TestServer::build().plugin("loud.py", TALKER).start();
    assert!(!said(&server, "/the/talker", 1).contains("debug"));
    let ini = server.read_ini();
    server.write_ini(&format!(
        "{ini}[plugin_options]\nthe/talker=log=debug\n[server]\nlog_format=json\nlog_level=warning\n"
    ));
    server.signal(Signal::HUP);
    // The new workers serve, and the old one has gone.
    eventually(|| said_now(&server).contains("\"message\":\"own debug\""));
    let before = server.log().len();
    server.signal(Signal::USR2);
    server.write_ini(&ini);
    server.signal(Signal::HUP);
    server.wait_for_log("<6>INFO - pserve - SIGHUP: the new workers serve", 1);
    assert!(!server.log()[before..].contains("\"level\":\"INFO\",\"logger\":\"pserve\",\"message\":\"SIGHUP"));
    eventually(|| !said_now(&server).contains("debug"));
}

#[test]
fn levels_change_with_a_reload_of_the_plugin() {
    let server = TestServer::build().plugin("loud.py", TALKER).start();
    let ini = server.read_ini();
    server.write_ini(&format!("{ini}[plugin_options]\nthe/talker=log=debug\n"));
    assert_eq!(server.get("/reload/the/talker").status, 200);
    assert!(said(&server, "/the/talker", 1).contains("<7>DEBUG - loud - module debug"));
    server.write_ini(&ini);
    assert_eq!(server.get("/reload/the/talker").status, 200);
    assert!(!said(&server, "/the/talker", 2).contains("debug"));
}

/// What one more request adds to the log, for as long as nobody else writes there.
fn said_now(server: &TestServer) -> String {
    let count = server.log().matches("said").count();
    said(server, "/the/talker", count + 1)
}

#[test]
fn the_access_log_tells_duration_and_plugin_as_json() {
    let streamer = "
from aiohttp import web
import asyncio
from plugincore.baseplugin import BasePlugin
class Streamer(BasePlugin):
    async def request_handler(self, **data):
        response = web.StreamResponse()
        await response.prepare(data['request'])
        await response.write(b'first')
        await asyncio.sleep(0.3)
        return response
";
    let server = TestServer::build()
        .plugin("loud.py", TALKER)
        .plugin("streamer.py", streamer)
        .ini("[server]\naccess_log=access.log\naccess_log_format=json")
        .start();
    let headers = [NAMED[0], ("User-Agent", "a \"b\""), ("Referer", "http://x/?apikey=opensesame")];
    assert_eq!(server.request("GET", "/the/talker?apikey=opensesame&x=%22", &headers, b"").status, 200);
    assert_eq!(server.get("/nothing").status, 404);
    assert_eq!(server.get("/streamer").status, 200);
    let text = || std::fs::read_to_string(server.path("access.log")).unwrap_or_default();
    eventually(|| text().lines().count() == 3);
    let lines: Vec<Value> = text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let first = &lines[0];
    assert_eq!(first["target"], "/the/talker?apikey=***&x=%22");
    assert_eq!(first["request_id"], "the-id");
    assert_eq!((&first["plugin"], &first["status"], &first["bytes"]), (&"the/talker".into(), &200.into(), &6.into()));
    assert_eq!((&first["referer"], &first["user_agent"]), (&"http://x/?apikey=***".into(), &"a \"b\"".into()));
    let seconds = first["duration_seconds"].as_f64().unwrap();
    assert!(seconds > 0.0 && seconds < 30.0, "{first}");
    assert!(lines[1].get("plugin").is_none(), "{}", lines[1]);
    assert_eq!((&lines[2]["plugin"], &lines[2]["bytes"]), (&"streamer".into(), &5.into()));
    assert!(lines[2]["duration_seconds"].as_f64().unwrap() >= 0.3, "a stream counts to its end: {}", lines[2]);
}

#[test]
fn the_form_of_the_access_log_changes_with_a_signal() {
    let server = TestServer::build().plugin("loud.py", TALKER).ini("[server]\naccess_log=access.log").start();
    server.request("GET", "/other", &NAMED, b"");
    server.write_ini(&format!("{}access_log_format=common\n", server.read_ini()));
    server.signal(Signal::HUP);
    server.wait_for_log("the new workers serve", 1);
    server.request("GET", "/other", &NAMED, b"");
    let text = || std::fs::read_to_string(server.path("access.log")).unwrap_or_default();
    eventually(|| text().lines().count() == 2);
    let text = text();
    let ends: Vec<&str> = text.lines().map(|line| line.split_once("\" ").unwrap().1).collect();
    assert_eq!(ends, ["200 6 \"-\" \"-\" the-id", "200 6"]);
}
