#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| weir::pipeline::fuzz::fuzz_params(data));
