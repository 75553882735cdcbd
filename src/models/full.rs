//! Models of the full size over random weights, to measure with: true shapes, and pictures of nothing.

use std::path::Path;

use serde_json::{Value, json};

use super::synthetic::uniform;
use super::{ModelError, Source, Stored};
use crate::graph::{DType, ExternalWriter};

/// Numbers that weights are cut from.
const BLOCK: u64 = 1 << 16;

/// Weights of variance 1 / fan-in, cut from one block of random numbers, each written into a file at once.
pub struct Random {
    block: Vec<f64>,
    file: ExternalWriter,
    /// Numbers given so far.
    pub count: u64,
}

impl Random {
    /// Writes its weights to `path`, in the folder of the graph.
    ///
    /// # Errors
    /// [`ModelError::Graph`] when the file cannot be made.
    pub fn create(path: &Path) -> Result<Self, ModelError> {
        Ok(Self { block: uniform("full", BLOCK).collect(), file: ExternalWriter::create(path)?, count: 0 })
    }

    /// Ends the file, on disk.
    ///
    /// # Errors
    /// [`ModelError::Graph`] when it cannot be written.
    pub fn finish(self) -> Result<(), ModelError> {
        Ok(self.file.finish()?)
    }
}

impl Source for Random {
    fn has(&self, name: &str) -> bool {
        // Of two names for one layer, the one in use today.
        !name.ends_with("query.weight")
    }

    fn tensor(&mut self, _: &str, shape: &[u64], dtype: DType) -> Result<Stored, ModelError> {
        let count = shape.iter().product::<u64>();
        let fan_in = shape.iter().skip(1).product::<u64>().max(1) as f64;
        // Vectors are scales and biases of normalisations.
        let (spread, centre) = if shape.len() > 1 { ((3.0 / fan_in).sqrt(), 0.0) } else { (0.1, 0.5) };
        let numbers = self.block.iter().map(|u| u * spread + centre);
        let bytes: Vec<u8> = match dtype {
            DType::F16 => numbers.flat_map(|x| half::f16::from_f64(x).to_le_bytes()).collect(),
            _ => numbers.flat_map(|x| (x as f32).to_le_bytes()).collect(),
        };
        let needed = count as usize * dtype.size();
        let mut all = Vec::with_capacity(needed);
        while all.len() < needed {
            all.extend_from_slice(&bytes[..bytes.len().min(needed - all.len())]);
        }
        self.count += count;
        Ok(Stored::External(self.file.append(&all)?))
    }
}

/// The `config.json` of the UNet of `family`: `sd15`, `sd-turbo`, else SDXL. What diffusers publishes with the models.
pub fn unet(family: &str) -> Value {
    let cross = "CrossAttnDownBlock2D";
    let (up, plain) = ("CrossAttnUpBlock2D", "UpBlock2D");
    let four = json!({
        "block_out_channels": [320, 640, 1280, 1280], "layers_per_block": 2,
        "down_block_types": [cross, cross, cross, "DownBlock2D"], "up_block_types": [plain, up, up, up],
    });
    let own = match family {
        "sd15" => json!({"attention_head_dim": 8, "cross_attention_dim": 768}),
        "sd-turbo" => json!({
            "attention_head_dim": [5, 10, 20, 20], "cross_attention_dim": 1024, "use_linear_projection": true,
        }),
        _ => json!({
            "block_out_channels": [320, 640, 1280], "down_block_types": ["DownBlock2D", cross, cross],
            "up_block_types": [up, up, plain], "attention_head_dim": [5, 10, 20], "cross_attention_dim": 2048,
            "use_linear_projection": true, "transformer_layers_per_block": [1, 2, 10],
            "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 2816,
        }),
    };
    merged(four, own)
}

/// The `config.json` of a ControlNet of `family`, as [`unet`].
pub fn controlnet(family: &str) -> Value {
    let own = json!({"conditioning_embedding_out_channels": [16, 32, 96, 256]});
    merged(unet(family), own)
}

/// The `config.json` of the picture encoder that the IP-Adapter of `family` takes: of `sd15`, else of SDXL.
pub fn vision(family: &str) -> Value {
    let common = json!({"hidden_act": "gelu", "image_size": 224, "patch_size": 14, "num_attention_heads": 16});
    let own = match family {
        "sd15" => json!({
            "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "projection_dim": 1024,
        }),
        _ => json!({"hidden_size": 1664, "intermediate_size": 8192, "num_hidden_layers": 48, "projection_dim": 1280}),
    };
    merged(common, own)
}

fn merged(mut all: Value, more: Value) -> Value {
    if let (Value::Object(all), Value::Object(more)) = (&mut all, more) {
        all.extend(more);
    }
    all
}
