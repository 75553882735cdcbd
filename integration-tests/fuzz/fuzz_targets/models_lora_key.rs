#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| weir::models::weights::fuzz::fuzz_lora_key(data));
