//! The preprocessor `pose_tensorrt`: skeletons against OpenCV, and in the pipeline.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Value, json};
use weir::frame::{FrameBuf, PixelFormat, Size, Stamps, Timestamp, VideoFrame};
use weir::graph::{DType, GraphBuilder, Interpolation};
use weir::models::pose::detector::{File, REPOSITORY};
use weir::models::pose::{self, NUMBERS, PEOPLE, SIDE};
use weir::pipeline::{Applied, FrameProcessor, PipelineError, registry};

use super::folders::{self, Line};
use super::pipeline::{check, library, load};
use super::process::weir;
use super::{Golden, Graph, apart, close};

const PIXELS: usize = (SIDE * SIDE) as usize;

/// The graph that draws up to `people` people.
fn drawing(people: u64) -> Graph {
    let mut g = GraphBuilder::new("pose");
    let input = g.input("people", DType::F32, [1, people, NUMBERS]).expect("input");
    let threshold = g.input("threshold", DType::F32, [1]).expect("input");
    let out = pose::draw(&mut g, &input, &threshold).expect("graph");
    g.output("out", &out).expect("output");
    Graph::new(&g.finish().expect("model"))
}

/// The picture of `people`, with nobody behind them, pixel by pixel in bytes.
fn drawn(graph: &mut Graph, people: &[f32], threshold: f32) -> Vec<[u8; 3]> {
    let mut all = people.to_vec();
    all.resize(graph.elements("people"), 0.0);
    graph.set("people", all);
    graph.set("threshold", vec![threshold]);
    let planes = graph.run()["out"].floats();
    assert_eq!(planes.len(), 3 * PIXELS);
    (0..PIXELS).map(|i| [0, 1, 2].map(|c| (planes[c * PIXELS + i] * 255.0).round() as u8)).collect()
}

fn golden_picture(golden: &Golden, name: &str) -> Vec<[u8; 3]> {
    let png: Vec<u8> = golden.get(&format!("picture-{name}")).iter().map(|&byte| byte as u8).collect();
    let picture = image::load_from_memory(&png).expect("PNG").to_rgb8();
    assert_eq!(picture.dimensions(), (SIDE as u32, SIDE as u32));
    picture.pixels().map(|pixel| pixel.0).collect()
}

/// How many pixels of `got` differ from `want`, and how many of them have no equal beside them there.
fn differ(got: &[[u8; 3]], want: &[[u8; 3]]) -> [usize; 2] {
    let side = SIDE as i64;
    let beside = |i: usize| {
        let (x, y) = (i as i64 % side, i as i64 / side);
        let near = (-1..=1).flat_map(move |dy| (-1..=1).map(move |dx| (x + dx, y + dy)));
        near.filter(|(x, y)| (0..side).contains(x) && (0..side).contains(y)).map(|(x, y)| want[(y * side + x) as usize])
    };
    let wrong: Vec<usize> = (0..got.len()).filter(|&i| got[i] != want[i]).collect();
    let far = wrong.iter().filter(|&&i| !beside(i).any(|pixel| pixel == got[i])).count();
    [wrong.len(), far]
}

/// Writes a small stand-in for the detector: the people of the golden file's `many`, moved right by the picture's mean red, the
/// first two of them where its mean green is above 10, else nobody.
fn stand_in(path: &Path) {
    let golden = Golden::read("pose");
    let rows: Vec<&[f32]> = golden.get("people-many").chunks_exact(NUMBERS as usize).collect();
    let rows = [rows[0], rows[2], rows[1], rows[3]];
    let mut g = GraphBuilder::new("detector");
    let build = |g: &mut GraphBuilder| {
        let picture = g.input("input", DType::U8, [1, 3, SIDE, SIDE])?;
        let x = g.cast(&picture, DType::F32)?;
        let means = g.reduce_mean(&x, &[2, 3], true)?;
        let [red, green] = [g.slice(&means, 1, 0, 1)?, g.slice(&means, 1, 1, 2)?];
        let least = g.scalar(DType::F32, 10.0)?;
        let there = g.greater(&green, &least)?;
        let count = g.cast(&there, DType::I64)?;
        let count = g.mul_scalar(&count, 2.0)?;
        let count = g.reshape(&count, &[1, 1])?;
        g.output("graph2_num_predictions", &count)?;
        let boxes = g.floats(DType::F32, [1, 4, 4], &[0.0; 16])?;
        g.output("graph2_pred_boxes", &boxes)?;
        let scores = g.floats(DType::F32, [1, 4], &rows.map(|row| row[0]))?;
        g.output("graph2_pred_scores", &scores)?;
        let joints: Vec<f32> = rows.iter().flat_map(|row| row[1..].to_vec()).collect();
        let joints = g.floats(DType::F32, [1, 4, 17, 3], &joints)?;
        let across = g.floats(DType::F32, [3], &[1.0, 0.0, 0.0])?;
        let shift = g.mul(&across, &red)?;
        let joints = g.add(&joints, &shift)?;
        g.output("graph2_pred_joints", &joints)
    };
    build(&mut g).expect("graph");
    std::fs::create_dir_all(path.parent().expect("a folder")).expect("folder");
    std::fs::write(path, g.finish().expect("model").to_bytes().expect("ONNX")).expect("detector");
}

fn detector(models: &Path) -> PathBuf {
    models.join(format!("models--{}/snapshots/1f", REPOSITORY.replace('/', "--"))).join(File::Half.name())
}

const SMALL: u64 = 64;

/// The skeletons of two `people` with a score of `threshold` or more at 64×64, row by row in bytes.
pub(super) fn pictured(people: &[f32], threshold: f32) -> Vec<f32> {
    let mut g = GraphBuilder::new("pictured");
    let input = g.input("people", DType::F32, [1, 2, NUMBERS]).expect("input");
    let least = g.input("threshold", DType::F32, [1]).expect("input");
    let drawn = pose::draw(&mut g, &input, &least).expect("graph");
    let small = g.resize(&drawn, SMALL, SMALL, Interpolation::Linear).expect("resize");
    let small = g.transpose(&small, &[0, 2, 3, 1]).expect("transpose");
    g.output("out", &small).expect("output");
    let mut graph = Graph::new(&g.finish().expect("model"));
    graph.set("people", people);
    graph.set("threshold", vec![threshold]);
    graph.run()["out"].floats().iter().map(|n| (n * 255.0).round()).collect()
}

/// What the stand-in's people look like in frames with `red`.
fn wanted(red: f32, threshold: f32) -> Vec<f32> {
    let golden = Golden::read("pose");
    let mut rows: Vec<Vec<f32>> =
        golden.get("people-many").chunks_exact(NUMBERS as usize).take(3).map(<[f32]>::to_vec).collect();
    rows.remove(1);
    for x in rows.iter_mut().flat_map(|row| row[1..].iter_mut().step_by(3)) {
        *x += red;
    }
    pictured(&rows.concat(), threshold)
}

/// A frame of one colour.
fn plain(red: u8, green: u8) -> Vec<u8> {
    [red, green, 60].repeat((SMALL * SMALL) as usize)
}

fn shown(stream: &mut dyn FrameProcessor, frame: Vec<u8>) -> Vec<f32> {
    let frame = VideoFrame {
        seq: 0,
        pts: Timestamp(0),
        size: Size::new(SMALL as u32, SMALL as u32),
        format: PixelFormat::Rgb24,
        color: Default::default(),
        stamps: Stamps::default(),
        data: FrameBuf::owned(frame),
    };
    let out = stream.process(frame).unwrap_or_else(|error| panic!("{error}"));
    out.data.iter().map(|&byte| f32::from(byte)).collect()
}

fn made(models: &Path, params: Value) -> Box<dyn FrameProcessor> {
    load(models, &check(params)).unwrap_or_else(|error| panic!("{error}"))
}

fn refused(models: &Path, params: Value) -> String {
    match load(models, &check(params)) {
        Err(PipelineError::Load(text)) => text,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("it loads"),
    }
}

#[test]
fn people_are_drawn_where_they_are_found() {
    let place = tempfile::tempdir().expect("folder");
    let models = place.path();
    let with = |params: Value| {
        json!({"model_id": "weir/tiny", "skip_diffusion": true,
               "image_preprocessing": {"processors": [{"type": "pose_tensorrt", "params": params}]}})
    };
    assert!(refused(models, with(json!({}))).contains("`weir models pull yuvraj108c/yolo-nas-pose-onnx` fetches it"));
    stand_in(&detector(models));
    let mut stream = made(models, with(json!({})));
    let mut last = vec![0.0; (3 * SMALL * SMALL) as usize];
    for red in [20, 60, 140] {
        let (got, want) = (shown(&mut *stream, plain(red, 200)), wanted(f32::from(red), 0.5));
        // A level, and a pixel where a place falls on the other side of a whole one.
        let off = got.iter().zip(&want).filter(|(a, b)| (*a - *b).abs() > 1.0).count();
        assert!(off * 50 < want.iter().filter(|byte| **byte > 0.0).count(), "{red}: {off}");
        apart("where they were", &got, &last, 50.0);
        last = got;
    }
    assert!(shown(&mut *stream, plain(20, 0)).iter().all(|&byte| byte == 0.0), "nobody is there");

    // One of the two is not sure enough; whom the file does not tell takes another.
    assert_eq!(stream.apply(&check(with(json!({"confidence_threshold": 0.6})))).expect("hot"), Applied::Now);
    let (sure, both) = (shown(&mut *stream, plain(20, 200)), wanted(20.0, 0.5));
    let off = sure.iter().zip(wanted(20.0, 0.6)).filter(|(a, b)| (*a - b).abs() > 1.0).count();
    assert!(off < 60, "{off}");
    apart("both", &sure, &both, 50.0);
    let less = with(json!({"confidence_threshold": 0.4}));
    assert_eq!(stream.apply(&check(less.clone())).expect("checked"), Applied::NeedsReload);
    let reason = refused(models, less);
    assert!(reason.contains("yolo_nas_pose_l_0.35.onnx") && reason.contains(REPOSITORY), "{reason}");

    // A file that is something else is refused with what is wrong.
    let mut g = GraphBuilder::new("other");
    let x = g.input("input", DType::F32, [1, 3, 8, 8]).expect("input");
    g.output("output", &x).expect("output");
    std::fs::write(detector(models), g.finish().expect("model").to_bytes().expect("ONNX")).expect("file");
    let reason = refused(models, with(json!({})));
    assert!(reason.contains("it has 1 inputs and 1 outputs") && reason.contains(File::Half.name()), "{reason}");
}

#[test]
fn a_controlnet_that_counts_for_nothing_has_no_skeletons_made() {
    let place = tempfile::tempdir().expect("folder");
    stand_in(&detector(place.path()));
    let with = |preprocessor: &str, scale: f64| {
        library(json!({
            "t_index_list": [20], "cfg_type": "none",
            "controlnets": [{"model_id": "weir/tiny-control-0", "conditioning_scale": scale, "preprocessor": preprocessor}],
        }))
    };
    let mut stream = made(place.path(), with("pose_tensorrt", 6.0));
    let people = shown(&mut *stream, plain(20, 200));
    let without = shown(&mut *made(place.path(), with("passthrough", 0.0)), plain(20, 200));
    apart("no condition", &people, &without, 5.0);
    assert_eq!(stream.apply(&check(with("pose_tensorrt", 0.0))).expect("hot"), Applied::Now);
    stream.reset();
    assert_eq!(shown(&mut *stream, plain(20, 200)), without);
}

#[test]
fn each_frame_of_a_buffer_has_its_own_people() {
    let place = tempfile::tempdir().expect("folder");
    stand_in(&detector(place.path()));
    let with = |frames: u64| {
        made(
            place.path(),
            library(json!({
                "t_index_list": [20], "cfg_type": "none", "frame_buffer_size": frames,
                "controlnets": [{"model_id": "weir/tiny-control-0", "conditioning_scale": 6, "preprocessor": "pose_tensorrt"}],
            })),
        )
    };
    let frames = [plain(20, 200), plain(20, 0), plain(90, 200), plain(20, 200)];
    let (mut single, mut double) = (with(1), with(2));
    let one: Vec<_> = frames.iter().map(|frame| shown(&mut *single, frame.clone())).collect();
    let two: Vec<_> = frames.iter().chain(&frames[3..]).map(|frame| shown(&mut *double, frame.clone())).collect();
    for index in 0..frames.len() {
        close(&format!("frame {index}"), &two[index + 1], &one[index], 1.0);
    }
    apart("nobody", &one[0], &one[1], 5.0);
}

#[test]
fn the_default_preset_takes_openpose_where_its_files_are() {
    let place = tempfile::tempdir().expect("folder");
    let models = place.path().join("models");
    let id = "thibaud/controlnet-sd21-openpose-diffusers";
    folders::model(&place.path().join("sd21"), Line::Sd21, true);
    folders::controlnet(&models.join(id), Line::Sd21, 0);
    let pipeline = registry::find("streamdiffusion").expect("registered");
    let (params, left_out) = pipeline.preset(&models);
    let about = left_out.iter().find(|line| line.starts_with(id)).expect("it is named");
    assert!(about.contains("weir models pull yuvraj108c/yolo-nas-pose-onnx") && !params.contains_key("controlnets"));
    assert!(pipeline.models().iter().any(|model| model.id == REPOSITORY && !model.required));

    stand_in(&models.join(REPOSITORY).join(File::Half.name()));
    let (params, left_out) = pipeline.preset(&models);
    assert!(!left_out.iter().any(|line| line.starts_with(id)), "{left_out:?}");
    let want = json!([{"model_id": id, "conditioning_scale": 0.711, "preprocessor": "pose_tensorrt"}]);
    assert_eq!(params["controlnets"], want);

    // From files to files, as a preset asks for it and louder, since these weights say little.
    std::fs::write(place.path().join("in.rgb"), [plain(20, 200), plain(80, 200), plain(80, 0)].concat())
        .expect("frames");
    let run = |scale: f64| {
        let mut controls = params["controlnets"].clone();
        controls[0]["conditioning_scale"] = json!(scale);
        let params = json!({"controlnets": controls, "t_index_list": [20]}).to_string();
        let output = weir(
            place.path(),
            &["--output-size", "64x64", "--model", "sd21", "--precision", "fp32", "--params", &params],
        );
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.success(), said, std::fs::read(place.path().join("out.rgb")).unwrap_or_default())
    };
    let (good, said, with) = run(6.0);
    assert!(good && with.len() == 3 * plain(0, 0).len(), "{said}");
    // A safety checker that is asked for and not there is no secret here either.
    assert!(said.contains("Freepik/nsfw_image_detector is not among the models: no picture is checked"), "{said}");
    let (_, _, without) = run(0.0);
    assert_ne!(with, without);
    assert!(run(0.711).0);

    let about = |what: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_weir"));
        let output = command.args(what).arg("--engine-models").arg(&models).output().expect("weir");
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (good, said) = about(&["models", "check", REPOSITORY]);
    assert!(good && said.contains("pose detector") && said.contains("It can run."), "{said}");
    let (_, said) = about(&["models", "check", "streamdiffusion"]);
    assert!(said.lines().any(|line| line.starts_with(REPOSITORY) && line.contains(": can run")), "{said}");
    std::fs::remove_file(models.join(REPOSITORY).join(File::Half.name())).expect("removed");
    let (good, said, _) = run(6.0);
    assert!(!good && said.contains("weir models pull yuvraj108c/yolo-nas-pose-onnx"), "{said}");
}

/// The drawing's time on the CPU: `cargo test --test integration -- pose::drawing_takes --ignored --nocapture`.
#[test]
#[ignore = "measures"]
#[allow(clippy::print_stdout, reason = "the figures of docs/streamdiffusion.md")]
fn drawing_takes() {
    let golden = Golden::read("pose");
    for people in [1, 2, PEOPLE] {
        let mut graph = drawing(people);
        let count = (people as usize).min(5) * NUMBERS as usize;
        drawn(&mut graph, &golden.get("people-many")[..count], 0.5);
        let mut times: Vec<_> = (0..9)
            .map(|_| {
                let start = Instant::now();
                graph.run();
                start.elapsed()
            })
            .collect();
        times.sort_unstable();
        println!("up to {people} people: {:.1?} in the middle of nine, {:.1?} at least", times[4], times[0]);
    }
}

#[test]
fn skeletons_are_those_of_opencv() {
    let golden = Golden::read("pose");
    let mut graph = drawing(PEOPLE);
    let mut pictures = BTreeMap::new();
    for (name, threshold) in
        [("none", 0.5), ("one", 0.5), ("many", 0.5), ("sure", 0.6), ("unsure", 0.5), ("off", 0.5), ("same", 0.5)]
    {
        let got = drawn(&mut graph, golden.get(&format!("people-{name}")), threshold);
        let want = golden_picture(&golden, name);
        let painted = want.iter().filter(|pixel| **pixel != [0; 3]).count();
        let [wrong, far] = differ(&got, &want);
        // OpenCV rounds a limb's corners and edges to whole pixels.
        assert!(
            50 * wrong <= painted && far <= 8,
            "{name}: {wrong} of {painted} pixels differ, {far} by more than one"
        );
        pictures.insert(name, got);
    }
    assert!(pictures["none"].iter().all(|pixel| *pixel == [0; 3]));
    // The comparison would notice a limb that is missing, a person that is, and colours turned round.
    let one = golden.get("people-one");
    let mut elbow = one.to_vec();
    elbow[1 + 3 * 7 + 2] = 0.4;
    let turned: Vec<[u8; 3]> = pictures["one"].iter().map(|&[r, g, b]| [b, g, r]).collect();
    let want = golden_picture(&golden, "one");
    for other in [&drawn(&mut graph, &elbow, 0.5), &turned] {
        assert!(differ(other, &want)[1] > 500);
    }
    assert!(differ(&pictures["sure"], &golden_picture(&golden, "many"))[1] > 500);
    // A score that is the threshold is enough; one below is not.
    assert_eq!(drawn(&mut graph, one, one[0]), pictures["one"]);
    assert_eq!(drawn(&mut graph, one, one[0] + 1e-3), pictures["none"]);
}
