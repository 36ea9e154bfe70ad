//! What must hold for every text that is read as an INI file.

use std::path::Path;
use std::time::{Duration, Instant};

use pserve::config::{Config, ConfigError, Table};

/// Behind it stands what the environment holds.
const SEPARATOR: char = '\u{1}';

const LONGEST: Duration = Duration::from_secs(10);

pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let (text, variable) = text.split_once(SEPARATOR).unwrap_or((text, ""));
    let environment = |name: &str| {
        let is_set = !variable.is_empty() && matches!(name, "X" | "PORT" | "PSERVE_LIMITS_BODY" | "PSERVE_A_B");
        is_set.then(|| variable.to_owned())
    };
    let started = Instant::now();
    let path = Path::new("/nowhere/pserve.ini");
    if let Err(error) = Table::parse_with(text, path, &environment) {
        assert_names_a_line(&error, text);
    }
    let text = format!("{text}\n[paths]\nplugins=/tmp\n");
    match Config::parse(&text, path, &environment) {
        Ok(config) => assert_means_the_same_when_shown(&config),
        Err(error) => assert_names_a_line(&error, &text),
    }
    assert!(started.elapsed() < LONGEST, "{:?}", started.elapsed());
}

fn assert_names_a_line(error: &ConfigError, text: &str) {
    let lines = 1 + text.chars().filter(|c| matches!(c, '\n' | '\r')).count();
    assert!(error.line.is_none_or(|line| (1..=lines).contains(&line)), "{error}");
    assert!(!error.message.is_empty());
}

/// `--print-config` prints a file that means what it was made from, where the dialect can say it.
fn assert_means_the_same_when_shown(config: &Config) {
    let shown = config.to_string();
    if !can_be_written(config) {
        return;
    }
    let again =
        Config::parse(&shown, &config.source.path, &|_| None).unwrap_or_else(|error| panic!("{error}\n{shown}"));
    assert_eq!(again.to_string(), shown);
    assert_eq!(again.settings.limits, config.settings.limits);
    assert_eq!(again.settings.listen, config.settings.listen);
}

/// References can make values that nobody can write down: a line that begins like a comment, for example.
fn can_be_written(config: &Config) -> bool {
    let entries = config.table.sections.iter().flat_map(|section| &section.entries);
    entries.into_iter().all(|entry| {
        let has_odd_key = entry.key.starts_with('[');
        let text = &entry.resolved.text;
        !has_odd_key
            && text.trim() == text
            && !text.contains(['\n', '\r', '\u{b}', '\u{c}', '\u{85}', '\u{2028}', '\u{2029}'])
    })
}
