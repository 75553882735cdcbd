//! `weir process` over whole models against diffusers and StreamDiffusion, from texts and raw frames to raw frames.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

use super::folders::{self, Line};
use super::{Golden, apart, close, json, picture};

const SIZE: usize = 64;
const FRAMES: usize = 8;

/// A folder with a model of each line, ControlNets, a LoRA, and the frames that go in.
fn place() -> tempfile::TempDir {
    let place = tempfile::tempdir().expect("folder");
    let root = place.path();
    for (line, controls) in [
        (Line::Sd15, ["lllyasviel/control_v11p_sd15_canny", "lllyasviel/control_v11f1e_sd15_tile"]),
        (Line::Sd21, ["thibaud/controlnet-sd21-canny-diffusers", "thibaud/controlnet-sd21-depth-diffusers"]),
        (Line::Sdxl, ["xinsir/controlnet-canny-sdxl-1.0", "xinsir/controlnet-depth-sdxl-1.0"]),
    ] {
        folders::model(&root.join(line.name()), line, true);
        for (number, name) in controls.iter().enumerate() {
            folders::controlnet(&root.join("models").join(name), line, number);
        }
    }
    folders::lora(&root.join("models/style.safetensors"), "style");
    let frames: Vec<u8> = (0..FRAMES).flat_map(|index| picture(index, SIZE)).collect();
    std::fs::write(root.join("in.rgb"), frames).expect("frames");
    place
}

pub(super) fn weir(root: &Path, more: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    command.current_dir(root).args(["process", "--pipeline", "streamdiffusion", "--engine-models", "models"]);
    command.args(["--input", "in.rgb", "--size", "64x64", "--output", "out.rgb", "--inference-threads", "1"]);
    command.args(more).output().expect("weir")
}

/// Runs and gives the frames that came out, every fourth pixel down and right.
fn run(root: &Path, line: &str, precision: &str, params: &Value) -> Vec<Vec<f32>> {
    let params = params.to_string();
    let output =
        weir(root, &["--output-size", "64x64", "--model", line, "--precision", precision, "--params", &params]);
    assert!(output.status.success(), "{params}: {}", String::from_utf8_lossy(&output.stderr));
    let out = std::fs::read(root.join("out.rgb")).expect("frames");
    assert_eq!(out.len(), FRAMES * SIZE * SIZE * 3, "{params}");
    let quarter = |frame: &[u8]| {
        let pixel = |i: usize| f32::from(frame[(i / 48 * 4 * SIZE + i % 48 / 3 * 4) * 3 + i % 3]);
        (0..16 * 48).map(pixel).collect()
    };
    out.chunks_exact(SIZE * SIZE * 3).map(quarter).collect()
}

#[test]
fn frames_of_whole_models_are_those_of_the_reference() {
    let (place, golden, cases) = (place(), Golden::read("process"), json("process"));
    let cases = cases.as_object().expect("an object");
    assert!(cases.len() >= 23);
    for (name, case) in cases {
        let (line, params) = (case["line"].as_str().expect("a line"), &case["params"]);
        let got = run(place.path(), line, "fp32", params);
        let want: Vec<&[f32]> = golden.get(name).chunks_exact(16 * 48).collect();
        assert_eq!(want.len(), FRAMES);
        for (index, (got, want)) in got.iter().zip(&want).enumerate() {
            close(&format!("{name}, frame {index}"), got, want, 1.0);
        }
        apart(&format!("{name}: the frame before"), &got[FRAMES - 2], want[FRAMES - 1], 5.0);
    }

    // The comparison would notice any one of the parameters.
    let (full, params) = (golden.get("2-full"), &cases["2-full"]["params"]);
    for (key, value) in [
        ("prompt", json!("a photo of a dog in the city")),
        ("negative_prompt", json!("blurry")),
        ("guidance_scale", json!(2.4)),
        ("seed", json!(3)),
        ("t_index_list", json!([15, 36])),
        ("do_add_noise", json!(params["do_add_noise"] != true)),
    ] {
        let mut other = params.clone();
        other[key] = value;
        let got = run(place.path(), "sd21", "fp32", &other).concat();
        apart(key, &got[7 * 768..], &full[7 * 768..], 2.0);
    }

    // Half precision stays near.
    let got = run(place.path(), "sd21", "fp16", params).concat();
    let error = got.iter().zip(full).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>() / got.len() as f64;
    let psnr = 10.0 * (255.0 * 255.0 / error).log10();
    assert!(psnr >= 40.0, "{psnr} dB");
    assert!(error > 0.0, "it is another precision");
}

#[test]
fn pictures_of_texts_alone_and_of_the_full_autoencoder_are_those_of_the_reference() {
    let (place, golden, cases) = (place(), Golden::read("modes"), json("modes"));
    for line in ["sd15", "sd21", "sdxl"] {
        folders::vae(&place.path().join(line).join("vae"));
    }
    let cases = cases.as_object().expect("an object");
    assert_eq!(cases.len(), 6);
    for (name, case) in cases {
        let (line, params) = (case["line"].as_str().expect("a line"), &case["params"]);
        let got = run(place.path(), line, "fp32", params);
        let want: Vec<&[f32]> = golden.get(name).chunks_exact(16 * 48).collect();
        // The generator goes on from one picture to the next, so a number too many would be seen.
        assert_eq!(want.len(), 6);
        for (index, (got, want)) in got.iter().zip(&want).enumerate() {
            close(&format!("{name}, frame {index}"), got, want, 1.0);
        }
        apart(&format!("{name}: the frame before"), &got[4], want[5], 3.0);
    }
    // The tiny autoencoder's pictures are others.
    let mut other = cases["full-1"]["params"].clone();
    other["use_tiny_vae"] = json!(true);
    let got = run(place.path(), "sd15", "fp32", &other).concat();
    apart("use_tiny_vae", &got[5 * 768..6 * 768], &golden.get("full-1")[5 * 768..], 2.0);
    // Half precision stays near.
    let got = run(place.path(), "sd15", "fp16", &cases["full-2"]["params"]).concat();
    let want = golden.get("full-2");
    let error = got.iter().zip(want).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>() / want.len() as f64;
    let psnr = 10.0 * (255.0 * 255.0 / error).log10();
    assert!(psnr >= 40.0 && error > 0.0, "{psnr} dB");
    // With several frames a call each has its own noise.
    let mut two = cases["text-1"]["params"].clone();
    two["frame_buffer_size"] = json!(2);
    let got = run(place.path(), "sd21", "fp32", &two);
    apart("two frames of one call", &got[2], &got[3], 5.0);
}

#[test]
fn what_does_not_fit_is_named() {
    let place = place();
    std::fs::create_dir_all(place.path().join("empty")).expect("folder");
    for (flags, code, part) in [
        (vec!["--model", "nowhere/none"], 1, "nowhere/none"),
        (vec!["--model", "empty"], 1, "text_encoder"),
        (vec!["--model", "sd15", "--params", r#"{"model_id":"stabilityai/sd-turbo"}"#], 1, "line SD 1.x"),
        (vec!["--model", "stabilityai/sd-turbo"], 1, "models--stabilityai--sd-turbo/snapshots"),
        (vec!["--model", "stabilityai/sd-turbo", "--params", r#"{"model_id":"weir/tiny"}"#], 64, "weir/tiny"),
        (vec!["--precision", "fp16", "--params", r#"{"precision":"fp32"}"#], 64, "fp32"),
        (vec!["--output-size", "60x64"], 64, "multiples of 8"),
        (vec!["--output-size", "64x64", "--params", r#"{"width":512}"#], 64, "width"),
        (vec!["--model", "sd15", "--params", r#"{"use_lcm_lora":true}"#], 1, "latent-consistency/lcm-lora-sdv1-5"),
        (vec!["--model", "sd21", "--params", r#"{"lora_dict":{"no/lora":1}}"#], 1, "no/lora"),
        (vec!["--model", "sd15", "--params", r#"{"mode":"txt2img"}"#], 64, "cfg_type has to be none"),
        (vec!["--model", "sd21", "--params", r#"{"use_tiny_vae":false}"#], 1, "vae"),
    ] {
        let output = weir(place.path(), &flags);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{flags:?}: {said}");
        assert!(said.contains(part), "{flags:?}: {said}");
        assert!(!place.path().join("out.rgb").exists(), "{flags:?}");
    }
    let mut other = Command::new(env!("CARGO_BIN_EXE_weir"));
    other.current_dir(place.path()).args(["process", "--pipeline", "invert", "--input", "in.rgb", "--size", "64x64"]);
    let output = other.args(["--output", "out.rgb", "--model", "sd15"]).output().expect("weir");
    assert!(String::from_utf8_lossy(&output.stderr).contains("the pipeline invert has no model"));
}
