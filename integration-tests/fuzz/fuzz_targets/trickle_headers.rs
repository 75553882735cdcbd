#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| weir::trickle::fuzz::fuzz_headers(data));
