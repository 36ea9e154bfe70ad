#![no_main]

#[path = "../ini.rs"]
mod ini;

libfuzzer_sys::fuzz_target!(|data: &[u8]| ini::check(data));
