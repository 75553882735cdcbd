//! What pictures and latents go through before and behind the model: by themselves, and in the pipeline.

use std::path::Path;

use serde_json::{Value, json};
use weir::frame::Size;
use weir::graph::{DType, GraphBuilder, Interpolation};
use weir::models::filter::Filter;
use weir::models::hint;
use weir::pipeline::{Applied, Checked, FrameProcessor};

use super::pipeline::{check, library, load, show, tiny_stream};
use super::{Golden, Graph, apart, close, picture};

const SIZE: usize = 64;

/// Every `step`th pixel, down and right, of what `filter` makes of the picture `index` of `width` × `height`, channel by
/// channel.
fn made(filter: Filter, numbers: &[f32], index: usize, [width, height]: [usize; 2], step: usize) -> Vec<f32> {
    let mut g = GraphBuilder::new("filter");
    let frame = g.input("frame", DType::U8, [1, height as u64, width as u64, 3]).expect("input");
    let x = hint::planes(&mut g, &frame).expect("planes");
    let given = (!numbers.is_empty()).then(|| g.input("numbers", DType::F32, [numbers.len() as u64]).expect("input"));
    let out = filter.build(&mut g, &x, given.as_ref()).expect("graph");
    g.output("out", &out).expect("output");
    let mut graph = Graph::new(&g.finish().expect("model"));
    let bytes: Vec<u8> = picture(index, width.max(height))
        .chunks_exact(3 * width.max(height))
        .take(height)
        .flat_map(|row| row[..3 * width].to_vec())
        .collect();
    graph.set("frame", bytes);
    if !numbers.is_empty() {
        graph.set("numbers", numbers);
    }
    let all = graph.run()["out"].floats();
    let [h, w] = filter.size([height as u64, width as u64]).map(|n| n as usize);
    assert_eq!(all.len(), 3 * h * w);
    let rows =
        |c: usize| (0..h).step_by(step).flat_map(move |i| (0..w).step_by(step).map(move |j| (c * h + i) * w + j));
    (0..3).flat_map(rows).map(|at| all[at]).collect()
}

#[test]
fn filters_are_those_of_torch() {
    let golden = Golden::read("processors");
    let small = |filter, numbers: &[f32]| made(filter, numbers, 3, [SIZE, SIZE], 4);
    let plain = small(Filter::Blur { kernel: 3, sigma: 0.1 }, &[]);
    for (name, filter, numbers) in [
        ("blur", Filter::Blur { kernel: 15, sigma: 2.0 }, vec![]),
        ("blur-other", Filter::Blur { kernel: 5, sigma: 0.7 }, vec![]),
        ("sharpen", Filter::Sharpen { radius: 1.0, several: true }, vec![1.5, 0.5, 0.3, 0.1]),
        ("sharpen-other", Filter::Sharpen { radius: 0.4, several: false }, vec![3.0, 0.1, 0.05, 0.4]),
    ] {
        let got = small(filter, &numbers);
        close(name, &got, golden.get(name), 2e-5);
        apart(name, &plain, golden.get(name), 0.05);
    }
    for (name, how) in
        [("bilinear", Interpolation::Linear), ("bicubic", Interpolation::Cubic), ("nearest", Interpolation::Nearest)]
    {
        let got = small(Filter::Upscale { factor: 1.7, how }, &[]);
        close(name, &got, golden.get(&format!("upscale-{name}")), 1e-5);
    }
    apart("not bilinear", golden.get("upscale-bilinear"), golden.get("upscale-bicubic"), 0.02);
}

#[test]
fn line_art_is_that_of_torch() {
    let golden = Golden::read("processors");
    // A level at most where torch's floats fall on the other side of a whole number.
    let level = 1.01 / 255.0;
    let lines = |sigma, threshold: f32, index, size, step| {
        let all = made(Filter::Lineart { sigma }, &[threshold], index, size, step);
        let plane = all.len() / 3;
        assert!(all[..plane] == all[plane..2 * plane] && all[..plane] == all[2 * plane..], "three equal channels");
        all[..plane].to_vec()
    };
    let got = lines(6.0, 8.0, 3, [SIZE, SIZE], 4);
    close("lines", &got, golden.get("lineart"), level);
    assert!(got.iter().any(|&x| x > 0.3) && got.iter().any(|&x| x < 0.05), "lines and none");
    close("with averages and filled up", &lines(6.0, 8.0, 5, [600, 520], 13), golden.get("lineart-wide"), level);
    apart("of another frame", &lines(6.0, 8.0, 4, [SIZE, SIZE], 4), golden.get("lineart"), 0.3);
    // Whatever median there is below 16, and with no line at all, the norm is 16.
    let none = lines(2.0, 50.0, 3, [SIZE, SIZE], 4);
    assert!(none.iter().all(|x| x.is_finite()));
}

/// Every fourth pixel, as `quarter` of the recipe.
fn few(picture: &[f32]) -> Vec<f32> {
    (0..16 * 16 * 3).map(|i| picture[(i / 48 * 4 * SIZE + i % 48 / 3 * 4) * 3 + i % 3]).collect()
}

fn list(processors: &[(&str, Value)]) -> Value {
    let entry = |(name, params): &(&str, Value)| json!({"type": name, "params": params});
    json!({"processors": processors.iter().map(entry).collect::<Vec<_>>()})
}

fn feedback(shares: &[f64]) -> Value {
    let entries: Vec<(&str, Value)> =
        shares.iter().map(|share| ("latent_feedback", json!({"feedback_strength": share}))).collect();
    list(&entries)
}

#[test]
fn lists_of_processors_show_what_the_library_shows_with_them() {
    let golden = Golden::read("lists");
    let sharp = ("sharpen", json!({"edge_enhancement": 0.1, "detail_boost": 0.05}));
    let blur = ("blur", json!({}));
    let soft = ("blur", json!({"blur_intensity": 1.0, "kernel_size": 6}));
    for (name, kind, steps, lists) in [
        (
            "before",
            "none",
            json!([15, 32]),
            json!({"image_preprocessing": list(&[blur.clone(), ("soft_edge", json!({}))])}),
        ),
        ("after", "self", json!([15, 32]), json!({"image_postprocessing": list(&[sharp.clone(), soft])})),
        ("latent-before", "self", json!([15, 32]), json!({"latent_preprocessing": feedback(&[0.3])})),
        // More than 0.4 is taken for 0.4, and the default is 0.15.
        (
            "latent-after",
            "initialize",
            json!([15, 32]),
            json!({"latent_postprocessing":
            {"processors": [{"type": "latent_feedback", "params": {"feedback_strength": 0.9}}, {"type": "latent_feedback"}]}}),
        ),
        (
            "all",
            "full",
            json!([12, 20, 32]),
            json!({
            "image_preprocessing": list(&[blur]), "image_postprocessing": list(&[sharp]),
            "latent_preprocessing": feedback(&[0.15]), "latent_postprocessing": feedback(&[0.25])}),
        ),
    ] {
        let mut params = library(json!({"t_index_list": steps, "cfg_type": kind}));
        let plain = tiny_stream(params.clone());
        params.as_object_mut().unwrap().extend(lists.as_object().unwrap().clone());
        let mut stream = tiny_stream(params);
        // Once more behind a reset: nothing is left of the latents before.
        for turn in 0..2 {
            for (index, want) in golden.get(name).chunks_exact(16 * 16 * 3).enumerate() {
                let got = show(&mut *stream, index);
                close(&format!("{name}, frame {index}, turn {turn}"), &few(&got), want, 1.0);
            }
            stream.reset();
        }
        let mut plain = plain;
        let last = (0..6).map(|index| show(&mut *plain, index)).last().expect("frames");
        apart(&format!("{name}: without"), &few(&last), &golden.get(name)[5 * 768..], 3.0);
    }
}

#[test]
fn pictures_become_larger_behind_the_model() {
    let upscale = json!({"scale_factor": 1.5, "algorithm": "bicubic"});
    let params = library(json!({"t_index_list": [15, 32], "cfg_type": "none",
                                "image_postprocessing": list(&[("upscale", upscale)])}));
    let checked = check(params);
    assert_eq!((checked.size, checked.output()), (Size::new(64, 64), Size::new(96, 96)));
    let mut stream = load(Path::new("/nowhere"), &checked).unwrap_or_else(|error| panic!("{error}"));
    let golden = Golden::read("lists");
    let wanted = golden.get("larger");
    for index in 0..4 {
        let got = show(&mut *stream, index);
        assert_eq!(got.len(), 96 * 96 * 3);
        if index >= 2 {
            let few: Vec<f32> = (0..16 * 16 * 3).map(|i| got[(i / 48 * 6 * 96 + i % 48 / 3 * 6) * 3 + i % 3]).collect();
            close(&format!("frame {index}"), &few, &wanted[(index - 2) * 768..][..768], 1.0);
        }
    }
}

#[test]
fn numbers_of_filters_are_hot_and_the_rest_is_another_graph() {
    let with =
        |processors: &[(&str, Value)]| library(json!({"t_index_list": [20], "image_postprocessing": list(processors)}));
    let strong = json!({"sharpen_intensity": 4.0, "edge_enhancement": 1.0});
    let mut stream = tiny_stream(with(&[("sharpen", json!({}))]));
    let base = show(&mut *stream, 3);
    assert_eq!(stream.apply(&check(with(&[("sharpen", strong.clone())]))).expect("hot"), Applied::Now);
    stream.reset();
    let sharp = show(&mut *stream, 3);
    apart("the new numbers", &sharp, &base, 10.0);
    assert_eq!(show(&mut *tiny_stream(with(&[("sharpen", strong.clone())])), 3), sharp);
    for other in [&[("blur", json!({}))][..], &[("sharpen", json!({"unsharp_radius": 2})), ("blur", json!({}))], &[]] {
        assert_eq!(stream.apply(&check(with(other))).expect("checked"), Applied::NeedsReload);
    }
}

#[test]
fn controlnets_are_given_what_a_filter_makes() {
    let with = |preprocessor: &str, params: Value| {
        library(json!({"t_index_list": [20], "cfg_type": "none", "controlnets": [
            {"model_id": "weir/tiny-control-0", "conditioning_scale": 6.0, "preprocessor": preprocessor,
             "preprocessor_params": params}]}))
    };
    let mut seen = Vec::new();
    for (name, params) in [
        ("passthrough", json!({})),
        ("blur", json!({"blur_intensity": 6.0, "kernel_size": 31})),
        ("sharpen", json!({"sharpen_intensity": 5.0, "edge_enhancement": 2.0})),
        ("standard_lineart", json!({})),
        ("standard_lineart", json!({"intensity_threshold": 50, "gaussian_sigma": 2})),
    ] {
        let shown = show(&mut *tiny_stream(with(name, params)), 3);
        assert!(!seen.contains(&shown), "{name}");
        seen.push(shown);
    }
    // Larger and back is nearly the frame: a ControlNet is given its own size.
    let back = show(&mut *tiny_stream(with("upscale", json!({"scale_factor": 2, "algorithm": "nearest"}))), 3);
    close("larger and back", &back, &seen[0], 2.0);
}

/// Only the processors, no model.
fn through(lists: Value) -> (Box<dyn FrameProcessor>, Checked) {
    let mut params = json!({"model_id": "weir/tiny", "skip_diffusion": true});
    params.as_object_mut().unwrap().extend(lists.as_object().unwrap().clone());
    let checked = check(params);
    (load(Path::new("/nowhere"), &checked).unwrap_or_else(|error| panic!("{error}")), checked)
}

#[test]
fn without_the_model_frames_still_go_through_the_lists() {
    let golden = Golden::read("processors");
    let (mut stream, _) = through(json!({"image_preprocessing": list(&[("blur", json!({}))])}));
    let got = show(&mut *stream, 3);
    let plane = |c: usize| (0..256).map(move |i| (i / 16 * 4 * SIZE + i % 16 * 4) * 3 + c);
    let got: Vec<f32> = (0..3).flat_map(plane).map(|at| got[at]).collect();
    let want: Vec<f32> = golden.get("blur").iter().map(|x| x * 255.0).collect();
    close("blurred", &got, &want, 0.51);
    let (mut stream, checked) =
        through(json!({"image_postprocessing": list(&[("upscale", json!({"algorithm": "nearest"}))])}));
    assert_eq!((show(&mut *stream, 3).len(), checked.output()), (128 * 128 * 3, Size::new(128, 128)));
    // The host's come first: edges, and then the last picture mixed in.
    let mixed = [("canny", json!({})), ("feedback", json!({"feedback_strength": 0.25}))];
    let (mut stream, _) = through(json!({"image_preprocessing": list(&mixed)}));
    let first = show(&mut *stream, 3);
    assert!(first.iter().all(|&byte| byte == 0.0 || byte == 255.0) && first.contains(&255.0), "edges alone");
    let second = show(&mut *stream, 5);
    let (mut alone, _) = through(json!({"image_preprocessing": list(&mixed[..1])}));
    let edges = show(&mut *alone, 5);
    let want: Vec<f32> = edges.iter().zip(&first).map(|(a, b)| 0.75 * a + 0.25 * b).collect();
    close("mixed", &second, &want, 0.51);
    let (mut plain, _) = through(json!({}));
    assert_eq!(show(&mut *plain, 3), picture(3, SIZE).iter().map(|&byte| f32::from(byte)).collect::<Vec<f32>>());
}

#[test]
fn what_the_host_makes_is_painted_over_and_controlnets_still_see_the_frame() {
    let with = |lists: Value| {
        let mut params = library(json!({"t_index_list": [20], "cfg_type": "none", "controlnets": [
            {"model_id": "weir/tiny-control-0", "conditioning_scale": 6.0, "preprocessor": "soft_edge"}]}));
        params.as_object_mut().unwrap().extend(lists.as_object().unwrap().clone());
        params
    };
    let edges = json!({"image_preprocessing": list(&[("canny", json!({}))])});
    let shown = show(&mut *tiny_stream(with(edges.clone())), 3);
    apart("without", &shown, &show(&mut *tiny_stream(with(json!({}))), 3), 10.0);
    // With edges for a ControlNet too, painted over edges, the picture is another.
    let (mut skip, _) = through(edges);
    let edges = show(&mut *skip, 3);
    assert!(edges.contains(&255.0));
    let mut other = with(json!({"image_preprocessing": list(&[("canny", json!({}))])}));
    other["controlnets"][0]["preprocessor"] = json!("canny");
    assert_ne!(show(&mut *tiny_stream(other), 3), shown, "edges for the ControlNet");
}
