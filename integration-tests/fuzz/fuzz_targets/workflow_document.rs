#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| weir::workflow::fuzz::fuzz_workflow(data));
