//! Each model by itself against diffusers.

use weir::graph::{DType, GraphBuilder, Model};
use weir::models::controlnet::{self, ControlNetConfig};
use weir::models::kl::{self, KlConfig};
use weir::models::synthetic::Synthetic;
use weir::models::taesd::{self, TaesdConfig};
use weir::models::unet::{self, Added, Question, UnetConfig};
use weir::models::{ModelError, Net};

use super::{Golden, Graph, apart, close, config, noise, picture, weights};

const ROWS: u64 = 3;
/// Of single networks in `f32`.
const TOLERANCE: f32 = 5e-5;

fn unet_graph(family: &str, size: [u64; 2], controls: u64, precision: DType) -> Model {
    let shape = UnetConfig::from_json(&config(&format!("unet-{family}"))).expect("config");
    let mut g = GraphBuilder::new("unet");
    let sample = g.input("sample", DType::F32, [ROWS, 4, size[0], size[1]]).expect("input");
    let timestep = g.input("timestep", DType::F32, [ROWS]).expect("input");
    let context = g.input("context", DType::F32, [ROWS, 77, 32]).expect("input");
    let added = shape.trunk.pooled_dim().map(|pooled| {
        let text = g.input("text_embeds", DType::F32, [ROWS, pooled]).expect("input");
        [text, g.input("time_ids", DType::F32, [ROWS, 6]).expect("input")]
    });
    let question = || Question {
        sample: &sample,
        timestep: &timestep,
        encoder_hidden_states: &context,
        added: added.as_ref().map(|[text_embeds, time_ids]| Added { text_embeds, time_ids }),
    };
    let mut residuals = Vec::new();
    for j in 0..controls {
        let name = format!("controlnet-{family}-{j}");
        let control = ControlNetConfig::from_json(&config(&name)).expect("config");
        let mut source = weights(&name);
        let cond = g.input(&format!("cond_{j}"), DType::U8, [1, 8 * size[0], 8 * size[1], 3]).expect("input");
        let scale = g.input(&format!("cn_scale_{j}"), DType::F32, [1]).expect("input");
        let mut net = Net::new(&mut g, &mut source, precision);
        let built = net.place(&name, |net| {
            let condition = controlnet::condition(net, &cond)?;
            controlnet::build(net, &control, &question(), &condition, &scale)
        });
        residuals.push(built.expect("ControlNet"));
    }
    let mut source = weights(&format!("unet-{family}"));
    let mut net = Net::new(&mut g, &mut source, precision);
    let residuals = controlnet::sum(&mut net, residuals).expect("sum");
    let out = net.place("unet", |net| unet::build(net, &shape, &question(), residuals.as_ref())).expect("UNet");
    let out = g.cast(&out, DType::F32).expect("cast");
    g.output("out", &out).expect("output");
    g.finish().expect("graph")
}

fn ask(graph: &mut Graph) {
    let count = graph.elements("sample");
    graph.set("sample", noise("sample", count));
    graph.set("timestep", vec![999.0, 599.0, 19.0]);
    graph.set("context", noise("context", ROWS as usize * 77 * 32));
    graph.set_where_there("text_embeds", noise("text_embeds", ROWS as usize * 16));
    let ids = [512.0, 768.0, 0.0, 16.0, 1024.0, 640.0];
    graph.set_where_there("time_ids", [ids, ids, ids].concat());
}

fn answer(graph: &mut Graph) -> Vec<f32> {
    graph.run().remove("out").expect("out").floats()
}

#[test]
fn unets_of_the_three_families_agree() {
    let golden = Golden::read("nets");
    for family in ["sd15", "sd21", "sdxl"] {
        for (name, size) in [("", [16, 16]), ("-odd", [10, 14])] {
            let mut graph = Graph::new(&unet_graph(family, size, 0, DType::F32));
            ask(&mut graph);
            let want = golden.get(&format!("unet-{family}{name}"));
            close(&format!("{family}{name}"), &answer(&mut graph), want, TOLERANCE);
            // One row's timestep, or one token of the prompt, is seen.
            graph.set("timestep", vec![999.0, 598.0, 19.0]);
            apart("timestep", &answer(&mut graph), want, 10.0 * TOLERANCE);
            ask(&mut graph);
            let mut other = noise("context", ROWS as usize * 77 * 32);
            other[32..64].fill(0.0);
            graph.set("context", other);
            apart("context", &answer(&mut graph), want, 10.0 * TOLERANCE);
        }
    }
}

#[test]
fn pooled_text_and_sizes_matter_in_sdxl() {
    let golden = Golden::read("nets");
    let want = golden.get("unet-sdxl");
    let mut graph = Graph::new(&unet_graph("sdxl", [16, 16], 0, DType::F32));
    ask(&mut graph);
    graph.set("text_embeds", vec![0.0; ROWS as usize * 16]);
    apart("text_embeds", &answer(&mut graph), want, 10.0 * TOLERANCE);
    ask(&mut graph);
    graph.set("time_ids", vec![512.0; ROWS as usize * 6]);
    apart("time_ids", &answer(&mut graph), want, 10.0 * TOLERANCE);
}

#[test]
fn controlnets_sum_with_their_scales() {
    let golden = Golden::read("nets");
    for family in ["sd15", "sd21", "sdxl"] {
        let mut graph = Graph::new(&unet_graph(family, [8, 8], 2, DType::F32));
        ask(&mut graph);
        for j in ["cond_0", "cond_1"] {
            graph.set(j, picture(3, 64));
        }
        graph.set("cn_scale_0", vec![0.5]);
        graph.set("cn_scale_1", vec![1.3]);
        let want = golden.get(&format!("controlled-{family}"));
        close(family, &answer(&mut graph), want, TOLERANCE);
        graph.set("cn_scale_1", vec![1.25]);
        apart("scale", &answer(&mut graph), want, 10.0 * TOLERANCE);
        graph.set("cn_scale_1", vec![1.3]);
        graph.set("cond_1", picture(9, 64));
        apart("picture", &answer(&mut graph), want, 10.0 * TOLERANCE);
        // Scales of zero are no ControlNet at all.
        let mut plain = Graph::new(&unet_graph(family, [8, 8], 0, DType::F32));
        ask(&mut plain);
        graph.set("cn_scale_0", vec![0.0]);
        graph.set("cn_scale_1", vec![0.0]);
        close("none", &answer(&mut graph), &answer(&mut plain), 1e-6);
    }
}

#[test]
fn residuals_are_linear_in_the_scale() {
    let golden = Golden::read("nets");
    let family = "sd15";
    let name = format!("controlnet-{family}-0");
    let control = ControlNetConfig::from_json(&config(&name)).expect("config");
    let mut g = GraphBuilder::new("controlnet");
    let sample = g.input("sample", DType::F32, [ROWS, 4, 8, 8]).expect("input");
    let timestep = g.input("timestep", DType::F32, [ROWS]).expect("input");
    let context = g.input("context", DType::F32, [ROWS, 77, 32]).expect("input");
    let cond = g.input("cond", DType::U8, [1, 64, 64, 3]).expect("input");
    let scale = g.input("scale", DType::F32, [1]).expect("input");
    let question = Question { sample: &sample, timestep: &timestep, encoder_hidden_states: &context, added: None };
    let mut source = weights(&name);
    let mut net = Net::new(&mut g, &mut source, DType::F32);
    let condition = controlnet::condition(&mut net, &cond).expect("condition");
    let residuals = controlnet::build(&mut net, &control, &question, &condition, &scale).expect("ControlNet");
    assert_eq!(residuals.down.len(), 12);
    for (i, residual) in residuals.down.iter().enumerate() {
        g.output(&format!("down_{i}"), residual).expect("output");
    }
    g.output("mid", &residuals.middle).expect("output");
    let mut graph = Graph::new(&g.finish().expect("graph"));
    ask(&mut graph);
    graph.set("cond", picture(3, 64));
    graph.set("scale", vec![0.5]);
    let half = graph.run();
    close("mid", &half["mid"].floats(), golden.get("controlnet-sd15-mid"), TOLERANCE);
    let means: Vec<f32> = (0..12)
        .map(|i| {
            let floats = half[&format!("down_{i}")].floats();
            floats.iter().map(|x| x.abs()).sum::<f32>() / floats.len() as f32
        })
        .collect();
    close("down", &means, golden.get("controlnet-sd15-down"), TOLERANCE);
    graph.set("scale", vec![2.0]);
    let double = graph.run();
    let scaled: Vec<f32> = half["mid"].floats().iter().map(|x| 4.0 * x).collect();
    close("linear", &double["mid"].floats(), &scaled, 1e-4);
}

fn vae_graph(full: bool, decode: bool) -> Graph {
    let mut g = GraphBuilder::new("vae");
    let mut source = weights(if full { "kl" } else { "taesd" });
    let tiny = TaesdConfig::from_json(&config("taesd")).expect("config");
    let kl = KlConfig::from_json(&config("kl")).expect("config");
    let shape = if decode { [1, 4, 8, 8] } else { [1, 3, 64, 64] };
    let x = g.input("x", DType::F32, shape).expect("input");
    let vae_noise =
        if full && !decode { Some(g.input("noise", DType::F32, [1, 4, 8, 8]).expect("input")) } else { None };
    let mut net = Net::new(&mut g, &mut source, DType::F32);
    let out = match (decode, &vae_noise) {
        (true, _) if full => kl::decode(&mut net, &kl, &x),
        (true, _) => taesd::decode(&mut net, &tiny, &x),
        (false, Some(noise)) => kl::encode(&mut net, &kl, &x, noise),
        (false, None) => taesd::encode(&mut net, &tiny, &x),
    };
    g.output("out", &out.expect("autoencoder")).expect("output");
    Graph::new(&g.finish().expect("graph"))
}

/// Planes of floats from a picture of bytes, with `f` over each.
fn planes(bytes: &[u8], f: impl Fn(f32) -> f32) -> Vec<f32> {
    (0..3).flat_map(|c| bytes.iter().skip(c).step_by(3).map(|&b| f(f32::from(b) / 255.0)).collect::<Vec<_>>()).collect()
}

/// Every second pixel of (3, 64, 64), down and right.
fn thin(image: &[f32]) -> Vec<f32> {
    let kept = |i: &usize| i.is_multiple_of(2) && (i / 64).is_multiple_of(2);
    (0..image.len()).filter(kept).map(|i| image[i]).collect()
}

#[test]
fn taesd_agrees_both_ways() {
    let golden = Golden::read("nets");
    let mut encoder = vae_graph(false, false);
    encoder.set("x", planes(&picture(3, 64), |x| x));
    let want = golden.get("taesd-encode");
    close("encode", &answer(&mut encoder), want, TOLERANCE);
    encoder.set("x", planes(&picture(4, 64), |x| x));
    apart("another picture", &answer(&mut encoder), want, 0.1);
    let mut decoder = vae_graph(false, true);
    decoder.set("x", noise("latent", 256));
    let want: Vec<f32> = golden.get("taesd-decode").iter().map(|y| y / 2.0 + 0.5).collect();
    close("decode", &thin(&answer(&mut decoder)), &want, TOLERANCE);
    decoder.set("x", noise("latent", 256).iter().map(|x| 1.05 * x).collect::<Vec<_>>());
    apart("another latent", &thin(&answer(&mut decoder)), &want, 10.0 * TOLERANCE);
}

#[test]
fn the_kl_autoencoder_agrees_both_ways() {
    let golden = Golden::read("nets");
    let mut encoder = vae_graph(true, false);
    encoder.set("x", planes(&picture(3, 64), |x| 2.0 * x - 1.0));
    encoder.set("noise", noise("vae_noise", 256));
    let want = golden.get("kl-encode");
    close("encode", &answer(&mut encoder), want, TOLERANCE);
    encoder.set("noise", vec![0.0; 256]);
    apart("without noise", &answer(&mut encoder), want, 10.0 * TOLERANCE);
    let mut decoder = vae_graph(true, true);
    decoder.set("x", noise("latent", 256));
    let want = golden.get("kl-decode");
    close("decode", &thin(&answer(&mut decoder)), want, TOLERANCE);
    decoder.set("x", noise("latent", 256).iter().map(|x| 1.05 * x).collect::<Vec<_>>());
    apart("another latent", &thin(&answer(&mut decoder)), want, 10.0 * TOLERANCE);
}

#[test]
fn half_precision_stays_near() {
    let golden = Golden::read("nets");
    for family in ["sd15", "sdxl"] {
        let mut graph = Graph::new(&unet_graph(family, [16, 16], 0, DType::F16));
        ask(&mut graph);
        let (got, want) = (answer(&mut graph), golden.get(&format!("unet-{family}")));
        close(family, &got, want, 0.05);
        apart("it is half precision", &got, want, 1e-5);
    }
}

#[test]
fn configurations_that_are_not_built_are_named() {
    let refused = |key: &str, value: serde_json::Value| {
        let mut json = config("unet-sd15");
        json[key] = value;
        match UnetConfig::from_json(&json) {
            Err(ModelError::Config { field, .. }) => assert_eq!(field, key),
            other => panic!("{key}: {other:?}"),
        }
    };
    refused("act_fn", "mish".into());
    refused(
        "down_block_types",
        serde_json::json!(["CrossAttnDownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"]),
    );
    refused("block_out_channels", serde_json::json!([]));
    refused("attention_head_dim", serde_json::json!([3, 3, 3, 3]));
    refused("time_cond_proj_dim", 32.into());
    refused("addition_embed_type", "image".into());
    refused("norm_num_groups", 7.into());
    refused("layers_per_block", "two".into());
}

#[test]
fn the_same_weights_on_every_machine() {
    let got = Synthetic::new("unet-sd15", 1.0).values("conv_in.weight", &[2, 1, 1, 2]);
    let want = super::uniform("unet-sd15/conv_in.weight", 4).map(|u| (u * 3_f64.sqrt() / 2_f64.sqrt()) as f32);
    assert_eq!(got, want.collect::<Vec<_>>());
    let draws: Vec<f64> = super::uniform("draws", 2).map(f64::abs).collect();
    assert_eq!(draws, [0.34617340564727783, 0.2872830629348755]);
}
