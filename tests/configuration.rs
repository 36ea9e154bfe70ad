//! Contract, section 2: the INI dialect from the cases that Python reads too, and what the server makes of it.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

mod common;

use std::collections::HashMap;
use std::path::Path;

use common::{TestServer, run_to_end};
use pserve::config::{Table, Value};
use serde_json::json;

fn to_json(value: &Value) -> serde_json::Value {
    match value {
        Value::Text(text) => json!(text),
        Value::Int(number) => {
            u64::try_from(*number).map_or_else(|_| json!(i64::try_from(*number).unwrap()), |n| json!(n))
        }
        Value::Float(number) => json!(number),
        Value::Bool(truth) => json!(truth),
        Value::List(items) => items.iter().map(to_json).collect(),
    }
}

fn table_to_json(table: &Table) -> serde_json::Value {
    let sections = table.sections.iter().map(|section| {
        let keys = section.entries.iter().map(|entry| (entry.key.clone(), to_json(&entry.resolved.value))).collect();
        (section.name.clone(), serde_json::Value::Object(keys))
    });
    serde_json::Value::Object(sections.collect())
}

#[test]
fn the_shared_cases() {
    let cases: Vec<serde_json::Value> =
        serde_json::from_str(include_str!("fixtures/ini_cases.json")).expect("the cases are JSON");
    assert!(cases.len() > 30);
    for case in cases {
        let (name, text) = (&case["name"], case["text"].as_str().unwrap());
        let environment: HashMap<String, String> =
            serde_json::from_value(case.get("env").cloned().unwrap_or(json!({}))).unwrap();
        let table = Table::parse_with(text, Path::new("case.ini"), &|key| environment.get(key).cloned());
        match (table, case.get("error")) {
            (Ok(table), None) => assert_eq!(table_to_json(&table), case["expect"], "{name}"),
            (Err(problem), Some(expected)) => {
                let message = problem.to_string();
                assert_eq!(problem.line.map(|line| json!(line)).as_ref(), expected.get("line"), "{name}: {message}");
                assert!(message.contains(expected["says"].as_str().unwrap()), "{name}: {message}");
                assert!(message.starts_with("case.ini:") && !message.contains('\n'), "{name}: {message}");
            }
            (Ok(table), Some(_)) => panic!("{name}: no error but {}", table_to_json(&table)),
            (Err(problem), None) => panic!("{name}: {problem}"),
        }
    }
}

#[test]
fn every_configuration_error_is_one_line_and_status_2() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("plugins")).unwrap();
    let cases = [
        ("", "[paths] plugins: is missing"),
        ("[paths]\nplugins=nowhere\n", "x.ini:2: [paths] plugins: `nowhere` is not a folder"),
        ("[paths]\nplugins=plugins\n[network]\nport=99999\n", "x.ini:4: [network] port: `99999` will not do"),
        ("[paths]\nplugins=plugins\n[network]\nport=int:no\n", "x.ini:4: [network] port: `no` is not a whole number"),
        ("[paths]\nplugins=plugins\n[network]\nbindto=256.1.1.1\n", "x.ini:4: [network] bindto: `256.1.1.1`"),
        ("[paths]\nplugins=plugins\n[auth]\napikey=${ENV:PSERVE_T_UNSET}\n", "x.ini:4: [auth] apikey: is empty"),
        ("[paths]\nplugins=plugins\n[python]\nvenv=plugins\n", "x.ini:4: [python] venv: `plugins` is not a virtual"),
        ("[paths]\nplugins=plugins\n[limits]\nbody=much\n", "x.ini:4: [limits] body: `much` will not do"),
        (
            "[paths]\nplugins=plugins\n[limits]\ndrain_timeout=-1\n",
            "x.ini:4: [limits] drain_timeout: `-1` is not a time",
        ),
        (
            "[paths]\nplugins=plugins\n[plugin_options]\na=threads=0\n",
            "x.ini:4: [plugin_options] a: threads=0 will not do",
        ),
        (
            "[paths]\nplugins=plugins\n[server]\ntrusted_proxies=list:home\n",
            "x.ini:4: [server] trusted_proxies: `home`",
        ),
        ("[paths]\nplugins=plugins\n[other]\nk=${x:y}\n", "x.ini:4: [other] k: ${x:y} refers to a section"),
    ];
    for (text, expected) in cases {
        std::fs::write(dir.path().join("x.ini"), text).unwrap();
        let (status, out, err) = run_to_end(dir.path(), &["-i", "x.ini"]);
        assert_eq!(status, 2, "{text}: {out}{err}");
        assert_eq!(err.lines().count(), 1, "{text}: {err}");
        assert!(err.contains(expected), "{text}: {err}");
    }
}

#[test]
fn a_key_is_never_quoted_in_an_error() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("x.ini"), "[auth]\napikey=topsecret$\n").unwrap();
    let (status, out, err) = run_to_end(dir.path(), &["-i", "x.ini"]);
    assert_eq!(status, 2);
    assert!(!format!("{out}{err}").contains("topsecret"), "{out}{err}");
}

#[test]
fn text_that_is_not_utf_8_is_named_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("x.ini"), b"[a]\nk=1\nj=\xff\n").unwrap();
    let (status, _, err) = run_to_end(dir.path(), &["-i", "x.ini"]);
    assert_eq!(status, 2);
    assert!(err.contains("x.ini:3: is not UTF-8"), "{err}");
}

#[test]
fn plain_strings_and_other_cases_do_for_the_servers_own_keys() {
    let server = TestServer::build().ini("[SERVER]\ndebug=Yes\n").plugin("fail.py", FAIL).start();
    assert!(server.get("/fail").json()["traceback"].as_str().unwrap().contains("fail.py"));
    let server = TestServer::build().ini("[server]\ndebug=bool:false\n").plugin("fail.py", FAIL).start();
    assert!(server.get("/fail").json().get("traceback").is_none());
}

#[test]
fn an_unknown_key_in_a_section_of_ours_is_a_warning_that_names_the_nearest() {
    let server = TestServer::build().ini("[limits]\nbodi=5\n[main]\nanything=goes\n").start();
    assert!(server.log().contains("[limits] bodi: unknown; did you mean `body`?"), "{}", server.log());
    assert!(!server.log().contains("anything"));
}

#[test]
fn relative_paths_are_taken_from_the_current_folder_then_from_the_ini_files() {
    let server = TestServer::with_plugin("fail.py", FAIL);
    // The plugins folder lies beside the INI file and not in the current folder.
    let elsewhere = tempfile::tempdir().unwrap();
    let ini = server.path("pserve.ini");
    let text = server
        .read_ini()
        .replace("pidfile=pserve.pid", "")
        .replace("port=0", &format!("port={}", server.address().port()));
    std::fs::write(&ini, text).unwrap();
    let (status, out, err) = run_to_end(elsewhere.path(), &["-i", ini.to_str().unwrap()]);
    // It gets as far as the port, which is taken.
    assert_eq!(status, 1, "{out}{err}");
    assert!(err.contains("cannot bind"), "{err}");
}

#[test]
fn plugin_parameters_reach_the_constructor() {
    let source = "
from plugincore.baseplugin import BasePlugin
class Shown(BasePlugin):
    def request_handler(self, **data):
        known = ('config', 'log', 'prog_args', 'args', 'task_callback')
        return {key: value for key, value in self.args.items() if key not in known}
";
    let server = TestServer::build()
        .plugin("MixedCase.py", source)
        .plugin("wrong.py", "from plugincore.baseplugin import BasePlugin\nclass Wrong(BasePlugin): pass\n")
        .plugin("params.json", "{\"inner\": [1, {\"a\": null}], \"both\": \"json\"}")
        .plugin("list.json", "[1]")
        .ini("[plugin_parms]\nmixedcase=a=1&a=2&b=&c=x+y%21&both=inline&json=params.json&route_path=shown/here\nwrong=json:list.json\n")
        .start();
    assert_eq!(
        server.get("/shown/here").json(),
        json!({"a": "1", "c": "x y!", "both": "json", "json": "params.json", "route_path": "shown/here", "inner": [1, {"a": null}]})
    );
    assert_eq!(server.get("/wrong").status, 404);
    assert!(server.log().contains("list.json holds a list; it must be a JSON object"), "{}", server.log());
}

const FAIL: &str = "
from plugincore.baseplugin import BasePlugin
class Fail(BasePlugin):
    def request_handler(self, **data):
        raise ValueError('boom')
";

#[test]
fn a_backslash_at_the_end_of_a_value_swallows_nothing() {
    let ini = "[plugin_parms]\nother=x=\\\nfail=auth_type=plugin&apikey=guarding-key\n";
    let server = TestServer::build().plugin("fail.py", FAIL).ini(ini).start();
    assert_eq!(server.get("/fail").status, 403);
    assert_eq!(server.get("/fail?apikey=guarding-key").status, 500);
}

#[test]
fn a_long_chain_of_references_is_an_error_and_no_crash() {
    let chain: String = (0..5000).map(|n| format!("k{n}=${{k{}}}\n", n + 1)).collect();
    let text = format!("[paths]\nplugins=plugins\n[m]\n{chain}k5000=end\n");
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("plugins")).unwrap();
    std::fs::write(dir.path().join("x.ini"), text).unwrap();
    let (status, _, err) = run_to_end(dir.path(), &["-i", "x.ini"]);
    assert_eq!(status, 2, "{err}");
    assert!(err.contains("deep"), "{err}");
}

#[test]
fn an_empty_key_of_a_plugin_is_told_in_a_readable_log() {
    let ini = "[plugin_parms]\nfail=auth_type=plugin&apikey=\n";
    let server = TestServer::build().plugin("fail.py", FAIL).ini(ini).start();
    assert_eq!(server.get("/fail").status, 404);
    assert!(server.log().contains("auth_type=plugin needs a key"), "{}", server.log());
}

#[test]
fn errors_in_values_that_may_be_keys_do_not_quote_them() {
    let dir = tempfile::tempdir().unwrap();
    for text in
        ["[auth]\napikey=int:hushhush\n", "[x]\nmy_token=list:int:hushhush\n", "[auth]\nhushhush\n", "hushhush\n"]
    {
        std::fs::write(dir.path().join("x.ini"), text).unwrap();
        let (status, out, err) = run_to_end(dir.path(), &["-i", "x.ini"]);
        assert_eq!(status, 2);
        assert!(!format!("{out}{err}").contains("hushhush"), "{text}: {out}{err}");
    }
}

#[test]
fn sections_of_ours_that_differ_by_case_only_are_an_error() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("x.ini"), "[network]\nport=1\n[Network]\nport=2\n").unwrap();
    let (status, _, err) = run_to_end(dir.path(), &["-i", "x.ini"]);
    assert_eq!(status, 2);
    assert!(err.contains("x.ini:3: [Network] and [network] (line 1) mean the same section"), "{err}");
}

#[test]
fn the_environment_takes_the_place_of_keys() {
    let plugin = "
from plugincore.baseplugin import BasePlugin
class Show(BasePlugin):
    async def request_handler(self, **data):
        return {'mine': self.config.main.mine, 'other': self.config.main.other}
";
    let server = TestServer::build()
        .plugin("show.py", plugin)
        .ini("[main]\nmine=1\nother=2\n[auth]\napikey=old\n")
        .env("PSERVE_MAIN_MINE", "int:7")
        .env("PSERVE_AUTH_APIKEY", "new")
        .env("PORT", "1")
        .start();
    assert_eq!(server.get("/show").json(), serde_json::json!({"mine": 7, "other": "2"}));
    assert_eq!(server.get("/plugins?apikey=old").status, 403);
    assert_eq!(server.get("/plugins?apikey=new").status, 200);
}
