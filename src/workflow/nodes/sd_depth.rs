//! Depth of pictures.

use std::path::Path;
use std::sync::Arc;

use super::sd_find::{Opened, find, need};
use super::sd_latent::dims;
use super::sd_model::text;
use crate::graph::{DType, Foreign, GraphBuilder, GraphError, Interpolation, Tensor};
use crate::models::check::lora_file;
use crate::models::depth::{self, DepthConfig};
use crate::models::weights::{Repository, Weights};
use crate::workflow::class::input::{file, image};
use crate::workflow::class::{Class, out};
use crate::workflow::lower::{After, Cx, LowerError, Value};
use crate::workflow::need::Need;
use crate::workflow::value::Type;

/// Depth models.
pub const CLASSES: &[Class] = &[Class {
    pack: "ComfyUI-Depth-Anything-Tensorrt",
    inputs: &[image("images"), file("engine")],
    outputs: &[out(Type::Image)],
    needs: |widgets| vec![model(&text(widgets, "engine"))],
    apart: |widgets, models| model(&text(widgets, "engine")).find(models).is_some_and(|path| is_onnx(&path)),
    note: "Weights of Depth Anything V2 in the layout of transformers, or an ONNX file, stand for the engine, which is not read; \
           engines of Depth Anything 3 are refused.",
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
    let mut need =
        need("depth model", stem, &["depth_anything"], &format!("depth-anything/Depth-Anything-V2-{size}-hf"));
    // Engines are called after the ONNX file that they were made of, with the precision behind it.
    let bare = stem.strip_suffix("-fp16").or_else(|| stem.strip_suffix("-fp32")).unwrap_or(stem);
    if let Some(folder) = need.files.first().and_then(|file| file.parent()).map(Path::to_owned) {
        need.files.extend([stem, bare].map(|name| folder.join(format!("{name}.onnx"))));
        need.files.dedup();
    }
    need
}

fn is_onnx(path: &Path) -> bool {
    path.extension().is_some_and(|end| end == "onnx")
}

/// Bilinear to the model's size, the model, `⌊255·(d − min) / (max − min)⌋ / 255` of each picture, bilinear back; turned round
/// for engines of metric depth.
fn depth_anything(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let engine = cx.text("engine")?;
    if engine.to_lowercase().contains("da3") {
        return Err(cx.refuse("engine", "Depth Anything 3 is not built here", "take an engine of Depth Anything V2"));
    }
    let metric = engine.to_lowercase().contains("metric");
    let need = model(&engine);
    let path = find(cx, "engine", &need)?;
    if is_onnx(&path) {
        return from_file(cx, &path, metric);
    }
    let x = cx.tensor("images")?;
    let [batch, height, width, _] = dims(cx, "images", &x)?;
    let folder = if path.is_dir() { path.as_path() } else { path.parent().unwrap_or(&path) };
    let wrong =
        |error: crate::models::weights::WeightsError| cx.refuse_model("engine", error.to_string(), need.from.clone());
    let config = Repository::at(folder).and_then(|folder| folder.json(Path::new("config.json"))).map_err(wrong)?;
    let config = DepthConfig::from_json(&config)?;
    let file = [folder.join("model.safetensors")].into_iter().find(|file| file.exists());
    let file = file.or_else(|| lora_file(&path)).unwrap_or_else(|| folder.join("model.safetensors"));
    let weights = Weights::open(&file).map_err(wrong)?;
    cx.note(format!("the engine stands for the weights in {}", file.display()));
    let precision = cx.env().precision;
    let mut opened = Opened::of(cx, weights, precision, "depth")?;
    let g = cx.g()?;
    let x = before(g, &x, [config.size; 2])?;
    let y = opened.build(g, |net| depth::build(net, &config, &x))?;
    opened.finish()?;
    let y = after(g, &y, metric, [batch, height, width])?;
    cx.one(&y)
}

/// A picture (B, H, W, C) as the model takes it: (B, 3, h, w) in the numbers of ImageNet.
fn before(g: &mut GraphBuilder, x: &Tensor, [h, w]: [u64; 2]) -> Result<Tensor, GraphError> {
    let x = g.slice(x, 3, 0, 3)?;
    let x = g.transpose(&x, &[0, 3, 1, 2])?;
    let x = g.resize(&x, h, w, Interpolation::Linear)?;
    let mean = g.floats(DType::F32, [1, 3, 1, 1], &MEAN)?;
    let deviation = g.floats(DType::F32, [1, 3, 1, 1], &DEVIATION)?;
    let x = g.sub(&x, &mean)?;
    g.div(&x, &deviation)
}

/// What the model gives, (B, 1, h, w), as a picture (B, H, W, 3).
fn after(
    g: &mut GraphBuilder,
    y: &Tensor,
    metric: bool,
    [batch, height, width]: [u64; 3],
) -> Result<Tensor, GraphError> {
    let y = g.cast(y, DType::F32)?;
    let y = bytes(g, &y)?;
    let y = if metric { super::image::one_minus(g, &y)? } else { y };
    let y = g.resize(&y, height, width, Interpolation::Linear)?;
    let y = g.transpose(&y, &[0, 2, 3, 1])?;
    g.expand(&y, &[batch, height, width, 3])
}

/// Side of the picture that a model with open dimensions is given: 37 pieces of 14 pixels.
const SIDE: u64 = 518;

/// The graph of an ONNX file, as a stage of its own between two graphs.
fn from_file(cx: &mut Cx<'_>, path: &Path, metric: bool) -> Result<Vec<Value>, LowerError> {
    let (_, shape) = cx.shape(cx.sym("images")?)?;
    let (&[1, height, width, _], true) = (&shape[..], shape.last() >= Some(&3)) else {
        return Err(cx.refuse("images", format!("one picture of three channels is needed, not {shape:?}"), ""));
    };
    let wrong = |cx: &Cx<'_>, reason: String| {
        let help = "export it with one input f32 (1, 3, H, W) and one output f32 (1, H, W), in one file";
        Err(cx.refuse_model("engine", format!("{}: {reason}", path.display()), help))
    };
    let foreign = match Foreign::read(path) {
        Ok(foreign) => foreign,
        Err(error) => return Err(cx.refuse_model("engine", error.to_string(), "export it again")),
    };
    if foreign.beside {
        return wrong(cx, "its weights lie in other files".to_owned());
    }
    let ([input], [output]) = (&foreign.inputs[..], &foreign.outputs[..]) else {
        return wrong(cx, format!("it has {} inputs and {} outputs", foreign.inputs.len(), foreign.outputs.len()));
    };
    let open = |n: Option<u64>, wanted: u64| n.is_none_or(|n| n == wanted);
    let [h, w] = match (input.dtype, input.shape.as_deref()) {
        (Some(DType::F32), Some(&[batch, channels, h, w])) if open(batch, 1) && open(channels, 3) => {
            [h.unwrap_or(SIDE), w.unwrap_or(SIDE)]
        }
        _ => return wrong(cx, format!("the input {} is {:?} {:?}", input.name, input.dtype, input.shape)),
    };
    let given = match (output.dtype, output.shape.as_deref()) {
        (Some(DType::F32), Some(&[batch, y, x])) if open(batch, 1) && open(y, h) && open(x, w) => vec![1, h, w],
        (Some(DType::F32), Some(&[batch, one, y, x])) if open(batch, 1) && open(one, 1) && open(y, h) && open(x, w) => {
            vec![1, 1, h, w]
        }
        _ => return wrong(cx, format!("the output {} is {:?} {:?}", output.name, output.dtype, output.shape)),
    };
    let behind = move |g: &mut GraphBuilder, y: &Tensor| {
        let y = g.reshape(y, &[1, 1, h as i64, w as i64])?;
        after(g, &y, metric, [1, height, width])
    };
    let behind = (Arc::new(behind) as After, vec![1, height, width, 3]);
    let ports = [input.name.clone(), output.name.clone()];
    cx.note(format!("the engine stands for {}, which runs as a graph of its own", path.display()));
    let value = cx.file("images", |g, x| before(g, x, [h, w]), path.to_owned(), ports, given, behind)?;
    match value {
        Some(value) => Ok(vec![value]),
        None => {
            let help = "put a node that becomes operators between them, such as ImageScale";
            Err(cx.refuse("images", "what is linked to it comes from the host", help))
        }
    }
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
