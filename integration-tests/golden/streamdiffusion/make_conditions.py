"""Makes the golden vectors of frame buffers and of preprocessors.

    venv/bin/python make_conditions.py      # set up as make.py says

buffers.safetensors: with one step and no estimated noise the reference takes two frames a call as they are. Else its frame buffer
is wrong in several places (it mixes the noise of the frames of a call, and takes steps for frames), and what is right is that
the frames of a call are streams side by side: two references take turns.
conditions.safetensors: what the preprocessors make. case-hints.safetensors: a stream whose ControlNets are given some of that.
"""

import json

import cv2
import numpy as np
import PIL.Image
import torch
from safetensors.torch import save_file
from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation

import make
import models
import reference
import synthetic

FRAMES = 8
SHOWN = [0, 3, 5]
THRESHOLDS = [(100, 200), (40, 90), (300, 120), (0, 0)]


def write(name, tensors):
    path = models.HERE / f"{name}.safetensors"
    save_file({k: v.contiguous() for k, v in tensors.items()}, path)
    path.chmod(0o644)


def quarter(frames):
    return torch.stack(frames)[:, ::4, ::4].contiguous()


def together(kind):
    made = reference.stream(models.unet("sd15"), models.taesd(), make.STEPS[1], kind, True, frames=2)
    out = []
    for i in range(0, FRAMES, 2):
        from streamdiffusion.image_utils import postprocess_image

        x = made([PIL.Image.fromarray(synthetic.frame(i + f, reference.SIZE)) for f in range(2)])
        out += [torch.from_numpy(np.array(pil)) for pil in postprocess_image(x, output_type="pil")]
    return quarter(out)


def in_turns(steps, kind):
    side_by_side = [reference.stream(models.unet("sd15"), models.taesd(), make.STEPS[steps], kind, True) for _ in range(2)]
    return quarter([reference.call(side_by_side[i % 2], i)[1][1] for i in range(FRAMES)])


def canny(picture, low, high):
    return cv2.Canny(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), low, high)


def kernels():
    five = np.array([[1, 2], [2, 3], [3, 5], [2, 3], [1, 2]], dtype=np.float32)
    seven = np.array([[7 - abs(i) - d for d in (3, 2, 1)] for i in range(-3, 4)], dtype=np.float32)
    three = np.array([[1], [2], [1]], dtype=np.float32)
    for left, divisor in [(three, 1), (five, 16), (seven, 32)]:
        across = np.concatenate([-left, np.zeros((len(left), 1), np.float32), left[:, ::-1]], axis=1) / divisor
        yield torch.from_numpy(across.astype(np.float32))


def soft_edges(picture):
    """Of (1, 3, H, W) in 0…1."""
    grey = (picture * torch.tensor([0.299, 0.587, 0.114])[None, :, None, None]).sum(1, keepdim=True)
    total = 0
    for weight, across in zip([0.5, 0.3, 0.2], kernels()):
        pad = len(across) // 2
        x, y = (torch.nn.functional.conv2d(grey, k[None, None], padding=pad) for k in (across, across.T))
        total = total + weight * torch.sqrt(x**2 + y**2)
    bell = torch.tensor([1.0, 4, 6, 4, 1])
    total = torch.nn.functional.conv2d(total, (bell[:, None] * bell)[None, None] / 256, padding=2)
    return torch.sigmoid(total / (total.max() + 1e-8) * 6 - 3)


def depth(net, picture):
    """Of (1, 3, H, W) in 0…1, which the model is given as it is."""
    def sized(x, size):
        return torch.nn.functional.interpolate(x, size=size, mode="bilinear", align_corners=False)

    d = net(sized(picture, (70, 70))).predicted_depth[:, None]
    return sized((d - d.min()) / (d.max() - d.min()), picture.shape[2:])


def planes(picture):
    return torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255


class Unet(reference.Unet):
    """With a picture of its own for each ControlNet."""

    def __call__(self, sample, timestep, encoder_hidden_states, return_dict):
        total = None
        for control, scale, picture in zip(self.controls, self.scales, self.pictures):
            down, mid = control(sample, timestep, encoder_hidden_states, controlnet_cond=picture.repeat(len(sample), 1, 1, 1),
                                conditioning_scale=scale, return_dict=False)
            new = [*down, mid]
            total = new if total is None else [a + b for a, b in zip(total, new)]
        return self.unet(sample, timestep, encoder_hidden_states, return_dict=return_dict,
                         down_block_additional_residuals=total[:-1], mid_block_additional_residual=total[-1])


def hinted(net):
    """A stream whose two ControlNets are given soft edges and depth."""
    unet = Unet(models.unet("sd15"), [models.controlnet("sd15", i) for i in range(2)], [0.4, 0.8])

    def between(index, made, _):
        picture = planes(synthetic.frame(index, reference.SIZE))
        unet.pictures = [of.repeat(1, 3, 1, 1) for of in (soft_edges(picture), depth(net, picture))]

    return make.run(reference.stream(unet, models.taesd(), make.STEPS[2], "self", True), between=between)


if __name__ == "__main__":
    torch.set_num_threads(1)
    with torch.no_grad():
        buffers = {f"1-{kind}": together(kind) for kind in ["none", "full"]}
        for steps, kinds in [(1, ["self", "initialize"]), (2, make.KINDS)]:
            buffers.update({f"{steps}-{kind}": in_turns(steps, kind) for kind in kinds})
        write("buffers", buffers)
        out = {}
        for i in SHOWN:
            picture = synthetic.frame(i, reference.SIZE)
            for low, high in THRESHOLDS:
                out[f"canny-{low}-{high}-{i}"] = torch.from_numpy(canny(picture, low, high))
            out[f"soft-{i}"] = soft_edges(planes(picture))[0, 0, ::2, ::2]
        # A picture of noise has every case of a direction.
        noise = ((synthetic.uniform("canny", 64 * 64 * 3) + 1) * 127.99).astype(np.uint8).reshape(64, 64, 3)
        out["canny-noise"] = torch.from_numpy(canny(noise, 300, 700))
        config = DepthAnythingConfig(**json.loads((models.CONFIGS / "depth.json").read_text()), attn_implementation="eager")
        net = synthetic.fill(DepthAnythingForDepthEstimation(config), "depth-1", 1.0)
        out["depth"] = depth(net, planes(synthetic.frame(3, reference.SIZE)))[0, 0, ::2, ::2]

        write("conditions", out)
        write("case-hints", hinted(net))
