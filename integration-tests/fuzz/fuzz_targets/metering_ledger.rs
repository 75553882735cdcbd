#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| weir::metering::ledger::fuzz_ledger(data));
