//! `DepthAnythingForDepthEstimation` of transformers: Depth Anything V1 and V2, a DINOv2 with the head of DPT.

use serde_json::{Value, json};

use super::ModelError;
use super::fields::Fields;
use super::net::{Net, channels, fixed};
use crate::graph::{Conv, Interpolation, Tensor};

/// A depth model.
#[derive(Clone, Debug, PartialEq)]
pub struct DepthConfig {
    /// Side of the picture in pixels.
    pub size: u64,
    /// Side of a patch in pixels.
    pub patch: u64,
    hidden: u64,
    layers: u64,
    heads: u64,
    intermediate: u64,
    epsilon: f32,
    /// Layers behind which a feature is taken.
    stages: Vec<u64>,
    /// Channels of each feature.
    neck: Vec<u64>,
    fusion: u64,
    head: u64,
}

impl DepthConfig {
    /// Reads the `config.json` of a `DepthAnythingForDepthEstimation`.
    ///
    /// # Errors
    /// [`ModelError::Config`] with the first key that is wrong or asks for what is not built here.
    pub fn from_json(config: &Value) -> Result<Self, ModelError> {
        let fields = Fields(config);
        fields.only("head_in_index", &[json!(-1)])?;
        fields.only("depth_estimation_type", &[json!("relative")])?;
        fields.only("reassemble_factors", &[json!([4, 2, 1, 0.5])])?;
        fields.only("patch_size", &[json!(14)])?;
        let backbone = config.get("backbone_config").cloned().unwrap_or_default();
        let inner = Fields(&backbone);
        inner.only("model_type", &[json!("dinov2")])?;
        inner.only("use_swiglu_ffn", &[json!(false)])?;
        inner.only("qkv_bias", &[json!(true)])?;
        inner.only("apply_layernorm", &[json!(true)])?;
        inner.only("hidden_act", &[json!("gelu")])?;
        let hidden = inner.count_or("hidden_size", 768)?;
        let stages = match inner.has("out_indices") {
            true => inner.list("out_indices")?,
            false => {
                let names = inner.texts("out_features")?;
                names.iter().filter_map(|name| name.strip_prefix("stage")?.parse().ok()).collect()
            }
        };
        let made = Self {
            size: inner.count_or("image_size", 518)?,
            patch: inner.count_or("patch_size", 14)?,
            hidden,
            layers: inner.count_or("num_hidden_layers", 12)?,
            heads: inner.count_or("num_attention_heads", 12)?,
            intermediate: hidden * inner.count_or("mlp_ratio", 4)?,
            epsilon: inner.number_or("layer_norm_eps", 1e-6)? as f32,
            stages,
            neck: fields.list("neck_hidden_sizes")?,
            fusion: fields.count_or("fusion_hidden_size", 64)?,
            head: fields.count_or("head_hidden_size", 32)?,
        };
        if made.patch == 0 || made.size == 0 || !made.size.is_multiple_of(made.patch) {
            return Err(ModelError::config(
                "image_size",
                format!("{} is no number of patches of {}", made.size, made.patch),
            ));
        }
        if made.heads == 0 || !hidden.is_multiple_of(made.heads) {
            return Err(ModelError::config("num_attention_heads", format!("{} do not divide {hidden}", made.heads)));
        }
        if made.stages.len() != 4 || made.neck.len() != 4 || !(1..=64).contains(&made.layers) {
            return Err(ModelError::config("out_indices", "four features of up to 64 layers are built here"));
        }
        Ok(made)
    }
}

/// The relative inverse depth (N, 1, size, size), not normalised, of `picture` (N, 3, size, size), normalised by the mean and
/// deviation of ImageNet.
///
/// # Errors
/// [`ModelError`] when a weight is missing or the picture does not fit.
pub fn build(net: &mut Net<'_>, config: &DepthConfig, picture: &Tensor) -> Result<Tensor, ModelError> {
    if fixed(picture, 2)? != config.size || fixed(picture, 3)? != config.size {
        return Err(ModelError::config("image_size", format!("{} is needed, not {}", config.size, picture.shape())));
    }
    let picture = net.g.cast(picture, net.dtype())?;
    let states = net.within("backbone", |net| backbone(net, config, &picture))?;
    let fused = net.within("neck", |net| neck(net, config, &states))?;
    net.within("head", |net| {
        let x = net.conv3("conv1", &fused, config.fusion / 2)?;
        let x = net.g.resize(&x, config.size, config.size, Interpolation::Corners)?;
        let x = net.conv3("conv2", &x, config.head)?;
        let x = net.g.relu(&x)?;
        let x = net.conv1("conv3", &x, 1)?;
        Ok(net.g.relu(&x)?)
    })
}

/// The states behind the stages, (N, 1 + patches, hidden).
fn backbone(net: &mut Net<'_>, config: &DepthConfig, picture: &Tensor) -> Result<Vec<Tensor>, ModelError> {
    let rows = fixed(picture, 0)?;
    let side = config.size / config.patch;
    let tokens = side * side + 1;
    let how = Conv { stride: [config.patch, config.patch], ..Conv::default() };
    let mut x = net.within("embeddings", |net| {
        let patches = net.within("patch_embeddings", |net| {
            net.conv("projection", picture, config.hidden, config.patch, true, how)
        })?;
        let patches = net.g.reshape(&patches, &[rows as i64, config.hidden as i64, -1])?;
        let patches = net.g.transpose(&patches, &[0, 2, 1])?;
        let class = net.weight("cls_token", &[1, 1, config.hidden])?;
        let class = net.g.expand(&class, &[rows, 1, config.hidden])?;
        let all = net.g.concat(&[&class, &patches], 1)?;
        let places = net.weight("position_embeddings", &[1, tokens, config.hidden])?;
        Ok(net.g.add(&all, &places)?)
    })?;
    x = net.g.reshape(&x, &[(rows * tokens) as i64, config.hidden as i64])?;
    let mut taken = Vec::with_capacity(config.stages.len());
    for i in 0..config.layers {
        x = net.within(&format!("encoder.layer.{i}"), |net| layer(net, config, [rows, tokens], &x))?;
        if config.stages.contains(&(i + 1)) {
            taken.push(x.clone());
        }
    }
    if taken.len() != config.stages.len() {
        return Err(ModelError::config("out_indices", "a feature lies behind the last layer"));
    }
    net.within("layernorm", |net| {
        let scale = net.weight("weight", &[config.hidden])?;
        let bias = net.weight("bias", &[config.hidden])?;
        let normal = taken.iter().map(|x| {
            let x = net.g.layer_norm(x, &scale, &bias, config.epsilon)?;
            Ok(net.g.reshape(&x, &[rows as i64, tokens as i64, config.hidden as i64])?)
        });
        normal.collect()
    })
}

fn layer(net: &mut Net<'_>, config: &DepthConfig, size: [u64; 2], x: &Tensor) -> Result<Tensor, ModelError> {
    let normal = net.layer_norm("norm1", x, config.epsilon)?;
    let attended = net.within("attention", |net| attend(net, config, size, &normal))?;
    let attended = scaled(net, "layer_scale1", config, &attended)?;
    let x = net.g.add(x, &attended)?;
    let normal = net.layer_norm("norm2", &x, config.epsilon)?;
    let fed = net.within("mlp", |net| {
        let wide = net.linear("fc1", &normal, config.intermediate, true)?;
        let wide = net.g.gelu(&wide)?;
        net.linear("fc2", &wide, config.hidden, true)
    })?;
    let fed = scaled(net, "layer_scale2", config, &fed)?;
    Ok(net.g.add(&x, &fed)?)
}

fn scaled(net: &mut Net<'_>, name: &str, config: &DepthConfig, x: &Tensor) -> Result<Tensor, ModelError> {
    let factor = net.within(name, |net| net.weight("lambda1", &[config.hidden]))?;
    Ok(net.g.mul(x, &factor)?)
}

fn attend(net: &mut Net<'_>, config: &DepthConfig, size: [u64; 2], x: &Tensor) -> Result<Tensor, ModelError> {
    let [rows, tokens] = size;
    let each = config.hidden / config.heads;
    let split = [rows as i64, tokens as i64, config.heads as i64, each as i64];
    let mixed = net.within("attention", |net| {
        let mut heads = |name: &str, order: [usize; 4]| {
            let y = net.linear(name, x, config.hidden, true)?;
            let y = net.g.reshape(&y, &split)?;
            Ok::<_, ModelError>(net.g.transpose(&y, &order)?)
        };
        let query = heads("query", [0, 2, 1, 3])?;
        let key = heads("key", [0, 2, 3, 1])?;
        let value = heads("value", [0, 2, 1, 3])?;
        let query = net.g.mul_scalar(&query, 1.0 / (each as f64).sqrt())?;
        let scores = net.g.matmul(&query, &key)?;
        let shares = net.g.softmax(&scores, -1)?;
        let mixed = net.g.matmul(&shares, &value)?;
        let mixed = net.g.transpose(&mixed, &[0, 2, 1, 3])?;
        Ok(net.g.reshape(&mixed, &[(rows * tokens) as i64, config.hidden as i64])?)
    })?;
    net.within("output", |net| net.linear("dense", &mixed, config.hidden, true))
}

/// The features of all stages in one, finest last.
fn neck(net: &mut Net<'_>, config: &DepthConfig, states: &[Tensor]) -> Result<Tensor, ModelError> {
    let side = config.size / config.patch;
    let mut features = Vec::with_capacity(states.len());
    for (i, (state, &width)) in states.iter().zip(&config.neck).enumerate() {
        let rows = fixed(state, 0)?;
        let patches = net.g.slice(state, 1, 1, (side * side + 1) as i64)?;
        let x = net.g.reshape(&patches, &[rows as i64, side as i64, side as i64, config.hidden as i64])?;
        let x = net.g.transpose(&x, &[0, 3, 1, 2])?;
        let x = net.within(&format!("reassemble_stage.layers.{i}"), |net| {
            let x = net.conv1("projection", &x, width)?;
            match i {
                0 => larger(net, "resize", &x, 4),
                1 => larger(net, "resize", &x, 2),
                2 => Ok(x),
                _ => net.conv("resize", &x, width, 3, true, Conv::padded(1).stride(2)),
            }
        })?;
        let name = i.to_string();
        features.push(net.within("convs", |net| net.conv(&name, &x, config.fusion, 3, false, Conv::padded(1)))?);
    }
    let mut fused: Option<Tensor> = None;
    for (i, feature) in features.iter().rev().enumerate() {
        let next = features.iter().rev().nth(i + 1);
        let size = match next {
            Some(next) => [fixed(next, 2)?, fixed(next, 3)?],
            None => [2 * fixed(feature, 2)?, 2 * fixed(feature, 3)?],
        };
        fused = Some(net.within(&format!("fusion_stage.layers.{i}"), |net| {
            let x = match &fused {
                None => feature.clone(),
                Some(before) => {
                    let added = net.within("residual_layer1", |net| residual(net, feature))?;
                    net.g.add(before, &added)?
                }
            };
            let x = net.within("residual_layer2", |net| residual(net, &x))?;
            let x = net.g.resize(&x, size[0], size[1], Interpolation::Corners)?;
            net.conv1("projection", &x, config.fusion)
        })?);
    }
    fused.ok_or_else(|| ModelError::config("neck_hidden_sizes", "there are no features"))
}

fn residual(net: &mut Net<'_>, x: &Tensor) -> Result<Tensor, ModelError> {
    let width = channels(x)?;
    let y = net.g.relu(x)?;
    let y = net.conv3("convolution1", &y, width)?;
    let y = net.g.relu(&y)?;
    let y = net.conv3("convolution2", &y, width)?;
    Ok(net.g.add(&y, x)?)
}

/// A transposed convolution whose kernel is as large as its stride: each pixel becomes `factor` × `factor` of them.
fn larger(net: &mut Net<'_>, name: &str, x: &Tensor, factor: u64) -> Result<Tensor, ModelError> {
    let (rows, width, height, across) = (fixed(x, 0)?, channels(x)?, fixed(x, 2)?, fixed(x, 3)?);
    net.within(name, |net| {
        let weight = net.weight("weight", &[width, width, factor, factor])?;
        let bias = net.weight("bias", &[width])?;
        let weight = net.g.reshape(&weight, &[width as i64, -1])?;
        let pixels = net.g.transpose(x, &[0, 2, 3, 1])?;
        let pixels = net.g.reshape(&pixels, &[-1, width as i64])?;
        let made = net.g.matmul(&pixels, &weight)?;
        let shape = [rows, height, across, width, factor, factor].map(|n| n as i64);
        let made = net.g.reshape(&made, &shape)?;
        let made = net.g.transpose(&made, &[0, 3, 1, 4, 2, 5])?;
        let made = net.g.reshape(&made, &[rows, width, height * factor, across * factor].map(|n| n as i64))?;
        let bias = net.g.reshape(&bias, &[1, width as i64, 1, 1])?;
        Ok(net.g.add(&made, &bias)?)
    })
}
