"""Twelve image nodes in Weir and in torch, in turns, on the same cores: run by scripts/torch-bench.

The workflow is integration-tests/workflows/twelve-nodes.json. Torch computes it twice: `separable` blurs down and across, the
same arithmetic as Weir's graph; `as written` blurs with square kernels, as the nodes do. Both take u8 (H, W, 3) and give u8.
Weir is `weir process` with the pipeline comfyui, and its time is what it says a frame took in the model. CPU is user and
system time of all threads; Weir's has reading and writing the files in it, and not what a run of one frame takes.
"""

import argparse
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F

HERE = Path(__file__).parent
WORKFLOW = HERE.parent / "workflows" / "twelve-nodes.json"
SIDE = 512
SELF, CHILDREN = resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN


def gauss(taps, reach, sigma):
    at = torch.linspace(-reach, reach, taps)
    bell = torch.exp(-0.5 * (at / sigma) ** 2)
    return bell / bell.sum()


class Torch:
    """The workflow on IMAGE (B, H, W, C), by the widgets of the file."""

    def __init__(self, nodes, separable):
        self.w = {name: node["inputs"] for name, node in nodes.items()}
        self.separable = separable
        self.kernels = {}
        for name, radius in (("1", "blur_radius"), ("2", "sharpen_radius")):
            taps = 2 * self.w[name][radius] + 1
            self.kernels[name] = gauss(taps, 1.0, self.w[name]["sigma"])
        taps = self.w["8"]["kernel_size"]
        self.kernels["8"] = gauss(taps, (taps - 1) / 2, self.w["8"]["sigma"])
        self.luminance = torch.tensor([0.2126, 0.7152, 0.0722])
        self.blue = torch.tensor([0.0, 0.0, 1.0])

    def blur(self, x, name):
        k = self.kernels[name]
        r = len(k) // 2
        x = F.pad(x.permute(0, 3, 1, 2), (r, r, r, r), "reflect")
        if self.separable:
            x = F.conv2d(x, k.view(1, 1, -1, 1).expand(3, 1, -1, 1), groups=3)
            x = F.conv2d(x, k.view(1, 1, 1, -1).expand(3, 1, 1, -1), groups=3)
        else:
            x = F.conv2d(x, torch.outer(k, k).expand(3, 1, -1, -1), groups=3)
        return x.permute(0, 2, 3, 1)

    def __call__(self, frame):
        w = self.w
        camera = torch.from_numpy(frame).to(torch.float32).div(255).unsqueeze(0)
        n1 = self.blur(camera, "1")
        n2 = (camera + (camera - self.blur(camera, "2")) * (10 * w["2"]["alpha"])).clamp(0, 1)
        f = w["3"]["blend_factor"]
        n3 = (n1 * (1 - f) + (1 - (1 - n1) * (1 - n2)) * f).clamp(0, 1)
        n4 = (camera * self.luminance).sum(-1, keepdim=True).expand(-1, -1, -1, 3)
        n5 = n4[..., 0]
        n6 = (n5 > w["6"]["value"]).float()
        n7 = 1 - n6
        n8 = self.blur(camera, "8")
        n9 = self.blue.expand(camera.shape)
        f = w["10"]["blend_factor"]
        curve = torch.where(n8 <= 0.25, ((16 * n8 - 12) * n8 + 4) * n8, n8.sqrt())
        soft = torch.where(n9 <= 0.5, n8 - (1 - 2 * n9) * n8 * (1 - n8), n8 + (2 * n9 - 1) * (curve - n8))
        n10 = (n8 * (1 - f) + soft * f).clamp(0, 1)
        mask = n7.unsqueeze(-1)
        n11 = n3 * mask + n10 * (1 - mask)
        n12 = 1 - n11
        return (n12[0] * 255).clamp(0, 255).to(torch.uint8).numpy()


def picture():
    """Gradients and noise, u8 (512, 512, 3)."""
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    p = torch.stack([x * 255 / (SIDE - 1), y * 255 / (SIDE - 1), (x + y) % 256], -1)
    p = p + torch.rand(p.shape, generator=torch.manual_seed(7)) * 24
    return p.clamp(0, 255).to(torch.uint8).numpy()


def weir(binary, nodes, source, target, frames):
    """One block: milliseconds a frame in the model, as the program says."""
    params = json.dumps({"width": SIDE, "height": SIDE, "prompt": nodes})
    done = subprocess.run(
        [binary, "process", "--pipeline", "comfyui", "--params", params, "--input", source, "--size", f"{SIDE}x{SIDE}",
         "--format", "rgb24", "--repeat", str(frames), "--output", target],
        capture_output=True, text=True)
    said = re.search(r"(\d+) frames in .* ([\d.]+) ms a frame in the model", done.stderr)
    if done.returncode or not said or int(said[1]) != frames:
        sys.exit(f"weir process failed:\n{done.stderr}")
    return float(said[2])


def cpu(who):
    """Milliseconds of CPU so far."""
    used = resource.getrusage(who)
    return (used.ru_utime + used.ru_stime) * 1000


def measured(run, who, *args):
    """What `run` says, and the CPU that it took."""
    before = cpu(who)
    return run(*args), cpu(who) - before


def block(run, frame, frames):
    """The mean of a block, as of Weir's, in milliseconds."""
    began = time.perf_counter()
    for _ in range(frames):
        run(frame)
    return (time.perf_counter() - began) / frames * 1000


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weir", required=True, help="the program")
    parser.add_argument("--rounds", type=int, default=7, help="blocks of each, in turns")
    parser.add_argument("--frames", type=int, default=60, help="frames of a block")
    parser.add_argument("--check", action="store_true", help="fail unless Weir's median is below both of torch")
    args = parser.parse_args()
    if args.rounds < 1 or args.frames < 2:
        parser.error("one round and two frames are the least")
    nodes = json.loads(WORKFLOW.read_text())
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    frame = picture()
    sides = {"torch, separable": Torch(nodes, True), "torch, as written": Torch(nodes, False)}
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        source, target = os.path.join(folder, "in.rgb"), os.path.join(folder, "out.rgb")
        Path(source).write_bytes(frame.tobytes())
        once = [measured(weir, CHILDREN, args.weir, nodes, source, target, 1)[1] for _ in range(3)]
        mine = torch.frombuffer(bytearray(Path(target).read_bytes()), dtype=torch.uint8).view(SIDE, SIDE, 3).int()
        for name, run in sides.items():
            away = (torch.from_numpy(run(frame)).int() - mine).abs()
            more = (away > 1).sum().item()
            print(f"{name}: {more} of {away.numel()} values differ from Weir's by more than a level")
            # A threshold may fall on the other side of one rounding.
            if more > away.numel() // 10_000:
                sys.exit("the pictures are not the same")
        for run in sides.values():
            block(run, frame, 5)
        times = {name: [] for name in ["Weir", *sides]}
        used = {name: [] for name in times}
        for _ in range(args.rounds):
            wall, busy = measured(weir, CHILDREN, args.weir, nodes, source, target, args.frames)
            times["Weir"].append(wall)
            used["Weir"].append((busy - statistics.median(once)) / (args.frames - 1))
            for name, run in sides.items():
                wall, busy = measured(block, SELF, run, frame, args.frames)
                times[name].append(wall)
                used[name].append(busy / args.frames)
    print(f"torch {torch.__version__} on {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}; "
          f"milliseconds a frame, {args.rounds} blocks of {args.frames}")
    for name, all_of_it in times.items():
        print(f"{name:20} median {statistics.median(all_of_it):6.2f}   from {min(all_of_it):.2f} to {max(all_of_it):.2f}"
              f"   CPU {statistics.median(used[name]):6.2f}")
    least = min(statistics.median(times[name]) for name in sides)
    if args.check and statistics.median(times["Weir"]) >= least:
        sys.exit("Weir is not below torch")


if __name__ == "__main__":
    main()
