//! Depth of pictures.

use super::sd_find::{Opened, find, need};
use super::sd_latent::dims;
use super::sd_model::text;
use crate::graph::{DType, GraphError, Interpolation, Tensor};
use crate::models::check::lora_file;
use crate::models::depth::{self, DepthConfig};
use crate::models::weights::{Repository, Weights};
use crate::workflow::class::input::{file, image};
use crate::workflow::class::{Class, out};
use crate::workflow::lower::{Cx, LowerError, Value};
use crate::workflow::need::Need;
use crate::workflow::value::Type;

/// Depth models.
pub const CLASSES: &[Class] = &[Class {
    pack: "ComfyUI-Depth-Anything-Tensorrt",
    inputs: &[image("images"), file("engine")],
    outputs: &[out(Type::Image)],
    needs: |widgets| vec![model(&text(widgets, "engine"))],
    note: "Weights of Depth Anything V2 in the layout of transformers stand for the engine, which is not read; engines of \
           Depth Anything 3 are refused.",
    ..Class::graph("DepthAnythingTensorrt", depth_anything)
}];

/// Mean and deviation of ImageNet.
const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const DEVIATION: [f32; 3] = [0.229, 0.224, 0.225];

/// The weights that an engine was made of. What ComfyStream calls vitl14 is the middle one.
fn model(engine: &str) -> Need {
    let name = engine.to_lowercase();
    let size = match () {
        () if name.contains("vits") => "Small",
        () if name.contains("vitl") && name.contains("v2") => "Large",
        () => "Base",
    };
    let stem = engine.strip_suffix(".engine").unwrap_or(engine);
    need("depth model", stem, &["depth_anything"], &format!("depth-anything/Depth-Anything-V2-{size}-hf"))
}

/// Bilinear to the model's size, the model, `⌊255·(d − min) / (max − min)⌋ / 255` of each picture, bilinear back; turned round
/// for engines of metric depth.
fn depth_anything(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let x = cx.tensor("images")?;
    let [batch, height, width, _] = dims(cx, "images", &x)?;
    let engine = cx.text("engine")?;
    if engine.to_lowercase().contains("da3") {
        return Err(cx.refuse("engine", "Depth Anything 3 is not built here", "take an engine of Depth Anything V2"));
    }
    let need = model(&engine);
    let path = find(cx, "engine", &need)?;
    let folder = if path.is_dir() { path.as_path() } else { path.parent().unwrap_or(&path) };
    let wrong =
        |error: crate::models::weights::WeightsError| cx.refuse_model("engine", error.to_string(), need.from.clone());
    let config =
        Repository::at(folder).and_then(|folder| folder.json(std::path::Path::new("config.json"))).map_err(wrong)?;
    let config = DepthConfig::from_json(&config)?;
    let file = [folder.join("model.safetensors")].into_iter().find(|file| file.exists());
    let file = file.or_else(|| lora_file(&path)).unwrap_or_else(|| folder.join("model.safetensors"));
    let weights = Weights::open(&file).map_err(wrong)?;
    cx.note(format!("the engine stands for the weights in {}", file.display()));
    let precision = cx.env().precision;
    let mut opened = Opened::of(cx, weights, precision, "depth")?;
    let g = cx.g()?;
    let x = g.slice(&x, 3, 0, 3)?;
    let x = g.transpose(&x, &[0, 3, 1, 2])?;
    let x = g.resize(&x, config.size, config.size, Interpolation::Linear)?;
    let mean = g.floats(DType::F32, [1, 3, 1, 1], &MEAN)?;
    let deviation = g.floats(DType::F32, [1, 3, 1, 1], &DEVIATION)?;
    let x = g.sub(&x, &mean)?;
    let x = g.div(&x, &deviation)?;
    let y = opened.build(g, |net| depth::build(net, &config, &x))?;
    opened.finish()?;
    let y = g.cast(&y, DType::F32)?;
    let y = bytes(g, &y)?;
    let y = if engine.to_lowercase().contains("metric") { super::image::one_minus(g, &y)? } else { y };
    let y = g.resize(&y, height, width, Interpolation::Linear)?;
    let y = g.transpose(&y, &[0, 2, 3, 1])?;
    let y = g.expand(&y, &[batch, height, width, 3])?;
    cx.one(&y)
}

/// Each picture from 0 to 1 in steps of 1 / 255.
fn bytes(g: &mut crate::graph::GraphBuilder, x: &Tensor) -> Result<Tensor, GraphError> {
    let most = g.reduce_max(x, &[1, 2, 3], true)?;
    let turned = g.mul_scalar(x, -1.0)?;
    let least = g.reduce_max(&turned, &[1, 2, 3], true)?;
    let range = g.add(&most, &least)?;
    // One depth throughout is 0.
    let floor = g.scalar(DType::F32, 1e-12)?;
    let range = g.max(&range, &floor)?;
    let x = g.add(x, &least)?;
    let x = g.div(&x, &range)?;
    let x = g.mul_scalar(&x, 255.0)?;
    // A cast cuts off.
    let x = g.cast(&x, DType::U8)?;
    let x = g.cast(&x, DType::F32)?;
    g.div_scalar(&x, 255.0)
}
