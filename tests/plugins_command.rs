//! `pserve plugins`: from the running server, or from the files.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]
mod common;

use common::{TestServer, run_to_end};
use serde_json::Value;

const WEATHER: &str = "
from plugincore.baseplugin import BasePlugin
class Weather(BasePlugin):
    \"\"\"The weather of a town.\"\"\"
    methods = ('PUT',)
    parameters = {'town': {'type': 'string', 'required': True}, 'days': 3}
    async def request_handler(self, **data):
        return {}
";

/// The running server's own INI file names port 0; the environment of the command names the real one.
fn plugins(server: &TestServer, arguments: &[&str]) -> (i32, String, String) {
    let port = server.address().port();
    let ini = server.read_ini().replace("port=0", &format!("port={port}"));
    std::fs::write(server.path("real.ini"), ini).unwrap();
    run_to_end(server.path("").as_path(), &[&["plugins", "-i", "real.ini"], arguments].concat())
}

fn json(out: &str) -> Value {
    serde_json::from_str(out).unwrap_or_else(|problem| panic!("{problem}: {out}"))
}

#[test]
fn a_running_server_tells_what_it_serves() {
    let build = TestServer::build().plugin("weather.py", WEATHER).plugin("bad.py", "x = = 1\n");
    let server = build
        .ini("[auth]\napikey=opensesame\n[plugin_parms]\nweather=auth_type=plugin&apikey=topsecret&unit=C")
        .start();
    let (status, out, err) = plugins(&server, &[]);
    assert_eq!((status, err.as_str()), (0, ""), "{out}");
    let row = out.lines().find(|line| line.starts_with("/weather")).unwrap();
    for part in ["serving", "async +PUT", "own", "town* days=3", "plugins/weather.py"] {
        assert!(row.contains(part), "{part}: {row}");
    }
    assert!(out.contains(&format!("1 plugin of the server at http://{}", server.address())), "{out}");
    assert!(out.contains("The weather of a town.") && out.contains("unit"), "{out}");
    assert!(out.contains("bad.py does not load") && out.contains("bad.py:1: SyntaxError"), "{out}");
    assert!(!out.contains("topsecret") && !out.contains("opensesame"), "{out}");
    // Broken since it was loaded: it serves on.
    server.write_plugin("weather.py", "x = = 1\n");
    let key = [("Authorization", "Bearer opensesame")];
    assert_eq!(server.request("GET", "/reload/weather", &key, b"").status, 500);
    let list = json(&plugins(&server, &["--json"]).1);
    assert_eq!((&list["source"], &list["plugins"][0]["state"]), (&"server".into(), &"outdated".into()));
    assert_eq!(list["plugins"][0]["arguments"], serde_json::json!(["auth_type", "apikey", "unit"]));
    assert_eq!(list["plugins"][0]["parameters"][0]["name"], "town");
}

#[test]
fn files_are_tried_where_no_server_runs() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("plugins")).unwrap();
    std::fs::write(dir.path().join("plugins/weather.py"), WEATHER).unwrap();
    let (status, out, err) = run_to_end(dir.path(), &["plugins"]);
    assert_eq!((status, err.as_str()), (0, ""));
    let row = out.lines().find(|line| line.starts_with("/weather")).unwrap();
    assert!(row.contains("loads") && row.contains("plugins/weather.py:3") && row.contains("town* days=3"), "{out}");
    let (_, out, _) = run_to_end(dir.path(), &["plugins", "--json", "--plugins", "plugins"]);
    let list = json(&out);
    assert_eq!((&list["source"], &list["plugins"][0]["route"]), (&"files".into(), &"/weather".into()));
    assert_eq!((&list["plugins"][0]["class"], &list["plugins"][0]["methods"][0]), (&"Weather".into(), &"PUT".into()));
}

#[test]
fn a_server_that_is_not_there_is_said_and_the_files_are_listed() {
    let server = TestServer::with_plugin("weather.py", WEATHER);
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let ini = server.read_ini().replace("port=0", &format!("port={free}"));
    std::fs::write(server.path("other.ini"), ini).unwrap();
    let (status, out, err) = run_to_end(server.path("").as_path(), &["plugins", "-i", "other.ini"]);
    assert_eq!(status, 0, "{err}");
    assert!(out.contains("/weather") && out.contains("in the files of"), "{out}");
    assert!(err.contains(&format!("no server at http://127.0.0.1:{free}")) && err.lines().count() == 1, "{err}");
    let (_, out, err) = plugins(&server, &["--files", "--json"]);
    assert_eq!((&json(&out)["source"], err.as_str()), (&"files".into(), ""));
}

#[test]
fn a_wrong_key_and_a_missing_ini_file_are_errors() {
    let server = TestServer::build().plugin("weather.py", WEATHER).ini("[auth]\napikey=opensesame").start();
    server.write_ini(&server.read_ini().replace("opensesame", "other"));
    let (status, out, err) = plugins(&server, &[]);
    assert_eq!((status, out.as_str()), (1, ""));
    assert!(err.contains("does not take the key"), "{err}");
    let (status, _, err) = run_to_end(server.path("").as_path(), &["plugins", "-i", "nowhere.ini"]);
    assert_eq!((status, err.lines().count()), (2, 1), "{err}");
}
