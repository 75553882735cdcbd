"""Small models with the topology of the real ones: their configurations and weights."""

import json
import pathlib

from diffusers import AutoencoderKL, AutoencoderTiny, ControlNetModel, UNet2DConditionModel

import synthetic

HERE = pathlib.Path(__file__).parent
CONFIGS = HERE.parents[2] / "src" / "models" / "tiny"

CROSS = "CrossAttnDownBlock2D"
COMMON = dict(in_channels=4, cross_attention_dim=32, norm_num_groups=4, norm_eps=1e-5, layers_per_block=2, act_fn="silu",
              flip_sin_to_cos=True, freq_shift=0)
FOUR = dict(block_out_channels=[8, 16, 32, 32], down_block_types=[CROSS, CROSS, CROSS, "DownBlock2D"])
THREE = dict(block_out_channels=[8, 16, 32], down_block_types=["DownBlock2D", CROSS, CROSS])
FAMILIES = {
    "sd15": dict(**COMMON, **FOUR, attention_head_dim=2),
    "sd21": dict(**COMMON, **FOUR, attention_head_dim=[1, 2, 4, 4], use_linear_projection=True),
    "sdxl": dict(**COMMON, **THREE, attention_head_dim=[1, 2, 4], use_linear_projection=True,
                 transformer_layers_per_block=[1, 2, 3], addition_embed_type="text_time", addition_time_embed_dim=8,
                 projection_class_embeddings_input_dim=64),
}
TINY = dict(in_channels=3, out_channels=3, encoder_block_out_channels=[8, 8, 8, 8],
            decoder_block_out_channels=[8, 8, 8, 8], num_encoder_blocks=[1, 2, 1, 1], num_decoder_blocks=[1, 1, 2, 1],
            act_fn="relu", latent_channels=4, upsampling_scaling_factor=2, scaling_factor=1.0)
KL = dict(in_channels=3, out_channels=3, block_out_channels=[4, 8, 8, 8], norm_num_groups=2, layers_per_block=1,
          latent_channels=4, down_block_types=["DownEncoderBlock2D"] * 4, up_block_types=["UpDecoderBlock2D"] * 4,
          sample_size=64, scaling_factor=0.18215)


def save(name, config):
    CONFIGS.mkdir(exist_ok=True)
    (CONFIGS / f"{name}.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")


def unet(family):
    base = FAMILIES[family]
    up = ["CrossAttnUpBlock2D" if kind == CROSS else "UpBlock2D" for kind in reversed(base["down_block_types"])]
    config = dict(base, out_channels=4, up_block_types=up, sample_size=16)
    save(f"unet-{family}", config)
    return synthetic.fill(UNet2DConditionModel(**config), f"unet-{family}", 1.0)


def controlnet(family, number):
    levels = [4, 8, 8, 8]
    config = dict(FAMILIES[family], conditioning_embedding_out_channels=levels, conditioning_channels=3)
    if number == 1:
        config["controlnet_conditioning_channel_order"] = "bgr"
    save(f"controlnet-{family}-{number}", config)
    return synthetic.fill(ControlNetModel(**config), f"controlnet-{family}-{number}", 1.0)


def calibration():
    path = CONFIGS / "calibration.json"
    return json.loads(path.read_text()) if path.exists() else {}


def taesd(fixed=None):
    save("taesd", TINY)
    return synthetic.fill(AutoencoderTiny(**TINY), "taesd", 1.2, calibration().get("taesd") if fixed is None else fixed)


def kl(fixed=None):
    save("kl", KL)
    return synthetic.fill(AutoencoderKL(**KL), "kl", 1.0, calibration().get("kl") if fixed is None else fixed)
