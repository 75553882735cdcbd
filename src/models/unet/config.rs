//! The shape of a UNet, from its `config.json`.

use serde_json::{Value, json};

use super::super::ModelError;
use super::super::fields::Fields;

/// Conditioning by pooled text and picture size, as SDXL has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addition {
    /// Features of each size number's sinusoids.
    pub time_dim: u64,
    /// Features of the pooled text and the six size numbers together.
    pub input_dim: u64,
}

/// The half that UNets and ControlNets share.
#[derive(Clone, Debug, PartialEq)]
pub struct Trunk {
    /// Channels of the latent.
    pub in_channels: u64,
    /// Channels of each level, finest first.
    pub channels: Vec<u64>,
    /// Residual layers of each level.
    pub layers: Vec<u64>,
    /// Transformer layers of each level; `None` where the level has no attention.
    pub down_attention: Vec<Option<u64>>,
    /// Transformer layers of the middle; `None` where it has no attention, and the middle is absent with [`Self::has_mid`] false.
    pub mid_attention: Option<u64>,
    /// Whether there is a middle.
    pub has_mid: bool,
    /// Attention heads of each level.
    pub heads: Vec<u64>,
    /// Features of the prompt embedding.
    pub context_dim: u64,
    /// Whether transformers project with matrices instead of 1 × 1 convolutions.
    pub linear_projection: bool,
    /// Groups of the group normalisations.
    pub groups: u64,
    /// Their epsilon.
    pub epsilon: f32,
    /// Cosines before sines in the time embedding.
    pub flip_sin_to_cos: bool,
    /// Shift of the time embedding's frequencies.
    pub freq_shift: f32,
    /// SDXL's further conditioning.
    pub addition: Option<Addition>,
}

/// A UNet.
#[derive(Clone, Debug, PartialEq)]
pub struct UnetConfig {
    /// The way down and the middle.
    pub trunk: Trunk,
    /// Transformer layers of each level on the way up, coarsest first.
    pub up_attention: Vec<Option<u64>>,
    /// Channels of the prediction.
    pub out_channels: u64,
}

impl Trunk {
    /// Reads the keys that `UNet2DConditionModel` and `ControlNetModel` have in common.
    ///
    /// # Errors
    /// [`ModelError::Config`] with the first key that is wrong or asks for what is not built here.
    pub fn from_json(config: &Value) -> Result<Self, ModelError> {
        let fields = Fields(config);
        refuse(fields)?;
        let channels = fields.list("block_out_channels")?;
        let n = channels.len();
        let kinds = fields.texts("down_block_types")?;
        if kinds.len() != n {
            return Err(ModelError::config("down_block_types", format!("{} levels, not {n}", kinds.len())));
        }
        let depth = fields.layers_or("transformer_layers_per_block", n, 1)?;
        let down_attention = (kinds.iter().zip(&depth))
            .map(|(&kind, &depth)| match kind {
                "CrossAttnDownBlock2D" => Ok(Some(depth)),
                "DownBlock2D" => Ok(None),
                other => Err(ModelError::config("down_block_types", format!("{other} is not built here"))),
            })
            .collect::<Result<_, _>>()?;
        // A key that is there and null means no middle; an absent one means the usual middle.
        let has_mid = config.get("mid_block_type").is_none_or(|kind| !kind.is_null());
        fields.only("mid_block_type", &[json!("UNetMidBlock2DCrossAttn")])?;
        // The key named after the dimension holds the number of heads in all published models.
        let heads = match fields.has("num_attention_heads") {
            true => fields.counts_or("num_attention_heads", n, 8)?,
            false => fields.counts_or("attention_head_dim", n, 8)?,
        };
        for (level, (&channels, &heads)) in channels.iter().zip(&heads).enumerate() {
            if heads == 0 || channels % heads != 0 {
                let reason = format!("{heads} heads do not divide {channels} channels of level {level}");
                return Err(ModelError::config("attention_head_dim", reason));
            }
        }
        let groups = fields.count_or("norm_num_groups", 32)?;
        if groups == 0 || channels.iter().any(|channels| channels % groups != 0) {
            return Err(ModelError::config("norm_num_groups", format!("{groups} groups do not divide {channels:?}")));
        }
        Ok(Self {
            in_channels: fields.count_or("in_channels", 4)?,
            layers: fields.layers_or("layers_per_block", n, 2)?,
            down_attention,
            mid_attention: has_mid.then(|| depth[n - 1]),
            has_mid,
            heads,
            context_dim: fields.count_or("cross_attention_dim", 1280)?,
            linear_projection: fields.flag_or("use_linear_projection", false)?,
            groups,
            epsilon: fields.number_or("norm_eps", 1e-5)? as f32,
            flip_sin_to_cos: fields.flag_or("flip_sin_to_cos", true)?,
            freq_shift: fields.number_or("freq_shift", 0.0)? as f32,
            addition: match fields.text("addition_embed_type") {
                None => None,
                Some("text_time") => Some(Addition {
                    time_dim: fields.count_or("addition_time_embed_dim", 256)?,
                    input_dim: fields.count_or("projection_class_embeddings_input_dim", 2816)?,
                }),
                Some(other) => {
                    return Err(ModelError::config("addition_embed_type", format!("{other} is not built here")));
                }
            },
            channels,
        })
    }

    /// The factor from the finest level to the coarsest.
    pub fn reduction(&self) -> u64 {
        1 << (self.channels.len() - 1)
    }

    /// Features of the time embedding.
    pub fn time_dim(&self) -> u64 {
        self.channels[0] * 4
    }

    /// Features of the pooled text: what the addition's input leaves beside the six size numbers.
    pub fn pooled_dim(&self) -> Option<u64> {
        self.addition.map(|addition| addition.input_dim.saturating_sub(6 * addition.time_dim))
    }
}

impl UnetConfig {
    /// Reads the `config.json` of a `UNet2DConditionModel`.
    ///
    /// # Errors
    /// As [`Trunk::from_json`].
    pub fn from_json(config: &Value) -> Result<Self, ModelError> {
        let fields = Fields(config);
        let trunk = Trunk::from_json(config)?;
        let n = trunk.channels.len();
        let depth = fields.layers_or("transformer_layers_per_block", n, 1)?;
        let depth: Vec<u64> = match fields.has("reverse_transformer_layers_per_block") {
            true => fields.layers_or("reverse_transformer_layers_per_block", n, 1)?,
            false => depth.into_iter().rev().collect(),
        };
        let kinds = fields.texts("up_block_types")?;
        if kinds.len() != n {
            return Err(ModelError::config("up_block_types", format!("{} levels, not {n}", kinds.len())));
        }
        let up_attention = (kinds.iter().zip(depth))
            .map(|(&kind, depth)| match kind {
                "CrossAttnUpBlock2D" => Ok(Some(depth)),
                "UpBlock2D" => Ok(None),
                other => Err(ModelError::config("up_block_types", format!("{other} is not built here"))),
            })
            .collect::<Result<_, _>>()?;
        Ok(Self { trunk, up_attention, out_channels: fields.count_or("out_channels", 4)? })
    }
}

/// Refuses what would change the result and is not built here.
fn refuse(fields: Fields<'_>) -> Result<(), ModelError> {
    let no = json!(false);
    fields.only("act_fn", &[json!("silu"), json!("swish")])?;
    fields.only("center_input_sample", std::slice::from_ref(&no))?;
    fields.only("only_cross_attention", std::slice::from_ref(&no))?;
    fields.only("dual_cross_attention", std::slice::from_ref(&no))?;
    fields.only("class_embeddings_concat", std::slice::from_ref(&no))?;
    fields.only("resnet_time_scale_shift", &[json!("default")])?;
    fields.only("resnet_skip_time_act", std::slice::from_ref(&no))?;
    fields.only("time_embedding_type", &[json!("positional")])?;
    fields.only("attention_type", &[json!("default")])?;
    fields.only("conv_in_kernel", &[json!(3)])?;
    fields.only("conv_out_kernel", &[json!(3)])?;
    fields.only("downsample_padding", &[json!(1)])?;
    fields.only("mid_block_scale_factor", &[json!(1), json!(1.0)])?;
    for key in [
        "class_embed_type",
        "num_class_embeds",
        "encoder_hid_dim",
        "encoder_hid_dim_type",
        "time_cond_proj_dim",
        "time_embedding_dim",
        "time_embedding_act_fn",
        "timestep_post_act",
        "cross_attention_norm",
        "mid_block_only_cross_attention",
    ] {
        fields.only(key, std::slice::from_ref(&no))?;
    }
    Ok(())
}
