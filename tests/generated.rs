//! What is made from the program's own definitions agrees with the pages, with `--help` and with itself.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]
mod common;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use common::run_to_end;
use pserve::config::keys::{DefaultValue, SECTIONS};

fn output_of(arguments: &[&str]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let (status, out, err) = run_to_end(dir.path(), arguments);
    assert_eq!((status, err.as_str()), (0, ""), "{arguments:?}");
    out
}

fn page(name: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(name)).unwrap()
}

#[test]
fn the_table_of_the_documentation_is_the_one_of_the_code() {
    let text = page("configuration.md");
    let (_, rest) = text.split_once("<!-- keys: begin -->\n").unwrap();
    let (table, _) = rest.split_once("<!-- keys: end -->\n").unwrap();
    assert_eq!(table, output_of(&["generate", "config-table"]), "make docs writes it anew");
}

#[test]
fn links_of_the_table_lead_somewhere() {
    for key in SECTIONS.iter().flat_map(|section| section.keys) {
        for target in key.meaning.split("](").skip(1).map(|rest| rest.split_once(')').unwrap().0) {
            let (name, anchor) = target.split_once('#').unwrap_or((target, ""));
            let text = page(name);
            let anchor_of = |line: &str| {
                let words = line.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
                words.chars().filter(|c| c.is_alphanumeric() || *c == '-').collect::<String>()
            };
            let mut headings = text.lines().filter(|line| line.starts_with('#'));
            assert!(anchor.is_empty() || headings.any(|line| anchor_of(line) == anchor), "{}: {target}", key.name);
        }
    }
}

#[test]
fn the_man_page_has_every_key_with_its_default_and_every_option() {
    let man = output_of(&["generate", "man"]).replace("\\-", "-");
    for section in &SECTIONS {
        let (_, rest) = man.split_once(&format!(".SS [{}]\n", section.name)).unwrap();
        let part = rest.split("\n.S").next().unwrap();
        for key in section.keys {
            let (_, rest) = part.split_once(&format!("\\fB{}\\fR (", key.name)).unwrap();
            let facts = rest.lines().next().unwrap();
            assert!(facts.contains(&key.kind.to_string()) && facts.contains(key.unit), "{}: {facts}", key.name);
            if let DefaultValue::Is(default) = key.default {
                assert!(facts.ends_with(&format!("default {default})")), "{}: {facts}", key.name);
            }
        }
    }
    for title in ["NAME", "SYNOPSIS", "OPTIONS", "COMMANDS", "FILES", "ENVIRONMENT", "SIGNALS", "\"EXIT STATUS\""] {
        assert!(man.contains(&format!(".SH {title}\n")), "{title}");
    }
    for option in options_in(&output_of(&["--help"])) {
        assert!(option == "--help" || man.contains(&option), "{option}");
    }
}

/// `--name` wherever a line of a help text begins with it, or with its short form.
fn options_in(help: &str) -> Vec<String> {
    let lines = help.lines().map(str::trim).filter(|line| line.starts_with('-'));
    let words = lines.filter_map(|line| line.split([' ', ',']).find(|word| word.starts_with("--")));
    words.map(str::to_owned).collect()
}

/// The subcommands that a help text lists.
fn commands_in(help: &str) -> Vec<String> {
    let (_, rest) = help.split_once("Commands:\n").unwrap();
    let lines = rest.lines().take_while(|line| line.starts_with("  "));
    lines.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

#[test]
fn every_command_of_the_help_is_in_the_man_page_in_the_completions_and_on_the_page_about_usage() {
    let help = output_of(&["--help"]);
    let (man, usage) = (output_of(&["generate", "man"]), page("usage.md"));
    let shells = ["bash", "zsh", "fish"].map(|shell| output_of(&["generate", "completions", shell]));
    let commands = commands_in(&help);
    assert!(commands.len() >= 3, "{help}");
    for command in commands.iter().filter(|command| *command != "help") {
        assert!(man.contains(&format!(".SS \"pserve {command}")), "{command} is not in the man page");
        assert!(usage.contains(&format!(" {command}")), "{command} is not in docs/usage.md");
        assert!(shells.iter().all(|script| script.contains(command.as_str())), "{command} is not completed");
        // Python's own help is another one.
        if command == "python" {
            continue;
        }
        for option in options_in(&output_of(&[command, "--help"])) {
            let is_there = option == "--help" || man.replace("\\-", "-").contains(&option);
            assert!(is_there, "{option} of {command} is not in the man page");
            let name = option.trim_start_matches('-');
            assert!(shells.iter().all(|script| script.contains(name)), "{option} of {command} is not completed");
        }
    }
}

#[test]
fn what_is_hidden_stays_hidden() {
    for text in ["man", "completions"].map(|what| {
        let shell: &[&str] = if what == "completions" { &["bash"] } else { &[] };
        output_of(&[&["generate", what], shell].concat())
    }) {
        assert!(!text.contains("child-file") && !text.contains("config-table"), "{text}");
    }
}

#[test]
fn shells_can_read_their_completions() {
    for shell in ["bash", "zsh", "fish"] {
        let Ok(mut child) = Command::new(shell).arg("-n").stdin(Stdio::piped()).spawn() else {
            assert_ne!(shell, "bash", "there is always one");
            continue;
        };
        let script = output_of(&["generate", "completions", shell]);
        child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "{shell}");
    }
}
