#![allow(clippy::unwrap_used, clippy::expect_used)]

use serde_json::{Value, json};

use super::StreamDiffusion;
use super::params::Settings;
use super::processors::{Made, Processor};
use crate::frame::Size;
use crate::graph::Interpolation;
use crate::inference::Provider;
use crate::models::blend::Blend;
use crate::models::filter::Filter;
use crate::models::ip_adapter::WeightType;
use crate::models::pose::detector::File;
use crate::models::stream::Guidance;
use crate::pipeline::{Params, Pipeline};

fn params(json: Value) -> Params {
    json.as_object().expect("an object").clone()
}

fn settings(json: Value) -> Settings {
    let checked = StreamDiffusion::PLAIN.check(&params(json)).expect("good parameters");
    Settings::of(&checked).expect("settings")
}

#[track_caller]
fn refused(json: Value, field: &str, reason: &str) {
    let error = StreamDiffusion::PLAIN.check(&params(json.clone())).expect_err("refused");
    assert_eq!(error.field, field, "{json}: {error}");
    assert!(error.reason.contains(reason), "{json}: {error}");
}

#[test]
fn defaults_are_those_of_the_live_runner() {
    let Settings { shape, live } = settings(json!({}));
    assert_eq!(shape.model, "stabilityai/sd-turbo");
    assert_eq!(shape.size, Size::new(512, 512));
    assert_eq!((shape.steps, shape.guidance), (3, Guidance::SelfNegative));
    assert!(!shape.lcm_lora, "turbo models take no LCM-LoRA");
    assert!(settings(json!({"model_id": "Lykon/dreamshaper-8"})).shape.lcm_lora);
    assert_eq!(live.prompt.items, [("flowers".to_owned(), 1.0)]);
    assert_eq!((live.prompt.how, live.seed.how), (Blend::Slerp, Blend::Linear));
    assert_eq!(live.seed.items, [(789, 1.0)]);
    assert_eq!(live.t_index, [12, 20, 32]);
    assert_eq!((live.guidance_scale, live.delta, live.inference_steps), (1.0, 0.7, 50));
    assert!(live.add_noise && live.prompt.normalize && live.seed.normalize);
}

#[test]
fn every_default_of_the_schema_passes_the_check() {
    let schema = StreamDiffusion::PLAIN.schema();
    let properties = schema["properties"].as_object().unwrap();
    let defaults: Params = properties
        .iter()
        .filter(|(_, property)| !property["default"].is_null())
        .map(|(name, property)| (name.clone(), property["default"].clone()))
        .collect();
    assert!(defaults.len() > 25);
    assert_eq!(settings(Value::Object(defaults)), settings(json!({})));
    for (name, property) in properties {
        assert!(property["title"].is_string() && property["description"].is_string(), "{name}");
    }
}

#[test]
fn values_are_taken_as_leniently_as_by_the_runner() {
    let taken = settings(json!({
        "prompt": [["a cat", "1.5"], ["a dog", 1]],
        "seed": [["7", 0.5], [8.0, 0.5]],
        "t_index_list": ["1", 2.0],
        "num_inference_steps": "4",
        "guidance_scale": "1.5",
    }));
    assert_eq!(taken.live.prompt.items, [("a cat".to_owned(), 1.5), ("a dog".to_owned(), 1.0)]);
    assert_eq!(taken.live.seed.items, [(7, 0.5), (8, 0.5)]);
    assert_eq!(taken.live.t_index, [1, 2]);
    assert_eq!(taken.live.guidance_scale, 1.5);
    assert_eq!(settings(json!({"prompt": []})).live.prompt.items, []);
}

#[test]
fn wrong_values_are_named() {
    refused(json!({"promt": "x"}), "promt", "Extra inputs are not permitted");
    refused(json!({"t_index_list": []}), "t_index_list", "between 1 and 4 elements");
    refused(json!({"t_index_list": [1, 2, 3, 4, 5]}), "t_index_list", "between 1 and 4 elements");
    refused(json!({"t_index_list": [3, 2]}), "t_index_list", "non-decreasing order. 2 < 3");
    refused(json!({"t_index_list": [50]}), "t_index_list", "Found 50 at index 0");
    refused(json!({"t_index_list": [-1]}), "t_index_list", "must be between 0 and 49");
    refused(json!({"t_index_list": [0.5]}), "t_index_list.0", "fractional part");
    refused(json!({"num_inference_steps": 20}), "t_index_list", "Found 20 at index 1");
    refused(json!({"model_id": "other/model"}), "model_id", "Input should be");
    refused(json!({"seed": -1}), "seed", "greater than or equal to 0");
    refused(json!({"prompt": 5}), "prompt", "valid string");
    refused(json!({"prompt": [["a"]]}), "prompt.0", "pair");
    refused(json!({"width": 100}), "width", "multiple of 64");
    refused(json!({"lora_dict": {"a": "b"}}), "lora_dict.a", "valid number");
    refused(json!({"cfg_type": "half"}), "cfg_type", "Input should be");
    refused(json!({"frame_buffer_size": 0}), "frame_buffer_size", "greater than or equal to 1");
    refused(json!({"frame_buffer_size": 17}), "frame_buffer_size", "less than or equal to 16");
}

#[test]
fn what_is_not_built_is_refused_by_name_unless_it_is_off() {
    for on in [json!({}), json!({"enabled": true})] {
        refused(json!({"cached_attention": on}), "cached_attention", "not built here");
    }
    settings(json!({"cached_attention": {"enabled": false}}));
    refused(json!({"use_denoising_batch": false}), "use_denoising_batch", "only true");
    let lora = json!({"model_id": "weir/tiny", "lora_dict": {"style.safetensors": 1.0}});
    refused(lora, "lora_dict", "made-up weights");
    for none in [json!(null), json!({})] {
        settings(json!({"model_id": "weir/tiny", "lora_dict": none}));
    }
}

#[test]
fn controlnets_are_those_of_the_family() {
    let canny = "lllyasviel/control_v11p_sd15_canny";
    let with = |model: &str, list: Value| json!({"model_id": model, "controlnets": list});
    let sd15 = "Lykon/dreamshaper-8";
    let taken = settings(with(sd15, json!([{"model_id": canny, "conditioning_scale": 0.4}])));
    assert_eq!((taken.shape.controls, taken.live.control_scales), (vec![(canny.to_owned(), Made::Outside)], vec![0.4]));
    let off = settings(with(sd15, json!([{"model_id": canny, "enabled": false, "preprocessor": "canny"}])));
    assert!(off.shape.controls.is_empty());
    refused(with("stabilityai/sd-turbo", json!([{"model_id": canny}])), "controlnets", "Invalid ControlNets for model");
    let twice = json!([{"model_id": canny}, {"model_id": canny}]);
    refused(with(sd15, twice), "controlnets", "Duplicate controlnet model_id");
    refused(with(sd15, json!([{}])), "controlnets.0.model_id", "Field required");
    refused(with(sd15, json!([{"model_id": canny, "scale": 1}])), "controlnets.0.scale", "Extra inputs");
    refused(with(sd15, json!("all")), "controlnets", "valid list");
}

#[test]
fn preprocessors_are_read_with_their_parameters_or_refused_by_name() {
    let canny = "lllyasviel/control_v11p_sd15_canny";
    let with = |name: &str, params: Value| {
        json!({"model_id": "Lykon/dreamshaper-8",
               "controlnets": [{"model_id": canny, "preprocessor": name, "preprocessor_params": params}]})
    };
    let filter = |filter, numbers: &[f32]| Processor::Graph(Made::Filter(filter), numbers.to_vec());
    for (name, params, read) in [
        ("passthrough", json!({}), Processor::Passthrough),
        ("external", json!({}), Processor::Passthrough),
        ("canny", json!({}), Processor::Canny([100.0, 200.0])),
        ("canny", json!({"low_threshold": "30", "high_threshold": 90.5}), Processor::Canny([30.0, 90.5])),
        ("feedback", json!({}), Processor::Feedback(0.5)),
        ("feedback", json!({"feedback_strength": 1}), Processor::Feedback(1.0)),
        ("soft_edge", json!({}), Processor::Graph(Made::SoftEdge, Vec::new())),
        ("depth_tensorrt", json!({}), Processor::Graph(Made::Depth, Vec::new())),
        ("pose_tensorrt", json!({}), Processor::Graph(Made::Pose(File::Half), vec![0.5])),
        (
            "pose_tensorrt",
            json!({"confidence_threshold": "0.3", "detect_resolution": 640}),
            Processor::Graph(Made::Pose(File::Fifth), vec![0.3]),
        ),
        ("blur", json!({"kernel_size": 4}), filter(Filter::Blur { kernel: 5, sigma: 2.0 }, &[])),
        ("sharpen", json!({}), filter(Filter::Sharpen { radius: 1.0, several: true }, &[1.5, 0.5, 0.3, 0.1])),
        ("upscale", json!({}), filter(Filter::Upscale { factor: 2.0, how: Interpolation::Linear }, &[])),
        (
            "upscale",
            json!({"scale_factor": 3, "algorithm": "lanczos"}),
            filter(Filter::Upscale { factor: 3.0, how: Interpolation::Cubic }, &[]),
        ),
        ("standard_lineart", json!({"intensity_threshold": "9"}), filter(Filter::Lineart { sigma: 6.0 }, &[9.0])),
    ] {
        let taken = settings(with(name, params));
        assert_eq!(taken.shape.controls, [(canny.to_owned(), read.made())]);
        assert_eq!(taken.live.preprocessors, [read], "{name}");
    }
    for name in ["temporal_net_tensorrt", "mediapipe_segmentation"] {
        let why =
            format!("{name} is not built here; passthrough, external, canny, soft_edge, depth_tensorrt, pose_tensorrt");
        refused(with(name, json!({})), "controlnets.0.preprocessor", &why);
    }
    for (name, nearest) in [
        ("hed", "soft_edge"),
        ("lineart", "standard_lineart"),
        ("depth", "depth_tensorrt"),
        ("realesrgan_trt", "upscale"),
        ("openpose", "pose_tensorrt"),
        ("mediapipe_pose", "pose_tensorrt"),
    ] {
        let pickles = ["hed", "lineart", "openpose"].contains(&name);
        let cause = if pickles { ": its weights are published as pickles, which are not read" } else { "" };
        let why = format!("{name} is not built here{cause}; {nearest} comes nearest; passthrough");
        refused(with(name, json!({})), "controlnets.0.preprocessor", &why);
    }
    refused(with("scribble", json!({})), "controlnets.0.preprocessor", "name of a preprocessor");
    let key = "controlnets.0.preprocessor_params";
    refused(with("canny", json!({"low_threshold": -1})), &format!("{key}.low_threshold"), "greater than or equal to 0");
    refused(
        with("canny", json!({"sigma": 1})),
        &format!("{key}.sigma"),
        "canny takes low_threshold and high_threshold",
    );
    refused(with("passthrough", json!({"image_resolution": 256})), &format!("{key}.image_resolution"), "no parameters");
    refused(
        with("feedback", json!({"feedback_strength": 2})),
        &format!("{key}.feedback_strength"),
        "less than or equal",
    );
    let pose = |params: Value| with("pose_tensorrt", params);
    let wrong = [
        ("confidence_threshold", json!(0.05), "greater than or equal to 0.1"),
        ("confidence_threshold", json!(1.5), "less than or equal to 1"),
        ("detect_resolution", json!(512), "greater than or equal to 640"),
        ("engine_path", json!("pose.engine"), "pose_tensorrt takes confidence_threshold and detect_resolution"),
    ];
    for (name, value, why) in wrong {
        refused(pose(json!({name: value})), &format!("{key}.{name}"), why);
    }
    // A threshold is a number of the next frame as long as the file tells enough people for it.
    let base = settings(pose(json!({})));
    for (threshold, hot) in [(0.9, true), (0.4, false)] {
        let other = settings(pose(json!({"confidence_threshold": threshold})));
        assert_eq!((other.shape == base.shape, other.live == base.live), (hot, false), "{threshold}");
    }
    refused(with("canny", json!([])), key, "valid dictionary");
    refused(with("blur", json!({"kernel_size": 2})), &format!("{key}.kernel_size"), "greater than or equal to 3");
    refused(with("blur", json!({"sigma": 2})), &format!("{key}.sigma"), "blur takes blur_intensity and kernel_size");
    refused(with("upscale", json!({"scale_factor": 5})), &format!("{key}.scale_factor"), "less than or equal to 4");
    refused(with("upscale", json!({"algorithm": "area"})), &format!("{key}.algorithm"), "Input should be");
    // On the host it is a number of the next frame, in the graph another graph.
    let base = settings(with("passthrough", json!({})));
    for (name, hot) in
        [("canny", true), ("feedback", true), ("soft_edge", false), ("depth_tensorrt", false), ("blur", false)]
    {
        let other = settings(with(name, json!({})));
        assert_eq!((other.shape == base.shape, other.live == base.live), (hot, false), "{name}");
    }
}

#[test]
fn lists_of_processors_are_read_with_their_order_or_refused_by_name() {
    let list = |key: &str, entries: Value| json!({key: {"processors": entries}});
    let [before, after] = ["image_preprocessing", "image_postprocessing"];
    let taken = settings(list(
        before,
        json!([{"type": "canny"}, {"type": "feedback"}, {"type": "blur"}, {"type": "soft_edge"}]),
    ));
    assert!(taken.shape.host && taken.shape.after.is_empty());
    let people = json!([{"type": "pose_tensorrt"}, {"type": "blur"}]);
    assert_eq!(settings(list(before, people.clone())).shape.detector(), Some(File::Half));
    refused(list(after, people), "image_postprocessing.processors.0.type", "not looked for behind the model");
    for other in ["blur", "canny"] {
        let behind = json!([{"type": other}, {"type": "pose_tensorrt"}]);
        refused(list(before, behind), "image_preprocessing.processors.1.type", "has to be the first");
    }
    assert_eq!(taken.shape.before, [Made::Filter(Filter::Blur { kernel: 15, sigma: 2.0 }), Made::SoftEdge]);
    assert_eq!(taken.live.lists.before[0], Processor::Canny([100.0, 200.0]));
    // What is switched off is not read further, what passes the picture on is left out.
    for none in [
        json!({before: null}),
        json!({before: {}}),
        json!({before: {"enabled": false, "processors": [{"type": "hed"}]}}),
        list(after, json!([{"type": "hed", "enabled": "no"}, {"type": "passthrough"}])),
    ] {
        assert_eq!(settings(none), settings(json!({})));
    }
    let at = |key: &str, rest: &str| format!("{key}.processors.{rest}");
    refused(json!({before: []}), before, "valid dictionary");
    refused(json!({before: {"order": 1}}), "image_preprocessing.order", "Extra inputs");
    refused(list(before, json!([{}])), &at(before, "0.type"), "Field required");
    refused(list(before, json!([{"type": "blur", "order": 1}])), &at(before, "0.order"), "Extra inputs");
    refused(list(before, json!([{"type": "hed"}])), &at(before, "0.type"), "hed is not built here");
    refused(
        list(before, json!([{"type": "blur"}, {"type": "canny"}])),
        &at(before, "1.type"),
        "in front of all others",
    );
    refused(list(before, json!([{"type": "upscale"}])), &at(before, "0.type"), "image_postprocessing");
    refused(list(after, json!([{"type": "feedback"}])), &at(after, "0.type"), "not built behind the model");
    let strength = json!([{"type": "blur", "params": {"blur_intensity": 0}}]);
    refused(list(after, strength), &at(after, "0.params.blur_intensity"), "greater than or equal to 0.1");
    refused(list(before, json!(vec![json!({"type": "blur"}); 17])), "image_preprocessing.processors", "at most 16");
    // Latents know one processor.
    let latents =
        json!([{"type": "latent_feedback"}, {"type": "latent_feedback", "params": {"feedback_strength": 0.7}}]);
    let taken = settings(list("latent_preprocessing", latents));
    assert_eq!((taken.live.lists.latent_before, taken.shape.latents), (vec![0.15, 0.4], [2, 0]));
    let key = "latent_postprocessing";
    refused(list(key, json!([{"type": "blur"}])), &at(key, "0.type"), "latent_feedback");
}

#[test]
fn the_output_is_larger_by_its_upscales_within_bounds() {
    let with = |factors: &[f64], more: Value| {
        let entry = |factor: &f64| json!({"type": "upscale", "params": {"scale_factor": factor}});
        let entries: Vec<Value> = factors.iter().map(entry).collect();
        let mut params = json!({"image_postprocessing": {"processors": entries}});
        params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        params
    };
    let output = |json: Value| StreamDiffusion::PLAIN.check(&params(json)).expect("good parameters").output();
    assert_eq!(output(with(&[2.0, 2.0], json!({}))), Size::new(2048, 2048));
    assert_eq!(output(with(&[1.5], json!({"width": 640, "height": 384}))), Size::new(960, 576));
    assert_eq!(output(json!({})), Size::new(512, 512));
    let at = "image_postprocessing.processors";
    refused(with(&[4.0, 4.0], json!({})), at, "the output is 8192×8192");
    refused(with(&[1.001], json!({"width": 1024})), at, "1025×512; even sides");
    let feedback = json!({"image_preprocessing": {"processors": [{"type": "feedback"}]}});
    refused(with(&[2.0], feedback), at, "of two sizes");
}

#[test]
fn what_needs_another_graph_is_told_from_what_does_not() {
    let base = settings(json!({}));
    for hot in [
        json!({"prompt": "a cat"}),
        json!({"seed": 1}),
        json!({"guidance_scale": 2}),
        json!({"t_index_list": [1, 2, 3]}),
        json!({"num_inference_steps": 40}),
        json!({"do_add_noise": false}),
    ] {
        let other = settings(hot.clone());
        assert!(other.shape == base.shape && other.live != base.live, "{hot}");
    }
    for cold in [
        json!({"t_index_list": [12]}),
        json!({"model_id": "stabilityai/sdxl-turbo"}),
        json!({"width": 640}),
        json!({"cfg_type": "full"}),
        json!({"lora_dict": {"a": 1}}),
        json!({"precision": "fp16"}),
        json!({"enable_similar_image_filter": true}),
        json!({"frame_buffer_size": 2}),
    ] {
        assert!(settings(cold.clone()).shape != base.shape, "{cold}");
    }
}

#[test]
fn every_number_of_steps_is_prepared_where_each_takes_an_engine() {
    let sd = StreamDiffusion::SD15;
    let given = sd.initial();
    assert_eq!(sd.preparations(&given, Provider::Cpu), std::slice::from_ref(&given));
    let sets = sd.preparations(&given, Provider::Tensorrt);
    let lists: Vec<_> = sets.iter().map(|set| set["t_index_list"].clone()).collect();
    assert_eq!(lists, [json!([5, 15, 32]), json!([5]), json!([5, 15]), json!([5, 15, 32, 32])]);
    for set in sets {
        let taken = settings(Value::Object(set));
        assert_eq!(taken.shape.model, "Lykon/dreamshaper-8");
    }
    // What is wrong is told by the load, once.
    let wrong = params(json!({"t_index_list": []}));
    assert_eq!(sd.preparations(&wrong, Provider::Tensorrt), [wrong]);
}

#[test]
fn a_checker_is_asked_for_unless_it_is_switched_off() {
    assert_eq!(settings(json!({})).live.safety, Some(0.5));
    assert_eq!(settings(json!({"safety_checker_threshold": "0.9"})).live.safety, Some(0.9));
    assert_eq!(settings(json!({"use_safety_checker": "no", "safety_checker_threshold": 0.9})).live.safety, None);
    refused(json!({"safety_checker_threshold": 1.5}), "safety_checker_threshold", "less than or equal to 1");
}

#[test]
fn variants_load_their_presets() {
    for (variant, model, steps) in [
        (StreamDiffusion::PLAIN, "stabilityai/sd-turbo", 3),
        (StreamDiffusion::SDTURBO, "stabilityai/sd-turbo", 3),
        (StreamDiffusion::SD15, "Lykon/dreamshaper-8", 3),
        (StreamDiffusion::SDXL, "stabilityai/sdxl-turbo", 1),
    ] {
        let taken = settings(Value::Object(variant.initial()));
        assert_eq!((taken.shape.model.as_str(), taken.shape.steps), (model, steps), "{}", variant.name());
        let found = crate::pipeline::registry::find(variant.name()).expect("registered");
        assert_eq!(found.initial(), variant.initial());
    }
    // ControlNets whose models are not there are named, one by one.
    let nowhere = std::path::Path::new("/nonexistent");
    for (variant, count, adapter) in
        [(StreamDiffusion::PLAIN, 6, false), (StreamDiffusion::SD15, 4, true), (StreamDiffusion::SDXL, 3, true)]
    {
        let (taken, left_out) = variant.preset(nowhere);
        let mut without = variant.initial();
        without.entry("ip_adapter").and_modify(|adapter| *adapter = json!({"enabled": false}));
        assert_eq!((taken, left_out.len()), (without, count + usize::from(adapter)), "{left_out:?}");
        let about = |name: &str| left_out.iter().find(|one| one.contains(name)).map(String::as_str).unwrap_or_default();
        assert_eq!(about("IP-Adapter").is_empty(), !adapter);
        if count == 6 {
            assert!(about("openpose").contains("/nonexistent"), "{left_out:?}");
            assert!(about("TemporalNet2").contains("its scale there is 0"), "{left_out:?}");
            assert!(about("color").contains("/nonexistent"), "{left_out:?}");
        }
        let ids: Vec<&str> = variant.models().iter().map(|model| model.id).collect();
        assert!(
            ids.contains(&"Freepik/nsfw_image_detector") && !ids.iter().any(|id| id.contains("Temporal")),
            "{ids:?}"
        );
    }
    // A stream that names nothing gets the defaults of the class, whatever the variant.
    assert_eq!(StreamDiffusion::SDXL.check(&Params::new()), StreamDiffusion::PLAIN.check(&Params::new()));
    assert!(crate::pipeline::registry::find("streamdiffusion-sdxl-faceid").is_none());
}

#[test]
fn an_ip_adapter_is_taken_as_by_the_live_runner() {
    let with = |model: &str, adapter: Value| json!({"model_id": model, "ip_adapter": adapter});
    let sd15 = "Lykon/dreamshaper-8";
    // Nothing inside means switched on, with the picture that is the default.
    let taken = settings(with(sd15, json!({})));
    let adapter = taken.live.adapter.expect("on");
    assert!(taken.shape.adapter);
    assert_eq!((adapter.scale, adapter.weight_type), (1.0, WeightType::Linear));
    assert!(adapter.picture.ends_with("/vortex.jpeg"), "{}", adapter.picture);
    let named = json!({"scale": "0.5", "weight_type": "ease in-out", "type": "regular", "insightface_model_name": null,
        "ipadapter_model_path": "h94/IP-Adapter/models/ip-adapter_sd15.bin", "image_encoder_path": null});
    let adapter = settings(with(sd15, named)).live.adapter.expect("on");
    assert_eq!((adapter.scale, adapter.weight_type), (0.5, WeightType::EaseInOut));
    assert_eq!(
        settings(with(sd15, json!({"weight_type": null}))).live.adapter.map(|on| on.weight_type),
        Some(WeightType::Linear)
    );
    for off in [json!({"enabled": false}), json!({"enabled": false, "type": "faceid"})] {
        let taken = settings(with("stabilityai/sd-turbo", off));
        assert!(!taken.shape.adapter && taken.live.adapter.is_none());
    }

    let turbo = "stabilityai/sd-turbo";
    refused(with(turbo, json!({})), "ip_adapter", "Value error, IPAdapter is not supported for stabilityai/sd-turbo");
    refused(with(sd15, json!(null)), "ip_adapter", "valid dictionary");
    refused(with(sd15, json!({"type": "faceid"})), "ip_adapter.type", "not built here");
    refused(with(sd15, json!({"type": "plus"})), "ip_adapter.type", "'regular', 'faceid'");
    refused(with(sd15, json!({"weight_type": "loud"})), "ip_adapter.weight_type", "'ease in'");
    refused(with(sd15, json!({"scales": 1})), "ip_adapter.scales", "Extra inputs are not permitted");
    refused(with(sd15, json!({"scale": "much"})), "ip_adapter.scale", "valid number");
    let other = json!({"ipadapter_model_path": "h94/IP-Adapter/sdxl_models/ip-adapter_sdxl.bin"});
    refused(with(sd15, other.clone()), "ip_adapter.ipadapter_model_path", "does not go with Lykon/dreamshaper-8");
    settings(with("stabilityai/sdxl-turbo", other));
    // The picture is looked at even where nothing uses it, and needed where something does.
    refused(json!({"ip_adapter_style_image_url": "a b"}), "ip_adapter_style_image_url", "Invalid format.");
    let none = json!({"model_id": sd15, "ip_adapter": {}, "ip_adapter_style_image_url": ""});
    refused(none, "ip_adapter_style_image_url", "cannot be empty");
    settings(json!({"ip_adapter_style_image_url": ""}));
}

#[test]
fn presets_take_their_ip_adapter_where_its_files_are() {
    let place = tempfile::tempdir().unwrap();
    for (variant, scale) in [(StreamDiffusion::SD15, 0.5), (StreamDiffusion::SDXL, 0.6)] {
        assert_eq!(settings(Value::Object(variant.initial())).live.adapter.unwrap().scale, scale as f32);
        let (params, lacks) = variant.preset(place.path());
        assert!(settings(Value::Object(params)).live.adapter.is_none());
        assert!(lacks[0].contains("without its IP-Adapter") && lacks[0].contains("weir models pull h94/IP-Adapter"));
    }
    assert_eq!(StreamDiffusion::PLAIN.preset(place.path()).0, StreamDiffusion::PLAIN.initial());

    // Of two families the one whose files are there.
    let folder = place.path().join("h94/IP-Adapter/models");
    std::fs::create_dir_all(folder.join("image_encoder")).unwrap();
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![1], &[0; 4]).unwrap();
    let file = safetensors::serialize([("x", view)], None).unwrap();
    for name in ["ip-adapter_sd15.safetensors", "image_encoder/model.safetensors"] {
        std::fs::write(folder.join(name), &file).unwrap();
    }
    let (_, lacks) = StreamDiffusion::SD15.preset(place.path());
    assert!(lacks[0].contains("config.json"), "{lacks:?}");
    std::fs::write(folder.join("image_encoder/config.json"), "{}").unwrap();
    let (params, lacks) = StreamDiffusion::SD15.preset(place.path());
    assert_eq!(params, StreamDiffusion::SD15.initial());
    assert!(lacks.iter().all(|lack| !lack.contains("IP-Adapter")), "{lacks:?}");
    assert!(StreamDiffusion::SDXL.preset(place.path()).1[0].contains("ip-adapter_sdxl.safetensors"));
}
