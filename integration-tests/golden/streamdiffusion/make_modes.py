"""Makes what `weir process` must make of texts alone, and with the full autoencoder.

    venv/bin/python make_modes.py      # set up as make.py says

modes.json holds the parameters of each case, modes.safetensors its pictures, every fourth pixel down and right. What a
picture begins with is drawn by the generator that drew the noise of the steps, as the encoder's noise is.
"""

import json

import torch
from safetensors.torch import save_file

import make_process
import models
import reference

FRAMES = 6


def run(line, params):
    pipe = make_process.pipeline(line)
    unet = make_process.Unet(pipe.unet, [], [], added=line == "sdxl")
    unet.batch = len(params["t_index_list"])

    def encode(**given):
        made = pipe.encode_prompt(**dict(given, do_classifier_free_guidance=True))
        if line == "sdxl":
            unet.pooled = made[2:]
        return made[:2]

    vae = pipe.vae if params.get("use_tiny_vae", True) else models.kl()
    stream = reference.stream(unet, vae, params["t_index_list"], params["cfg_type"], params["do_add_noise"],
                              gamma=params["guidance_scale"], delta=params["delta"], prompt=params["prompt"],
                              negative=params["negative_prompt"], seed=params["seed"], encode=encode)
    pictures = []
    for index in range(FRAMES):
        if params["mode"] == "txt2img":
            begin = torch.randn((1, 4, reference.SIZE // 8, reference.SIZE // 8), generator=stream.generator)
            pictures.append(reference.finish(stream.decode_image(stream.predict_x0_batch(begin)))[1])
        else:
            pictures.append(reference.call(stream, index)[1][1])
    reference.synthetic = make_process.synthetic
    return torch.stack(pictures)


def cases():
    base = dict(prompt="a photo of a cat", negative_prompt="blurry, flat", guidance_scale=1.4, delta=0.7, seed=2,
                seed_generator="cpu", refill=False, use_lcm_lora=False)
    text = dict(base, mode="txt2img", cfg_type="none")
    yield "text-1", "sd21", dict(text, t_index_list=[20], do_add_noise=True)
    yield "text-2", "sd15", dict(text, t_index_list=[15, 32], do_add_noise=True, seed=3)
    yield "text-4", "sdxl", dict(text, t_index_list=[5, 15, 25, 35], do_add_noise=False)
    full = dict(base, mode="img2img", use_tiny_vae=False)
    yield "full-1", "sd15", dict(full, t_index_list=[20], cfg_type="self", do_add_noise=True)
    yield "full-2", "sd15", dict(full, t_index_list=[15, 32], cfg_type="full", do_add_noise=True)
    yield "full-text", "sd15", dict(text, t_index_list=[15, 32], do_add_noise=True, use_tiny_vae=False)


if __name__ == "__main__":
    torch.set_num_threads(2)
    out, said = {}, {}
    with torch.no_grad():
        for name, line, params in cases():
            out[name] = run(line, params)[:, ::4, ::4].contiguous()
            said[name] = dict(line=line, params=dict(params, model_id=make_process.IDS[line]))
            print(name, out[name].float().mean().item(), out[name].float().std().item())
    save_file(out, models.HERE / "modes.safetensors")
    (models.HERE / "modes.safetensors").chmod(0o644)
    (models.HERE / "modes.json").write_text(json.dumps(said, indent=1) + "\n")
