"""Makes the golden pictures of integration-tests/workflow_images.rs: picture and mask nodes by torch, torchvision, kornia, scipy
and Pillow.

    python -m venv venv && venv/bin/pip install -r requirements-images.txt
    venv/bin/python make_images.py

Each case is a workflow; images.json keeps the workflows, images.safetensors the camera's picture and what comes out, u8.
"""

import json
import math
from pathlib import Path

import kornia
import numpy as np
import scipy.ndimage
import torch
import torch.nn.functional as F
import torchvision.transforms.functional as TF
from PIL import Image
from safetensors.torch import save_file

HERE = Path(__file__).parent
HEIGHT, WIDTH = 24, 40


def camera():
    """Gradients, a disc, a dark bar and some noise, u8 (H, W, 3)."""
    y, x = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    picture = torch.stack([x * 255 / (WIDTH - 1), y * 255 / (HEIGHT - 1), (x + y) * 4 % 256], -1)
    picture[(x - 12) ** 2 + (y - 11) ** 2 < 50] = torch.tensor([250.0, 30.0, 60.0])
    picture[(x > 27) & (x < 33)] *= 0.2
    noise = torch.rand(picture.shape, generator=torch.manual_seed(7)) * 24
    return (picture + noise).clamp(0, 255).to(torch.uint8)


# What the nodes do, on IMAGE (B, H, W, C) and MASK (B, H, W).


def channels_first(f):
    return lambda x, *a, **k: f(x.movedim(-1, 1), *a, **k).movedim(1, -1)


def scaled(x, width, height, method, crop="disabled"):
    x = x.movedim(-1, 1)
    if crop == "center":
        h, w = x.shape[-2:]
        old, new = w / h, width / height
        left = round((w - w * (new / old)) / 2) if old > new else 0
        top = round((h - h * (old / new)) / 2) if old < new else 0
        x = x[..., top:h - top, left:w - left]
    if method == "lanczos":
        one = lambda p: Image.fromarray((255 * p.movedim(0, -1)).clamp(0, 255).numpy().astype(np.uint8)).resize(
            (width, height), Image.Resampling.LANCZOS)
        y = torch.stack([torch.from_numpy(np.array(one(p)).astype(np.float32) / 255).movedim(-1, 0) for p in x])
    else:
        y = F.interpolate(x, size=(height, width), mode=method)
    return y.movedim(1, -1)


def relative_gauss(radius, sigma):
    at = torch.linspace(-1, 1, 2 * radius + 1)
    bell = torch.exp(-(at[:, None] ** 2 + at[None] ** 2) / (2 * sigma ** 2))
    return bell / bell.sum()


def filtered(x, kernel):
    radius, count = kernel.shape[0] // 2, x.shape[-1]
    padded = F.pad(x.movedim(-1, 1), (radius,) * 4, "reflect")
    return F.conv2d(padded, kernel.repeat(count, 1, 1, 1), groups=count).movedim(1, -1)


def sharpened(image, sharpen_radius, sigma, alpha):
    kernel = relative_gauss(sharpen_radius, sigma) * (-10 * alpha)
    kernel[sharpen_radius, sharpen_radius] += 1 - kernel.sum()
    return filtered(image, kernel).clamp(0, 1)


def blended(image1, image2, blend_factor, blend_mode):
    a, b = image1, image2
    if a.shape != b.shape:
        b = scaled(b, a.shape[2], a.shape[1], "bicubic", "center")
    soft = torch.where(a <= 0.25, ((16 * a - 12) * a + 4) * a, a.sqrt())
    mixed = {
        "normal": lambda: b,
        "multiply": lambda: a * b,
        "screen": lambda: 1 - (1 - a) * (1 - b),
        "overlay": lambda: torch.where(a <= 0.5, 2 * a * b, 1 - 2 * (1 - a) * (1 - b)),
        "soft_light": lambda: torch.where(b <= 0.5, a - (1 - 2 * b) * a * (1 - a), a + (2 * b - 1) * (soft - a)),
        "difference": lambda: a - b,
    }[blend_mode]()
    return (a * (1 - blend_factor) + mixed * blend_factor).clamp(0, 1)


def levels(image, black_level, mid_level, white_level, clip):
    linear = torch.where(image <= 0.04045, image / 12.92, ((image + 0.055) / 1.055) ** 2.4)
    x = (linear - black_level) / (white_level - black_level)
    x = torch.where(x > 0, x.clamp(min=1e-8) ** (math.log(0.5) / math.log(mid_level)), x)
    x = torch.where(x <= 0.0031308, x * 12.92, 1.055 * x.clamp(min=0) ** (1 / 2.4) - 0.055)
    return x.clamp(0, 1) if clip else x


def grown(mask, expand, tapered_corners):
    corner = 0 if tapered_corners else 1
    footprint = np.array([[corner, 1, corner], [1, 1, 1], [corner, 1, corner]])
    step = scipy.ndimage.grey_erosion if expand < 0 else scipy.ndimage.grey_dilation
    rows = []
    for one in mask.numpy():
        for _ in range(abs(expand)):
            one = step(one, footprint=footprint)
        rows.append(torch.from_numpy(one))
    return torch.stack(rows)


def feathered(mask, left, top, right, bottom):
    y = mask.clone()
    for n, at in ((left, lambda i: (..., i)), (right, lambda i: (..., -i)),
                  (top, lambda i: (slice(None), i)), (bottom, lambda i: (slice(None), -i))):
        for i in range(n):
            y[at(i)] *= (i + 1) / n
    return y


def mask_over(destination, source, x, y, operation):
    out = destination.clone()
    h, w = min(source.shape[1], out.shape[1] - y), min(source.shape[2], out.shape[2] - x)
    a, b = out[:, y:y + h, x:x + w], source[:, :h, :w]
    truth = lambda m: m.round().bool()
    new = {
        "multiply": lambda: a * b, "add": lambda: a + b, "subtract": lambda: a - b,
        "and": lambda: (truth(a) & truth(b)).float(), "or": lambda: (truth(a) | truth(b)).float(),
        "xor": lambda: (truth(a) ^ truth(b)).float(),
    }[operation]()
    out[:, y:y + h, x:x + w] = new
    return out.clamp(0, 1)


def picture_over(destination, source, x, y, resize_source, mask=None):
    out = destination.clone()
    if resize_source:
        source = scaled(source, out.shape[2], out.shape[1], "bilinear")
    m = torch.ones(source.shape[:3]) if mask is None else F.interpolate(mask[:, None], size=source.shape[1:3], mode="bilinear")[:, 0]
    h, w = min(source.shape[1], out.shape[1] - y), min(source.shape[2], out.shape[2] - x)
    m = m[:, :h, :w, None]
    out[:, y:y + h, x:x + w] = source[:, :h, :w] * m + out[:, y:y + h, x:x + w] * (1 - m)
    return out


def stitched(image1, direction, match_image_size, spacing_width, spacing_color, image2):
    a, b, sideways = image1, image2, direction in ("left", "right")
    if match_image_size:
        aspect = b.shape[2] / b.shape[1]
        size = (int(a.shape[1] * aspect), a.shape[1]) if sideways else (a.shape[2], int(a.shape[2] / aspect))
        b = scaled(b, *size, "lanczos")
    colour = {"white": (1, 1, 1), "black": (0, 0, 0), "red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1)}[spacing_color]
    axis = 1 if sideways else 2
    side = max(a.shape[axis], b.shape[axis])

    def padded(x):
        before = (side - x.shape[axis]) // 2
        both = (before, side - x.shape[axis] - before)
        return F.pad(x, (0, 0, 0, 0) + both if sideways else (0, 0) + both, value=1.0 if spacing_color == "white" else 0.0)

    parts = [padded(a), padded(b)]
    if direction in ("left", "up"):
        parts.reverse()
    if spacing_width:
        shape = list(parts[0].shape)
        shape[3 - axis] = spacing_width + spacing_width % 2
        parts.insert(1, torch.tensor(colour, dtype=torch.float32).expand(shape))
    return torch.cat(parts, 3 - axis)


def outpaint(image, left, top, right, bottom, feathering):
    b, h, w, _ = image.shape
    y = F.pad(image, (0, 0, left, right, top, bottom), value=0.5)
    mask = torch.ones(b, h + top + bottom, w + left + right)
    t = torch.zeros(h, w)
    if feathering > 0 and 2 * feathering < min(h, w):
        for i in range(h):
            for j in range(w):
                d = min(i if top else h, h - i if bottom else h, j if left else w, w - j if right else w)
                if d < feathering:
                    t[i, j] = ((feathering - d) / feathering) ** 2
    mask[:, top:top + h, left:left + w] = t
    return y, mask


def colour_mask(image, color):
    x = (image.clamp(0, 1) * 255).round().to(torch.int)
    return ((x[..., 0] * 65536 + x[..., 1] * 256 + x[..., 2]) == color).float()


def morphed(image, operation, kernel_size):
    f = {"erode": "erosion", "dilate": "dilation", "open": "opening", "close": "closing"}.get(operation, operation)
    return channels_first(getattr(kornia.morphology, f))(image, torch.ones(kernel_size, kernel_size))


def cropped(image, width, height, x, y):
    x, y = min(x, image.shape[2] - 1), min(y, image.shape[1] - 1)
    return image[:, y:y + height, x:x + width]


NODES = {
    "LoadTensor": None,
    "ImageInvert": lambda image: 1 - image,
    "ImageBlend": blended,
    "ImageBlur": lambda image, blur_radius, sigma: filtered(image, relative_gauss(blur_radius, sigma)),
    "ImageSharpen": sharpened,
    "GaussianBlur": lambda images, kernel_size, sigma: channels_first(TF.gaussian_blur)(images, [kernel_size] * 2, [sigma] * 2),
    "Canny": lambda image, low_threshold, high_threshold: kornia.filters.canny(
        image.movedim(-1, 1), low_threshold, high_threshold)[1].repeat(1, 3, 1, 1).movedim(1, -1),
    "ImageScale": lambda image, upscale_method, width, height, crop: scaled(image, width, height, upscale_method, crop),
    "ImageScaleBy": lambda image, upscale_method, scale_by: scaled(
        image, round(image.shape[2] * scale_by), round(image.shape[1] * scale_by), upscale_method),
    "ImageScaleToTotalPixels": lambda image, upscale_method, megapixels: scaled(
        image, *(round(n * math.sqrt(megapixels * 1024 * 1024 / (image.shape[1] * image.shape[2]))) for n in (image.shape[2], image.shape[1])),
        upscale_method),
    "ImageCrop": cropped,
    "ImageFlip": lambda image, flip_method: image.flip(1 if flip_method[0] == "x" else 2),
    "ImageRotate": lambda image, rotation: torch.rot90(image, {"n": 0, "9": 1, "1": 2, "2": 3}[rotation[0]], dims=[2, 1]),
    "ImageBatch": lambda image1, image2: torch.cat([image1, scaled(image2, image1.shape[2], image1.shape[1], "bilinear", "center")]),
    "ImageFromBatch": lambda image, batch_index, length: image[batch_index:batch_index + length],
    "ImageToMask": lambda image, channel: image[..., ["red", "green", "blue", "alpha"].index(channel)],
    "MaskToImage": lambda mask: mask[..., None].expand(-1, -1, -1, 3),
    "ImageColorToMask": colour_mask,
    "ThresholdMask": lambda mask, value: (mask > value).float(),
    "InvertMask": lambda mask: 1 - mask,
    "SolidMask": lambda value, width, height: torch.full((1, height, width), value),
    "MaskComposite": mask_over,
    "GrowMask": grown,
    "FeatherMask": feathered,
    "CropMask": lambda mask, x, y, width, height: mask[:, y:y + height, x:x + width],
    "Composite": lambda foregrounds, backgrounds, foreground_masks: foregrounds * foreground_masks[..., None]
    + backgrounds * (1 - foreground_masks[..., None]),
    "BackgroundColor": lambda images, color: torch.tensor(
        {"black": (0, 0, 0), "red": (1, 0, 0), "blue": (0, 0, 1), "green": (0, 1, 0)}[color], dtype=torch.float32).expand(images.shape),
    "ImageCompositeMasked": picture_over,
    "ImageStitch": stitched,
    "ImagePadForOutpaint": outpaint,
    "ImageLevels": levels,
    "ImageLuminance": lambda image: (image * torch.tensor([0.2126, 0.7152, 0.0722])).sum(-1, keepdim=True).expand(-1, -1, -1, 3),
    "Morphology": morphed,
}


def run(workflow, frame):
    made = {}

    def value(node):
        if node not in made:
            what = workflow[node]
            inputs = {k: value(v[0])[v[1]] if isinstance(v, list) else v for k, v in what["inputs"].items()}
            if what["class_type"] == "LoadTensor":
                result = frame
            else:
                result = NODES[what["class_type"]](**inputs)
            made[node] = result if isinstance(result, tuple) else (result,)
        return made[node]

    link = next(n for n in workflow.values() if n["class_type"] == "SaveTensor")["inputs"]["images"]
    return value(link[0])[link[1]]


def build(*steps, last="image"):
    """A workflow of steps (class, inputs); a text "@n" or "@n.k" in the inputs is a link to step n, 0 being the camera."""
    nodes = {"0": {"class_type": "LoadTensor", "inputs": {}}}
    for number, (kind, inputs) in enumerate(steps, 1):
        def link(v):
            if isinstance(v, str) and v.startswith("@"):
                node, _, output = v[1:].partition(".")
                return [node, int(output or 0)]
            return v
        nodes[str(number)] = {"class_type": kind, "inputs": {k: link(v) for k, v in inputs.items()}}
    end = len(steps)
    if last == "mask":
        end += 1
        nodes[str(end)] = {"class_type": "MaskToImage", "inputs": {"mask": [str(end - 1), 0]}}
    nodes["save"] = {"class_type": "SaveTensor", "inputs": {"images": [str(end), 0]}}
    return nodes


RED = ("ImageToMask", {"image": "@0", "channel": "red"})
GREEN = ("ImageToMask", {"image": "@0", "channel": "green"})
BACK = {"upscale_method": "nearest-exact", "width": WIDTH, "height": HEIGHT, "crop": "disabled"}


def cases():
    yield "invert", build(("ImageInvert", {"image": "@0"}))
    for mode in ["normal", "multiply", "screen", "overlay", "soft_light", "difference"]:
        yield f"blend-{mode}", build(
            ("ImageFlip", {"image": "@0", "flip_method": "y-axis: horizontally"}),
            ("ImageBlend", {"image1": "@0", "image2": "@1", "blend_factor": 0.7, "blend_mode": mode}))
    yield "blend-sizes", build(
        ("ImageRotate", {"image": "@0", "rotation": "90 degrees"}),
        ("ImageBlend", {"image1": "@0", "image2": "@1", "blend_factor": 1.0, "blend_mode": "normal"}))
    for radius, sigma in [(1, 1.0), (5, 0.4), (10, 3.0)]:
        yield f"blur-{radius}", build(("ImageBlur", {"image": "@0", "blur_radius": radius, "sigma": sigma}))
    yield "sharpen", build(("ImageSharpen", {"image": "@0", "sharpen_radius": 2, "sigma": 0.8, "alpha": 0.3}))
    yield "gaussian", build(("GaussianBlur", {"images": "@0", "kernel_size": 15, "sigma": 2.5}))
    for low, high in [(0.2, 0.5), (0.4, 0.8)]:
        yield f"canny-{low}", build(("Canny", {"image": "@0", "low_threshold": low, "high_threshold": high}))
    for method in ["nearest-exact", "bilinear", "area", "bicubic", "lanczos"]:
        for name, w, h in [("down", 17, 11), ("half", 20, 12), ("up", 61, 50)]:
            yield f"scale-{method}-{name}", build(
                ("ImageScale", {"image": "@0", "upscale_method": method, "width": w, "height": h, "crop": "disabled"}),
                ("ImageScale", {"image": "@1", **BACK}))
    yield "scale-centre", build(
        ("ImageScale", {"image": "@0", "upscale_method": "bilinear", "width": 30, "height": 30, "crop": "center"}),
        ("ImageScale", {"image": "@1", **BACK}))
    yield "scale-by", build(
        ("ImageScaleBy", {"image": "@0", "upscale_method": "bilinear", "scale_by": 0.63}), ("ImageScale", {"image": "@1", **BACK}))
    yield "scale-pixels", build(
        ("ImageScaleToTotalPixels", {"image": "@0", "upscale_method": "bilinear", "megapixels": 0.01}),
        ("ImageScale", {"image": "@1", **BACK}))
    yield "crop", build(
        ("ImageCrop", {"image": "@0", "width": 30, "height": 100, "x": 7, "y": 9}), ("ImageScale", {"image": "@1", **BACK}))
    for way in ["x-axis: vertically", "y-axis: horizontally"]:
        yield f"flip-{way[0]}", build(("ImageFlip", {"image": "@0", "flip_method": way}))
    for turn in ["none", "90 degrees", "180 degrees", "270 degrees"]:
        yield f"rotate-{turn.split()[0]}", build(
            ("ImageRotate", {"image": "@0", "rotation": turn}), ("ImageScale", {"image": "@1", **BACK}))
    yield "batch", build(
        ("ImageRotate", {"image": "@0", "rotation": "90 degrees"}), ("ImageBatch", {"image1": "@0", "image2": "@1"}),
        ("ImageFromBatch", {"image": "@2", "batch_index": 1, "length": 1}))
    for channel in ["red", "green", "blue"]:
        yield f"mask-{channel}", build(("ImageToMask", {"image": "@0", "channel": channel}), last="mask")
    yield "threshold", build(RED, ("ThresholdMask", {"mask": "@1", "value": 0.4}), last="mask")
    yield "invert-mask", build(RED, ("InvertMask", {"mask": "@1"}), last="mask")
    yield "colour-mask", build(
        ("BackgroundColor", {"images": "@0", "color": "blue"}), GREEN, ("ThresholdMask", {"mask": "@2", "value": 0.5}),
        ("Composite", {"foregrounds": "@0", "backgrounds": "@1", "foreground_masks": "@3"}),
        ("ImageColorToMask", {"image": "@4", "color": 255}), last="mask")
    for how in ["multiply", "add", "subtract", "and", "or", "xor"]:
        yield f"mask-{how}", build(
            RED, GREEN, ("CropMask", {"mask": "@2", "x": 3, "y": 2, "width": 20, "height": 30}),
            ("MaskComposite", {"destination": "@1", "source": "@3", "x": 25, "y": 5, "operation": how}), last="mask")
    for expand, tapered in [(3, True), (-2, True), (4, False), (-3, False)]:
        yield f"grow{expand}-{tapered}", build(RED, ("GrowMask", {"mask": "@1", "expand": expand, "tapered_corners": tapered}), last="mask")
    yield "feather", build(
        ("SolidMask", {"value": 0.9, "width": WIDTH, "height": HEIGHT}),
        ("FeatherMask", {"mask": "@1", "left": 5, "top": 3, "right": 8, "bottom": 6}), last="mask")
    for colour in ["black", "red", "blue", "green"]:
        yield f"composite-{colour}", build(
            RED, ("BackgroundColor", {"images": "@0", "color": colour}),
            ("Composite", {"foregrounds": "@0", "backgrounds": "@2", "foreground_masks": "@1"}))
    yield "over", build(
        ("ImageScaleBy", {"image": "@0", "upscale_method": "bilinear", "scale_by": 0.5}),
        ("ImageCompositeMasked", {"destination": "@0", "source": "@1", "x": 25, "y": 4, "resize_source": False}))
    yield "over-masked", build(
        RED, ("ImageRotate", {"image": "@0", "rotation": "90 degrees"}),
        ("ImageCompositeMasked", {"destination": "@0", "source": "@2", "x": 0, "y": 0, "resize_source": True, "mask": "@1"}))
    yield "over-mask-scaled", build(
        RED, ("ImageScaleBy", {"image": "@0", "upscale_method": "bilinear", "scale_by": 0.5}),
        ("ImageCompositeMasked", {"destination": "@0", "source": "@2", "x": 3, "y": 5, "resize_source": False, "mask": "@1"}))
    for direction, match in [("right", True), ("down", True), ("left", False), ("up", False)]:
        yield f"stitch-{direction}", build(
            ("ImageRotate", {"image": "@0", "rotation": "90 degrees"}),
            ("ImageStitch", {"image1": "@0", "direction": direction, "match_image_size": match, "spacing_width": 3,
                             "spacing_color": "red" if match else "white", "image2": "@1"}),
            ("ImageScale", {"image": "@2", **BACK}))
    yield "outpaint", build(
        ("ImagePadForOutpaint", {"image": "@0", "left": 8, "top": 0, "right": 16, "bottom": 8, "feathering": 6}),
        ("ImageScale", {"image": "@1", **BACK}))
    yield "outpaint-mask", build(
        ("ImagePadForOutpaint", {"image": "@0", "left": 8, "top": 0, "right": 16, "bottom": 8, "feathering": 6}),
        ("MaskToImage", {"mask": "@1.1"}), ("ImageScale", {"image": "@2", **BACK}))
    yield "levels", build(
        ("ImageLevels", {"image": "@0", "black_level": 0.1, "mid_level": 0.4, "white_level": 0.8, "clip": True}))
    yield "luminance", build(("ImageLuminance", {"image": "@0"}))
    for operation in ["erode", "dilate", "open", "close", "gradient", "bottom_hat", "top_hat"]:
        yield f"morphology-{operation}", build(("Morphology", {"image": "@0", "operation": operation, "kernel_size": 5}))
    for operation in ["erode", "dilate", "open", "close"]:
        yield f"morphology-even-{operation}", build(("Morphology", {"image": "@0", "operation": operation, "kernel_size": 4}))
    # The shape of ComfyStream's background examples, with brightness in the place of depth.
    yield "background-blur", build(
        RED, ("ThresholdMask", {"mask": "@1", "value": 0.5}), ("GaussianBlur", {"images": "@0", "kernel_size": 21, "sigma": 7}),
        ("Composite", {"foregrounds": "@0", "backgrounds": "@3", "foreground_masks": "@2"}))


def main():
    torch.set_grad_enabled(False)
    picture = camera()
    frame = picture.float()[None] / 255
    made, workflows = {"camera": picture}, {}
    for name, workflow in cases():
        y = run(workflow, frame)[:1]
        assert tuple(y.shape) == (1, HEIGHT, WIDTH, 3), (name, y.shape)
        made[name] = (y[0] * 255).clamp(0, 255).to(torch.uint8).contiguous()
        workflows[name] = workflow
    save_file(made, HERE / "images.safetensors")
    (HERE / "images.safetensors").chmod(0o644)
    lines = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in workflows.items())
    (HERE / "images.json").write_text("{\n" + lines + "\n}\n")
    print(len(workflows), "cases")


if __name__ == "__main__":
    main()
