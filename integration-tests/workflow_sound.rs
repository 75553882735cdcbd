//! PitchShifter against librosa: golden/workflow/make_sound.py.

use std::path::PathBuf;

use safetensors::SafeTensors;
use weir::workflow::sound::{PitchShift, SoundStage};

fn golden() -> Vec<u8> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("integration-tests/golden/workflow");
    std::fs::read(folder.join("sound.safetensors")).unwrap()
}

fn samples(tensors: &SafeTensors<'_>, name: &str) -> Vec<f32> {
    let tensor = tensors.tensor(name).unwrap();
    tensor.data().chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
}

/// The largest difference, and the root of the mean square of all.
fn away(a: &[f32], b: &[f32]) -> (f32, f32) {
    assert_eq!(a.len(), b.len());
    let most = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let mean = a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum::<f32>() / a.len() as f32;
    (most, mean.sqrt())
}

fn shifted(sound: &[f32], steps: f64) -> Vec<f32> {
    let mut sound = sound.to_vec();
    PitchShift::default().run(&mut sound, 48_000, &[steps]).unwrap();
    sound
}

#[test]
fn the_pitch_shifter_gives_what_librosa_gives() {
    let bytes = golden();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    // The filters differ at the very edge of the band, where noise and the hard ends of a block have power.
    let mut wrong = Vec::new();
    for (name, steps, most, mean) in [
        ("tones", 0.5, 2.5e-3, 4e-5),
        ("tones", 4.0, 2.5e-3, 4e-5),
        ("tones", 12.0, 2.5e-3, 4e-5),
        ("short", 4.0, 2.5e-3, 1e-4),
        ("noise", 0.0, 1e-6, 1e-7),
        ("noise", 4.0, 2.5e-3, 1e-4),
        ("noise", 7.5, 2.5e-3, 1e-4),
    ] {
        let sound = samples(&tensors, name);
        let want = samples(&tensors, &format!("{name}-{steps:.1}"));
        let (worst, usual) = away(&shifted(&sound, steps), &want);
        eprintln!("{name} by {steps}: at most {worst:e}, root mean square {usual:e}");
        if worst > most || usual > mean {
            wrong.push(format!("{name} by {steps}: at most {worst}, root mean square {usual}"));
        }
        // Another number of semitones is another sound.
        let (_, other) = away(&shifted(&sound, steps + 0.5), &want);
        assert!(other > 10.0 * mean, "{name} by {steps}: {other}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
