"""Makes the golden vectors of the Stable Diffusion nodes.

    python -m venv venv && venv/bin/pip install -r ../streamdiffusion/requirements.txt
    venv/bin/python make_sd.py

Weights and inputs are those of ../streamdiffusion/synthetic.py, so that only results are kept.
"""

import torch
from safetensors.torch import save_file

import sd_reference as sd
from sd_reference import models

SCHEDULERS = ["normal", "karras", "exponential", "sgm_uniform", "simple", "ddim_uniform"]
CAT, BLUR = ("a photo of a cat", 1.0), ("blurry, low quality", 1.0)
BIG = (1 << 40) + 5


def write(name, tensors):
    path = sd.HERE / f"{name}.safetensors"
    save_file({k: v.contiguous() for k, v in tensors.items()}, path)
    path.chmod(0o644)
    assert path.stat().st_size < 200_000, path
    print(path.name, path.stat().st_size)


def text():
    clip, early, earlier = sd.Clip(), sd.Clip(-2), sd.Clip(-3)
    return {
        "plain": clip(CAT),
        "empty": clip(),
        "skip-2": early(CAT),
        "skip-3": earlier(CAT),
        "weights": clip(("a ", 1.0), ("photo", 1.3), (" of a ", 1.0), ("cat", 1.1)),
        "long": clip(("word " * 100, 1.0))[:, ::7],
        "concat": torch.cat([clip(CAT), early(BLUR)], 1)[:, ::2],
        "average": clip(CAT) * 0.7 + clip(BLUR) * (1 - 0.7),
    }


def samplers(unet, vae):
    clip = sd.Clip()
    good, bad = [dict(states=clip(CAT))], [dict(states=clip(BLUR))]
    empty = torch.zeros(1, 4, 8, 8)
    real = sd.taesd_encode(vae, sd.frame(3))
    out = {}
    for sampler in sd.SAMPLERS:
        for scheduler in SCHEDULERS:
            out[f"{sampler}/{scheduler}"] = sd.ksampler(unet, 7, 4, 2.5, sampler, scheduler, good, bad, empty)
        for scheduler in ["normal", "karras"]:
            out[f"{sampler}/{scheduler}/denoise"] = sd.ksampler(unet, BIG, 3, 1.8, sampler, scheduler, good, bad, real, 0.6)
    out["one"] = sd.ksampler(unet, 7, 1, 1.0, "lcm", "normal", good, bad, empty)
    wide = torch.zeros(2, 4, 6, 10)
    out["batch"] = sd.ksampler(unet, 3, 2, 2.0, "lcm", "simple", good, bad, wide)
    return out


def conditions(unet):
    clip = sd.Clip()
    cat, blur = dict(states=clip(CAT)), dict(states=clip(BLUR))
    nets = [models.controlnet("sd15", i) for i in range(2)]
    wide = torch.from_numpy(sd.synthetic.frame(5, 96))[None, 8:72].float() / 255
    empty = torch.zeros(1, 4, 8, 8)

    def both(controls):
        return [dict(cat, controls=controls)], [dict(blur, controls=controls)]

    def run(good, bad, steps=4, cfg=1.7):
        return sd.ksampler(unet, 11, steps, cfg, "lcm", "normal", good, bad, empty)

    one = (nets[0], wide, 0.8, (0.0, 1.0))
    ranged = (nets[0], wide, 0.8, (0.2, 0.6))
    two = (nets[1], sd.frame(1), 0.5, (0.0, 1.0))
    mask = torch.zeros(1, 64, 64)
    mask[:, :, :20] = 1.0
    mask[:, 40:, 20:] = 51 / 255
    with_lora = models.unet("sd15")
    sd.merge(with_lora, "lora_unet_", "lora-a", 0.9)
    other = models.unet("sd15")
    sd.merge(other, "lora_unet_", "lora-b", -1.2)
    lora_text = sd.Clip(lora=("lora-a", 0.5))
    other_text = sd.Clip(lora=("lora-b", 1.0))
    return {
        "none": run([cat], [blur]),
        "one": run(*both([one])),
        "ranged": run(*both([ranged])),
        "two": run(*both([one, two])),
        "old": run([dict(cat, controls=[one])], [dict(blur, controls=[one])]),
        "combine": run([cat, dict(states=clip(("a dog", 1.0)))], [blur]),
        "turns": run([dict(cat, range=(0.0, 0.4)), dict(states=clip(("a dog", 1.0)), range=(0.4, 1.0))], [blur]),
        "lengths": run([dict(states=torch.cat([cat["states"], blur["states"]], 1))], [blur]),
        "lora": sd.ksampler(with_lora, 11, 2, 1.7, "lcm", "normal", [dict(states=lora_text(CAT))], [dict(states=lora_text(BLUR))], empty),
        "regions": sd.ksampler(
            unet, 11, 2, 1.7, "lcm", "normal",
            [dict(states=lora_text(CAT), unet=with_lora, mask=(mask, 1.0)), dict(states=other_text(CAT), unet=other, mask=(1 - mask, 0.7))],
            [dict(states=lora_text(BLUR), unet=with_lora, mask=(mask, 1.0)), dict(states=other_text(BLUR), unet=other, mask=(1 - mask, 0.7))],
            empty),
    }


def pictures():
    tiny, full = models.taesd(), models.kl()
    latent = sd.synthetic.noise("latent", 1, 4, 8, 8)
    odd = torch.from_numpy(sd.synthetic.frame(2, 84))[None, :76].float() / 255
    return {
        "taesd-encode": sd.taesd_encode(tiny, odd[:, 2:74, 2:82]),
        "kl-encode": sd.kl_encode(full, odd[:, 2:74, 2:82]),
        "taesd-decode": sd.taesd_decode(tiny, sd.taesd_encode(tiny, sd.frame(3)))[:, ::2, ::2],
        "kl-decode": sd.kl_decode(full, sd.kl_encode(full, sd.frame(3)))[:, ::2, ::2],
    }


def lines(unet, vae):
    """SDXL with both text encoders, and a model that predicts velocity."""
    wide = torch.zeros(1, 4, 6, 10)
    clips = sd.Clips()
    large = sd.models.FAMILIES["sdxl"]
    up = ["CrossAttnUpBlock2D" if kind == models.CROSS else "UpBlock2D" for kind in reversed(large["down_block_types"])]
    large = dict(large, cross_attention_dim=72, out_channels=4, up_block_types=up, sample_size=16)
    large = sd.synthetic.fill(models.UNet2DConditionModel(**large), "unet-sdxl", 1.0)
    good, bad = [clips(CAT[0], 80, 48)], [clips(BLUR[0], 80, 48)]
    out = {}
    for sampler in ["lcm", "euler_ancestral", "dpmpp_2m"]:
        out[f"sdxl/{sampler}"] = sd.ksampler(large, 7, 3, 2.5, sampler, "normal", good, bad, wide, scale=0.13025)
    clip = sd.Clip()
    good, bad = [dict(states=clip(CAT))], [dict(states=clip(BLUR))]
    empty, real = torch.zeros(1, 4, 8, 8), sd.taesd_encode(vae, sd.frame(3))
    for sampler in sd.SAMPLERS:
        out[f"velocity/{sampler}"] = sd.ksampler(unet, 7, 4, 2.5, sampler, "karras", good, bad, empty, velocity=True)
    out["velocity/denoise"] = sd.ksampler(unet, BIG, 3, 1.8, "euler", "normal", good, bad, real, 0.6, velocity=True)
    return out


if __name__ == "__main__":
    torch.set_num_threads(2)
    with torch.no_grad():
        unet, vae = models.unet("sd15"), models.taesd()
        write("sd-text", text())
        write("sd-samplers", samplers(unet, vae))
        write("sd-conditions", conditions(unet))
        write("sd-pictures", pictures())
        write("sd-lines", lines(unet, vae))
