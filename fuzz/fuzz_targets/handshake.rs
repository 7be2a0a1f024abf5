#![no_main]
//! See `buslane::sim::fuzz`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| buslane::sim::fuzz::feed("handshake", bytes));
