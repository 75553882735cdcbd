//! Entry points of the fuzzer.
#![doc(hidden)]

use std::path::Path;

/// Headers of `.safetensors` files.
pub fn fuzz_safetensors(data: &[u8]) {
    let path = Path::new("fuzz.safetensors");
    if let Ok((_, tensors, _)) = super::file::header(path, data) {
        assert!(tensors.values().all(|tensor| tensor.bytes.end <= data.len()));
        for component in [super::Component::Unet, super::Component::Vae, super::Component::TextEncoder2] {
            super::original::translate(component, &tensors);
        }
        super::original::family(&tensors);
    }
}

/// Indexes of sharded weights.
pub fn fuzz_weight_index(data: &[u8]) {
    if let Ok(index) = serde_json::from_slice(data)
        && let Ok(shards) = super::repository::shards(&index)
    {
        assert!(shards.iter().all(|(_, file)| !file.contains('/')));
    }
}

/// Keys of LoRAs.
pub fn fuzz_lora_key(data: &[u8]) {
    if let Ok(key) = std::str::from_utf8(data) {
        let parsed = super::lora::parse(key);
        assert!(parsed.map_or(true, |(_, module, _)| key.len() + 2 >= module.name().len()));
    }
}
