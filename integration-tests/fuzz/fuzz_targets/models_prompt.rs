#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| weir::models::tokenizer::fuzz_clean(data));
