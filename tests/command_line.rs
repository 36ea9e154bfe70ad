//! Contract, section 1: flags, files that are found, exit statuses.

mod common;

use common::{TestServer, run_to_end};

#[test]
fn version_names_the_program_and_help_names_every_flag() {
    let dir = tempfile::tempdir().unwrap();
    let (status, out, _) = run_to_end(dir.path(), &["--version"]);
    assert_eq!(status, 0);
    let version = concat!("pserve ", env!("CARGO_PKG_VERSION"), " (CPython 3.");
    assert!(out.starts_with(version) && out.lines().count() == 1, "{out}");
    assert_eq!(run_to_end(dir.path(), &["-V"]).1, out);
    // The one that is inside, not one that happens to be on the machine.
    let inside = run_to_end(dir.path(), &["python", "-c", "import platform; print(platform.python_version())"]).1;
    assert!(out.contains(&format!("(CPython {})", inside.trim())), "{out} {inside}");
    let (status, out, _) = run_to_end(dir.path(), &["--help"]);
    assert_eq!(status, 0);
    for flag in ["-i, --ini-file", "-l, --log", "-v, --level", "SIGHUP"] {
        assert!(out.contains(flag), "{flag}: {out}");
    }
}

#[test]
fn a_wrong_command_line_is_status_2() {
    let dir = tempfile::tempdir().unwrap();
    for arguments in [&["--nonsense"][..], &["-v", "LOUD"], &["-i"]] {
        let (status, _, err) = run_to_end(dir.path(), arguments);
        assert_eq!((status, err.lines().count()), (2, 1), "{arguments:?}: {err}");
        assert!(err.starts_with("pserve: "), "{err}");
    }
}

#[test]
fn a_missing_ini_file_is_one_line_and_status_2() {
    let dir = tempfile::tempdir().unwrap();
    for arguments in [&[][..], &["-i", "other.ini"]] {
        let (status, _, err) = run_to_end(dir.path(), arguments);
        assert_eq!((status, err.lines().count()), (2, 1), "{err}");
    }
}

#[test]
fn pserve_ini_comes_before_config_ini() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.ini"), "[network]\nport=wrong\n").unwrap();
    let (status, _, err) = run_to_end(dir.path(), &[]);
    assert_eq!(status, 2);
    assert!(err.contains("config.ini:2: [network] port"), "{err}");
    std::fs::write(dir.path().join("pserve.ini"), "[network]\nport=bad\n").unwrap();
    assert!(run_to_end(dir.path(), &[]).2.contains("pserve.ini:2"));
}

#[test]
fn a_taken_port_is_status_1_and_leaves_the_other_pidfile_alone() {
    let first = TestServer::build().start();
    let port = first.address().port();
    let pidfile = first.path("pserve.pid");
    let ini = format!("[network]\nport={port}\n[paths]\nplugins=plugins\npidfile={}\n", pidfile.display());
    std::fs::write(first.path("second.ini"), ini).unwrap();
    let (status, _, err) = run_to_end(first.path("").as_path(), &["-i", "second.ini"]);
    assert_eq!(status, 1);
    assert!(err.contains(&format!("cannot bind 127.0.0.1:{port}")), "{err}");
    let number = std::fs::read_to_string(pidfile).unwrap();
    assert_eq!(number.trim(), first.pid().as_raw_nonzero().to_string());
}

#[test]
fn the_start_tells_pid_address_and_routes() {
    let server = TestServer::with_plugin("greet.py", GREET);
    let log = server.log();
    let pid = server.pid().as_raw_nonzero();
    assert!(log.contains(&format!("PID {pid} serves http://{}", server.address())), "{log}");
    assert!(log.contains("route /greet"), "{log}");
}

#[test]
fn plugins_see_the_command_line_as_it_was_given() {
    let source = "
import sys
from plugincore.baseplugin import BasePlugin
class Seen(BasePlugin):
    def request_handler(self, **data):
        args = self.args['prog_args']
        return {'level': args.level, 'log': args.log, 'ini': args.ini_file, 'argv': sys.argv[1:]}
";
    let server = TestServer::build().plugin("seen.py", source).argument("-v").argument("Info").start();
    let seen = server.get("/seen").json();
    assert_eq!(seen["level"], "Info");
    assert_eq!(seen["argv"], serde_json::json!(["-v", "Info"]));
    assert!(seen["log"].is_null());
}

const GREET: &str = "
from plugincore.baseplugin import BasePlugin
class Greet(BasePlugin):
    def request_handler(self, **data):
        return 'hello'
";

#[test]
fn an_argument_that_is_missing_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (status, _, err) = run_to_end(dir.path(), &["call"]);
    assert_eq!((status, err.lines().count()), (2, 1), "{err}");
    assert!(err.contains("not provided: <NAME>"), "{err}");
}
