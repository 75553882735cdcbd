"""Makes the golden sounds of integration-tests/workflow_sound.rs: PitchShifter by librosa.

    python -m venv venv && venv/bin/pip install -r requirements-sound.txt
    venv/bin/python make_sound.py

sound.safetensors keeps each sound, f32 (samples), and what librosa makes of it: `<sound>-<semitones>`.
"""

from pathlib import Path

import librosa
import numpy as np
from safetensors.numpy import save_file

HERE = Path(__file__).parent
RATE = 48_000


def tones():
    """A chord, a voice of forty harmonics that slides, and a click."""
    at = np.arange(9600) / RATE
    sound = sum(0.1 * np.sin(2 * np.pi * hertz * at) for hertz in (220, 277.18, 329.63))
    phase = 2 * np.pi * np.cumsum(140 + 60 * at) / RATE
    sound += sum(0.08 / n * np.sin(n * phase) for n in range(1, 41))
    sound[5000] += 0.5
    return sound


def noise():
    return 0.2 * np.random.default_rng(7).standard_normal(2400)


sounds = {"tones": (tones(), (0.5, 4.0, 12.0)), "noise": (noise(), (0.0, 4.0, 7.5)), "short": (tones()[:500], (4.0,))}
kept = {}
for name, (sound, steps) in sounds.items():
    kept[name] = sound.astype(np.float32)
    for n_steps in steps:
        kept[f"{name}-{n_steps}"] = librosa.effects.pitch_shift(kept[name], sr=RATE, n_steps=n_steps)
save_file(kept, HERE / "sound.safetensors")
