"""Makes the golden vectors of depth, and frames of whole workflows. Set up as make_sd.py says.

    venv/bin/python make_sd_frames.py
"""

import json

import torch
from safetensors.torch import load_file
from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation

import make_sd
import sd_reference as sd
from sd_reference import models, synthetic

CONFIG = dict(
    backbone_config=dict(model_type="dinov2", hidden_size=16, num_hidden_layers=4, num_attention_heads=2, mlp_ratio=2, patch_size=14,
                         image_size=70, out_indices=[1, 2, 3, 4], apply_layernorm=True, reshape_hidden_states=False),
    patch_size=14, reassemble_hidden_size=16, reassemble_factors=[4, 2, 1, 0.5], neck_hidden_sizes=[4, 8, 8, 8], fusion_hidden_size=8,
    head_in_index=-1, head_hidden_size=4, depth_estimation_type="relative")
MEAN, DEVIATION = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


def estimator():
    config = DepthAnythingConfig(**CONFIG, attn_implementation="eager")
    (models.CONFIGS / "depth.json").write_text(json.dumps(CONFIG, indent=1, sort_keys=True) + "\n")
    return synthetic.fill(DepthAnythingForDepthEstimation(config), "depth-1", 1.0)


def resized(x, size):
    return torch.nn.functional.interpolate(x, size=size, mode="bilinear", align_corners=False)


def predicted(net, picture):
    x = resized(picture.movedim(-1, 1), (70, 70))
    x = (x - MEAN[:, None, None]) / DEVIATION[:, None, None]
    return net(x).predicted_depth


def depth(net, picture):
    d = predicted(net, picture)[:, None]
    d = ((d - d.min()) / (d.max() - d.min()) * 255).to(torch.uint8).float() / 255
    return resized(d, picture.shape[1:3]).movedim(1, -1).repeat(1, 1, 1, 3)


# ControlNets of made-up weights say little: all strengths are ten times those of the workflows. Half of the noise leaves latents
# where the decoder tells them apart.
def frames():
    net, vae, unet = estimator(), models.taesd(), models.unet("sd15")
    first, second = (models.controlnet("sd15", i) for i in range(2))
    clip, early = sd.Clip(), sd.Clip(-2)
    empty = torch.zeros(1, 4, 8, 8)
    one, picture = (0.0, 1.0), sd.frame(3)
    d = depth(net, picture)
    out = {"predicted": predicted(net, picture)[0], "depth": d[0, :, :, 0]}

    def prompts(good, bad, controls):
        return [dict(states=good, controls=controls)], [dict(states=bad, controls=controls)]

    hulk = prompts(clip(("the hulk", 1.0)), clip(), [(first, d, 10.0, one)])
    latent = sd.ksampler(unet, 785664736216738, 1, 1.0, "lcm", "sgm_uniform", *hulk, empty, 0.5)
    out["tensorrt-latent"] = latent
    out["tensorrt"] = sd.shown(sd.taesd_decode(vae, latent))
    raw = prompts(clip(("the hulk", 1.0)), clip(), [(first, picture, 10.0, one)])
    latent = sd.ksampler(unet, 785664736216738, 1, 0.6, "lcm", "sgm_uniform", *raw, empty, 0.5)
    styled = sd.taesd_decode(vae, latent)
    mask = (d[..., :1] > 0.5).float()
    out["depthmask"] = sd.shown(styled * mask + picture * (1 - mask))
    good = torch.cat([early(("anime girl with blue hair", 1.0)), early(("a colorful pose", 1.0))], 1)
    bad = torch.cat([early(("blurry, low quality", 1.0)), early(("ugly, watermark", 1.0))], 1)
    pair = prompts(good, bad, [(first, d, 9.0, one), (second, picture, 4.0, one)])
    latent = sd.ksampler(unet, 905056445574169, 2, 1.0, "lcm", "sgm_uniform", *pair, empty, 0.5)
    out["o2o-latent"] = latent
    out["o2o"] = sd.shown(sd.taesd_decode(vae, latent))
    # The drawings of the same picture, the first and the next one of a stream, are those of make_face.py.
    drawings = load_file(sd.HERE / "face.safetensors")
    for i, name in enumerate(["face", "face-followed"]):
        drawing = drawings[f"frame/{i}"][None].float() / 255
        pair = prompts(good, bad, [(first, d, 9.0, one), (second, drawing, 9.0, one)])
        latent = sd.ksampler(unet, 905056445574169, 2, 1.0, "lcm", "sgm_uniform", *pair, empty, 0.5)
        out[f"{name}-latent"] = latent
        out[name] = sd.shown(sd.taesd_decode(vae, latent))
    # One LoRA inside of the mask, another outside.
    loras = {}
    for name, scale in [("lora-a", 1.1), ("lora-b", 1.0)]:
        merged = models.unet("sd15")
        sd.merge(merged, "lora_unet_", name, scale)
        loras[name] = merged, sd.Clip(lora=(name, 1.0))
    inside = torch.zeros(1, 64, 64)
    inside[:, :, :20] = 1.0
    inside[:, 40:, 20:] = 51 / 255
    sides = []
    for text in [("a portrait of a woman", 1.0), ("ugly", 1.0)]:
        sides.append([dict(states=loras[name][1](text), unet=loras[name][0], mask=(mask, 1.0), controls=[(first, d, 10.0, one)])
                      for name, mask in [("lora-a", inside), ("lora-b", 1 - inside)]])
    latent = sd.ksampler(unet, 5, 1, 1.0, "lcm", "sgm_uniform", *sides, empty, 0.5)
    out["regional-latent"] = latent
    out["regional"] = sd.shown(sd.taesd_decode(vae, latent))
    return out


if __name__ == "__main__":
    torch.set_num_threads(2)
    with torch.no_grad():
        make_sd.write("sd-frames", frames())
