//! Every pipeline by name.

use super::Pipeline;
use super::comfyui::ComfyUi;
use super::delay::Delay;
use super::invert::Invert;
use super::noop::Noop;
use super::streamdiffusion::StreamDiffusion;

/// All pipelines, in the order in which lists show them.
pub fn all() -> &'static [&'static dyn Pipeline] {
    &[
        &Noop,
        &Invert,
        &Delay,
        &StreamDiffusion::PLAIN,
        &StreamDiffusion::SDTURBO,
        &StreamDiffusion::SD15,
        &StreamDiffusion::SDXL,
        &ComfyUi,
    ]
}

/// The pipeline called `name`.
pub fn find(name: &str) -> Option<&'static dyn Pipeline> {
    all().iter().copied().find(|pipeline| pipeline.name() == name)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::pipeline::Params;

    #[test]
    fn every_pipeline_is_found_by_its_name_and_takes_its_own_defaults() {
        for pipeline in all() {
            assert!(std::ptr::addr_eq(find(pipeline.name()).unwrap(), *pipeline));
            let checked = pipeline.check(&Params::new()).unwrap();
            let schema = pipeline.schema();
            let properties = schema["properties"].as_object().unwrap();
            for (name, value) in &*checked.values {
                assert_eq!(&properties[name]["default"], value, "{}: {name}", pipeline.name());
            }
        }
        assert!(find("Noop").is_none() && find("").is_none());
    }

    #[test]
    fn only_noop_takes_unknown_fields() {
        let params: Params = serde_json::from_str("{\"no_such_field\": 1}").unwrap();
        for pipeline in all() {
            assert_eq!(pipeline.check(&params).is_ok(), pipeline.name() == "noop");
        }
    }
}
