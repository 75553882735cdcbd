#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| weir::models::tflite::fuzz::fuzz_tflite(data));
