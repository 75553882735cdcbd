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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes(data in any::<Vec<u8>>()) {
            fuzz_params(&data);
        }

        #[test]
        fn any_value_in_a_known_field(
            name in prop_oneof![Just("width"), Just("strength"), Just("frame_ms"), Just("show_reloading_frame")],
            value in prop_oneof!["-?[0-9]{1,20}(\\.[0-9]{1,3})?(e[0-9]{1,3})?", "\"[ 0-9a-z.+-]{0,6}\"", "true|null|\\[\\]"],
        ) {
            fuzz_params(format!("{{\"{name}\":{value}}}").as_bytes());
        }
    }
}
