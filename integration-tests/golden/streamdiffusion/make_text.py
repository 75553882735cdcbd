"""Makes the golden vectors of text encoders, the tokenizer, noise, blends and the scheduler's constants.

    venv/bin/python make_text.py      # set up as make.py says

Weights are those of synthetic.py, so that only results are kept.
"""

import collections
import json
import math

import numpy as np
import torch
from diffusers import LCMScheduler
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
from transformers.models.clip.tokenization_clip import bytes_to_unicode

import models
import synthetic

HERE = models.HERE
TOKENIZER = HERE / "tokenizer"

CORPUS = """
a photo of a cat sitting on the sofa, highly detailed, sharp focus, cinematic lighting
a portrait of a woman in the rain, oil painting, trending on artstation, 8k, masterpiece
an astronaut riding a horse on mars, digital art, concept art, smooth, illustration
the city at night, neon lights, reflections, cyberpunk, ultra realistic, volumetric fog
flowers in a field, watercolor, soft colors, spring, beautiful, morning light
a dog running through the water, motion blur, photography, bokeh, depth of field
anime girl with blue hair, studio quality, colorful, dynamic pose, intricate details
blurry, low quality, flat, 2d, worst quality, deformed, ugly, watermark, text
"""

TEXTS = [
    "",
    "a photo of a cat",
    "A Photo  of\ta\nCAT!!",
    "the cat's whiskers, don't they'll we're I'd I've I'm",
    "8k 3d render 2024, 1/2 of 100%",
    "flowers in the city (masterpiece:1.2), [bokeh] {night} <lora:x:0.5>",
    "caf\u00e9 cafe\u0301 na\u00efve \ufb01ne \u0130stanbul STRASSE stra\u00dfe",
    "\u732b\u304c\u5ea7\u308b cat\u732bdog \uac15\uc544\uc9c0 \u0e41\u0e21\u0e27",
    "emoji \U0001f431\U0001f469\u200d\U0001f680 \u2764\ufe0f done",
    "zero\u0000width\u200bjoin\u00adsoft\ufeffmark \ufffd end\u00a0nbsp\u3000wide\u2028line",
    "before <|endoftext|> after <|startoftext|>",
    "____---!!!...,,,???",
    "word " * 100,
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa " * 3,
    "\u0391\u03a3 \u03a3\u0391\u03a3 \u041f\u0440\u0438\u0432\u0435\u0442 \u0645\u0631\u062d\u0628\u0627 \u0928\u092e\u0938\u094d\u0924\u0947",
]

CLIPS = {
    # ViT-L of SD 1.x, ViT-H of SD 2.x, bigG of SDXL: same layers, other widths.
    "clip-l": dict(hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4, hidden_act="quick_gelu"),
    "clip-h": dict(hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=2, hidden_act="gelu"),
    "clip-g": dict(hidden_size=40, intermediate_size=80, num_hidden_layers=3, num_attention_heads=5, hidden_act="gelu",
                   projection_dim=16),
}
PROMPTS = ["a photo of a cat", "flowers in the city, neon lights, masterpiece, anime girl with blue hair"]


def pairs_of(text, wanted):
    """Byte pairs by number, as CLIP's vocabulary was made."""
    alphabet = bytes_to_unicode()
    words = collections.Counter(text.lower().replace(",", " ,").split())
    words = {tuple(alphabet[b] for b in word.encode()): count for word, count in words.items()}
    words = {word[:-1] + (word[-1] + "</w>",): count for word, count in words.items()}
    merges = []
    for _ in range(wanted):
        counts = collections.Counter()
        for word, count in words.items():
            for pair in zip(word, word[1:]):
                counts[pair] += count
        if not counts:
            break
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        new = {}
        for word, count in words.items():
            out, i = [], 0
            while i < len(word):
                if word[i : i + 2] == best:
                    out.append("".join(best))
                    i += 2
                else:
                    out.append(word[i])
                    i += 1
            new[tuple(out)] = new.get(tuple(out), 0) + count
        words = new
    return merges


def tokenizer():
    TOKENIZER.mkdir(exist_ok=True)
    letters = list(bytes_to_unicode().values())
    merges = pairs_of(CORPUS, 400)
    tokens = letters + [letter + "</w>" for letter in letters] + ["".join(pair) for pair in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    assert len(vocabulary) == len(tokens)
    (TOKENIZER / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False) + "\n")
    (TOKENIZER / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    made = []
    for pad in ["<|endoftext|>", "!"]:
        slow = CLIPTokenizer(TOKENIZER / "vocab.json", TOKENIZER / "merges.txt", pad_token=pad, model_max_length=77)
        assert slow.fix_text is None, "the reference without ftfy"
        for text in TEXTS if pad == "!" else TEXTS[:3]:
            ids = slow(text, padding="max_length", max_length=77, truncation=True).input_ids
            every = slow(text).input_ids
            made.append(dict(pad=pad, text=text, ids=ids, dropped=max(0, len(every) - 77)))
    (HERE / "tokens.json").write_text(json.dumps(made) + "\n")
    return slow, vocabulary


def encoders(slow, vocabulary):
    out = {}
    for name, values in CLIPS.items():
        config = CLIPTextConfig(vocab_size=len(vocabulary), max_position_embeddings=77, eos_token_id=vocabulary["<|endoftext|>"],
                                bos_token_id=vocabulary["<|startoftext|>"], attn_implementation="eager", **values)
        kind = CLIPTextModelWithProjection if "projection_dim" in values else CLIPTextModel
        kept = dict(values, vocab_size=len(vocabulary), max_position_embeddings=77, architectures=[kind.__name__],
                    layer_norm_eps=config.layer_norm_eps)
        models.save(name, kept)
        clip = synthetic.fill(kind(config), name, 1.0)
        for i, prompt in enumerate(PROMPTS):
            ids = torch.tensor([slow(prompt, padding="max_length", max_length=77, truncation=True).input_ids])
            made = clip(ids, output_hidden_states=True)
            out[f"{name}/{i}/last"] = made.last_hidden_state[0]
            out[f"{name}/{i}/penultimate"] = made.hidden_states[-2][0]
            if "projection_dim" in values:
                out[f"{name}/{i}/pooled"] = made.text_embeds[0]
    return out


def philox(counter, key):
    """Ten rounds on arrays of four words."""
    c, (k0, k1) = [np.array(x, dtype=np.uint64) for x in counter], key
    mask = np.uint64(0xFFFFFFFF)
    for _ in range(10):
        a, b = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = [(b >> np.uint64(32)) ^ c[1] ^ np.uint64(k0), b & mask, (a >> np.uint64(32)) ^ c[3] ^ np.uint64(k1), a & mask]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c


def cuda_randn(seed, count, blocks, offset=0):
    """torch.randn on a GPU that runs at most `blocks` blocks, and the offset after it."""
    threads = 256 * min(-(-count // 256), blocks)
    rounds = -(-count // (threads * 4))
    out = np.zeros(rounds * threads * 4)
    index = np.arange(threads, dtype=np.uint64)
    for r in range(rounds):
        at = np.full(threads, offset // 4 + r, dtype=np.uint64)
        words = philox([at, np.zeros(threads), index, np.zeros(threads)], (seed & 0xFFFFFFFF, seed >> 32))
        for half in range(2):
            u = (words[2 * half].astype(np.float64) + 0.5) / 2**32
            v = (words[2 * half + 1].astype(np.float64) + 0.5) / 2**32 * 2 * math.pi
            radius = np.sqrt(-2 * np.log(u))
            base = (r * 4 + 2 * half) * threads
            out[base : base + threads] = radius * np.sin(v)
            out[base + threads : base + 2 * threads] = radius * np.cos(v)
    return torch.from_numpy(out[:count].astype(np.float32)), offset + rounds * 4


def noise():
    out = {}
    for seed in [2, 789, (1 << 40) + 5]:
        generator = torch.Generator().manual_seed(seed)
        out[f"cpu/{seed}/first"] = torch.randn((2, 4, 8, 8), generator=generator)
        out[f"cpu/{seed}/second"] = torch.randn((100,), generator=generator)
        out[f"cpu/{seed}/third"] = torch.randn((16,), generator=generator)
    for seed in [0, 789, (1 << 40) + 5]:
        first, offset = cuda_randn(seed, 1024, 1 << 20)
        out[f"cuda/{seed}/first"] = first
        out[f"cuda/{seed}/second"], _ = cuda_randn(seed, 300, 1 << 20, offset)
    out["cuda/small"], _ = cuda_randn(7, 5000, 2)
    return out


def blends():
    """The formulas of §1.8 in 64 bits."""
    items = [synthetic.noise(f"blend/{i}", 600).double() * (1 + i) for i in range(3)]

    def slerp(a, b, t):
        omega = torch.acos(torch.dot(a / a.norm(), b / b.norm()))
        return torch.sin((1 - t) * omega) / omega.sin() * a + torch.sin(t * omega) / omega.sin() * b

    linear = lambda weights: sum(w * x for w, x in zip(weights, items))
    third = [w / 1.8 for w in (0.5, 0.3, 1.0)]
    mixed = linear(third)
    mean = sum(x.norm() for x in items) / 3
    return {
        "blend/linear": linear([0.5, 0.3, 1.0]).float(),
        "blend/linear-normal": mixed.float(),
        "blend/linear-noise": (mixed * mean / mixed.norm()).float(),
        "blend/slerp": slerp(items[0], items[1], 0.25).float(),
    }


def schedule():
    out = {}
    for grid in [50, 100]:
        scheduler = LCMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", original_inference_steps=grid)
        out["schedule/alphas_cumprod"] = scheduler.alphas_cumprod
        for steps in [1, 4, 7, 50, 100]:
            if steps > grid:
                continue
            scheduler.set_timesteps(steps)
            made = []
            for timestep in scheduler.timesteps:
                alpha = scheduler.alphas_cumprod[timestep]
                c_skip, c_out = scheduler.get_scalings_for_boundary_condition_discrete(timestep)
                made.append([float(timestep), alpha.sqrt(), (1 - alpha).sqrt(), float(c_skip), float(c_out)])
            out[f"schedule/{grid}/{steps}"] = torch.tensor(made)
    return out


if __name__ == "__main__":
    torch.set_num_threads(2)
    with torch.no_grad():
        made = encoders(*tokenizer())
        for name, tensors in dict(text=made, numbers=dict(**noise(), **blends(), **schedule())).items():
            path = HERE / f"{name}.safetensors"
            save_file({k: v.contiguous() for k, v in tensors.items()}, path)
            path.chmod(0o644)
            assert path.stat().st_size < 200_000, path
