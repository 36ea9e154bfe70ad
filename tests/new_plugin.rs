//! `pserve new`: what it writes works, and it overwrites nothing.

mod common;

use std::fs;

use common::run_to_end;

#[test]
fn a_new_plugin_passes_its_test_and_is_found_by_it() {
    let dir = tempfile::tempdir().expect("a folder");
    fs::create_dir(dir.path().join("plugins")).expect("made");
    let (status, told, complaint) = run_to_end(dir.path(), &["new", "my_tool"]);
    assert_eq!(status, 0, "{complaint}");
    assert!(told.contains("wrote plugins/my_tool.py\nwrote tests/test_my_tool.py\n"), "{told}");
    assert!(told.contains("curl 'http://127.0.0.1:9192/my_tool?name=Ada'"), "{told}");
    assert!(told.contains("pserve python -m pytest tests/test_my_tool.py"), "{told}");
    // As pytest would call them, which may not be installed.
    let code = "import sys; sys.path.insert(0, 'tests'); import test_my_tool as t; \
                t.test_my_tool_says_hello(); t.test_my_tool_does_without_a_name(); \
                print(t.MyTool()._get_plugin_id())";
    assert_eq!(run_to_end(dir.path(), &["python", "-c", code]), (0, "my_tool\n".to_owned(), String::new()));
}

#[test]
fn a_folder_for_plugins_is_made_where_there_is_none() {
    let dir = tempfile::tempdir().expect("a folder");
    assert_eq!(run_to_end(dir.path(), &["new", "greet"]).0, 0);
    assert!(dir.path().join("tests/test_greet.py").is_file());
    assert!(!fs::read_to_string(dir.path().join("plugins/greet.py")).expect("text").contains("_plugin_id"));
    assert_eq!(run_to_end(dir.path(), &["new", "other", "."]).0, 0);
    assert!(dir.path().join("plugins/other.py").is_file());
}

#[test]
fn the_folder_of_an_ini_file_gets_it() {
    let dir = tempfile::tempdir().expect("a folder");
    fs::create_dir(dir.path().join("mine")).expect("made");
    fs::write(dir.path().join("my.ini"), "[paths]\nplugins=mine\n").expect("written");
    let (status, told, complaint) = run_to_end(dir.path(), &["new", "-i", "my.ini", "greet"]);
    assert_eq!(status, 0, "{complaint}");
    assert!(told.contains("pserve -i my.ini python -m pytest"), "{told}");
    assert!(dir.path().join("mine/greet.py").is_file() && dir.path().join("mine/tests/test_greet.py").is_file());
}

#[test]
fn nothing_is_overwritten_and_odd_names_are_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    fs::create_dir_all(dir.path().join("tests")).expect("made");
    fs::write(dir.path().join("tests/test_greet.py"), "mine").expect("written");
    let (status, _, complaint) = run_to_end(dir.path(), &["new", "greet"]);
    assert_eq!(status, 2, "{complaint}");
    assert!(complaint.contains("tests/test_greet.py is there already; nothing was written"), "{complaint}");
    assert!(!dir.path().join("greet.py").exists());
    for (name, needle) in [
        ("json", "Python has a module `json` already"),
        ("class", "a word of Python's own"),
        ("my-tool", "for example my_tool"),
        ("../up", "is no name for a plugin"),
        ("metrics", "is a route of the server"),
    ] {
        let (status, _, complaint) = run_to_end(dir.path(), &["new", name]);
        assert!(status == 2 && complaint.contains(needle), "{name}: {status} {complaint}");
    }
    assert_eq!(fs::read_dir(dir.path()).expect("a folder").count(), 1);
}
