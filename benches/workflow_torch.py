#!/usr/bin/env python3
"""Twelve image nodes at 512 x 512: a frame in Weir against the same arithmetic in torch, in turns on the same cores.

    python3 benches/workflow_torch.py --weir target/release/weir

The workflow is integration-tests/workflows/twelve.json. The torch side is written from the formulas of ComfyUI's nodes
(docs/workflows.md) and runs as ComfyUI runs them: one operator after the other, in eager mode, without gradients. Both
sides begin with u8 frames and end with u8 frames; both have as many threads as there are cores. The pictures of both are
compared byte by byte. Needs torch and numpy; says the medians, and exits with 1 where Weir is slower or the pictures
differ by more than a level.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time

import numpy
import torch
import torch.nn.functional as F

SIDE = 512
ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
WORKFLOW = os.path.join(ROOT, "integration-tests", "workflows", "twelve.json")


def relative_kernel(radius, sigma):
    """ImageBlur's kernel: a Gaussian over the coordinates -1 to 1."""
    line = torch.linspace(-1, 1, 2 * radius + 1)
    x, y = torch.meshgrid(line, line, indexing="ij")
    kernel = torch.exp(-(x * x + y * y) / (2.0 * sigma * sigma))
    return kernel / kernel.sum()


def pixel_kernel(size, sigma):
    """GaussianBlur's kernel, torchvision's: a Gaussian over pixels."""
    line = torch.linspace(-(size - 1) * 0.5, (size - 1) * 0.5, size)
    line = torch.exp(-0.5 * (line / sigma) ** 2)
    line = line / line.sum()
    return torch.mm(line[:, None], line[None, :])


def filtered(image, kernel):
    radius = kernel.shape[0] // 2
    channels = image.shape[3]
    x = F.pad(image.permute(0, 3, 1, 2), (radius,) * 4, mode="reflect")
    x = F.conv2d(x, kernel.repeat(channels, 1, 1).unsqueeze(1), groups=channels)
    return x.permute(0, 2, 3, 1)


def sharpened(image, radius, sigma, alpha):
    kernel = relative_kernel(radius, sigma) * -(alpha * 10)
    kernel[radius, radius] = kernel[radius, radius] - kernel.sum() + 1.0
    return torch.clamp(filtered(image, kernel), 0, 1)


def blended(a, b, factor, mode):
    if mode == "screen":
        mixed = 1 - (1 - a) * (1 - b)
    elif mode == "overlay":
        mixed = torch.where(a <= 0.5, 2 * a * b, 1 - 2 * (1 - a) * (1 - b))
    elif mode == "soft_light":
        curve = torch.where(a <= 0.25, ((16 * a - 12) * a + 4) * a, torch.sqrt(a))
        mixed = torch.where(b <= 0.5, a - (1 - 2 * b) * a * (1 - a), a + (2 * b - 1) * (curve - a))
    else:
        raise ValueError(mode)
    return torch.clamp(a * (1 - factor) + mixed * factor, 0, 1)


@torch.no_grad()
def reference(frame):
    """The workflow: u8 (H, W, 3) to u8 (H, W, 3)."""
    camera = torch.from_numpy(frame)[None].to(torch.float32) / 255.0
    soft = filtered(camera, pixel_kernel(15, 5))
    inverse = 1 - camera
    screen = blended(soft, inverse, 0.5, "screen")
    sharp = sharpened(screen, 1, 1.0, 1.0)
    mask = camera[..., 0]
    mask = (mask > 0.5).float()
    mask = 1 - mask
    both = sharp * mask[..., None] + soft * (1 - mask[..., None])
    lit = blended(both, camera, 0.3, "soft_light")
    blur = filtered(lit, relative_kernel(3, 1.0))
    over = blended(blur, both, 0.5, "overlay")
    out = 1 - over
    return (out[0] * 255.0).clamp(0, 255).to(torch.uint8).numpy()


def weir(program, frames, folder):
    """Runs frames through Weir; their pictures, and milliseconds a frame in the model."""
    source, target = os.path.join(folder, "in.rgb"), os.path.join(folder, "out.rgb")
    params = os.path.join(folder, "params.json")
    frames.tofile(source)
    with open(WORKFLOW) as file, open(params, "w") as out:
        out.write('{"width": %d, "height": %d, "prompt": %s}' % (SIDE, SIDE, file.read()))
    command = [program, "process", "--pipeline", "comfyui", "--params", "@" + params]
    command += ["--input", source, "--output", target, "--size", f"{SIDE}x{SIDE}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    took = float(re.search(r"([0-9.]+) ms a frame", done.stderr).group(1))
    return numpy.fromfile(target, numpy.uint8).reshape(frames.shape), took


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weir", default=os.path.join(ROOT, "target", "release", "weir"))
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(os.cpu_count())
    random = numpy.random.default_rng(1)
    rows, columns = numpy.mgrid[0:SIDE, 0:SIDE]
    frames = []
    for i in range(arguments.frames):
        plane = 127 + 90 * numpy.sin((rows + 7 * i) / 19.0)[..., None] * numpy.cos(columns / numpy.array([11, 17, 29])[:, None, None]).transpose(1, 2, 0)
        frames.append(numpy.clip(plane + random.normal(0, 8, (SIDE, SIDE, 3)), 0, 255).astype(numpy.uint8))
    frames = numpy.stack(frames)
    expected = numpy.stack([reference(frame) for frame in frames])
    ours, theirs = [], []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(arguments.rounds):
            began = time.perf_counter()
            for frame in frames:
                reference(frame)
            theirs.append((time.perf_counter() - began) * 1000 / len(frames))
            pictures, took = weir(arguments.weir, frames, folder)
            ours.append(took)
    apart = numpy.abs(pictures.astype(int) - expected.astype(int))
    print(f"{os.cpu_count()} cores, torch {torch.__version__}, {SIDE} x {SIDE}, {arguments.rounds} rounds of {arguments.frames} frames in turns")
    print(f"torch {statistics.median(theirs):7.2f} ms a frame ({min(theirs):.2f} to {max(theirs):.2f})")
    print(f"weir  {statistics.median(ours):7.2f} ms a frame ({min(ours):.2f} to {max(ours):.2f})")
    print(f"pictures: {100 * (apart == 0).mean():.3f} % of the bytes equal, {apart.max()} the largest difference")
    sys.exit(0 if statistics.median(ours) < statistics.median(theirs) and apart.max() <= 1 else 1)


main()
