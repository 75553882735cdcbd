"""Makes the golden vectors of the preprocessor pose_tensorrt.

    venv/bin/python make_pose.py      # numpy, safetensors and opencv-python-headless of requirements.txt are enough

pose.safetensors: `people-NAME`, what a detector tells (score, then x, y and confidence of 17 joints), `picture-NAME`, the PNG that
OpenCV draws of it in the way of the live runner's fork, and `small-W-H`, the detector's picture of a frame of that size.

The way: numbers of 64 bits, so that OpenCV smooths no edge; limbs 10 pixels wide, circles of radius 10; a person over those before
by `addWeighted` with 0.75 and 0.25; cut off to bytes; blue and red changed.
"""

import cv2
import numpy as np
from safetensors.numpy import save_file

SIDE = 640
LIMBS = [
    ((0, 17), (255, 0, 0)), ((13, 15), (255, 85, 0)), ((14, 16), (170, 255, 0)), ((12, 14), (85, 255, 0)),
    ((12, 17), (85, 255, 0)), ((5, 6), (85, 0, 255)), ((11, 13), (255, 170, 0)), ((7, 9), (0, 177, 58)),
    ((5, 7), (0, 179, 119)), ((17, 11), (179, 179, 0)), ((6, 8), (0, 119, 179)), ((8, 10), (0, 179, 179)),
    ((1, 3), (119, 0, 179)), ((0, 1), (179, 0, 179)), ((0, 2), (178, 0, 118)), ((2, 4), (178, 0, 118)),
]  # fmt: skip
# Shares of a standing person's height and of half its height across.
STANDING = [
    (0.0, 0.06), (0.04, 0.04), (-0.04, 0.04), (0.09, 0.06), (-0.09, 0.06), (0.22, 0.2), (-0.22, 0.2), (0.34, 0.36), (-0.3, 0.38),
    (0.5, 0.28), (-0.34, 0.55), (0.14, 0.55), (-0.14, 0.55), (0.2, 0.77), (-0.16, 0.78), (0.22, 0.98), (-0.2, 0.99),
]  # fmt: skip


def person(x, y, height, score=0.9):
    joints = [(x + a * height / 2, y + b * height, 0.9) for a, b in STANDING]
    return [score, *np.ravel(joints)]


def change(one, **joints):
    """With other numbers for the joints j0 to j16."""
    one = list(one)
    for name, numbers in joints.items():
        at = 1 + 3 * int(name[1:])
        one[at : at + 3] = numbers
    return one


def draw(people, threshold):
    image = np.zeros((SIDE, SIDE, 3))
    for one in people:
        if one[0] < threshold:
            continue
        joints = np.array(one[1:], dtype=np.float32).reshape(17, 3)
        joints = np.concatenate([joints, (joints[5:6] + joints[6:7]) / 2])
        over = image.copy()
        at = [(int(x), int(y)) for x, y, _ in joints]
        seen = [c > 0.5 for _, _, c in joints]
        for (a, b), colour in LIMBS:
            if seen[a] and seen[b]:
                cv2.line(over, at[a], at[b], color=colour, thickness=10, lineType=cv2.LINE_AA)
        for place, here in zip(at, seen):
            if here:
                cv2.circle(over, place, 10, (0, 255, 0), -1, cv2.LINE_AA)
        image = cv2.addWeighted(over, 0.75, image, 0.25, 0)
    return image.clip(0, 255).astype(np.uint8)


def frame(index, size):
    """As `synthetic.frame`."""
    y, x, c = np.meshgrid(np.arange(size), np.arange(size), np.arange(3), indexing="ij")
    wave = (x * 6 + y * 4 + c * 90 + index * 23) % 512
    left, top = (index * 7) % (size - 16), (index * 5) % (size - 16)
    inside = (x >= left) & (x < left + 16) & (y >= top) & (y < top + 16)
    return np.where(inside, 230 - 60 * c, np.minimum(wave, 511 - wave)).astype(np.uint8)


def bilinear(x, size, axis):
    n = x.shape[axis]
    at = np.maximum((np.arange(size) + 0.5) * n / size - 0.5, 0)
    low = np.minimum(at.astype(int), n - 1)
    share = (at - low).reshape([-1 if i == axis else 1 for i in range(3)])
    return np.take(x, low, axis) * (1 - share) + np.take(x, np.minimum(low + 1, n - 1), axis) * share


one = person(320.4, 40.7, 560)
many = [person(240, 60, 500), person(330.9, 90.2, 480), person(300, 300, 320, 0.55), person(420, 150, 200), person(120, 400, 240)]
CASES = {
    "none": ([], 0.5),
    "one": ([one], 0.5),
    "many": (many, 0.5),
    # Of five, one is not sure enough.
    "sure": (many, 0.6),
    # A shoulder, and with it the middle of both; a knee; an ankle.
    "unsure": ([change(one, j5=(400.0, 150.0, 0.05), j13=(350.0, 400.0, 0.5), j16=(280.0, 590.0, 0.499))], 0.5),
    # Beyond each edge, on it, and far away; a place just left of the edge is cut off to it.
    "off": (
        [
            change(
                person(320, 300, 560), j0=(-0.7, 310.0, 0.9), j7=(639.6, 330.2, 0.9), j9=(900.0, 310.5, 0.9), j8=(30.0, -60.0, 0.8),
                j10=(-2500.0, 1400.0, 0.9), j3=(650.0, 20.0, 0.9), j15=(610.0, 700.0, 0.9),
            )
        ],
        0.5,
    ),
    # One place for two joints, level and upright limbs, short ones.
    "same": (
        [
            change(
                one, j0=(300.0, 100.0, 0.9), j1=(300.0, 100.0, 0.9), j2=(303.0, 98.0, 0.9), j5=(420.0, 200.0, 0.9), j6=(220.0, 200.0, 0.9),
                j7=(420.0, 330.0, 0.9), j9=(421.0, 480.0, 0.9), j8=(120.0, 201.0, 0.9), j11=(380.0, 400.0, 0.9), j13=(380.0, 401.0, 0.9),
            )
        ],
        0.5,
    ),
}  # fmt: skip

if __name__ == "__main__":
    out = {}
    for name, (people, threshold) in CASES.items():
        out[f"people-{name}"] = np.array(people or [[0.0] * 52], dtype=np.float32)
        ok, png = cv2.imencode(".png", draw(people, threshold), [cv2.IMWRITE_PNG_COMPRESSION, 9])
        assert ok
        out[f"picture-{name}"] = png.ravel()
    for width, height in [(64, 64), (512, 512), (1024, 576)]:
        x = frame(3, max(width, height))[:height, :width].astype(np.float64)
        x = bilinear(bilinear(x, SIDE, 0), SIDE, 1)
        out[f"small-{width}-{height}"] = np.ascontiguousarray(np.floor(x + 1e-6).astype(np.uint8)[::16, ::16])
    save_file(out, "pose.safetensors")
