"""Makes the golden vectors of the safety checker.

    venv/bin/python make_safety.py      # set up as make.py says

safety.safetensors: what a small EVA-02 of timm makes of pictures, by the steps of the live runner: a cubic resize with
antialiasing, the normalisation of the model, 1 less the share of the first class.
"""

import json

import numpy as np
import timm
import torch
from safetensors.torch import save_file

import models
import synthetic

SIZES = {"small": (40, 48), "same": (56, 56), "large": (160, 128)}


def shares(net, config, picture):
    """Of a picture u8 (H, W, 3), in float: all classes."""
    x = torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255
    side = config["model_args"]["img_size"]
    x = torch.nn.functional.interpolate(x, size=(side, side), mode="bicubic", antialias=True, align_corners=False)
    mean, deviation = (torch.tensor(config["pretrained_cfg"][key])[None, :, None, None] for key in ("mean", "std"))
    return torch.softmax(net((x - mean) / deviation), -1)[0]


if __name__ == "__main__":
    torch.set_num_threads(1)
    config = json.loads((models.CONFIGS / "eva.json").read_text())
    net = timm.create_model(config["architecture"], pretrained=False, num_classes=4, **config["model_args"])
    net = synthetic.fill(net, "eva", 2.0)
    with torch.no_grad():
        out = {}
        for name, (height, width) in SIZES.items():
            for index in (0, 3):
                picture = np.ascontiguousarray(synthetic.frame(index, max(height, width))[:height, :width])
                made = shares(net, config, picture)
                out[f"{name}-{index}"] = torch.stack([1 - made[0]])
                print(name, index, made.tolist())
        save_file(out, models.HERE / "safety.safetensors")
        (models.HERE / "safety.safetensors").chmod(0o644)
