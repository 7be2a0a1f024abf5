#![no_main]
//! See `buslane::sim::fuzz`.

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| buslane::sim::fuzz::feed("server", bytes));

// Begins with a frame of every kind, whatever the corpus holds, and knows where numbers stand.
libfuzzer_sys::fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    buslane::sim::fuzz::grow("server", &mut data[..max_size], size, seed)
        .unwrap_or_else(|| libfuzzer_sys::fuzzer_mutate(data, size, max_size))
});
