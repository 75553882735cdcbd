//! What streams go through: codecs, the pipeline and its models.

use super::Finding;
use crate::config::Config;
use crate::frame::{FramePool, PixelFormat, Size};
use crate::inference::{Provider, engine_folder, engines_kept};
use crate::media::{Input, InputConfig, Output, OutputConfig};
use crate::models::weights::Repository;
use crate::pipeline::registry;

/// Size of the pictures that codecs are tried with; NVENC takes nothing much smaller.
const SIZE: Size = Size { width: 512, height: 512 };
/// Begin of the names of models that are made up as they are loaded.
const MADE_UP: &str = "weir/";

pub(super) fn look(config: &Config) -> Vec<Finding> {
    let mut findings = vec![decoder(config), encoder(config)];
    findings.extend(pipeline(config));
    findings.push(engines(config));
    findings
}

fn decoder(config: &Config) -> Finding {
    let media = config.engine.media.clone();
    let name = media.video_decoder.clone();
    let pool = FramePool::new(1);
    match Input::new(InputConfig { target: SIZE, format: PixelFormat::Rgb24, media, pool }) {
        Ok(_) => Finding::ok("decoder", format!("{name} opens")),
        Err(error) => {
            Finding::missing("decoder", error.to_string(), "install FFmpeg's libraries, or choose media.video_decoder")
        }
    }
}

fn encoder(config: &Config) -> Finding {
    let media = config.engine.media.clone();
    let name = media.video_encoder.clone();
    match Output::new(OutputConfig { size: SIZE, fps_hint: 30.0, media }) {
        Ok(output) => Finding::ok("encoder", format!("{name} opens {}", output.encoder_name())),
        Err(error) => {
            Finding::missing("encoder", error.to_string(), "install FFmpeg's libraries, or choose media.video_encoder")
        }
    }
}

fn pipeline(config: &Config) -> Vec<Finding> {
    let name = &config.supervisor.model_id;
    let Some(pipeline) = registry::find(name) else {
        let known: Vec<_> = registry::all().iter().map(|pipeline| pipeline.name()).collect();
        let remedy = format!("choose one with MODEL_ID: {}", known.join(", "));
        return vec![Finding::missing("pipeline", format!("there is no {name}"), remedy)];
    };
    let given = &config.engine.initial_params;
    let (initial, left_out) = match given.is_empty() {
        true => pipeline.preset(&config.engine.models),
        false => (given.clone(), Vec::new()),
    };
    let checked = match pipeline.check(&initial) {
        Ok(checked) => checked,
        Err(error) => {
            let remedy = "correct engine.initial_params";
            return vec![Finding::missing("pipeline", format!("{name}: {error}"), remedy)];
        }
    };
    let found = Finding::ok("pipeline", format!("{name}: {}", pipeline.about()));
    let model = checked.values.get("model_id").and_then(|value| value.as_str());
    let mut findings = vec![found, models(config, model)];
    findings.extend(left_out.into_iter().map(|left_out| Finding::unused("preset", left_out)));
    findings
}

fn models(config: &Config, model: Option<&str>) -> Finding {
    let root = &config.engine.models;
    match model {
        None => Finding::unused("models", "this pipeline needs none"),
        Some(made_up) if made_up.starts_with(MADE_UP) => Finding::unused("models", format!("{made_up} is made up")),
        Some(id) => match Repository::find(root, id) {
            Ok(found) => Finding::ok("models", format!("{id} in {}", found.root().display())),
            Err(error) => {
                let remedy =
                    format!("put the model below {}, in the layout of its hub's cache or of diffusers", root.display());
                Finding::missing("models", error.to_string(), remedy)
            }
        },
    }
}

/// TensorRT's engines: without them a stream can run, after minutes of building.
fn engines(config: &Config) -> Finding {
    let inference = &config.engine.inference;
    if inference.provider != Provider::Tensorrt {
        return Finding::unused("engines", "only the tensorrt provider builds them");
    }
    let root = engine_folder(inference, &config.engine.models);
    let kept = engines_kept(&root);
    let each = |(gpu, (engines, bytes)): (&String, &(usize, u64))| {
        format!("{engines} for {gpu}, {:.1} GiB", *bytes as f64 / f64::from(1 << 30))
    };
    match kept.is_empty() {
        true => Finding::unused(
            "engines",
            format!(
                "none in {} yet: loading builds them, which takes minutes; `prepare` does it before",
                root.display()
            ),
        ),
        false => Finding::ok(
            "engines",
            format!("{} in {}", kept.iter().map(each).collect::<Vec<_>>().join("; "), root.display()),
        ),
    }
}
