"""Makes the golden vectors of integration-tests/streamdiffusion.rs.

    python -m venv venv && venv/bin/pip install -r requirements.txt   # streamdiffusion with --no-deps
    venv/bin/python make.py

Weights and inputs are those of synthetic.py, so that only results are kept.
"""

import json
import random

import torch
from safetensors.torch import save_file

import models
import reference
import synthetic

HERE = models.HERE
STEPS = {1: [20], 2: [15, 32], 3: [12, 20, 32], 4: [5, 15, 25, 35]}
KINDS = ["none", "self", "initialize", "full"]
FRAMES = 8


def write(name, tensors):
    path = HERE / f"{name}.safetensors"
    save_file({k: v.contiguous() for k, v in tensors.items()}, path)
    path.chmod(0o644)
    assert path.stat().st_size < 200_000, path


def calibrate():
    """Makes the latents of even spread and the pictures of mean 0.5 and deviation 0.2."""
    done = {"taesd": {}, "kl": {}}
    size = reference.SIZE
    pictures = torch.stack([torch.from_numpy(synthetic.frame(i, size)) for i in range(FRAMES)])
    pictures = pictures.permute(0, 3, 1, 2).float() / 127.5 - 1

    def set_right(model, layer, x, mean, deviation):
        module = dict(models.taesd({}).named_modules() if model == "taesd" else models.kl({}).named_modules())[layer]
        gain = deviation / x.std(dim=(0, 2, 3))
        bias = mean + (module.bias - x.mean(dim=(0, 2, 3))) * gain
        done[model][layer] = {"gain": [float(v) for v in gain], "bias": [float(v) for v in bias]}

    vae = models.taesd({})
    set_right("taesd", f"encoder.layers.{len(vae.encoder.layers) - 1}", vae.encoder(pictures), 0.0, 1.0)
    unet = models.unet("sd15")
    latents = []
    for kind in KINDS:
        for n in STEPS:
            made = reference.stream(unet, models.taesd(done["taesd"]), STEPS[n], kind, True)
            latents += [reference.call(made, i)[0] for i in range(FRAMES)][n - 1:]
    latents = torch.cat(latents)
    set_right("taesd", f"decoder.layers.{len(vae.decoder.layers) - 1}", vae.decoder(latents), 0.5, 0.2)
    full = models.kl({})
    mean = torch.tensor([0.0] * 4 + [-3.0] * 4)
    deviation = torch.tensor([4.0] * 4 + [1.0] * 4)
    set_right("kl", "quant_conv", full.quant_conv(full.encoder(pictures)), mean, deviation)
    set_right("kl", "decoder.conv_out", full.decode(latents / 0.18215).sample, 0.0, 0.4)
    (models.CONFIGS / "calibration.json").write_text(json.dumps(done, indent=1) + "\n")


def question(family, height, width):
    rows = 3
    more = {}
    if family == "sdxl":
        ids = torch.tensor([[512, 768, 0, 16, 1024, 640]] * rows, dtype=torch.float32)
        more["added_cond_kwargs"] = dict(text_embeds=synthetic.noise("text_embeds", rows, 16), time_ids=ids)
    sample = synthetic.noise("sample", rows, 4, height, width)
    context = synthetic.noise("context", rows, 77, 32)
    return sample, torch.tensor([999, 599, 19]), context, more


def nets():
    out = {}
    for family in models.FAMILIES:
        unet = models.unet(family)
        for name, height, width in [("", 16, 16), ("-odd", 10, 14)]:
            sample, t, context, more = question(family, height, width)
            out[f"unet-{family}{name}"] = unet(sample, t, context, return_dict=False, **more)[0]
        sample, t, context, more = question(family, 8, 8)
        picture = torch.from_numpy(synthetic.frame(3, 64)).permute(2, 0, 1)[None].float() / 255
        total = None
        for number, scale in [(0, 0.5), (1, 1.3)]:
            control = models.controlnet(family, number)
            down, mid = control(sample, t, context, controlnet_cond=picture.repeat(3, 1, 1, 1),
                                conditioning_scale=scale, return_dict=False, **more)
            if number == 0:
                out[f"controlnet-{family}-mid"] = mid
                out[f"controlnet-{family}-down"] = torch.stack([d.abs().mean() for d in down])
            new = [*down, mid]
            total = new if total is None else [a + b for a, b in zip(total, new)]
        out[f"controlled-{family}"] = unet(sample, t, context, return_dict=False, down_block_additional_residuals=total[:-1],
                                           mid_block_additional_residual=total[-1], **more)[0]
    picture = torch.from_numpy(synthetic.frame(3, 64)).permute(2, 0, 1)[None].float() / 127.5 - 1
    tiny, full = models.taesd(), models.kl()
    latent = synthetic.noise("latent", 1, 4, 8, 8)
    out["taesd-encode"] = tiny.encode(picture).latents
    out["taesd-decode"] = tiny.decode(latent).sample[:, :, ::2, ::2]
    distribution = full.encode(picture).latent_dist
    out["kl-encode"] = distribution.mean + distribution.std * synthetic.noise("vae_noise", 1, 4, 8, 8)
    out["kl-decode"] = full.decode(latent).sample[:, :, ::2, ::2]
    write("nets", out)


def run(made, frames=FRAMES, between=None):
    out, latents = reference.tables(made), []
    out["init_noise"] = made.init_noise.clone()
    for index in range(frames):
        if between:
            between(index, made, out)
        latent, (image, pixels) = reference.call(made, index)
        latents.append(latent)
    out.update(latents=torch.cat(latents), image=image[:, ::4, ::4], frame=pixels)
    if made.x_t_latent_buffer is not None:
        out["x_t_buffer"] = made.x_t_latent_buffer
    out["stock_noise"] = made.stock_noise
    return out


def streams():
    unet, vae = models.unet("sd15"), models.taesd()
    for n, t_index in STEPS.items():
        for kind in KINDS:
            out = {}
            for add_noise in (True, False):
                got = run(reference.stream(unet, vae, t_index, kind, add_noise))
                out.update({k if k in TABLES else f"{int(add_noise)}/{k}": v for k, v in got.items()})
            write(f"stream-{n}-{kind}", out)
    cases = {}
    cases["still"] = run(reference.stream(unet, vae, STEPS[2], "self", True, gamma=1.0))
    cases["low"] = run(reference.stream(unet, vae, STEPS[2], "full", True, gamma=0.5))
    cases["changes"] = run(reference.stream(unet, vae, STEPS[2], "initialize", True), between=change)
    sdxl = models.unet("sdxl")
    cases["sdxl"] = run(reference.stream(reference.Unet(sdxl, added=True), vae, STEPS[2], "self", True))
    turbo = models.unet("sd21")
    cases["sd21"] = run(reference.stream(turbo, vae, STEPS[3], "self", True, gamma=1.0))
    controls = [models.controlnet("sd15", i) for i in (0, 1)]
    controlled = reference.Unet(unet, controls, [0.4, 0.8])
    cases["controls"] = run(reference.stream(controlled, vae, STEPS[2], "self", True), between=rescale)
    cases["text"] = text(reference.stream(unet, vae, STEPS[2], "none", True))
    cases["kl"] = full(reference.stream(unet, models.kl(), STEPS[1], "self", True))
    for name, got in cases.items():
        write(f"case-{name}", got)


TABLES = {"timestep", "alpha_sqrt", "beta_sqrt", "c_skip", "c_out", "init_noise"}


def change(index, made, out):
    """Live parameters, one a frame."""
    if index == 2:
        parts = [reference.embedding("b"), reference.embedding("c").repeat(2, 1, 1)]
        made.prompt_embeds = torch.cat(parts)
    if index == 3:
        made.guidance_scale, made.delta = 1.9, 0.4
    if index == 4:
        other = reference.stream(made.unet, made.vae, [8, 40], "initialize", True)
        for name in ["sub_timesteps_tensor", "alpha_prod_t_sqrt", "beta_prod_t_sqrt", "c_skip", "c_out"]:
            setattr(made, name, getattr(other, name))
        out.update({f"later/{k}": v for k, v in reference.tables(other).items()})
    if index == 5:
        made.do_add_noise = False
    if index == 6:
        made.init_noise = torch.randn(made.init_noise.shape, generator=torch.Generator().manual_seed(789))
        made.stock_noise = torch.zeros_like(made.stock_noise)
        out["later/init_noise"] = made.init_noise.clone()


def rescale(index, made, _):
    if index == 4:
        made.unet.scales = [0.0, 1.5]


def text(made):
    out, latents = reference.tables(made), []
    out["init_noise"] = made.init_noise.clone()
    for index in range(4):
        latent = made.predict_x0_batch(synthetic.noise(f"text/{index}", 1, 4, 8, 8))
        latents.append(latent)
    image, pixels = reference.finish(made.decode_image(latent))
    out.update(latents=torch.cat(latents), image=image[:, ::4, ::4], frame=pixels, x_t_buffer=made.x_t_latent_buffer)
    return out


def full(made):
    noises = []

    def between(index, made, out):
        twin = torch.Generator()
        twin.set_state(made.generator.get_state())
        noises.append(torch.randn((1, 4, 8, 8), generator=twin))
        out["vae_noise"] = torch.cat(noises)

    return run(made, 4, between)


def similar():
    from streamdiffusion.image_filter import SimilarImageFilter

    shown = [0, 0, 0, 1, 1, 5, 5, 5, 5, 5, 5, 5, 5, 6, 6, 0, 0, 0, 0, 0]
    draws = [float(abs(u)) for u in synthetic.uniform("draws", len(shown))]
    queue = list(draws)
    random.uniform = lambda a, b: queue.pop(0)
    out = []
    for threshold, most in [(0.98, 2), (0.5, 3), (1.0, 10)]:
        queue = list(draws)
        image_filter = SimilarImageFilter(threshold, most)
        skips, counts = [], []
        for step, index in enumerate(shown):
            x = torch.from_numpy(synthetic.frame(index, reference.SIZE)).permute(2, 0, 1)[None].float() / 127.5 - 1
            if step == 0:
                queue.pop(0)
            skips.append(int(image_filter(x) is None))
            counts.append(image_filter.skip_count)
        out.append(dict(threshold=threshold, max_skip=most, skips=skips, counts=counts))
    (HERE / "similar.json").write_text(json.dumps(dict(shown=shown, draws=draws, runs=out), indent=1) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(2)
    with torch.no_grad():
        calibrate()
        nets()
        streams()
        similar()
