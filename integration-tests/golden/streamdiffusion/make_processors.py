"""Makes the golden vectors of the processors of pictures and latents.

    venv/bin/python make_processors.py      # set up as make.py says

processors.safetensors: what each makes of a picture. lists.safetensors: frames of StreamDiffusion 0.1.1, which knows no
processors, with lists of them put around its encoder, its prediction and its decoder.

The formulas are those of the live runner's fork, written down anew: whole kernels instead of rows and columns, a sorted median.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F

import make
import models
import reference
import synthetic
from make_conditions import planes, quarter, soft_edges, write

FRAMES = 6


def under(x, kernel):
    weight = kernel[None, None].repeat(x.shape[1], 1, 1, 1)
    return F.conv2d(x, weight, padding=kernel.shape[-1] // 2, groups=x.shape[1])


def gaussian(size, sigma):
    at = torch.arange(size) - (size - 1) / 2
    kernel = torch.exp(-(at[:, None] ** 2 + at[None] ** 2) / (2 * sigma**2))
    return kernel / kernel.sum()


def blur(x, sigma=2.0, size=15):
    return under(x, gaussian(size, sigma))


def sharpen(x, intensity=1.5, radius=1.0, edge=0.5, detail=0.3, noise=0.1, several=True):
    def soft(x, sigma):
        size = max(3, int(6 * sigma + 1))
        return under(x, gaussian(size + (size + 1) % 2, sigma))

    def mask(x, sigma, strength):
        return (x + strength * (x - soft(x, sigma))).clamp(0, 1)

    x = (1 - noise) * x + noise * soft(x, 0.3)
    if several:
        parts = [(radius / 2, 0.3), (radius, 0.5), (radius * 2, 0.2)]
        x = (x + sum(w * (mask(x, r, intensity * w) - x) for r, w in parts)).clamp(0, 1)
    else:
        x = mask(x, radius, intensity)
    sobel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]])
    x = (x + edge * torch.sqrt(under(x, sobel) ** 2 + under(x, sobel.T) ** 2)).clamp(0, 1)
    laplace = torch.tensor([[0.0, -1, 0], [-1, 4, -1], [0, -1, 0]])
    return (x + detail * under(x, laplace)).clamp(0, 1)


def upscale(x, factor, mode):
    size = [int(n * factor) for n in x.shape[2:]]
    return F.interpolate(x, size=size, mode=mode, align_corners=None if mode == "nearest" else False)


def lineart(x, sigma=6.0, threshold=8):
    """Of (1, 3, H, W) in 0…1 that was bytes."""
    height, width = x.shape[2:]
    x = torch.floor(x * 255 + 1e-3)
    scale = 512 / min(height, width)
    size = [int(torch.round(torch.tensor(n * scale))) for n in (height, width)]
    x = F.interpolate(x, size=size, mode="bicubic", align_corners=False) if scale > 1 else F.interpolate(x, size=size, mode="area")
    x = F.pad(x, (0, -size[1] % 64, 0, -size[0] % 64), mode="replicate")
    side = 2 * math.ceil(3 * sigma) + 1
    at = torch.linspace(-1, 1, side)
    kernel = torch.exp(-(at[:, None] ** 2 + at[None] ** 2) / (2 * sigma**2))
    around = F.conv2d(F.pad(x, [side // 2] * 4, "reflect"), (kernel / kernel.sum())[None, None].repeat(3, 1, 1, 1), groups=3)
    dark = (around - x).min(dim=1, keepdim=True)[0].clamp(0, 255)
    above = dark[dark > threshold]
    dark = dark / max(16.0, float(above.median()) if len(above) else 0.0) * 127
    lines = dark.clamp(0, 255).byte()[:, :, : size[0], : size[1]].float() / 255
    return F.interpolate(lines, size=(height, width), mode="bilinear", align_corners=False).repeat(1, 3, 1, 1)


def larger(index, width, height):
    """A picture of another size, cut out of a larger one."""
    return np.ascontiguousarray(synthetic.frame(index, max(width, height))[:height, :width])


def processed(kind, *, before=lambda x: x, after=lambda x: x, latents=((), ()), steps=2):
    """Frames of a stream with what goes around it."""
    made = reference.stream(models.unet("sd15"), models.taesd(), make.STEPS[steps], kind, True)
    encode, predict, decode = made.encode_image, made.predict_x0_batch, made.decode_image
    last = []

    def mixed(x, shares):
        for share in shares if last else ():
            x = ((1 - share) * x + share * last[-1]).clamp(-10, 10)
        return x

    def predicted(x):
        x = mixed(predict(mixed(x, latents[0])), latents[1])
        last.append(x)
        return x

    made.encode_image = lambda x: encode(before(x / 2 + 0.5).clamp(0, 1) * 2 - 1)
    made.predict_x0_batch = predicted
    made.decode_image = lambda x: after((decode(x) / 2 + 0.5).clamp(0, 1)).clamp(0, 1) * 2 - 1
    return [reference.call(made, i)[1][1] for i in range(FRAMES)]


if __name__ == "__main__":
    torch.set_num_threads(1)
    with torch.no_grad():
        out = {}
        picture = planes(synthetic.frame(3, reference.SIZE))
        out["blur"] = blur(picture)[0, :, ::4, ::4]
        out["blur-other"] = blur(picture, 0.7, 5)[0, :, ::4, ::4]
        out["sharpen"] = sharpen(picture)[0, :, ::4, ::4]
        out["sharpen-other"] = sharpen(picture, 3.0, 0.4, 0.1, 0.05, 0.4, False)[0, :, ::4, ::4]
        for mode in ["bilinear", "bicubic", "nearest"]:
            out[f"upscale-{mode}"] = upscale(picture, 1.7, mode)[0, :, ::4, ::4]
        out["lineart"] = lineart(picture)[0, 0, ::4, ::4]
        # A blurred picture has lines so faint that the norm is 16, and a threshold above all leaves none.
        out["lineart-other"] = lineart(torch.round(blur(picture, 4.0, 25) * 255) / 255, 2.0, 30)[0, 0, ::4, ::4]
        out["lineart-wide"] = lineart(planes(larger(5, 600, 520)))[0, 0, ::13, ::13]
        write("processors", out)

        def sharp(x):
            return sharpen(x, 1.5, 1.0, 0.1, 0.05, 0.1)

        write("lists", {
            "before": quarter(processed("none", before=lambda x: soft_edges(blur(x)).repeat(1, 3, 1, 1))),
            "after": quarter(processed("self", after=lambda x: blur(sharp(x), 1.0, 7))),
            "larger": torch.stack(processed("none", after=lambda x: upscale(x, 1.5, "bicubic"))[2:4])[:, ::6, ::6].contiguous(),
            "latent-before": quarter(processed("self", latents=((0.3,), ()))),
            "latent-after": quarter(processed("initialize", latents=((), (0.4, 0.15)))),
            "all": quarter(processed("full", before=blur, after=sharp, latents=((0.15,), (0.25,)), steps=3)),
        })
