//! The networks of a model, and what their shapes say of them.

use serde_json::{Value, json};

use super::store::Weights;

/// A network of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Component {
    /// `UNet2DConditionModel`
    Unet,
    /// `AutoencoderKL`
    Vae,
    /// `CLIPTextModel`, the only or first one.
    TextEncoder,
    /// `CLIPTextModelWithProjection`, the second one of SDXL.
    TextEncoder2,
    /// `ControlNetModel`, in a repository of its own.
    ControlNet,
    /// `AutoencoderTiny`, in a repository of its own.
    TinyVae,
}

impl Component {
    /// The folder inside the repository; empty for a component that is a repository of its own.
    pub fn folder(self) -> &'static str {
        match self {
            Component::Unet => "unet",
            Component::Vae => "vae",
            Component::TextEncoder => "text_encoder",
            Component::TextEncoder2 => "text_encoder_2",
            Component::ControlNet | Component::TinyVae => "",
        }
    }

    /// The name of the file, without what stands behind the first dot.
    pub(super) fn stem(self) -> &'static str {
        match self {
            Component::TextEncoder | Component::TextEncoder2 => "model",
            _ => "diffusion_pytorch_model",
        }
    }
}

/// The lines of Stable Diffusion that differ in their text encoders.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// SD 1.x: CLIP ViT-L.
    Sd1,
    /// SD 2.x and sd-turbo: OpenCLIP ViT-H.
    Sd2,
    /// SDXL and sdxl-turbo: CLIP ViT-L and OpenCLIP ViT-bigG.
    Sdxl,
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Family::Sd1 => "SD 1.x",
            Family::Sd2 => "SD 2.x",
            Family::Sdxl => "SDXL",
        })
    }
}

/// The `config.json` that a component in a single file would have, from the shapes of its weights. What shapes do not
/// tell (heads, activation, scaling) is as published for the family.
pub(super) fn infer(component: Component, family: Family, weights: &Weights) -> Value {
    let shapes = Shapes(weights);
    match component {
        Component::Unet | Component::ControlNet => shapes.unet(component, family),
        Component::Vae | Component::TinyVae => shapes.vae(family),
        Component::TextEncoder | Component::TextEncoder2 => shapes.text(component, family),
    }
}

struct Shapes<'a>(&'a Weights);

impl Shapes<'_> {
    fn dim(&self, name: &str, i: usize) -> u64 {
        self.0.shape(name).and_then(|shape| shape.get(i).copied()).unwrap_or(0)
    }

    /// How many of `prefix0suffix`, `prefix1suffix`, … there are.
    fn count(&self, prefix: &str, suffix: &str) -> u64 {
        (0..64).take_while(|i| self.0.has(&format!("{prefix}{i}{suffix}"))).count() as u64
    }

    fn unet(&self, component: Component, family: Family) -> Value {
        let levels = self.count("down_blocks.", ".resnets.0.conv1.weight");
        let channels: Vec<u64> =
            (0..levels).map(|i| self.dim(&format!("down_blocks.{i}.resnets.0.conv1.weight"), 0)).collect();
        let attends = |i: u64| self.0.has(&format!("down_blocks.{i}.attentions.0.norm.weight"));
        let depth =
            |i: u64| self.count(&format!("down_blocks.{i}.attentions.0.transformer_blocks."), ".norm1.weight").max(1);
        let at = (0..levels).find(|&i| attends(i)).unwrap_or(0);
        let inner = format!("down_blocks.{at}.attentions.0");
        let kind = |there: bool, with: &'static str, without: &'static str| if there { with } else { without };
        let down: Vec<_> = (0..levels).map(|i| kind(attends(i), "CrossAttnDownBlock2D", "DownBlock2D")).collect();
        let up: Vec<_> = (0..levels).rev().map(|i| kind(attends(i), "CrossAttnUpBlock2D", "UpBlock2D")).collect();
        let heads: Vec<u64> = match family {
            Family::Sd1 => vec![8; channels.len()],
            Family::Sd2 | Family::Sdxl => channels.iter().map(|n| (n / 64).max(1)).collect(),
        };
        let mut config = json!({
            "_class_name": if component == Component::Unet { "UNet2DConditionModel" } else { "ControlNetModel" },
            "in_channels": self.dim("conv_in.weight", 1),
            "block_out_channels": channels,
            "layers_per_block": self.count("down_blocks.0.resnets.", ".conv1.weight"),
            "down_block_types": down,
            "cross_attention_dim": self.dim(&format!("{inner}.transformer_blocks.0.attn2.to_k.weight"), 1),
            "transformer_layers_per_block": (0..levels).map(depth).collect::<Vec<_>>(),
            "attention_head_dim": heads,
            "use_linear_projection": self.0.shape(&format!("{inner}.proj_in.weight")).is_some_and(|s| s.len() == 2),
        });
        if component == Component::Unet {
            config["up_block_types"] = json!(up);
            config["out_channels"] = json!(self.dim("conv_out.weight", 0));
        } else {
            let blocks = self.count("controlnet_cond_embedding.blocks.", ".weight");
            let first = self.dim("controlnet_cond_embedding.conv_in.weight", 0);
            let rest =
                (0..blocks / 2).map(|i| self.dim(&format!("controlnet_cond_embedding.blocks.{}.weight", 2 * i + 1), 0));
            config["conditioning_embedding_out_channels"] =
                json!(std::iter::once(first).chain(rest).collect::<Vec<_>>());
            config["conditioning_channels"] = json!(self.dim("controlnet_cond_embedding.conv_in.weight", 1));
        }
        if self.0.has("add_embedding.linear_1.weight") {
            config["addition_embed_type"] = json!("text_time");
            config["addition_time_embed_dim"] = json!(256);
            config["projection_class_embeddings_input_dim"] = json!(self.dim("add_embedding.linear_1.weight", 1));
        }
        config
    }

    fn vae(&self, family: Family) -> Value {
        let levels = self.count("encoder.down_blocks.", ".resnets.0.conv1.weight");
        let channels: Vec<u64> =
            (0..levels).map(|i| self.dim(&format!("encoder.down_blocks.{i}.resnets.0.conv1.weight"), 0)).collect();
        json!({
            "_class_name": "AutoencoderKL",
            "in_channels": self.dim("encoder.conv_in.weight", 1),
            "out_channels": self.dim("decoder.conv_out.weight", 0),
            "block_out_channels": channels,
            "down_block_types": vec!["DownEncoderBlock2D"; channels.len()],
            "up_block_types": vec!["UpDecoderBlock2D"; channels.len()],
            "layers_per_block": self.count("encoder.down_blocks.0.resnets.", ".conv1.weight"),
            "latent_channels": self.dim("post_quant_conv.weight", 0),
            "scaling_factor": if family == Family::Sdxl { 0.13025 } else { 0.18215 },
        })
    }

    fn text(&self, component: Component, family: Family) -> Value {
        let open = component == Component::TextEncoder2 || family == Family::Sd2;
        let hidden = self.dim("text_model.embeddings.token_embedding.weight", 1);
        let layers = self.count("text_model.encoder.layers.", ".layer_norm1.weight");
        let mut config = json!({
            "architectures": [if self.0.has("text_projection.weight") { "CLIPTextModelWithProjection" } else { "CLIPTextModel" }],
            "hidden_size": hidden,
            "intermediate_size": self.dim("text_model.encoder.layers.0.mlp.fc1.weight", 0),
            // SD 2.x was trained on the state before the last layer, which diffusers leaves out.
            "num_hidden_layers": if family == Family::Sd2 { layers.saturating_sub(1) } else { layers },
            "num_attention_heads": (hidden / 64).max(1),
            "hidden_act": if open { "gelu" } else { "quick_gelu" },
            "max_position_embeddings": self.dim("text_model.embeddings.position_embedding.weight", 0),
            "vocab_size": self.dim("text_model.embeddings.token_embedding.weight", 0),
        });
        if self.0.has("text_projection.weight") {
            config["projection_dim"] = json!(self.dim("text_projection.weight", 0));
        }
        config
    }
}
