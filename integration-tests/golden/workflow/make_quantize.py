"""Makes quantize.json: what ComfyUI's ImageQuantize gives, by Pillow's median cut and its mapping to palettes.

    python -m venv venv && venv/bin/pip install -r requirements-images.txt
    venv/bin/python make_quantize.py

Pictures are made by whole numbers, here and in src/workflow/nodes/quantize_tests.rs, so none is kept: of every case the SHA-256 of
the bytes (H, W, 3) that come out. The camera's picture is that of images.safetensors.
"""

import hashlib
import json
import math
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).parent
DITHERS = ["none", "floyd-steinberg", "bayer-2", "bayer-4", "bayer-8", "bayer-16"]


def noise(count, seed):
    """The upper bytes of x ← 1664525 x + 1013904223 mod 2³²."""
    out, x = np.empty(count, np.uint8), seed
    for i in range(count):
        x = (x * 1664525 + 1013904223) % 2**32
        out[i] = x >> 24
    return out


def random(height, width):
    return noise(height * width * 3, 1).reshape(height, width, 3)


def photo(height, width):
    """Gradients, discs of soft edges and a little noise."""
    y, x = np.mgrid[0:height, 0:width]
    out = np.stack([x * 200 // width + 20, y * 180 // height + 40, (x + 2 * y) * 150 // (width + 2 * height) + 50], -1)
    for number, colour in enumerate([(230, 60, 40), (30, 120, 220), (245, 235, 200)]):
        cy, cx, radius = height * (number + 1) // 4, width * (3 - number) // 4, min(height, width) // 5
        away = (x - cx) ** 2 + (y - cy) ** 2
        share = np.clip(256 - away * 256 // (radius * radius), 0, 256)[..., None]
        out = (out * (256 - share) + np.array(colour) * share) // 256
    out = out + noise(height * width * 3, 2).reshape(height, width, 3) // 32
    return np.clip(out, 0, 255).astype(np.uint8)


def few(height, width):
    y, x = np.mgrid[0:height, 0:width]
    colours = np.array([(0, 0, 0), (255, 0, 0), (0, 200, 10), (12, 34, 56), (255, 255, 255)], np.uint8)
    return colours[(x // 5 + y // 7 * 3) % 5]


def one(height, width):
    return np.full((height, width, 3), (17, 99, 201), np.uint8)


def camera():
    raw = (HERE / "images.safetensors").read_bytes()
    length = int.from_bytes(raw[:8], "little")
    about = json.loads(raw[8:8 + length])["camera"]
    begin, end = about["data_offsets"]
    return np.frombuffer(raw[8 + length + begin:8 + length + end], np.uint8).reshape(about["shape"])


def matrix(n):
    if n == 0:
        return np.zeros((1, 1), np.float32)
    q = 4**n
    m = q * matrix(n - 1)
    return np.block([[m - 1.5, m + 0.5], [m + 1.5, m - 0.5]]).astype(np.float32) / np.float32(q)


def quantize(picture, colours, dither):
    image = Image.fromarray(picture)
    palette = image.quantize(colors=colours)
    if dither.startswith("bayer"):
        order = int(dither.split("-")[1])
        spread = 2 * 256 / (len(palette.getpalette()) // 3)
        pattern = np.float32(spread) * matrix(int(math.log2(order))) + np.float32(0.5)
        height, width, _ = picture.shape
        tiled = np.tile(pattern, (math.ceil(height / order), math.ceil(width / order)))[:height, :width, None]
        moved = np.clip(picture.astype(np.float32) + tiled, 0, 255).astype(np.uint8)
        image, dither = Image.fromarray(moved), "none"
    how = Image.Dither.FLOYDSTEINBERG if dither == "floyd-steinberg" else Image.Dither.NONE
    return np.array(image.quantize(palette=palette, dither=how).convert("RGB"))


def main():
    cases = []
    # Of noise there are so many colours that their lower bits are left out.
    for make, colours, dither in [(random, 256, "none"), (photo, 16, "floyd-steinberg"), (photo, 7, "bayer-8")]:
        cases.append((make, 512, 512, colours, dither))
    for make, height, width in [(random, 33, 57), (photo, 131, 77), (few, 41, 63), (one, 3, 2)]:
        for colours in [1, 7, 256] if make is random else [1, 2, 3, 5, 16, 100, 256]:
            cases.extend((make, height, width, colours, dither) for dither in DITHERS)
    out = []
    for make, height, width, colours, dither in cases:
        made = quantize(make(height, width), colours, dither)
        sha = hashlib.sha256(made.tobytes()).hexdigest()
        out.append([make.__name__, height, width, colours, dither, sha])
    every = b"".join(quantize(photo(29, 31), colours, "none").tobytes() for colours in range(1, 257))
    shown = quantize(camera(), 9, "floyd-steinberg").tobytes().hex()
    inputs = {make.__name__: hashlib.sha256(make(131, 77).tobytes()).hexdigest() for make in [random, photo, few, one]}
    rows = ",\n    ".join(json.dumps(row) for row in out)
    text = json.dumps({"inputs": inputs, "every": hashlib.sha256(every).hexdigest(), "camera": shown}, indent=1)
    (HERE / "quantize.json").write_text(text[:-2] + f',\n "cases": [\n    {rows}\n ]\n}}\n')


main()
