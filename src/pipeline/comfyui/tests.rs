#![allow(clippy::unwrap_used)]

use std::path::Path;

use serde_json::{Value, json};

use super::*;
use crate::frame::{FramePool, PixelFormat, Size, Timestamp, VideoFrame};
use crate::inference::Config;
use crate::pipeline::Applied;

const SIZE: Size = Size { width: 384, height: 384 };

fn checked(prompt: Value) -> Result<Checked, ParamError> {
    ComfyUi.check(json!({"width": 384, "height": 384, "prompt": prompt}).as_object().unwrap())
}

fn load(pool: &FramePool, checked: &Checked) -> Result<Box<dyn FrameProcessor>, PipelineError> {
    let inference = Config::default();
    let cx = LoadContext {
        inference: &inference,
        models: std::env::temp_dir().join("weir-no-models"),
        model: None,
        pool: pool.clone(),
        progress: &|_| {},
        fetch: &crate::pipeline::NoFetch,
    };
    ComfyUi.load(&cx, checked)
}

fn run(pool: &FramePool, processor: &mut dyn FrameProcessor, byte: u8) -> u8 {
    let mut frame = VideoFrame::take(pool, SIZE, PixelFormat::Rgb24, Timestamp(7)).unwrap();
    frame.data.fill(byte);
    let out = processor.process(frame).unwrap();
    assert_eq!((out.size, out.pts), (SIZE, Timestamp(7)));
    assert!(out.data.iter().all(|&b| b == out.data[0]), "one colour in, one colour out");
    out.data[0]
}

/// The inverted camera, mixed with the inverse of a grey that depends on no frame.
fn mix(factor: f64, value: f64) -> Value {
    json!({
        "1": {"class_type": "LoadImage", "inputs": {"image": "x.png"}},
        "2": {"class_type": "ImageInvert", "inputs": {"image": ["1", 0]}},
        "3": {"class_type": "SolidMask", "inputs": {"width": 384, "height": 384, "value": value}},
        "4": {"class_type": "MaskToImage", "inputs": {"mask": ["3", 0]}},
        "5": {"class_type": "ImageInvert", "inputs": {"image": ["4", 0]}},
        "6": {"class_type": "ImageBlend", "inputs": {"image1": ["2", 0], "image2": ["5", 0], "blend_factor": factor}},
        "7": {"class_type": "PreviewImage", "inputs": {"images": ["6", 0]}}
    })
}

fn expected(byte: u8, factor: f32, value: f32) -> u8 {
    let a = 1.0 - f32::from(byte) / 255.0;
    let y = a * (1.0 - factor) + (1.0 - value) * factor;
    (y.clamp(0.0, 1.0) * 255.0) as u8
}

#[test]
fn no_workflow_passes_every_byte_through() {
    let pool = FramePool::new(4);
    for prompt in [json!(""), Value::Null] {
        let checked = checked(prompt).unwrap();
        let mut processor = load(&pool, &checked).unwrap();
        for byte in 0..=255 {
            assert_eq!(run(&pool, processor.as_mut(), byte), byte);
        }
    }
}

#[test]
fn widgets_change_on_the_next_frame_also_where_they_feed_what_is_folded() {
    let pool = FramePool::new(4);
    let mut processor = load(&pool, &checked(mix(0.25, 0.8)).unwrap()).unwrap();
    assert_eq!(run(&pool, processor.as_mut(), 30), expected(30, 0.25, 0.8));
    for (factor, value) in [(0.75, 0.8), (0.75, 0.1), (0.0, 0.5), (1.0, 0.5)] {
        assert_eq!(processor.apply(&checked(mix(factor, value)).unwrap()).unwrap(), Applied::Now);
        assert_eq!(run(&pool, processor.as_mut(), 30), expected(30, factor as f32, value as f32), "{factor} {value}");
    }
    let mut other = mix(1.0, 0.5);
    other["6"]["inputs"]["blend_mode"] = json!("screen");
    assert_eq!(processor.apply(&checked(other).unwrap()).unwrap(), Applied::NeedsReload);
    assert_eq!(run(&pool, processor.as_mut(), 30), expected(30, 1.0, 0.5), "the old workflow still runs");
}

#[test]
fn a_wrong_workflow_is_refused_before_anything_loads() {
    let error = checked(json!({"1": {"class_type": "SaveTensor", "inputs": {}}})).unwrap_err();
    assert_eq!((error.field.as_str(), error.reason.split(';').next()), ("prompt", Some("missing input")));
    // A rule that the document breaks comes first, in ComfyStream's words, and everything else with it.
    let mut blind = mix(2.0, 0.5);
    blind["1"] = json!({"class_type": "Nonsense", "inputs": {}});
    let reason = checked(blind).unwrap_err().reason;
    assert!(reason.starts_with("missing input; add a"), "{reason}");
    for part in ["2 more in this workflow cannot run:", "the class Nonsense is not known", "2 is out of range"] {
        assert!(reason.contains(part), "{part} is not in {reason}");
    }
    let mut wrong = mix(2.0, 0.5);
    wrong["9"] = json!({"class_type": "Nonsense", "inputs": {}});
    wrong["7"]["inputs"]["images"] = json!(["9", 0]);
    assert!(checked(wrong).unwrap_err().reason.contains("the class Nonsense is not known"));
    let twice = json!({"prompt": "", "prompts": ""});
    assert!(ComfyUi.check(twice.as_object().unwrap()).is_err());
}

fn object(value: Value) -> Params {
    value.as_object().unwrap().clone()
}

fn follow(current: &Params, update: Value) -> Result<Params, ParamError> {
    ComfyUi.follow(current, object(update), Path::new("/nonexistent"))
}

#[test]
fn overrides_of_single_widgets_go_into_the_workflow_that_runs() {
    let current = object(json!({"width": 384, "height": 384, "prompt": mix(0.25, 0.5)}));
    let value = |params: &Params| {
        let checked = ComfyUi.check(params).unwrap();
        assert_eq!(checked.size, SIZE, "other parameters stay");
        checked.values["prompt"]["6"]["inputs"]["blend_factor"].clone()
    };
    for update in [
        json!({"6": {"blend_factor": 0.75}}),
        json!({"6": {"inputs": {"blend_factor": 0.75}}}),
        json!({"prompt": {"6": {"blend_factor": 0.75}}}),
        json!({"prompts": {"6": {"inputs": {"blend_factor": 0.75}}}, "show_reloading_frame": false}),
        // With merged updates the whole workflow stands beside it.
        json!({"width": 384, "height": 384, "prompt": mix(0.25, 0.5), "6": {"blend_factor": 0.75}}),
    ] {
        let new = follow(&current, update.clone()).unwrap();
        assert_eq!(value(&new), 0.75, "{update}");
        let other = follow(&new, json!({"3": {"value": 0.1}})).unwrap();
        assert_eq!(value(&other), 0.75, "one override after the other");
        assert_eq!(other["prompt"]["3"]["inputs"]["value"], 0.1);
    }
    // Whole workflows take the place of everything.
    for update in [json!({"prompt": mix(1.0, 0.5)}), mix(1.0, 0.5)] {
        let new = follow(&current, update.clone()).unwrap();
        assert_eq!(Value::Object(new.clone()), update, "as it was sent");
        assert_eq!(ComfyUi.check(&new).unwrap().size, Size::new(512, 512));
    }
    assert_eq!(follow(&current, json!({})).unwrap(), Params::new());
}

#[test]
fn a_wrong_override_says_where_and_changes_nothing() {
    let current = object(json!({"width": 384, "height": 384, "prompt": mix(0.25, 0.5)}));
    for (update, says) in [
        (
            json!({"6": {"blend_factor": 1.5}}),
            "node 6 (ImageBlend), input blend_factor: 1.5 is out of range; from 0 to 1",
        ),
        (json!({"6": {"blend_mode": "dodge"}}), "\"dodge\" is not among the choices"),
        (json!({"60": {"blend_factor": 0.5}}), "node 60: there is no such node"),
        (json!({"6": {"factor": 0.5}}), "there is no such input; there are image1, image2, blend_factor, blend_mode"),
        (json!({"7": {"images": ["3", 0]}}), "it takes IMAGE, and output 0 of node 3 (SolidMask) is MASK"),
        (json!({"strength": 1}), "Extra inputs are not permitted"),
    ] {
        let error = follow(&current, update.clone()).unwrap_err();
        assert!(error.to_string().contains(says), "{update}: {error}");
    }
    // Only the graph tells; it is built to be looked at while the old one runs.
    let current = object(json!({"prompt": {
        "1": {"class_type": "LoadTensor", "inputs": {}},
        "2": {"class_type": "ImageToMask", "inputs": {"image": ["1", 0]}},
        "3": {"class_type": "MaskToImage", "inputs": {"mask": ["2", 0]}},
        "4": {"class_type": "SaveTensor", "inputs": {"images": ["3", 0]}}
    }}));
    let error = follow(&current, json!({"2": {"channel": "alpha"}})).unwrap_err();
    assert!(error.reason.contains("node 2 (ImageToMask), input channel: the picture has 3 channels"), "{error}");
}

#[test]
fn what_cannot_be_built_is_refused_before_the_stream_starts() {
    let mut wrong = mix(0.5, 0.5);
    wrong["3"]["inputs"]["width"] = json!(100);
    wrong["5"]["inputs"]["image"] = json!(["8", 0]);
    wrong["8"] = json!({"class_type": "LoadImage", "inputs": {"image": "../secret.png"}});
    wrong["1"]["class_type"] = json!("LoadTensor");
    let checked = checked(wrong).unwrap();
    // The only LoadImage is the camera, so nothing is read.
    ComfyUi.ready(&checked, Path::new("/nonexistent")).unwrap();
    let mut file = mix(0.5, 0.5);
    file["1"]["class_type"] = json!("PrimaryInputLoadImage");
    file["5"]["inputs"]["image"] = json!(["8", 0]);
    for (name, says) in [("../secret.png", "does not lie in the input folder"), ("none.png", "none.png")] {
        file["8"] = json!({"class_type": "LoadImage", "inputs": {"image": name}});
        let error =
            ComfyUi.ready(&super::tests::checked(file.clone()).unwrap(), Path::new("/nonexistent")).unwrap_err();
        assert!(error.reason.starts_with("node 8 (LoadImage), input image:") && error.reason.contains(says), "{error}");
    }
}

/// A tone through PitchShifter, whose widget is turned while another thread has the sound.
#[test]
fn sound_goes_through_stages_of_its_own_and_follows_their_widgets() {
    let workflow = |steps: f64, buffer: f64| {
        json!({
            "1": {"class_type": "LoadAudioTensor", "inputs": {"buffer_size": buffer}},
            "2": {"class_type": "PitchShifter", "inputs": {"audio": ["1", 0], "pitch_shift": steps}},
            "3": {"class_type": "SaveAudioTensor", "inputs": {"audio": ["2", 0]}}
        })
    };
    let pool = FramePool::new(4);
    let checked_one = checked(workflow(4.0, 500.0)).unwrap();
    assert!(ComfyUi.takes_audio(&checked_one) && !ComfyUi.takes_audio(&checked(mix(0.5, 0.5)).unwrap()));
    let mut processor = load(&pool, &checked_one).unwrap();
    // Pictures are not even converted.
    assert_eq!(processor.format(), PixelFormat::I420);
    let mut frame = VideoFrame::take(&pool, SIZE, PixelFormat::I420, Timestamp(7)).unwrap();
    frame.data.iter_mut().enumerate().for_each(|(i, byte)| *byte = i as u8);
    let before = frame.data.to_vec();
    assert_eq!(processor.process(frame).unwrap().data.to_vec(), before);

    let mut sound = processor.audio().unwrap();
    assert_eq!((sound.block(48_000), sound.block(44_100)), (24_000, 22_050));
    let stereo: Vec<f32> = (0..9_600)
        .flat_map(|i| {
            [440.0, 660.0].map(|hertz: f32| (i as f32 * hertz * std::f32::consts::TAU / 48_000.0).sin() * 0.4)
        })
        .collect();
    // Rising zeros of each channel.
    let hertz = |samples: &[f32]| {
        [0, 1].map(|channel| {
            let one: Vec<f32> = samples.iter().skip(channel).step_by(2).copied().collect();
            one.windows(2).filter(|pair| pair[0] <= 0.0 && pair[1] > 0.0).count() * 5
        })
    };
    let near = |heard: [usize; 2], steps: f64| {
        [440.0, 660.0]
            .iter()
            .zip(heard)
            .all(|(hertz, heard)| (hertz * (steps / 12.0).exp2() - heard as f64).abs() < 12.0)
    };
    let mut block = stereo.clone();
    sound.process(&mut block, 2, 48_000).unwrap();
    assert!(near(hertz(&block), 4.0), "{:?}", hertz(&block));
    assert_eq!(processor.apply(&checked(workflow(12.0, 100.0)).unwrap()).unwrap(), Applied::Now);
    assert_eq!(sound.block(48_000), 4_800);
    let mut block = stereo.clone();
    sound.process(&mut block, 2, 48_000).unwrap();
    assert!(near(hertz(&block), 12.0), "{:?}", hertz(&block));
    // A workflow of pictures is another graph.
    assert_eq!(processor.apply(&checked(mix(0.5, 0.5)).unwrap()).unwrap(), Applied::NeedsReload);
    assert!(load(&pool, &checked(mix(0.5, 0.5)).unwrap()).unwrap().audio().is_none());
}

#[test]
fn a_text_is_said_at_the_begin_and_when_it_is_another_one() {
    let workflow = |text: &str, one_line: bool| {
        json!({
            "1": {"class_type": "LoadTensor", "inputs": {}},
            "2": {"class_type": "SaveTensor", "inputs": {"images": ["1", 0]}},
            "3": {"class_type": "SaveTextTensor", "inputs": {"data": text, "remove_linebreaks": one_line}}
        })
    };
    let pool = FramePool::new(4);
    let mut processor = load(&pool, &checked(workflow("a\r\nb", true)).unwrap()).unwrap();
    assert_eq!(processor.texts(), ["ab"]);
    assert!(processor.texts().is_empty());
    for (text, one_line, said) in
        [("a\nb", true, None), ("a\nb", false, Some("a\nb")), ("", true, None), ("a\nb", false, Some("a\nb"))]
    {
        assert_eq!(processor.apply(&checked(workflow(text, one_line)).unwrap()).unwrap(), Applied::Now);
        assert_eq!(processor.texts(), said.into_iter().collect::<Vec<_>>(), "{text:?} {one_line}");
    }
    // The next stream hears it too.
    processor.reset();
    assert_eq!(processor.texts(), ["a\nb"]);
}

mod random {
    use proptest::prelude::*;

    use super::*;
    use crate::inference::Runtime;
    use crate::pipeline::comfyui::run::Stages;
    use crate::workflow::class::{Class, Kind, Runs};
    use crate::workflow::lower::{Env, lower};
    use crate::workflow::{self, Type, registry};

    const SIDES: [u32; 2] = [64, 48];

    /// Classes of pictures and masks alone.
    fn classes() -> Vec<&'static Class> {
        let plain = |ty: Type| matches!(ty, Type::Image | Type::Mask);
        registry::all()
            .filter(|class| matches!(class.runs, Runs::Graph) && class.source.is_none() && class.sink.is_none())
            .filter(|class| class.outputs.first().is_some_and(|output| plain(output.ty)))
            .filter(|class| {
                class.inputs.iter().all(|input| match input.kind {
                    Kind::Link(ty) => plain(ty) || input.optional,
                    Kind::File => false,
                    _ => true,
                })
            })
            .collect()
    }

    /// A workflow of one node for each pick, each fed by nodes before it; the last picture is shown.
    fn document(picks: &[(usize, u64)]) -> Value {
        let classes = classes();
        let mut nodes = json!({
            "0": {"class_type": "LoadTensor", "inputs": {}},
            "1": {"class_type": "ImageToMask", "inputs": {"image": ["0", 0]}}
        });
        let (mut images, mut masks) = (vec![0], vec![1]);
        for (i, &(pick, mut dice)) in picks.iter().enumerate() {
            let class = classes[pick % classes.len()];
            let mut roll = |sides: u64| {
                dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (dice >> 33) % sides.max(1)
            };
            let mut inputs = Params::new();
            for input in class.inputs {
                let value = match input.kind {
                    Kind::Link(Type::Image) => json!([images[roll(images.len() as u64) as usize].to_string(), 0]),
                    Kind::Link(Type::Mask) => json!([masks[roll(masks.len() as u64) as usize].to_string(), 0]),
                    Kind::Link(_) => continue,
                    // The stream's sides, so that most things fit together.
                    Kind::Int { .. } if input.name == "width" => json!(SIDES[0]),
                    Kind::Int { .. } if input.name == "height" => json!(SIDES[1]),
                    Kind::Int { min, max, .. } => {
                        json!((min + i128::from(roll(((max - min).min(7) + 1) as u64))) as i64)
                    }
                    Kind::Float { min, max, .. } => json!(min + (max - min) * roll(101) as f64 / 100.0),
                    Kind::Bool { .. } => json!(roll(2) == 1),
                    Kind::Choice { of, .. } => json!(of[roll(of.len() as u64) as usize]),
                    Kind::Text { default } => json!(default),
                    Kind::File => continue,
                };
                inputs.insert(input.name.to_owned(), value);
            }
            let id = i + 2;
            nodes[id.to_string()] = json!({"class_type": class.name, "inputs": inputs});
            if class.outputs[0].ty == Type::Image { &mut images } else { &mut masks }.push(id);
        }
        let shown = images[images.len() - 1].to_string();
        nodes["out"] = json!({"class_type": "SaveTensor", "inputs": {"images": [shown, 0]}});
        nodes
    }

    /// Whether it ran; a workflow may be refused for pictures that do not go together, with a node named.
    fn runs(document: &Value) -> Result<bool, String> {
        let plan = workflow::plan(document).map_err(|refused| format!("no plan: {refused}"))?;
        let nowhere = std::env::temp_dir().join("weir-no-models");
        let env = Env {
            size: SIDES,
            models: nowhere.clone(),
            input: nowhere.clone(),
            precision: crate::graph::DType::F32,
            inline: crate::workflow::lower::INLINE,
            weights: nowhere.clone(),
            scratch: nowhere.clone(),
            progress: &|_| {},
        };
        let lowered = match lower(&plan, &env) {
            Ok(lowered) => lowered,
            Err(refused) if refused.0.iter().all(|refusal| !refusal.node.is_empty()) => return Ok(false),
            Err(refused) => return Err(format!("not lowered: {refused}")),
        };
        let writes = lowered.live().map(|(s, p, live)| live.encode(&plan).map(|data| (s, p, data)));
        let writes = writes.collect::<Result<_, _>>().map_err(|error| format!("not encoded: {error:?}"))?;
        let config = Config::default();
        let runtime = Runtime::load(&config).map_err(|error| error.to_string())?;
        let mut stages =
            Stages::load(runtime, &config, env.precision, lowered, &nowhere, writes, std::collections::HashMap::new())
                .map_err(|error| error.to_string())?;
        let bytes = (SIDES[0] * SIDES[1] * 3) as usize;
        let from: Vec<u8> = (0..bytes).map(|i| (i * 7 % 256) as u8).collect();
        let mut once = vec![0; bytes];
        let mut twice = vec![0; bytes];
        stages.frame(&from, &mut once).map_err(|error| error.to_string())?;
        stages.reset();
        stages.frame(&from, &mut twice).map_err(|error| error.to_string())?;
        match once == twice {
            true => Ok(true),
            false => Err("the same frame gives another picture".to_owned()),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

        #[test]
        fn a_random_workflow_plans_lowers_and_runs(picks in proptest::collection::vec((any::<usize>(), any::<u64>()), 1..7)) {
            let document = document(&picks);
            if let Err(error) = runs(&document) {
                prop_assert!(false, "{error}\n{document:#}");
            }
        }
    }

    #[test]
    fn most_random_workflows_fit_together() {
        let ran = (0..30).filter(|&i: &u64| {
            let picks: Vec<(usize, u64)> =
                (0..1 + i as usize % 5).map(|j| ((i * 31 + j as u64 * 17) as usize, i * 97 + j as u64)).collect();
            runs(&document(&picks)).unwrap()
        });
        assert!(ran.count() > 8);
    }
}
