//! The picture encoders of CLIP: `CLIPVisionModelWithProjection` of transformers.

use serde_json::Value;

use super::clip::{self, Activation, ClipConfig, Size};
use super::fields::Fields;
use super::net::{Net, fixed};
use super::{ModelError, Source};
use crate::graph::{Conv, DType, GraphBuilder, Model, Tensor};

/// Mean of the training pictures' colours, in 0…1.
pub const MEAN: [f32; 3] = [0.481_454_66, 0.457_827_5, 0.408_210_73];
/// Their standard deviation.
pub const DEVIATION: [f32; 3] = [0.268_629_54, 0.261_302_6, 0.275_777_1];

/// A picture encoder.
#[derive(Clone, Debug, PartialEq)]
pub struct VisionConfig {
    /// The transformer. Its positions are the patches and one token for the whole picture; it has no vocabulary.
    pub body: ClipConfig,
    /// Side of the picture in pixels.
    pub size: u64,
    /// Side of a patch in pixels.
    pub patch: u64,
    /// Width of the embedding.
    pub projection: u64,
}

impl VisionConfig {
    /// Reads the `config.json` of a `CLIPVisionModelWithProjection`.
    ///
    /// # Errors
    /// [`ModelError::Config`] with the first key that is wrong or asks for what is not built here.
    pub fn from_json(config: &Value) -> Result<Self, ModelError> {
        let fields = Fields(config);
        let (size, patch) = (fields.count_or("image_size", 224)?, fields.count_or("patch_size", 32)?);
        if patch == 0 || !(patch..=1024).contains(&size) || size % patch != 0 {
            return Err(ModelError::config("patch_size", format!("{patch} does not divide a picture of {size}")));
        }
        if fields.count_or("num_channels", 3)? != 3 {
            return Err(ModelError::config("num_channels", "only pictures of 3 channels are built here"));
        }
        let side = size / patch;
        let body = ClipConfig {
            hidden: fields.count_or("hidden_size", 768)?,
            intermediate: fields.count_or("intermediate_size", 3072)?,
            layers: fields.count_or("num_hidden_layers", 12)?,
            heads: fields.count_or("num_attention_heads", 12)?,
            activation: Activation::from_fields(fields)?,
            epsilon: fields.number_or("layer_norm_eps", 1e-5)? as f32,
            positions: side * side + 1,
            vocabulary: 0,
            projection: None,
        };
        body.check()?;
        Ok(Self { body, size, patch, projection: fields.count_or("projection_dim", 512)? })
    }
}

/// The embedding (B, projection) of `pictures` (B, 3, size, size), whose colours have the mean [`MEAN`] and the deviation
/// [`DEVIATION`] taken out.
///
/// # Errors
/// [`ModelError`] when a weight is missing or the pictures have another size.
pub fn build(net: &mut Net<'_>, config: &VisionConfig, pictures: &Tensor) -> Result<Tensor, ModelError> {
    let VisionConfig { body, size, patch, projection } = config;
    let batch = fixed(pictures, 0)?;
    if [fixed(pictures, 1)?, fixed(pictures, 2)?, fixed(pictures, 3)?] != [3, *size, *size] {
        let reason = format!("3 × {size} × {size} is needed, the picture is {}", pictures.shape());
        return Err(ModelError::config("image_size", reason));
    }
    let (hidden, tokens) = (body.hidden, body.positions);
    let whole = net.within("vision_model", |net| {
        let x = net.g.cast(pictures, net.dtype())?;
        let x = net.within("embeddings", |net| {
            let x = net.conv("patch_embedding", &x, hidden, *patch, false, Conv::padded(0).stride(*patch))?;
            let x = net.g.reshape(&x, &[batch as i64, hidden as i64, -1])?;
            let x = net.g.transpose(&x, &[0, 2, 1])?;
            let class = net.weight("class_embedding", &[hidden])?;
            let class = net.g.expand(&class, &[batch, 1, hidden])?;
            let x = net.g.concat(&[&class, &x], 1)?;
            let places = net.within("position_embedding", |net| net.weight("weight", &[tokens, hidden]))?;
            Ok(net.g.add(&x, &places)?)
        })?;
        let x = net.g.reshape(&x, &[(batch * tokens) as i64, hidden as i64])?;
        // The name is misspelt in the published weights.
        let mut x = net.layer_norm("pre_layrnorm", &x, body.epsilon)?;
        let size = Size { batch, tokens };
        for i in 0..body.layers {
            x = net.within(&format!("encoder.layers.{i}"), |net| clip::layer(net, body, size, &x, None))?;
        }
        let x = net.g.reshape(&x, &[batch as i64, tokens as i64, hidden as i64])?;
        let class = net.g.slice(&x, 1, 0, 1)?;
        let class = net.g.reshape(&class, &[batch as i64, hidden as i64])?;
        net.layer_norm("post_layernorm", &class, body.epsilon)
    })?;
    net.linear("visual_projection", &whole, *projection, false)
}

/// A whole graph: `picture` f32 (1, 3, size, size) in, `embedding` f32 (1, projection) out.
///
/// # Errors
/// As [`build`].
pub fn graph(config: &VisionConfig, source: &mut dyn Source, dtype: DType) -> Result<Model, ModelError> {
    let mut g = GraphBuilder::new("image_encoder");
    let picture = g.input("picture", DType::F32, [1, 3, config.size, config.size])?;
    let embedding = build(&mut Net::new(&mut g, source, dtype), config, &picture)?;
    let embedding = g.cast(&embedding, DType::F32)?;
    g.output("embedding", &embedding)?;
    Ok(g.finish()?)
}
