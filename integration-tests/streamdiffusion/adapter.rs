//! IP-Adapters against diffusers and transformers: networks by themselves, and whole folders through `weir process`.

use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use serde_json::{Value, json};
use weir::frame::FramePool;
use weir::graph::{DType, GraphBuilder, Model};
use weir::inference::Config;
use weir::models::ip_adapter::{self, AdapterConfig, Layers};
use weir::models::synthetic::Synthetic;
use weir::models::unet::{self, Added, Question, UnetConfig};
use weir::models::vision::{self, DEVIATION, MEAN, VisionConfig};
use weir::models::{Net, Source};
use weir::pipeline::{Applied, LoadContext, NoFetch};

use super::folders::{self, Line};
use super::pipeline::{check, load, show};
use super::{Golden, Graph, apart, close, config, folder, noise, picture, weights};

const ROWS: u64 = 3;
const TOLERANCE: f32 = 5e-5;

fn adapter_weights(line: &str) -> Synthetic {
    weights(&format!("ip-adapter-{line}"))
}

const ADAPTER: AdapterConfig = AdapterConfig { tokens: 4, width: 32, embedding: 24 };

fn vision_config() -> VisionConfig {
    VisionConfig::from_json(&config("vision")).expect("config")
}

/// What the encoder sees of the golden's picture.
fn seen(golden: &Golden) -> Vec<f32> {
    let bytes = golden.get("seen-97x131-56").chunks_exact(56 * 56);
    let channel = |(c, bytes): (usize, &[f32])| -> Vec<f32> {
        bytes.iter().map(|byte| (byte / 255.0 - MEAN[c]) / DEVIATION[c]).collect()
    };
    bytes.enumerate().flat_map(channel).collect()
}

#[test]
fn a_picture_becomes_the_tokens_that_it_becomes_there() {
    let golden = Golden::read("adapter");
    let mut graph = Graph::new(&vision::graph(&vision_config(), &mut weights("vision"), DType::F32).expect("encoder"));
    graph.set("picture", seen(&golden));
    let got = graph.run().remove("embedding").expect("embedding").floats();
    close("embedding", &got, golden.get("embedding"), TOLERANCE);
    // A patch of another colour, or weights that are not of a layer's norm, are seen.
    let mut other = seen(&golden);
    other[..14].fill(1.5);
    graph.set("picture", other);
    apart("a patch", &graph.run().remove("embedding").expect("embedding").floats(), golden.get("embedding"), 1e-3);

    for line in ["sd15", "sdxl"] {
        let (mut encoder, mut adapter) = (weights("vision"), adapter_weights(line));
        let made = |encoder: &mut dyn Source, adapter: &mut dyn Source, dtype| {
            Graph::new(&ip_adapter::graph(&vision_config(), encoder, &ADAPTER, adapter, dtype).expect("graph"))
        };
        let mut graph = made(&mut encoder, &mut adapter, DType::F32);
        graph.set("picture", seen(&golden));
        let got = graph.run().remove("tokens").expect("tokens").floats();
        let want = golden.get(&format!("tokens-{line}"));
        close(line, &got, want, TOLERANCE);
        apart("without a picture", &got[..128], &want[128..], 0.1);
        let mut half = made(&mut encoder, &mut adapter, DType::F16);
        half.set("picture", seen(&golden));
        close("half", &half.run().remove("tokens").expect("tokens").floats(), want, 0.05);
    }
    let other = golden.get("tokens-sdxl");
    apart("another adapter", golden.get("tokens-sd15"), other, 0.1);
}

fn unet_graph(line: &str, key: &str) -> Model {
    let shape = UnetConfig::from_json(&config(&format!("unet-{line}"))).expect("config");
    let mut g = GraphBuilder::new("unet");
    let input =
        |g: &mut GraphBuilder, name: &str, shape: &[u64]| g.input(name, DType::F32, shape.to_vec()).expect(name);
    let sample = input(&mut g, "sample", &[ROWS, 4, 8, 8]);
    let timestep = input(&mut g, "timestep", &[ROWS]);
    let context = input(&mut g, "context", &[ROWS, 77, 32]);
    let added = shape
        .trunk
        .pooled_dim()
        .map(|pooled| [input(&mut g, "text_embeds", &[ROWS, pooled]), input(&mut g, "time_ids", &[ROWS, 6])]);
    let tokens = input(&mut g, "image_tokens", &[ROWS, 4, 32]);
    let scales = input(&mut g, "ipadapter_scale", &[ROWS, Layers::of(&shape).count() as u64]);
    let mut adapter = weights(key);
    let images = ip_adapter::images(&mut Net::new(&mut g, &mut adapter, DType::F32), &shape, &tokens, &scales);
    let question = Question {
        sample: &sample,
        timestep: &timestep,
        encoder_hidden_states: &context,
        added: added.as_ref().map(|[text_embeds, time_ids]| Added { text_embeds, time_ids }),
    };
    let mut source = weights(&format!("unet-{line}"));
    let mut net = Net::new(&mut g, &mut source, DType::F32);
    let out = unet::build_beside(&mut net, &shape, &question, None, Some(images.expect("layers"))).expect("UNet");
    g.output("out", &out).expect("output");
    g.finish().expect("graph")
}

#[test]
fn unets_look_at_the_picture_as_strongly_as_they_are_told() {
    let golden = Golden::read("adapter");
    for line in ["sd15", "sdxl"] {
        let mut graph = Graph::new(&unet_graph(line, &format!("ip-adapter-{line}")));
        let answer = |graph: &mut Graph| graph.run().remove("out").expect("out").floats();
        let ask = |graph: &mut Graph| {
            graph.set("sample", noise("sample", ROWS as usize * 4 * 64));
            graph.set("timestep", vec![999.0, 599.0, 19.0]);
            graph.set("context", noise("context", ROWS as usize * 77 * 32));
            graph.set_where_there("text_embeds", noise("text_embeds", ROWS as usize * 16));
            let ids = [512.0, 768.0, 0.0, 16.0, 1024.0, 640.0];
            graph.set_where_there("time_ids", [ids, ids, ids].concat());
            let (nothing, picture) = golden.get(&format!("tokens-{line}")).split_at(128);
            graph.set("image_tokens", [nothing, picture, picture].concat());
        };
        ask(&mut graph);
        let count = graph.elements("ipadapter_scale") / ROWS as usize;
        assert_eq!(count, if line == "sd15" { 16 } else { 28 });
        let each: Vec<f32> = (0..count).map(|i| i as f32 / (count - 1) as f32).collect();
        for (name, scales) in
            [("0", vec![0.0; count]), ("0.5", vec![0.5; count]), ("1", vec![1.0; count]), ("each", each.clone())]
        {
            graph.set("ipadapter_scale", scales.repeat(ROWS as usize));
            let got = answer(&mut graph);
            let want = golden.get(&format!("unet-{line}-{name}"));
            close(&format!("{line} at {name}"), &got, want, TOLERANCE);
            for other in ["0", "0.5", "1"].iter().filter(|other| **other != name) {
                apart(&format!("{line} at {other}"), &got, golden.get(&format!("unet-{line}-{other}")), 0.01);
            }
        }
        // Scales in another order, one row's scales, and the picture of one row are seen.
        let want = golden.get(&format!("unet-{line}-each"));
        let turned: Vec<f32> = each.iter().rev().copied().collect();
        graph.set("ipadapter_scale", turned.repeat(ROWS as usize));
        apart("order", &answer(&mut graph), want, 0.01);
        graph.set("ipadapter_scale", [&each[..], &each, &turned].concat());
        let mixed = answer(&mut graph);
        close("rows before", &mixed[..512], &want[..512], TOLERANCE);
        apart("one row", &mixed[512..], &want[512..], 0.01);
        // Another adapter's matrices are others.
        let mut other = Graph::new(&unet_graph(line, "ip-adapter-other"));
        ask(&mut other);
        other.set("ipadapter_scale", each.repeat(ROWS as usize));
        apart("matrices", &answer(&mut other), want, 0.01);
    }
}

/// The style picture as a data URI.
pub(super) fn style() -> String {
    let file = std::fs::read(folder().join("adapter-style.png")).expect("the picture");
    format!("data:image/png;base64,{}", base64::engine::general_purpose::STANDARD.encode(file))
}

/// As operators have it: a model of the line SD 1.x with a ControlNet, a depth model and an adapter.
fn whole(root: &Path) {
    folders::model(&root.join("Lykon/dreamshaper-8"), Line::Sd15, true);
    folders::controlnet(&root.join("lllyasviel/control_v11p_sd15_canny"), Line::Sd15, 0);
    folders::depth(&root.join("depth-anything/Depth-Anything-V2-Small-hf"));
    folders::adapter(&root.join("h94/IP-Adapter"), Line::Sd15);
}

#[test]
fn an_adapter_stands_beside_controlnets_and_at_zero_it_is_none() {
    let place = tempfile::tempdir().expect("folder");
    whole(place.path());
    let with = |adapter: Value| {
        check(json!({
            "model_id": "Lykon/dreamshaper-8", "use_lcm_lora": false, "t_index_list": [15, 32], "cfg_type": "initialize",
            "guidance_scale": 1.4, "ip_adapter": adapter, "ip_adapter_style_image_url": style(),
            "controlnets": [{"model_id": "lllyasviel/control_v11p_sd15_canny", "preprocessor": "depth_tensorrt"}],
        }))
    };
    let load = |adapter: Value| load(place.path(), &with(adapter)).unwrap_or_else(|error| panic!("{error}"));
    let plain = show(&mut *load(json!({"enabled": false})), 0);
    let mut stream = load(json!({"scale": 0.0}));
    close("at 0", &show(&mut *stream, 0), &plain, 1.0);
    // The graph keeps its adapter, whatever is asked of it.
    assert_eq!(stream.apply(&with(json!({"scale": 1.0}))).expect("hot"), Applied::Now);
    let strong = show(&mut *stream, 0);
    apart("at 1", &strong, &plain, 5.0);
    assert_eq!(stream.apply(&with(json!({"enabled": false}))).expect("hot"), Applied::Now);
    close("switched off", &show(&mut *stream, 0), &plain, 1.0);
    assert_eq!(stream.apply(&with(json!({"scale": 1.0}))).expect("hot"), Applied::Now);
    close("and on", &show(&mut *stream, 0), &strong, 0.0);
}

#[test]
fn a_new_style_is_made_beside_the_stream() {
    let with = |picture: &str, adapter: Value| {
        check(json!({
            "model_id": "weir/tiny", "t_index_list": [20], "ip_adapter": adapter, "ip_adapter_style_image_url": picture,
        }))
    };
    let other = {
        let mut file = std::io::Cursor::new(Vec::new());
        let picture = image::RgbImage::from_fn(60, 80, |x, y| image::Rgb([250, (x * 4) as u8, (y * 3) as u8]));
        picture.write_to(&mut file, image::ImageFormat::Jpeg).expect("a file");
        base64::engine::general_purpose::STANDARD.encode(file.into_inner())
    };
    let inference = Config { threads: 1, ..Config::default() };
    let cx = LoadContext {
        inference: &inference,
        models: "/nowhere".into(),
        model: None,
        pool: FramePool::new(4),
        progress: &|_| {},
        fetch: &NoFetch,
    };
    let mut stream = load(Path::new("/nowhere"), &with("", json!({"enabled": false}))).expect("loads");
    let plain = show(&mut *stream, 0);
    // The first adapter is another graph.
    let first = with(&style(), json!({}));
    assert_eq!(stream.apply(&first).expect("judged"), Applied::NeedsReload);
    assert!(stream.preparation(&first).is_none());
    let mut stream = load(Path::new("/nowhere"), &first).expect("loads");
    let styled = show(&mut *stream, 0);
    apart("an adapter", &styled, &plain, 2.0);
    // Another picture is but its tokens; until they are there the old ones stay.
    let second = with(&other, json!({}));
    assert_eq!(stream.apply(&second).expect("judged"), Applied::NeedsReload);
    let work = stream.preparation(&second).expect("less than a graph");
    close("meanwhile", &show(&mut *stream, 0), &styled, 0.0);
    std::thread::scope(|scope| scope.spawn(|| work(&cx)).join().expect("no panic")).expect("made");
    assert_eq!(stream.apply(&second).expect("hot"), Applied::Now);
    apart("another picture", &show(&mut *stream, 0), &styled, 1.0);
    // Both are kept.
    assert_eq!(stream.apply(&first).expect("hot"), Applied::Now);
    close("the first again", &show(&mut *stream, 0), &styled, 0.0);
    // What is no picture, or is not to be had, is named.
    for (picture, part) in [("http://host/x.png", "data URI"), ("AAAA", "Failed to decode image data")] {
        let wrong = with(picture, json!({}));
        assert_eq!(stream.apply(&wrong).expect("judged"), Applied::NeedsReload);
        let said = stream.preparation(&wrong).expect("its tokens")(&cx).expect_err("no picture").to_string();
        assert!(said.contains("ip_adapter_style_image_url") && said.contains(part), "{said}");
    }
    close("after all", &show(&mut *stream, 0), &styled, 0.0);
}

const SIZE: usize = 64;
const FRAMES: usize = 8;

/// Runs and gives the frames that came out, every fourth pixel down and right, or what was said.
fn run(root: &Path, line: &str, params: &Value) -> Result<Vec<Vec<f32>>, String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    command.current_dir(root).args(["process", "--pipeline", "streamdiffusion", "--engine-models", "models"]);
    command.args(["--input", "in.rgb", "--size", "64x64", "--output", "out.rgb", "--output-size", "64x64"]);
    command.args(["--inference-threads", "1", "--model", line, "--precision", "fp32", "--params", &params.to_string()]);
    let output = command.output().expect("weir");
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let out = std::fs::read(root.join("out.rgb")).expect("frames");
    assert_eq!(out.len(), FRAMES * SIZE * SIZE * 3, "{params}");
    let quarter = |frame: &[u8]| {
        let pixel = |i: usize| f32::from(frame[(i / 48 * 4 * SIZE + i % 48 / 3 * 4) * 3 + i % 3]);
        (0..16 * 48).map(pixel).collect()
    };
    Ok(out.chunks_exact(SIZE * SIZE * 3).map(quarter).collect())
}

#[test]
fn frames_have_the_style_that_the_reference_gives_them() {
    let place = tempfile::tempdir().expect("folder");
    let root = place.path();
    for line in [Line::Sd15, Line::Sdxl] {
        folders::model(&root.join(line.name()), line, true);
        folders::adapter(&root.join("models/h94/IP-Adapter"), line);
    }
    let frames: Vec<u8> = (0..FRAMES).flat_map(|index| picture(index, SIZE)).collect();
    std::fs::write(root.join("in.rgb"), frames).expect("frames");

    let (golden, cases) = (Golden::read("adapter-process"), super::json("adapter-process"));
    let cases = cases.as_object().expect("an object");
    assert_eq!(cases.len(), 6);
    for (name, case) in cases {
        let line = case["line"].as_str().expect("a line");
        let mut params = case["params"].clone();
        params["ip_adapter_style_image_url"] = style().into();
        let got = run(root, line, &params).unwrap_or_else(|said| panic!("{name}: {said}"));
        let want: Vec<&[f32]> = golden.get(name).chunks_exact(16 * 48).collect();
        assert_eq!(want.len(), FRAMES);
        for (index, (got, want)) in got.iter().zip(&want).enumerate() {
            close(&format!("{name}, frame {index}"), got, want, 1.0);
        }
        if name != "sd15-full" {
            continue;
        }
        // The comparison would notice a strength, a spread of it, the picture, or the switch.
        for change in [
            json!({"scale": 0.7}),
            json!({"scale": 1.0, "weight_type": "weak input"}),
            json!({"scale": 1.0, "weight_type": "composition"}),
            json!({"enabled": false}),
        ] {
            params["ip_adapter"] = change.clone();
            let other = run(root, line, &params).unwrap_or_else(|said| panic!("{change}: {said}"));
            apart(&change.to_string(), &other[FRAMES - 1], want[FRAMES - 1], 2.0);
        }
    }

    // What is missing is named, with what helps.
    let mut params = cases["sd15-full"]["params"].clone();
    let said = run(root, "sd15", &params).expect_err("nothing may be fetched from there");
    assert!(said.contains("Failed to fetch image from URL") && said.contains("data URI"), "{said}");
    params["ip_adapter_style_image_url"] = style().into();
    let adapter = root.join("models/h94/IP-Adapter/models/ip-adapter_sd15.safetensors");
    std::fs::rename(&adapter, adapter.with_extension("bin")).expect("rename");
    let said = run(root, "sd15", &params).expect_err("a pickle is not read");
    assert!(said.contains("pickle") && said.contains("ip-adapter_sd15.bin"), "{said}");
    std::fs::remove_file(adapter.with_extension("bin")).expect("remove");
    let said = run(root, "sd15", &params).expect_err("no adapter");
    assert!(said.contains("ip-adapter_sd15.safetensors") && said.contains("weir models pull h94/IP-Adapter"), "{said}");
    std::fs::remove_dir_all(root.join("models/h94")).expect("remove");
    let said = run(root, "sd15", &params).expect_err("no repository");
    assert!(said.contains("h94/IP-Adapter was not found") && said.contains("weir models pull"), "{said}");
}
