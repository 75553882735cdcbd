#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| weir::supervisor::fuzz::fuzz_stream_body(data));
