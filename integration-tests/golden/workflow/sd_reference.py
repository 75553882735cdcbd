"""Nodes of Stable Diffusion in plain torch, from the formulas: what ComfyUI computes on a GPU.

Samplers: k-diffusion (arXiv:2206.00364) and DPM-Solver++ 2M (arXiv:2211.01095), each as its loop, in 32 bits.
"""

import math
import pathlib
import sys

import numpy as np
import torch

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "streamdiffusion"))

import make_text  # noqa: E402
import models  # noqa: E402
import synthetic  # noqa: E402
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer  # noqa: E402

SCALE = 0.18215
BETAS = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
PRODUCT = torch.cumprod(1 - BETAS, 0)
SIGMAS64 = ((1 - PRODUCT) / PRODUCT) ** 0.5
SIGMAS, LOGS = SIGMAS64.float(), SIGMAS64.log().float()


# Noise levels.

def sigma_of(t):
    t = torch.clamp(torch.as_tensor(t, dtype=torch.float32), 0, 999)
    low, high, share = t.floor().long(), t.ceil().long(), t.frac()
    return ((1 - share) * LOGS[low] + share * LOGS[high]).exp()


def timestep_of(sigma):
    return (sigma.log() - LOGS).abs().argmin()


def sigma_at(share):
    return 999999999.9 if share <= 0 else 0.0 if share >= 1 else float(sigma_of((1 - share) * 999.0))


def levels(scheduler, steps):
    low, high = float(SIGMAS[0]), float(SIGMAS[-1])
    if scheduler == "karras":
        ramp = torch.linspace(0, 1, steps)
        out = (high ** (1 / 7) + ramp * (low ** (1 / 7) - high ** (1 / 7))) ** 7
    elif scheduler == "exponential":
        out = torch.linspace(math.log(high), math.log(low), steps).exp()
    elif scheduler == "simple":
        out = torch.stack([SIGMAS[-(1 + int(i * (1000 / steps)))] for i in range(steps)])
    elif scheduler == "ddim_uniform":
        out = SIGMAS[1 :: max(1000 // steps, 1)].flip(0)
    elif scheduler == "sgm_uniform":
        out = sigma_of(torch.linspace(999, 0, steps + 1)[:-1])
    else:
        out = sigma_of(torch.linspace(999, 0, steps))
    return torch.cat([out, torch.zeros(1)])


def schedule(scheduler, steps, denoise):
    if denoise > 0.9999:
        return levels(scheduler, steps)
    return levels(scheduler, int(steps / denoise))[-(steps + 1):]


# Samplers. `model(x, sigma)` gives the clean latent, `noise()` the noise of the next step.

def euler(model, x, sigmas, noise):
    for i in range(len(sigmas) - 1):
        d = (x - model(x, sigmas[i])) / sigmas[i]
        x = x + d * (sigmas[i + 1] - sigmas[i])
    return x


def euler_ancestral(model, x, sigmas, noise):
    for i in range(len(sigmas) - 1):
        denoised = model(x, sigmas[i])
        start, to = sigmas[i], sigmas[i + 1]
        up = torch.minimum(to, (to**2 * (start**2 - to**2) / start**2) ** 0.5)
        down = (to**2 - up**2) ** 0.5
        x = x + (x - denoised) / start * (down - start)
        if to > 0:
            x = x + noise() * up
    return x


def lcm(model, x, sigmas, noise):
    for i in range(len(sigmas) - 1):
        x = model(x, sigmas[i])
        if sigmas[i + 1] > 0:
            x = x + sigmas[i + 1] * noise()
    return x


def dpmpp_2m(model, x, sigmas, noise):
    old = None
    for i in range(len(sigmas) - 1):
        denoised = model(x, sigmas[i])
        t, t_next = -sigmas[i].log(), -sigmas[i + 1].log()
        h = t_next - t
        ratio = sigmas[i + 1] / sigmas[i]
        if old is None or sigmas[i + 1] == 0:
            x = ratio * x - torch.expm1(-h) * denoised
        else:
            r = (t + sigmas[i - 1].log()) / h
            mixed = (1 + 1 / (2 * r)) * denoised - (1 / (2 * r)) * old
            x = ratio * x - torch.expm1(-h) * mixed
        old = denoised
    return x


SAMPLERS = dict(euler=euler, euler_ancestral=euler_ancestral, lcm=lcm, ddim=euler, dpmpp_2m=dpmpp_2m)


class GpuNoise:
    """torch.randn on CUDA after manual_seed, draw by draw."""

    def __init__(self, seed, shape):
        self.seed, self.shape, self.offset = seed, shape, 0

    def __call__(self):
        made, self.offset = make_text.cuda_randn(self.seed, math.prod(self.shape), 1 << 20, self.offset)
        return made.reshape(self.shape)


def ksampler(unet, seed, steps, cfg, sampler, scheduler, positive, negative, latent, denoise=1.0, scale=SCALE, velocity=False):
    """`positive` and `negative` are lists of prompts: dicts of `states`, `controls`, `range`, `mask`, `unet`, `added`.

    A model predicts the noise, or with `velocity` v = noise / sqrt(s^2 + 1) - clean s / sqrt(s^2 + 1) of the level s."""
    sigmas = schedule(scheduler, steps, denoise)
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(seed))
    first = sigmas[0]
    full = math.isclose(float(SIGMAS[-1]), float(first), rel_tol=1e-5) or float(first) > float(SIGMAS[-1])
    x = noise * (torch.sqrt(1 + first**2) if full else first) + latent * scale

    def inside(sigma, shares):
        return not (sigma > sigma_at(shares[0]) or sigma < sigma_at(shares[1]))

    def side(prompts, x, sigma):
        total, count = torch.zeros_like(x), torch.full_like(x, 1e-37)
        t = timestep_of(sigma).float().reshape(1)
        scaled = x / (sigma**2 + 1) ** 0.5
        for prompt in prompts:
            if not inside(sigma, prompt.get("range", (0.0, 1.0))):
                continue
            down, middle = None, None
            states = prompt["states"].expand(x.shape[0], -1, -1)
            for net, picture, strength, shares in prompt.get("controls", []):
                if not inside(sigma, shares):
                    continue
                hint = fit(picture, x.shape[3] * 8, x.shape[2] * 8)
                d, m = net(scaled, t, states, controlnet_cond=hint, conditioning_scale=strength, return_dict=False)
                down = d if down is None else [a + b for a, b in zip(down, d)]
                middle = m if middle is None else middle + m
            out = prompt.get("unet", unet)(scaled, t, states, return_dict=False, down_block_additional_residuals=down,
                                           mid_block_additional_residual=middle, added_cond_kwargs=prompt.get("added"))[0]
            weight = torch.ones_like(x)
            if "mask" in prompt:
                mask, strength = prompt["mask"]
                weight = torch.nn.functional.interpolate(mask[:, None], size=x.shape[2:], mode="bilinear") * strength
            clean = x / (sigma**2 + 1) - out * sigma / (sigma**2 + 1) ** 0.5 if velocity else x - out * sigma
            total = total + clean * weight
            count = count + weight
        return total / count

    def model(x, sigma):
        good = side(positive, x, sigma)
        if math.isclose(cfg, 1.0):
            return good
        bad = side(negative, x, sigma)
        return bad + (good - bad) * cfg

    return SAMPLERS[sampler](model, x, sigmas, GpuNoise(seed, latent.shape)) / scale


def fit(picture, width, height):
    """(1, H, W, C) to (1, C, height, width): the middle in the new proportions, then nearest-exact."""
    x = picture.movedim(-1, 1)
    old, new = x.shape[3] / x.shape[2], width / height
    left = round((x.shape[3] - x.shape[3] * (new / old)) / 2) if old > new else 0
    top = round((x.shape[2] - x.shape[2] * (old / new)) / 2) if old < new else 0
    x = x.narrow(-2, top, x.shape[2] - top * 2).narrow(-1, left, x.shape[3] - left * 2)
    return torch.nn.functional.interpolate(x, size=(height, width), mode="nearest-exact")


# Text.

class Clip:
    def __init__(self, last_layer=-1, lora=None):
        self.tokenizer = CLIPTokenizer(make_text.TOKENIZER / "vocab.json", make_text.TOKENIZER / "merges.txt", pad_token="<|endoftext|>",
                                       model_max_length=10_000)
        vocabulary = self.tokenizer.get_vocab()
        self.begin, self.end = vocabulary["<|startoftext|>"], vocabulary["<|endoftext|>"]
        config = CLIPTextConfig(vocab_size=len(vocabulary), max_position_embeddings=77, eos_token_id=self.end,
                                bos_token_id=self.begin, attn_implementation="eager", **make_text.CLIPS["clip-l"])
        self.model = synthetic.fill(CLIPTextModel(config), "clip-l", 1.0)
        if lora:
            merge(self.model, "lora_te_", *lora)
        self.last_layer = last_layer

    def states(self, ids):
        made = self.model(torch.tensor([ids]), output_hidden_states=True)
        return self.model.text_model.final_layer_norm(made.hidden_states[self.last_layer])

    def __call__(self, *weighted):
        """Texts and their weights, of fewer than 8 tokens each or only one, which is cut into pieces."""
        pieces = [[(self.begin, 1.0)]]
        for text, weight in weighted:
            tokens = self.tokenizer(text, add_special_tokens=False).input_ids
            while tokens:
                room = 76 - len(pieces[-1])
                pieces[-1] += [(token, weight) for token in tokens[:room]]
                tokens = tokens[room:]
                if tokens:
                    pieces.append([(self.begin, 1.0)])
        empty = self.states([self.begin] + [self.end] * 76)
        out = []
        for piece in pieces:
            piece = piece + [(self.end, 1.0)] * (77 - len(piece))
            states = self.states([token for token, _ in piece])
            weights = torch.tensor([weight for _, weight in piece])[None, :, None]
            out.append((states - empty) * weights + empty)
        return torch.cat(out, 1)


class Clips:
    """The two encoders of SDXL: states of the last but one layer side by side, and the second one's pooled state."""

    def __init__(self):
        self.both = []
        for name, kind, pad in [("clip-l", CLIPTextModel, "<|endoftext|>"), ("clip-g", CLIPTextModelWithProjection, "!")]:
            tokenizer = CLIPTokenizer(make_text.TOKENIZER / "vocab.json", make_text.TOKENIZER / "merges.txt", pad_token=pad,
                                      model_max_length=77)
            vocabulary = tokenizer.get_vocab()
            config = CLIPTextConfig(vocab_size=len(vocabulary), max_position_embeddings=77, eos_token_id=vocabulary["<|endoftext|>"],
                                    bos_token_id=vocabulary["<|startoftext|>"], attn_implementation="eager", **make_text.CLIPS[name])
            self.both.append((tokenizer, synthetic.fill(kind(config), name, 1.0)))

    def __call__(self, text, width, height):
        made = []
        for tokenizer, model in self.both:
            ids = tokenizer(text, padding="max_length", max_length=77, truncation=True).input_ids
            made.append(model(torch.tensor([ids]), output_hidden_states=True))
        states = torch.cat([one.hidden_states[-2] for one in made], -1)
        times = torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32)
        return dict(states=states, added=dict(text_embeds=made[1].text_embeds, time_ids=times))


# LoRAs: rank 2, alpha 1, numbers from names.

LORA = {"lora_unet_": ["down_blocks.0.attentions.1.transformer_blocks.0.attn2.to_k", "mid_block.attentions.0.transformer_blocks.0.attn1.to_q",
                       "up_blocks.3.attentions.2.transformer_blocks.0.ff.net.2"],
        "lora_te_": ["text_model.encoder.layers.1.self_attn.q_proj", "text_model.encoder.layers.0.mlp.fc1"]}


def merge(model, prefix, name, scale):
    for module in LORA[prefix]:
        weight = dict(model.named_modules())[module].weight
        down = synthetic.noise(f"{name}/{module}/down", 2, weight.shape[1])
        up = synthetic.noise(f"{name}/{module}/up", weight.shape[0], 2)
        weight.data = weight.data + scale * 0.5 * up @ down / math.sqrt(weight.shape[1])


# Pictures and latents.

def frame(index, size=64):
    return torch.from_numpy(synthetic.frame(index, size))[None].float() / 255


def taesd_encode(vae, picture):
    return vae.encoder(picture.movedim(-1, 1) * 2 - 1) / SCALE


def taesd_decode(vae, latent):
    # diffusers gives −1…1.
    return ((vae.decode(latent * SCALE).sample + 1) / 2).clamp(0, 1).movedim(1, -1)


def kl_encode(vae, picture):
    return vae.encode(picture.movedim(-1, 1) * 2 - 1).latent_dist.mean


def kl_decode(vae, latent):
    return ((vae.decode(latent).sample + 1) / 2).clamp(0, 1).movedim(1, -1)


def shown(picture):
    return (picture[0] * 255).clamp(0, 255).to(torch.uint8)


def plain(value):
    return np.asarray(value)
