//! Sound in and out, and what changes it on the way. A link of AUDIO holds the whole way from the stream to it.

use crate::workflow::class::input::{float, link};
use crate::workflow::class::{Class, Medium, named, out};
use crate::workflow::lower::{Cx, LowerError, Sound, SoundStep, Value};
use crate::workflow::sound::PitchShift;
use crate::workflow::value::Type;

/// ComfyStream's nodes of sound.
pub const CLASSES: &[Class] = &[
    Class {
        pack: "ComfyStream",
        inputs: &[
            float("buffer_size", 500.0, 20.0, 2000.0, 10.0).live(),
            float("timeout_seconds", 1.0, 0.1, 30.0, 0.1).ignored(),
        ],
        outputs: &[named("audio", Type::Audio)],
        source: Some(Medium::Audio),
        note: "Blocks of 20 ms to 2 s at 48 kHz: other rates are converted. Both channels of a stereo stream stay. Sound \
               leaves this much after its pictures, with the time stamps that it came with.",
        ..Class::sound("LoadAudioTensor", load)
    },
    Class {
        pack: "ComfyStream",
        inputs: &[link("audio", Type::Audio), float("pitch_shift", 4.0, 0.0, 12.0, 0.5).live()],
        outputs: &[out(Type::Audio)],
        note: "librosa's, block by block; its filter's last bits at the edge of the band apart.",
        ..Class::sound("PitchShifter", pitch)
    },
    Class {
        pack: "ComfyStream",
        inputs: &[link("audio", Type::Audio)],
        sink: Some(Medium::Audio),
        note: "Samples stay 32-bit floats from the decoder to the encoder: nothing is rounded to 16 bits.",
        ..Class::sound("SaveAudioTensor", save)
    },
];

fn load(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    Ok(vec![Value::held(Sound { block_ms: cx.known("buffer_size")?, steps: Vec::new() })])
}

fn pitch(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let mut sound: Sound = cx.held("audio")?;
    sound.steps.push(SoundStep { make: || Box::new(PitchShift::default()), settings: vec![cx.known("pitch_shift")?] });
    Ok(vec![Value::held(sound)])
}

fn save(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let sound = cx.held("audio")?;
    cx.sounds(sound);
    Ok(Vec::new())
}
