#![no_main]

#[path = "../fields.rs"]
mod fields;

libfuzzer_sys::fuzz_target!(|data: &[u8]| fields::check(data));
