//! Entry points for fuzzing. None may panic, whatever the bytes.

use super::{Params, registry};

/// Checks `data` as a JSON object against every pipeline. What passes must pass again with its defaults filled in.
pub fn fuzz_params(data: &[u8]) {
    let Ok(params) = serde_json::from_slice::<Params>(data) else { return };
    for pipeline in registry::all() {
        if let Ok(checked) = pipeline.check(&params) {
            let again = pipeline.check(&checked.values);
            assert_eq!(again.as_ref().map(|again| &again.values), Ok(&checked.values), "{}", pipeline.name());
        }
    }
}
