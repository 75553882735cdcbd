#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| weir::media::fuzz::fuzz_input(data));
