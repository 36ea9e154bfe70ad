//! The properties of `tests/fuzz`, held against the seeds and what a few changes make of them: a thousand cases, or as
//! many as fit into `FUZZ_SECONDS`, for machines where the fuzzer itself does not run.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "what was tried, and on what it failed")]

#[path = "fuzz/fields.rs"]
mod fields;
#[path = "fuzz/head.rs"]
mod head;
#[path = "fuzz/ini.rs"]
mod ini;
#[path = "fuzz/mutate.rs"]
mod mutate;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mutate::Random;

const CASES: u64 = 1000;

const WORDS: [&[u8]; 24] = [
    b"\r\n",
    b"\n",
    b"\0",
    b"\xff",
    b"%00",
    b"%zz",
    b"\"",
    b"${",
    b"}",
    b"${ENV:X}",
    b"${a:b}",
    b"$$",
    b"[",
    b"]",
    b"=",
    b":",
    b"int:",
    b"list:",
    b"&",
    b"--B",
    b"filename*=",
    b"HTTP/1.1",
    b"\x1f\x8b",
    b"  ",
];

fn seeds(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/seeds").join(target);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|problem| panic!("{}: {problem}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

fn hold(target: &str, check: fn(&[u8])) {
    let seconds = std::env::var("FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).map(Duration::from_secs);
    let started = Instant::now();
    let seeds = seeds(target);
    let mut cases = 0;
    for (path, bytes) in &seeds {
        run(check, bytes, &path.display());
        cases += 1;
    }
    let mut random = Random(42);
    while seconds.map_or(cases < CASES, |limit| started.elapsed() < limit) {
        let (path, bytes) = random.pick(&seeds);
        let changed = random.changed(bytes, &WORDS);
        run(check, &changed, &path.display());
        cases += 1;
    }
    println!("{target}: {cases} cases");
}

fn run(check: fn(&[u8]), bytes: &[u8], origin: &dyn std::fmt::Display) {
    if let Err(problem) = std::panic::catch_unwind(|| check(bytes)) {
        eprintln!("made from {origin}: b\"{}\"", bytes.escape_ascii());
        std::panic::resume_unwind(problem);
    }
}

#[test]
fn of_the_ini_reader() {
    hold("ini", ini::check);
}

#[test]
fn of_the_readers_of_fields() {
    hold("fields", fields::check);
}

#[test]
fn of_the_readers_of_heads() {
    hold("head", head::check);
}
