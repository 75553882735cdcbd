"""Makes the golden vectors of reading weights: names of single-file checkpoints, and merged LoRAs.

    venv/bin/python make_weights.py   # set up as make.py says; needs peft
"""

import json
import re

import numpy as np
import torch
from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from diffusers.loaders import single_file_utils
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

import models
import synthetic

HERE = models.HERE

RESIDUAL = {"norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
            "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection"}
SINGLE = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
          "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
          "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
          "controlnet_mid_block": "middle_block_out.0", "controlnet_cond_embedding.conv_in": "input_hint_block.0",
          "controlnet_cond_embedding.conv_out": "input_hint_block.14"}


def original_unet(name, layers, attends):
    """The original name of a layer of a UNet or a ControlNet. `attends`: levels with transformers on the way up."""
    if name in SINGLE:
        return SINGLE[name]
    steps = name.split(".")
    if steps[0] == "controlnet_down_blocks":
        return f"zero_convs.{steps[1]}.0"
    if steps[0] == "controlnet_cond_embedding":
        return f"input_hint_block.{2 * int(steps[2]) + 2}"
    if steps[0] == "mid_block":
        kind, i, rest = steps[1], int(steps[2]), steps[3:]
        place = f"middle_block.{2 * i if kind == 'resnets' else 1}"
    else:
        level, kind, i, rest = int(steps[1]), steps[2], int(steps[3]), steps[4:]
        down = steps[0] == "down_blocks"
        block = 1 + level * (layers + 1) + i if down else level * (layers + 1) + i
        if kind == "downsamplers":
            return f"input_blocks.{(level + 1) * (layers + 1)}.0.op"
        if kind == "upsamplers":
            return f"output_blocks.{level * (layers + 1) + layers}.{2 if attends[level] else 1}.conv"
        place = f"{'input' if down else 'output'}_blocks.{block}.{0 if kind == 'resnets' else 1}"
    if kind == "resnets":
        rest = [RESIDUAL[rest[0]]] + rest[1:]
    return ".".join([place] + rest)


def original_vae(name, levels):
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    name = name.replace("mid_block.attentions.0.", "mid.attn_1.").replace("group_norm", "norm")
    name = re.sub(r"\.to_([qkv])\b", r".\1", name).replace(".to_out.0", ".proj_out")
    name = re.sub(r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"up.{levels - 1 - int(m[1])}.block.{m[2]}", name)
    return re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", name)


def layer_pairs(model, rename):
    """Layers of `model` by their original names."""
    layers = sorted({key.rpartition(".")[0] for key in model.state_dict()})
    return {rename(layer): layer for layer in layers}


def stored(model, pairs, prefix):
    state, back = model.state_dict(), {new: old for old, new in pairs.items()}
    return {f"{prefix}{back[key.rpartition('.')[0]]}.{key.rpartition('.')[2]}": value for key, value in state.items()}


def same(got, want, ignore=()):
    got = {k: v for k, v in got.items() if k not in ignore}
    assert got.keys() == want.keys(), sorted(got.keys() ^ want.keys())
    assert all(torch.equal(got[k].reshape(want[k].shape), want[k]) for k in want)


def original():
    lines = []
    note = lambda kind, pairs: lines.extend(f"{kind} {old} {new}" for old, new in sorted(pairs.items()))

    for family, convert in [("sd15", "unet-sd15"), ("sdxl", "unet-sdxl")]:
        unet = models.unet(family)
        attends = [kind.startswith("CrossAttn") for kind in unet.config.up_block_types]
        pairs = layer_pairs(unet, lambda name: original_unet(name, 2, attends))
        checkpoint = stored(unet, pairs, "model.diffusion_model.")
        same(single_file_utils.convert_ldm_unet_checkpoint(dict(checkpoint), dict(unet.config)), unet.state_dict())
        note(convert, pairs)

    control = models.controlnet("sd15", 0)
    real = ControlNetModel(**dict(models.FAMILIES["sd15"], conditioning_embedding_out_channels=[4, 8, 8, 8]))
    synthetic.fill(real, "controlnet-names", 1.0)
    del control
    pairs = layer_pairs(real, lambda name: original_unet(name, 2, []))
    checkpoint = stored(real, pairs, "control_model.")
    same(single_file_utils.convert_controlnet_checkpoint(dict(checkpoint), dict(real.config)), real.state_dict())
    note("controlnet", pairs)

    vae = AutoencoderKL(**models.KL)
    synthetic.fill(vae, "kl-names", 1.0)
    pairs = layer_pairs(vae, lambda name: original_vae(name, 4))
    checkpoint = stored(vae, pairs, "first_stage_model.")
    for key in checkpoint:
        if re.search(r"attn_1\.(q|k|v|proj_out)\.weight", key):
            checkpoint[key] = checkpoint[key][:, :, None, None]
    same(single_file_utils.convert_ldm_vae_checkpoint(dict(checkpoint), dict(vae.config)), vae.state_dict())
    note("vae", pairs)

    config = CLIPTextConfig(vocab_size=50, hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
                            projection_dim=8)
    clip = synthetic.fill(CLIPTextModelWithProjection(config), "clip-names", 1.0)
    inner = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "self_attn.out_proj": "attn.out_proj", "mlp.fc1": "mlp.c_fc",
             "mlp.fc2": "mlp.c_proj"}

    def open_clip(name):
        if name == "text_model.final_layer_norm":
            return "ln_final"
        if match := re.fullmatch(r"text_model\.encoder\.layers\.(\d)\.(.*)", name):
            return f"transformer.resblocks.{match[1]}.{inner.get(match[2], 'attn.in_proj')}"
        return {"text_model.embeddings.token_embedding": "token_embedding",
                "text_model.embeddings.position_embedding": "positional_embedding", "text_projection": "text_projection"}[name]

    prefix, checkpoint, state = "conditioner.embedders.1.model.", {}, clip.state_dict()
    for key, value in state.items():
        layer, _, part = key.rpartition(".")
        old = open_clip(layer)
        if old == "text_projection":
            checkpoint[prefix + old] = value.T.contiguous()
        elif old == "positional_embedding":
            checkpoint[prefix + old] = value
        elif not old.endswith("in_proj"):
            checkpoint[f"{prefix}{old}.{part}"] = value
        elif layer.endswith("q_proj"):
            thirds = [state[f"{layer[:-6]}{x}_proj.{part}"] for x in "qkv"]
            checkpoint[f"{prefix}{old}_{part}"] = torch.cat(thirds)
        if not old.endswith("in_proj"):
            lines.append(f"open-clip {old} {layer}")
        else:
            lines.append(f"open-clip {old} {layer}")
    same(single_file_utils.convert_open_clip_checkpoint(clip, dict(checkpoint), prefix=prefix), state)
    (HERE / "original-names.txt").write_text("".join(line + "\n" for line in lines))


UNET = dict(in_channels=4, out_channels=4, sample_size=8, block_out_channels=[4, 8], layers_per_block=2, norm_num_groups=2,
            cross_attention_dim=8, attention_head_dim=2, down_block_types=["CrossAttnDownBlock2D", "DownBlock2D"],
            up_block_types=["UpBlock2D", "CrossAttnUpBlock2D"])
TEXT = dict(vocab_size=20, hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2)
BLOCK = "down_blocks.0.attentions.1.transformer_blocks.0"
LINEAR = [f"{BLOCK}.attn1.to_q", f"{BLOCK}.attn1.to_out.0", f"{BLOCK}.attn2.to_k", f"{BLOCK}.ff.net.0.proj",
          "mid_block.attentions.0.transformer_blocks.0.attn2.to_v", "up_blocks.1.attentions.2.transformer_blocks.0.ff.net.2"]
CONV = ["down_blocks.0.resnets.0.conv1", "down_blocks.0.downsamplers.0.conv", "up_blocks.1.attentions.0.proj_in",
        "up_blocks.0.resnets.1.conv_shortcut"]
ENCODER = ["text_model.encoder.layers.1.self_attn.q_proj", "text_model.encoder.layers.0.mlp.fc1",
           "text_model.encoder.layers.0.self_attn.out_proj"]


def pipeline():
    unet = synthetic.fill(UNet2DConditionModel(**UNET), "lora-unet", 1.0)
    text = synthetic.fill(CLIPTextModel(CLIPTextConfig(**TEXT)), "lora-text", 1.0)
    return StableDiffusionPipeline(vae=AutoencoderKL(**models.KL), text_encoder=text, tokenizer=None, unet=unet,
                                   scheduler=DDIMScheduler(), safety_checker=None, feature_extractor=None,
                                   requires_safety_checker=False)


def thin(key, module, rank):
    """The two matrices of a layer."""
    weight = module.weight
    down = synthetic.noise(f"{key}/down", rank, *weight.shape[1:]) / 3
    up = synthetic.noise(f"{key}/up", weight.shape[0], rank, *([1, 1] if weight.dim() == 4 else [])) / 3
    return down, up


def loras():
    pipe = pipeline()
    unet, text = dict(pipe.unet.named_modules()), dict(pipe.text_encoder.named_modules())
    files = {"kohya": {}, "peft": {}, "old": {}, "original": {}}
    for i, name in enumerate(LINEAR + CONV):
        rank = 2 + i % 3
        down, up = thin(f"a/{name}", unet[name], rank)
        flat = f"lora_unet_{name.replace('.', '_')}"
        files["kohya"].update({f"{flat}.lora_down.weight": down, f"{flat}.lora_up.weight": up,
                               # diffusers loses the alphas of attention layers where they differ.
                               f"{flat}.alpha": torch.tensor(5.0)})
    for i, name in enumerate(ENCODER):
        down, up = thin(f"a/{name}", text[name], 3)
        flat = f"lora_te_{name.replace('.', '_')}"
        files["kohya"].update({f"{flat}.lora_down.weight": down, f"{flat}.lora_up.weight": up,
                               f"{flat}.alpha": torch.tensor(2.0)})
    for part, all_modules, names in [("unet", unet, LINEAR[:4] + CONV[:2]), ("text_encoder", text, ENCODER[:2])]:
        for name in names:
            down, up = thin(f"b/{name}", all_modules[name], 4)
            files["peft"].update({f"{part}.{name}.lora_A.weight": down, f"{part}.{name}.lora_B.weight": up})
    for name in LINEAR[:3]:
        place, _, last = name.replace("to_out.0", "to_out").rpartition(".")
        down, up = thin(f"c/{name}", unet[name], 2)
        files["old"].update({f"unet.{place}.processor.{last}_lora.down.weight": down,
                             f"unet.{place}.processor.{last}_lora.up.weight": up})
    for name in LINEAR + CONV[2:3]:
        down, up = thin(f"d/{name}", unet[name], 2)
        flat = f"lora_unet_{original_unet(name, 2, [False, True]).replace('.', '_')}"
        files["original"].update({f"{flat}.lora_down.weight": down, f"{flat}.lora_up.weight": up,
                                  f"{flat}.alpha": torch.tensor(1.5)})
    notes = {f"{part}.{k}": v for part in ["unet", "text_encoder"]
             for k, v in dict(r=4, lora_alpha=6, rank_pattern={}, alpha_pattern={"attn1.to_q": 3}, use_dora=False,
                              use_rslora=False, lora_dropout=0.0, bias="none", peft_type="LORA").items()
             if part == "unet" or k != "alpha_pattern"}
    for part, all_names in [("unet", LINEAR[:4] + CONV[:2]), ("text_encoder", ENCODER[:2])]:
        notes[f"{part}.target_modules"] = all_names
    for name, tensors in files.items():
        half = {k: v.half() if name == "kohya" and v.dim() else v for k, v in tensors.items()}
        note = {"format": "pt"}
        if name == "peft":
            note["lora_adapter_metadata"] = json.dumps(notes, sort_keys=True)
        path = HERE / f"lora-{name}.safetensors"
        save_file({k: v.contiguous() for k, v in half.items()}, path, metadata=note)
        path.chmod(0o644)

    def load(pipe, name):
        if name == "original":
            state, alphas = StableDiffusionLoraLoaderMixin.lora_state_dict(
                str(HERE), weight_name="lora-original.safetensors", unet_config=pipe.unet.config)
            pipe.load_lora_into_unet(state, alphas, pipe.unet, adapter_name=name)
        else:
            pipe.load_lora_weights(str(HERE), weight_name=f"lora-{name}.safetensors", adapter_name=name)

    out = {}
    for case, weights in {"kohya": [("kohya", 0.8)], "peft": [("peft", 0.5)], "old": [("old", 1.0)],
                          "original": [("original", 1.0)], "both": [("kohya", 0.7), ("peft", -0.4)]}.items():
        pipe = pipeline()
        before = {k: v.clone() for k, v in [*pipe.unet.state_dict().items(), *pipe.text_encoder.state_dict().items()]}
        for name, _ in weights:
            load(pipe, name)
        pipe.set_adapters([name for name, _ in weights], [weight for _, weight in weights])
        parts = ["unet"] if case in ("old", "original") else ["unet", "text_encoder"]
        pipe.fuse_lora(components=parts, lora_scale=1.0, adapter_names=[name for name, _ in weights])
        pipe.unload_lora_weights()
        after = {**pipe.unet.state_dict(), **pipe.text_encoder.state_dict()}
        assert before.keys() == after.keys()
        changed = [k for k in before if not torch.equal(before[k], after[k])]
        print(case, len(changed))
        out.update({f"{case}/{k}": after[k] for k in changed})
    path = HERE / "lora-merged.safetensors"
    save_file({k: v.contiguous() for k, v in out.items()}, path)
    path.chmod(0o644)
    print(path.stat().st_size)


if __name__ == "__main__":
    torch.set_num_threads(2)
    with torch.no_grad():
        original()
        loras()
