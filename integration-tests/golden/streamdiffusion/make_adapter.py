"""Makes what IP-Adapters must make of pictures: what the encoder sees, its embeddings and tokens, UNets with an adapter, and
whole frames.

    venv/bin/python make_adapter.py      # set up as make.py says, with pillow==10.3.0

That Pillow is the replaced runner's. It scales across first; later ones go down first for some tall pictures.

adapter.safetensors holds single networks, adapter-process.safetensors the frames of adapter-process.json, every fourth pixel
down and right. The adapters are of small size and true structure, in the layout of h94/IP-Adapter.
"""

import io
import json

import numpy as np
import PIL.Image
import torch
from safetensors.torch import save_file
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

import make
import make_process
import models
import reference
import synthetic

TOKENS, EMBEDDING = 4, 24
VISION = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2, image_size=56, patch_size=14,
              projection_dim=EMBEDDING, hidden_act="gelu")
# Width and height of the pictures that are scaled: larger and smaller than 56 and 224, upright and lying.
SIZES = [(97, 131), (300, 240), (40, 33), (224, 224), (57, 500)]


def texture(width, height, key=0):
    """A picture of waves and edges, u8 (height, width, 3)."""
    y, x, c = np.meshgrid(np.arange(height), np.arange(width), np.arange(3), indexing="ij")
    wave = (x * (5 + c) + y * (3 + key) + x * y // (7 + key)) % 256
    return np.where((x // 9 + y // 11 + key) % 3 == 0, 255 - wave, wave).astype(np.uint8)


def save(name, config):
    (models.CONFIGS / f"{name}.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")


def encoder():
    config = CLIPVisionConfig(**VISION)
    said = {key: value for key, value in config.to_dict().items() if key in VISION or key in ("layer_norm_eps", "num_channels")}
    save("vision", dict(said, architectures=["CLIPVisionModelWithProjection"]))
    return synthetic.fill(CLIPVisionModelWithProjection(config), "vision", 1.0)


def processor(size=56):
    return CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size})


def adapter(line, unet):
    """The file of an adapter for `unet`: projection and matrices in the order of attn_processors."""
    key, width = f"ip-adapter-{line}", unet.config.cross_attention_dim
    state = {"image_proj": {}, "ip_adapter": {}}

    def put(part, name, *shape):
        state[part][name] = synthetic.values(key, 1.0, f"{part}.{name}", shape, {})

    put("image_proj", "proj.weight", TOKENS * width, EMBEDDING)
    put("image_proj", "proj.bias", TOKENS * width)
    put("image_proj", "norm.weight", width)
    put("image_proj", "norm.bias", width)
    for index, (name, own) in enumerate(unet.attn_processors.items()):
        if name.endswith("attn2.processor"):
            module = unet.get_submodule(name.removesuffix(".processor"))
            out = module.to_k.weight.shape[0]
            put("ip_adapter", f"{index}.to_k_ip.weight", out, width)
            put("ip_adapter", f"{index}.to_v_ip.weight", out, width)
    return state


def loaded(line, unet):
    """The UNet with its adapter, as load_ip_adapter leaves it."""
    unet._load_ip_adapter_weights([adapter(line, unet)])
    return unet


def scale(unet, scales):
    """A scale for each layer, in the order of attn_processors."""
    layers = [own for own in unet.attn_processors.values() if hasattr(own, "scale")]
    scales = scales if isinstance(scales, list) else [scales] * len(layers)
    assert len(layers) == len(scales)
    for own, value in zip(layers, scales):
        own.scale = [value]


def nets():
    out = {}
    for width, height in SIZES:
        picture = texture(width, height)
        image = PIL.Image.fromarray(picture)
        for side in (56, 224):
            seen = processor(side)(images=image, return_tensors="pt").pixel_values[0]
            # Bytes say it all, and a third of the numbers.
            mean = torch.tensor(processor().image_mean)[:, None, None]
            deviation = torch.tensor(processor().image_std)[:, None, None]
            whole = (seen * deviation + mean) * 255
            assert (whole - whole.round()).abs().max() < 1e-3
            step = side // 56
            out[f"seen-{width}x{height}-{side}"] = whole.round().to(torch.uint8)[:, ::step, ::step]
    vision = encoder()
    seen = processor()(images=PIL.Image.fromarray(texture(97, 131)), return_tensors="pt").pixel_values
    embedding = vision(seen).image_embeds
    out["embedding"] = embedding
    for line in ("sd15", "sdxl"):
        unet = loaded(line, models.unet(line))
        tokens = [unet.encoder_hid_proj([x[:, None]])[0][:, 0] for x in (torch.zeros_like(embedding), embedding)]
        out[f"tokens-{line}"] = torch.cat(tokens)
        sample, t, context, more = make.question(line, 8, 8)
        more = more.get("added_cond_kwargs", {})
        rows = torch.cat([torch.zeros_like(embedding), embedding, embedding])[:, None]
        count = sum(hasattr(own, "scale") for own in unet.attn_processors.values())
        for name, scales in [("0", 0.0), ("0.5", 0.5), ("1", 1.0), ("each", [i / (count - 1) for i in range(count)])]:
            scale(unet, scales)
            out[f"unet-{line}-{name}"] = unet(sample, t, context, added_cond_kwargs=dict(more, image_embeds=[rows]),
                                              return_dict=False)[0]
        plain = models.unet(line)(sample, t, context, return_dict=False, **({"added_cond_kwargs": more} if more else {}))[0]
        assert torch.equal(plain, out[f"unet-{line}-0"]) or (plain - out[f"unet-{line}-0"]).abs().max() < 1e-5
    make.write("adapter", out)


class Unet(make_process.Unet):
    """With an adapter's picture: none for the rows in front, the picture for the others."""

    embedding = None

    def __init__(self, unet, added=False):
        super().__init__(_Beside(unet, self), added=added)


class _Beside:
    """Adds the picture to what the UNet is asked."""

    def __init__(self, unet, owner):
        self.unet, self.owner = unet, owner

    def __call__(self, sample, timestep, encoder_hidden_states, return_dict, added_cond_kwargs=None, **more):
        negatives = sample.shape[0] - self.owner.batch
        nothing = torch.zeros_like(self.owner.embedding)
        rows = torch.cat([nothing.repeat(negatives, 1), self.owner.embedding.repeat(self.owner.batch, 1)])[:, None]
        kwargs = dict(added_cond_kwargs or {}, image_embeds=[rows])
        return self.unet(sample, timestep, encoder_hidden_states, added_cond_kwargs=kwargs, return_dict=return_dict, **more)


def run(line, params, vision):
    pipe = make_process.pipeline(line)
    unet = Unet(loaded(line, pipe.unet), added=line == "sdxl")
    unet.batch = len(params["t_index_list"])
    picture = PIL.Image.fromarray(texture(97, 131))
    unet.embedding = vision(processor()(images=picture, return_tensors="pt").pixel_values).image_embeds
    scale(pipe.unet, params["ip_adapter"]["scale"])

    def encode(**given):
        given["do_classifier_free_guidance"] = True
        made = pipe.encode_prompt(**given)
        if line == "sdxl":
            unet.pooled = made[2:]
        return made[:2]

    stream = reference.stream(unet, pipe.vae, params["t_index_list"], params["cfg_type"], params["do_add_noise"],
                              gamma=params["guidance_scale"], delta=params["delta"], prompt=params["prompt"],
                              negative=params["negative_prompt"], seed=params["seed"], encode=encode)
    frames = [reference.call(stream, index)[1][1] for index in range(make_process.FRAMES)]
    reference.synthetic = synthetic
    return torch.stack(frames)


def cases():
    base = dict(prompt="a photo of a cat", negative_prompt="blurry, flat", guidance_scale=1.4, delta=0.7, seed=2,
                seed_generator="cpu", refill=False, use_lcm_lora=False, do_add_noise=True, t_index_list=[15, 32])
    for line in ("sd15", "sdxl"):
        for kind, strength in [("self", 0.5), ("full", 1.0), ("initialize", 0.8)]:
            yield f"{line}-{kind}", line, dict(base, cfg_type=kind, ip_adapter=dict(scale=strength))


if __name__ == "__main__":
    torch.set_num_threads(2)
    out, said = {}, {}
    with torch.no_grad():
        nets()
        vision = encoder()
        for name, line, params in cases():
            out[name] = run(line, params, vision)[:, ::4, ::4].contiguous()
            said[name] = dict(line=line, params=dict(params, model_id=make_process.IDS[line]))
            print(name, out[name].float().mean().item(), out[name].float().std().item())
    file = io.BytesIO()
    PIL.Image.fromarray(texture(97, 131)).save(file, "PNG")
    (models.HERE / "adapter-style.png").write_bytes(file.getvalue())
    save_file(out, models.HERE / "adapter-process.safetensors")
    (models.HERE / "adapter-process.json").write_text(json.dumps(said, indent=1) + "\n")
    for name in ("adapter-style.png", "adapter-process.safetensors"):
        (models.HERE / name).chmod(0o644)
