"""Makes what `weir process` must make of frames: whole models, from texts to pictures.

    venv/bin/python make_process.py      # set up as make.py says

process.json holds the parameters of each case, process.safetensors its pictures, every fourth pixel down and right. The
models are those that folders.rs writes: text encoders, tokenizers, UNet, TAESD, ControlNets and a LoRA of small size.
"""

import json

import torch
from diffusers import LCMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

import make
import models
import reference
import synthetic
from make_text import CLIPS, TOKENIZER

FRAMES = 8
IDS = {"sd15": "Lykon/dreamshaper-8", "sd21": "stabilityai/sd-turbo", "sdxl": "stabilityai/sdxl-turbo"}
CONTROLS = {
    "sd15": ["lllyasviel/control_v11p_sd15_canny", "lllyasviel/control_v11f1e_sd15_tile"],
    "sd21": ["thibaud/controlnet-sd21-canny-diffusers", "thibaud/controlnet-sd21-depth-diffusers"],
    "sdxl": ["xinsir/controlnet-canny-sdxl-1.0", "xinsir/controlnet-depth-sdxl-1.0"],
}
LORA = ["mid_block.attentions.0.transformer_blocks.0.attn1.to_q", "mid_block.attentions.0.transformer_blocks.0.attn1.to_v"]


def tokenizer(pad):
    return CLIPTokenizer(TOKENIZER / "vocab.json", TOKENIZER / "merges.txt", pad_token=pad, model_max_length=77)


def encoder(name):
    vocabulary = json.loads((TOKENIZER / "vocab.json").read_text())
    config = CLIPTextConfig(vocab_size=len(vocabulary), max_position_embeddings=77, eos_token_id=vocabulary["<|endoftext|>"],
                            bos_token_id=vocabulary["<|startoftext|>"], attn_implementation="eager", **CLIPS[name])
    kind = CLIPTextModelWithProjection if "projection_dim" in CLIPS[name] else CLIPTextModel
    return synthetic.fill(kind(config), name, 1.0)


def wide(made, key, line):
    """The same with room for both of SDXL's encoders."""
    if line != "sdxl":
        return made
    config = dict(made.config, cross_attention_dim=72)
    return synthetic.fill(type(made).from_config(config), key, 1.0)


def pipeline(line):
    unet = wide(models.unet(line), f"unet-{line}", line)
    scheduler = LCMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    parts = dict(vae=models.taesd(), unet=unet, scheduler=scheduler, tokenizer=tokenizer("<|endoftext|>" if line != "sd21" else "!"),
                 text_encoder=encoder("clip-h" if line == "sd21" else "clip-l"))
    if line == "sdxl":
        return StableDiffusionXLPipeline(**parts, tokenizer_2=tokenizer("!"), text_encoder_2=encoder("clip-g"),
                                         force_zeros_for_empty_prompt=False)
    return StableDiffusionPipeline(**parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False)


class Unet(reference.Unet):
    """With the pooled texts of SDXL: those of the negative prompt for the rows in front."""

    pooled, batch = None, 0

    def __call__(self, sample, timestep, encoder_hidden_states, return_dict):
        if self.added:
            positive, negative = self.pooled
            rows = sample.shape[0]
            made = torch.cat([negative.repeat(rows - self.batch, 1), positive.repeat(self.batch, 1)])
            reference.synthetic = Pooled(made)
        return super().__call__(sample, timestep, encoder_hidden_states, return_dict)


class Pooled:
    """Stands in for the noise that reference.Unet takes for pooled texts."""

    def __init__(self, made):
        self.made = made

    def noise(self, name, *shape):
        assert name == "pooled"
        return self

    def repeat(self, rows, _):
        assert rows == self.made.shape[0]
        return self.made

    def __getattr__(self, name):
        return getattr(synthetic, name)


def lora(pipe, weight):
    state = {}
    for layer in LORA:
        for end, shape in [("down", (2, 32)), ("up", (32, 2))]:
            numbers = torch.from_numpy(synthetic.uniform(f"style/{layer}.{end}", 64)).float().reshape(shape)
            state[f"lora_unet_{layer.replace('.', '_')}.lora_{end}.weight"] = numbers
    pipe.load_lora_weights(state, adapter_name="style")
    pipe.fuse_lora(lora_scale=weight)
    pipe.unload_lora_weights()


def run(line, params):
    pipe = pipeline(line)
    for weight in params.get("lora_dict", {}).values():
        lora(pipe, weight)
    controls = [wide(models.controlnet(line, i), f"controlnet-{line}-{i}", line) for i in range(len(params.get("controlnets", [])))]
    scales = [control["conditioning_scale"] for control in params.get("controlnets", [])]
    unet = Unet(pipe.unet, controls, scales, added=line == "sdxl")
    unet.batch = len(params["t_index_list"])

    def encode(**given):
        given["do_classifier_free_guidance"] = True
        made = pipe.encode_prompt(**given)
        if line == "sdxl":
            unet.pooled = made[2:]
        return made[:2]

    stream = reference.stream(unet, pipe.vae, params["t_index_list"], params["cfg_type"], params["do_add_noise"],
                              gamma=params["guidance_scale"], delta=params["delta"], prompt=params["prompt"],
                              negative=params["negative_prompt"], seed=params["seed"], encode=encode)
    frames = [reference.call(stream, index)[1][1] for index in range(FRAMES)]
    reference.synthetic = synthetic
    return torch.stack(frames)


def cases():
    base = dict(prompt="a photo of a cat", negative_prompt="blurry, flat", guidance_scale=1.4, delta=0.7, seed=2,
                seed_generator="cpu", refill=False, use_lcm_lora=False)
    for n, t_index in make.STEPS.items():
        for k, kind in enumerate(make.KINDS):
            yield f"{n}-{kind}", "sd21", dict(base, t_index_list=t_index, cfg_type=kind, do_add_noise=(n + k) % 2 == 0)
    some = dict(base, t_index_list=[15, 32], do_add_noise=True)
    yield "sd15", "sd15", dict(some, cfg_type="self", prompt="flowers in the city, neon lights", seed=3)
    yield "sdxl-self", "sdxl", dict(some, cfg_type="self")
    yield "sdxl-full", "sdxl", dict(some, cfg_type="full", num_inference_steps=50)
    for line in IDS:
        controls = [dict(model_id=name, conditioning_scale=scale) for name, scale in zip(CONTROLS[line], [0.6, 1.2])]
        yield f"controls-{line}", line, dict(some, cfg_type="initialize", controlnets=controls)
    yield "lora", "sd15", dict(some, cfg_type="full", lora_dict={"style.safetensors": 3.0})


if __name__ == "__main__":
    torch.set_num_threads(2)
    out, said = {}, {}
    with torch.no_grad():
        for name, line, params in cases():
            out[name] = run(line, params)[:, ::4, ::4].contiguous()
            said[name] = dict(line=line, params=dict(params, model_id=IDS[line]))
            print(name, out[name].float().mean().item(), out[name].float().std().item())
    save_file(out, models.HERE / "process.safetensors")
    (models.HERE / "process.safetensors").chmod(0o644)
    (models.HERE / "process.json").write_text(json.dumps(said, indent=1) + "\n")
