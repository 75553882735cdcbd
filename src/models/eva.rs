//! `TimmWrapperForImageClassification` of transformers over an EVA-02 of timm: a vision transformer with rotary places, gated
//! layers, and a classifier over the mean of its patches.

use serde_json::{Value, json};

use super::ModelError;
use super::fields::Fields;
use super::net::{Net, fixed};
use crate::graph::{Conv, DType, Tensor};

/// The architecture that is known, whose shape `model_args` may change.
const KNOWN: &str = "eva02_base_patch14_448";
/// Mean and deviation of red, green and blue that CLIP's pictures are normalised by.
const CLIP: [[f32; 3]; 2] = [[0.481_454_66, 0.457_827_5, 0.408_210_73], [0.268_629_54, 0.261_302_6, 0.275_777_1]];
/// Added to variances.
const EPSILON: f32 = 1e-6;

/// A classifier.
#[derive(Clone, Debug, PartialEq)]
pub struct EvaConfig {
    /// Side of the picture in pixels.
    pub size: u64,
    /// Mean and deviation of red, green and blue that pictures in 0…1 are normalised by.
    pub normal: [[f32; 3]; 2],
    /// How many classes.
    pub classes: u64,
    /// Name of the first class, where it is known.
    pub first: Option<String>,
    patch: u64,
    hidden: u64,
    layers: u64,
    heads: u64,
    intermediate: u64,
    /// Patches a side of the pictures that it was first trained on.
    reference: u64,
}

impl EvaConfig {
    /// Reads the `config.json` of a `TimmWrapperForImageClassification`.
    ///
    /// # Errors
    /// [`ModelError::Config`] with the first key that is wrong or asks for what is not built here.
    pub fn from_json(config: &Value) -> Result<Self, ModelError> {
        let fields = Fields(config);
        let architecture = fields.text("architecture").unwrap_or_default();
        if architecture.split('.').next() != Some(KNOWN) {
            return Err(ModelError::config("architecture", format!("{architecture}; {KNOWN} is built here")));
        }
        let empty = json!({});
        let inner = |key: &str| config.get(key).filter(|value| value.is_object()).unwrap_or(&empty);
        let args = Fields(inner("model_args"));
        for (key, only) in [
            ("qkv_fused", json!(false)),
            ("swiglu_mlp", json!(true)),
            ("scale_mlp", json!(true)),
            ("scale_attn_inner", json!(false)),
            ("use_rot_pos_emb", json!(true)),
            ("global_pool", json!("avg")),
            ("class_token", json!(true)),
            ("qkv_bias", json!(true)),
        ] {
            args.only(key, &[only])?;
        }
        let cfg = inner("pretrained_cfg");
        let colours = |key: &str, default: [f32; 3]| -> [f32; 3] {
            let list = cfg
                .get(key)
                .and_then(Value::as_array)
                .map(|list| list.iter().filter_map(Value::as_f64).map(|x| x as f32).collect::<Vec<_>>());
            list.and_then(|list| list.try_into().ok()).unwrap_or(default)
        };
        let names = config.get("label_names").and_then(Value::as_array);
        let reference = args.0.get("ref_feat_shape").and_then(|shape| shape.get(0)).and_then(Value::as_u64);
        let hidden = args.count_or("embed_dim", 768)?;
        let ratio = args.number_or("mlp_ratio", 4.0 * 2.0 / 3.0)?;
        let made = Self {
            size: args.count_or("img_size", 448)?,
            normal: [colours("mean", CLIP[0]), colours("std", CLIP[1])],
            classes: fields.count_or("num_classes", names.map_or(4, |names| names.len() as u64))?,
            first: names.and_then(|names| Some(names.first()?.as_str()?.to_owned())),
            patch: args.count_or("patch_size", 14)?,
            hidden,
            layers: args.count_or("depth", 12)?,
            heads: args.count_or("num_heads", 12)?,
            intermediate: (hidden as f64 * ratio) as u64,
            reference: reference.unwrap_or(16),
        };
        if made.patch == 0 || made.size == 0 || !made.size.is_multiple_of(made.patch) || made.reference == 0 {
            let reason = format!("{} is no number of patches of {}", made.size, made.patch);
            return Err(ModelError::config("img_size", reason));
        }
        if made.heads == 0 || !hidden.is_multiple_of(4 * made.heads) {
            return Err(ModelError::config("num_heads", format!("{} heads do not fit {hidden}", made.heads)));
        }
        if !(1..=64).contains(&made.layers) || made.intermediate == 0 || made.classes < 2 {
            return Err(ModelError::config("depth", "up to 64 layers and two or more classes are built here"));
        }
        Ok(made)
    }
}

/// The logits (N, classes) of `picture` (N, 3, size, size), normalised, in the type of the activations.
///
/// # Errors
/// [`ModelError`] when a weight is missing or the picture does not fit.
pub fn build(net: &mut Net<'_>, config: &EvaConfig, picture: &Tensor) -> Result<Tensor, ModelError> {
    if fixed(picture, 2)? != config.size || fixed(picture, 3)? != config.size {
        return Err(ModelError::config("img_size", format!("{} is needed, not {}", config.size, picture.shape())));
    }
    // Saved by transformers, all names are below one more.
    match net.has("timm_model.head.weight") {
        true => net.within("timm_model", |net| classify(net, config, picture)),
        false => classify(net, config, picture),
    }
}

fn classify(net: &mut Net<'_>, config: &EvaConfig, picture: &Tensor) -> Result<Tensor, ModelError> {
    let rows = fixed(picture, 0)?;
    let side = config.size / config.patch;
    let (patches, hidden) = (side * side, config.hidden);
    let picture = net.g.cast(picture, net.dtype())?;
    let how = Conv { stride: [config.patch, config.patch], ..Conv::default() };
    let x = net.within("patch_embed", |net| net.conv("proj", &picture, hidden, config.patch, true, how))?;
    let x = net.g.reshape(&x, &[rows as i64, hidden as i64, -1])?;
    let x = net.g.transpose(&x, &[0, 2, 1])?;
    let class = net.weight("cls_token", &[1, 1, hidden])?;
    let class = net.g.expand(&class, &[rows, 1, hidden])?;
    let x = net.g.concat(&[&class, &x], 1)?;
    let places = net.weight("pos_embed", &[1, patches + 1, hidden])?;
    let x = net.g.add(&x, &places)?;
    let mut x = net.g.reshape(&x, &[-1, hidden as i64])?;
    let turns = turns(net, config, side)?;
    for i in 0..config.layers {
        x = net.within(&format!("blocks.{i}"), |net| block(net, config, [rows, patches + 1], &turns, &x))?;
    }
    let x = net.g.reshape(&x, &[rows as i64, (patches + 1) as i64, hidden as i64])?;
    let x = net.g.slice(&x, 1, 1, (patches + 1) as i64)?;
    let x = net.g.reduce_mean(&x, &[1], false)?;
    let x = net.layer_norm("fc_norm", &x, EPSILON)?;
    net.linear("head", &x, config.classes, true)
}

/// Sine and cosine (patches, width of a head) of the places' angles: half of each head's numbers turn by the row, half by the
/// column, two at a time by the same angle, i · reference / side · 10000^(−4 k / width).
fn turns(net: &mut Net<'_>, config: &EvaConfig, side: u64) -> Result<[Tensor; 2], ModelError> {
    let width = config.hidden / config.heads;
    let scale = config.reference as f64 / side as f64;
    let angle = |i: u64| {
        let (place, at) = (i / width, i % width);
        let along = if at < width / 2 { place / side } else { place % side };
        let k = at % (width / 2) / 2;
        along as f64 * scale * 10_000_f64.powf(-4.0 * k as f64 / width as f64)
    };
    let all = 0..side * side * width;
    let shape = [side * side, width];
    let sine: Vec<f32> = all.clone().map(|i| angle(i).sin() as f32).collect();
    let cosine: Vec<f32> = all.map(|i| angle(i).cos() as f32).collect();
    Ok([net.g.floats(DType::F32, shape, &sine)?, net.g.floats(DType::F32, shape, &cosine)?])
}

fn block(
    net: &mut Net<'_>,
    config: &EvaConfig,
    size: [u64; 2],
    turns: &[Tensor; 2],
    x: &Tensor,
) -> Result<Tensor, ModelError> {
    let normal = net.layer_norm("norm1", x, EPSILON)?;
    let attended = net.within("attn", |net| attend(net, config, size, turns, &normal))?;
    let x = net.g.add(x, &attended)?;
    let normal = net.layer_norm("norm2", &x, EPSILON)?;
    let fed = net.within("mlp", |net| {
        let gate = net.linear("fc1_g", &normal, config.intermediate, true)?;
        let gate = net.g.silu(&gate)?;
        let wide = net.linear("fc1_x", &normal, config.intermediate, true)?;
        let wide = net.g.mul(&gate, &wide)?;
        let wide = net.layer_norm("norm", &wide, EPSILON)?;
        net.linear("fc2", &wide, config.hidden, true)
    })?;
    Ok(net.g.add(&x, &fed)?)
}

fn attend(
    net: &mut Net<'_>,
    config: &EvaConfig,
    [rows, tokens]: [u64; 2],
    turns: &[Tensor; 2],
    x: &Tensor,
) -> Result<Tensor, ModelError> {
    let each = config.hidden / config.heads;
    let split = [rows, tokens, config.heads, each].map(|n| n as i64);
    let mut heads = |name: &str, bias: bool| {
        let y = net.linear(name, x, config.hidden, bias)?;
        let y = net.g.reshape(&y, &split)?;
        let y = net.g.transpose(&y, &[0, 2, 1, 3])?;
        Ok::<_, ModelError>(y)
    };
    let (query, key, value) = (heads("q_proj", true)?, heads("k_proj", false)?, heads("v_proj", true)?);
    let [query, key] = [turned(net, turns, &query)?, turned(net, turns, &key)?];
    let key = net.g.transpose(&key, &[0, 1, 3, 2])?;
    let query = net.g.mul_scalar(&query, 1.0 / (each as f64).sqrt())?;
    let scores = net.g.matmul(&query, &key)?;
    let shares = net.g.softmax(&scores, -1)?;
    let mixed = net.g.matmul(&shares, &value)?;
    let mixed = net.g.transpose(&mixed, &[0, 2, 1, 3])?;
    let mixed = net.g.reshape(&mixed, &[-1, config.hidden as i64])?;
    net.linear("proj", &mixed, config.hidden, true)
}

/// `x` (N, heads, tokens, width) with every pair (a, b) of a patch's numbers turned to (a cos − b sin, b cos + a sin). The
/// first token has no place.
fn turned(net: &mut Net<'_>, [sine, cosine]: &[Tensor; 2], x: &Tensor) -> Result<Tensor, ModelError> {
    let (rows, heads, tokens, width) = (fixed(x, 0)?, fixed(x, 1)?, fixed(x, 2)?, fixed(x, 3)?);
    let class = net.g.slice(x, 2, 0, 1)?;
    let patches = net.g.slice(x, 2, 1, tokens as i64)?;
    let x = net.g.cast(&patches, DType::F32)?;
    let pairs = net.g.reshape(&x, &[rows, heads, tokens - 1, width / 2, 2].map(|n| n as i64))?;
    let [a, b] = [net.g.slice(&pairs, 4, 0, 1)?, net.g.slice(&pairs, 4, 1, 2)?];
    let b = net.g.neg(&b)?;
    let other = net.g.concat(&[&b, &a], 4)?;
    let other = net.g.reshape(&other, &[rows, heads, tokens - 1, width].map(|n| n as i64))?;
    let [straight, across] = [net.g.mul(&x, cosine)?, net.g.mul(&other, sine)?];
    let x = net.g.add(&straight, &across)?;
    let x = net.g.cast(&x, class.dtype())?;
    Ok(net.g.concat(&[&class, &x], 2)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::graph::{External, GraphBuilder};
    use crate::models::{Source, Stored};

    /// Counts what is asked for.
    #[derive(Default)]
    struct Counter {
        names: Vec<String>,
        numbers: u64,
    }

    impl Source for Counter {
        fn has(&self, name: &str) -> bool {
            name.starts_with("timm_model.")
        }

        fn tensor(&mut self, name: &str, shape: &[u64], _: DType) -> Result<Stored, ModelError> {
            let count: u64 = shape.iter().product();
            self.names.push(name.to_owned());
            self.numbers += count;
            Ok(Stored::External(External { location: "none".to_owned(), offset: 0, length: 2 * count }))
        }
    }

    #[test]
    fn the_classifier_of_true_size_asks_for_the_tensors_that_timm_has() {
        let config = EvaConfig::from_json(&json!({"architecture": KNOWN, "num_classes": 4})).unwrap();
        assert_eq!((config.size, config.classes, config.normal), (448, 4, CLIP));
        let (mut g, mut source) = (GraphBuilder::new("true size"), Counter::default());
        let picture = g.input("picture", DType::F16, [1, 3, 448, 448]).unwrap();
        build(&mut Net::new(&mut g, &mut source, DType::F16), &config, &picture).unwrap();
        // len(state_dict()) and the numbers in it, of timm.create_model(KNOWN, num_classes=4) in timm 1.0.31.
        assert_eq!((source.names.len(), source.numbers), (236, 86_351_620));
        for name in
            ["timm_model.blocks.11.mlp.norm.bias", "timm_model.blocks.0.attn.k_proj.weight", "timm_model.fc_norm.bias"]
        {
            assert!(source.names.iter().any(|known| known == name), "{name}");
        }
    }
}
