"""The weights and inputs of src/models/synthetic.rs, number for number."""

import math

import numpy as np
import torch


def uniform(name, count):
    h = 0xCBF29CE484222325
    for byte in name.encode():
        h = ((h ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    with np.errstate(over="ignore"):
        z = np.uint64(h) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(40)).astype(np.float64) / float(1 << 23) - 1.0


def values(key, gain, name, shape, calibration):
    count = int(np.prod(shape, dtype=np.int64))
    u = uniform(f"{key}/{name}", count)
    layer, _, part = name.rpartition(".")
    fixed = calibration.get(layer)
    if len(shape) <= 1:
        if part == "bias" and fixed is not None:
            out = np.array(fixed["bias"], dtype=np.float32)
        elif part == "weight":
            out = (1.0 + u / 10.0).astype(np.float32)
        else:
            out = (u / 10.0).astype(np.float32)
    else:
        fan_in = int(np.prod(shape[1:], dtype=np.int64))
        out = (u * (math.sqrt(3.0) * gain / math.sqrt(fan_in))).astype(np.float32)
        if fixed is not None:
            out = out * np.repeat(np.array(fixed["gain"], dtype=np.float32), fan_in)
    return torch.from_numpy(out.reshape(shape).copy())


def fill(model, key, gain, calibration=None):
    """Gives `model` its weights."""
    state = {k: values(key, gain, k, tuple(v.shape), calibration or {}) for k, v in model.state_dict().items()}
    model.load_state_dict(state)
    return model.eval().requires_grad_(False)


def noise(name, *shape):
    """An input of variance 1."""
    u = uniform(name, int(np.prod(shape))) * math.sqrt(3.0)
    return torch.from_numpy(u.astype(np.float32).reshape(shape))


def frame(index, size):
    """A moving picture, u8 (size, size, 3)."""
    y, x, c = np.meshgrid(np.arange(size), np.arange(size), np.arange(3), indexing="ij")
    wave = (x * 6 + y * 4 + c * 90 + index * 23) % 512
    out = np.where(wave < 256, wave, 511 - wave)
    left, top = (index * 7) % (size - 16), (index * 5) % (size - 16)
    inside = (x >= left) & (x < left + 16) & (y >= top) & (y < top + 16)
    return np.where(inside, 230 - 60 * c, out).astype(np.uint8)
