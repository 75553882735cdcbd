//! The frame graph against StreamDiffusion 0.1.1.

use std::collections::HashMap;

use weir::graph::DType;
use weir::models::controlnet::ControlNetConfig;
use weir::models::depth::DepthConfig;
use weir::models::hint::Hint;
use weir::models::kl::KlConfig;
use weir::models::pose::NUMBERS;
use weir::models::stream::{self, Guidance, Mode, Sources, StreamConfig, Vae};
use weir::models::synthetic::Synthetic;
use weir::models::taesd::TaesdConfig;
use weir::models::unet::UnetConfig;
use weir::models::{ModelError, Source};

use super::{Data, Golden, Graph, apart, close, config, noise, picture, scale, weights, worst};

/// Of the picture in 0…1.
const TOLERANCE: f32 = 5e-5;
/// Of latents, relative to the largest.
const LATENT_TOLERANCE: f32 = 1e-5;
const SIZE: usize = 64;

fn stream_config(family: &str, steps: u64, guidance: Guidance) -> StreamConfig {
    StreamConfig {
        steps,
        frame_buffer: 1,
        guidance,
        mode: Mode::Image,
        height: SIZE as u64,
        width: SIZE as u64,
        tokens: 77,
        precision: DType::F32,
        unet: UnetConfig::from_json(&config(&format!("unet-{family}"))).expect("config"),
        vae: Vae::Tiny(TaesdConfig::from_json(&config("taesd")).expect("config")),
        controls: Vec::new(),
        before: Vec::new(),
        after: Vec::new(),
        apart: false,
        latent_before: 0,
        latent_after: 0,
        image_tokens: 0,
        float_image: true,
    }
}

fn stream(family: &str, config: &StreamConfig) -> Stream {
    let mut unet = weights(&format!("unet-{family}"));
    let mut vae = weights(if matches!(config.vae, Vae::Tiny(_)) { "taesd" } else { "kl" });
    let mut controls: Vec<Synthetic> =
        (0..config.controls.len()).map(|j| weights(&format!("controlnet-{family}-{j}"))).collect();
    let controls = controls.iter_mut().map(|source| source as &mut dyn Source).collect();
    let mut depth = Synthetic::new("depth-1", 1.0);
    let sources = Sources { unet: &mut unet, vae: &mut vae, controls, depth: Some(&mut depth), adapter: None };
    let model = stream::build(config, sources);
    let model = model.unwrap_or_else(|error| panic!("{error}"));
    Stream { graph: Graph::new(&model), config: config.clone() }
}

struct Stream {
    graph: Graph,
    config: StreamConfig,
}

impl Stream {
    /// Coefficients and noise of `golden`; state of zeros; the usual numbers.
    fn prepare(&mut self, golden: &Golden, prefix: &str) {
        self.tables(golden, prefix);
        self.graph.set_where_there("init_noise", golden.get("init_noise"));
        self.prompt("a", "b");
        for (name, value) in [("guidance_scale", 1.4), ("delta", 0.7), ("add_noise", 1.0)] {
            self.graph.set_where_there(name, vec![value]);
        }
        for state in ["x_t_buffer", "stock_noise"] {
            if self.graph.shape(state).is_some() {
                let zeros = vec![0.0; self.graph.elements(state)];
                self.graph.set(state, zeros);
            }
        }
        let rows = self.config.rows() as usize;
        self.graph.set_where_there("text_embeds", noise("pooled", 16).repeat(rows));
        let size = SIZE as f32;
        self.graph.set_where_there("time_ids", [size, size, 0.0, 0.0, size, size].repeat(rows));
    }

    fn tables(&mut self, golden: &Golden, prefix: &str) {
        for name in ["alpha_sqrt", "beta_sqrt", "c_skip", "c_out"] {
            self.graph.set(name, golden.get(&format!("{prefix}{name}")));
        }
        let steps = golden.get(&format!("{prefix}timestep"));
        let each: Vec<f32> = steps.iter().flat_map(|&t| vec![t; self.config.frame_buffer as usize]).collect();
        let negative = self.config.negative_rows() as usize;
        let rows: Vec<f32> = each[..negative].iter().chain(&each).copied().collect();
        self.graph.set("timestep", rows);
    }

    fn prompt(&mut self, positive: &str, negative: &str) {
        let embedding = |name: &str| noise(&format!("prompt/{name}"), 77 * 32);
        let negatives = self.config.negative_rows() as usize;
        let rows = [embedding(negative).repeat(negatives), embedding(positive).repeat(self.config.batch() as usize)];
        self.graph.set("encoder_hidden_states", rows.concat());
    }

    fn call(&mut self, frames: Vec<u8>) -> HashMap<String, Data> {
        self.graph.set_where_there("frame", frames.clone());
        for j in 0..self.config.controls.len() {
            self.graph.set_where_there(&format!("cond_{j}"), frames.clone());
        }
        let out = self.graph.run();
        for state in ["x_t_buffer", "stock_noise"] {
            if let Some(next) = out.get(&format!("{state}_out")) {
                self.graph.set(state, next.clone());
            }
        }
        out
    }

    fn run(&mut self, frames: usize) -> Trace {
        let mut trace = Trace::default();
        for index in 0..frames {
            let out = self.call(picture(index, SIZE));
            trace.take(out);
        }
        trace
    }
}

#[derive(Default)]
struct Trace {
    latents: Vec<f32>,
    frames: Vec<Vec<f32>>,
    last: HashMap<String, Data>,
}

impl Trace {
    fn take(&mut self, out: HashMap<String, Data>) {
        self.latents.extend(out["x0"].floats());
        self.frames.push(out["frame_out"].floats());
        self.last = out;
    }

    #[track_caller]
    fn check(&self, what: &str, golden: &Golden, prefix: &str) {
        let get = |name: &str| golden.get(&format!("{prefix}{name}"));
        latents(&format!("{what} latents"), &self.latents, get("latents"));
        close(&format!("{what} image"), &fourth(&self.last["image"].floats()), get("image"), TOLERANCE);
        close(&format!("{what} bytes"), &self.last["frame_out"].floats(), get("frame"), 1.0);
        for state in ["x_t_buffer", "stock_noise"] {
            if let Some(got) = self.last.get(&format!("{state}_out")) {
                latents(&format!("{what} {state}"), &got.floats(), get(state));
            }
        }
        // The picture before this one, or one upside down, would not pass.
        if let [.., before, _] = self.frames.as_slice() {
            apart(&format!("{what}: previous frame"), before, get("frame"), 5.0);
        }
        let upside_down: Vec<f32> = self.last["frame_out"].floats().into_iter().rev().collect();
        apart(&format!("{what}: upside down"), &upside_down, get("frame"), 5.0);
    }
}

#[track_caller]
fn latents(what: &str, got: &[f32], want: &[f32]) {
    close(what, got, want, LATENT_TOLERANCE * scale(want));
}

/// The comparison of [`latents`] would fail by far.
#[track_caller]
fn other(what: &str, got: &[f32], want: &[f32]) {
    apart(what, got, want, 20.0 * LATENT_TOLERANCE * scale(want));
}

/// Every fourth pixel of (3, 64, 64), down and right.
fn fourth(image: &[f32]) -> Vec<f32> {
    (0..image.len()).filter(|i| i.is_multiple_of(4) && (i / SIZE).is_multiple_of(4)).map(|i| image[i]).collect()
}

fn every_step(guidance: Guidance, name: &str) {
    for steps in 1..=4 {
        let golden = Golden::read(&format!("stream-{steps}-{name}"));
        let mut made = stream("sd15", &stream_config("sd15", steps, guidance));
        for add_noise in [1, 0] {
            made.prepare(&golden, "");
            made.graph.set_where_there("add_noise", vec![add_noise as f32]);
            made.run(8).check(&format!("{name}, {steps} steps, noise {add_noise}"), &golden, &format!("{add_noise}/"));
        }
        // The other setting of the noise between steps is told apart, and so are γ and δ.
        if steps > 1 {
            made.prepare(&golden, "");
            let swapped = made.run(8);
            other("add_noise", &swapped.latents, golden.get("0/latents"));
        }
        for (knob, value) in [("guidance_scale", 1.5), ("delta", 0.77)] {
            made.prepare(&golden, "");
            if made.graph.shape(knob).is_some() {
                made.graph.set(knob, vec![value]);
                other(knob, &made.run(8).latents, golden.get("1/latents"));
            }
        }
    }
}

#[test]
fn without_guidance_as_the_reference() {
    every_step(Guidance::None, "none");
}

#[test]
fn self_guidance_as_the_reference() {
    every_step(Guidance::SelfNegative, "self");
}

#[test]
fn initialize_guidance_as_the_reference() {
    every_step(Guidance::Initialize, "initialize");
}

#[test]
fn full_guidance_as_the_reference() {
    every_step(Guidance::Full, "full");
}

#[test]
fn guidance_of_one_or_less_is_none() {
    let golden = Golden::read("case-still");
    let mut made = stream("sd15", &stream_config("sd15", 2, Guidance::SelfNegative));
    made.prepare(&golden, "");
    made.graph.set("guidance_scale", vec![1.0]);
    made.run(8).check("still", &golden, "");
    let golden = Golden::read("case-low");
    let mut made = stream("sd15", &stream_config("sd15", 2, Guidance::Full));
    made.prepare(&golden, "");
    made.graph.set("guidance_scale", vec![0.5]);
    made.run(8).check("low", &golden, "");
}

#[test]
fn parameters_change_between_two_frames() {
    let golden = Golden::read("case-changes");
    let mut made = stream("sd15", &stream_config("sd15", 2, Guidance::Initialize));
    for left_out in 0..=5 {
        made.prepare(&golden, "");
        let mut trace = Trace::default();
        for index in 0..8 {
            match index {
                2 if left_out != 1 => made.prompt("c", "b"),
                3 if left_out != 2 => {
                    made.graph.set("guidance_scale", vec![1.9]);
                    made.graph.set("delta", vec![0.4]);
                }
                4 if left_out != 3 => made.tables(&golden, "later/"),
                5 if left_out != 4 => made.graph.set("add_noise", vec![0.0]),
                6 if left_out != 5 => {
                    made.graph.set("init_noise", golden.get("later/init_noise"));
                    let zeros = vec![0.0; made.graph.elements("stock_noise")];
                    made.graph.set("stock_noise", zeros);
                }
                _ => {}
            }
            let out = made.call(picture(index, SIZE));
            trace.take(out);
        }
        match left_out {
            0 => trace.check("changes", &golden, ""),
            n => other(&format!("change {n}"), &trace.latents, golden.get("latents")),
        }
    }
}

#[test]
fn sdxl_streams_with_its_own_conditioning() {
    let golden = Golden::read("case-sdxl");
    let mut made = stream("sdxl", &stream_config("sdxl", 2, Guidance::SelfNegative));
    made.prepare(&golden, "");
    made.run(8).check("sdxl", &golden, "");
    made.prepare(&golden, "");
    made.graph.set("text_embeds", vec![0.0; 2 * 16]);
    other("pooled text", &made.run(8).latents, golden.get("latents"));
}

#[test]
fn the_turbo_family_streams() {
    let golden = Golden::read("case-sd21");
    let mut made = stream("sd21", &stream_config("sd21", 3, Guidance::SelfNegative));
    made.prepare(&golden, "");
    made.graph.set("guidance_scale", vec![1.0]);
    made.run(8).check("sd21", &golden, "");
}

fn controlled(frame_buffer: u64) -> StreamConfig {
    let controls =
        (0..2).map(|j| ControlNetConfig::from_json(&config(&format!("controlnet-sd15-{j}"))).expect("config"));
    StreamConfig { frame_buffer, controls: controls.collect(), ..stream_config("sd15", 2, Guidance::SelfNegative) }
}

#[test]
fn controlnets_follow_their_scales() {
    let golden = Golden::read("case-controls");
    let mut made = stream("sd15", &controlled(1));
    for wrong in [false, true] {
        made.prepare(&golden, "");
        made.graph.set("cn_scale_0", vec![0.4]);
        made.graph.set("cn_scale_1", vec![0.8]);
        let mut trace = Trace::default();
        for index in 0..8 {
            if index == 4 && !wrong {
                made.graph.set("cn_scale_0", vec![0.0]);
                made.graph.set("cn_scale_1", vec![1.5]);
            }
            let out = made.call(picture(index, SIZE));
            trace.take(out);
        }
        match wrong {
            false => trace.check("controls", &golden, ""),
            true => other("scales", &trace.latents, golden.get("latents")),
        }
    }
}

#[test]
fn controlnets_are_given_what_the_graph_makes_of_the_frame() {
    let golden = Golden::read("case-hints");
    let depth = DepthConfig::from_json(&config("depth")).expect("config");
    let hinted = |hints: [Hint; 2]| {
        let mut wide = controlled(1);
        wide.controls.iter_mut().zip(hints).for_each(|(control, hint)| control.hint = hint);
        let mut made = stream("sd15", &wide);
        made.prepare(&golden, "");
        made.graph.set("cn_scale_0", vec![0.4]);
        made.graph.set("cn_scale_1", vec![0.8]);
        made
    };
    let mut made = hinted([Hint::SoftEdges, Hint::Depth(depth.clone())]);
    assert_eq!((made.graph.shape("cond_0"), made.graph.shape("cond_1")), (None, None));
    made.run(8).check("hints", &golden, "");
    for hints in [[Hint::Given, Hint::Depth(depth.clone())], [Hint::SoftEdges, Hint::Given]] {
        other("the frame itself", &hinted(hints).run(8).latents, golden.get("latents"));
    }
    other("turned round", &hinted([Hint::Depth(depth), Hint::SoftEdges]).run(8).latents, golden.get("latents"));
    // Skeletons made in the graph, and the same picture given in bytes.
    let mut drawn = hinted([Hint::Pose, Hint::SoftEdges]);
    let mut people = Golden::read("pose").get("people-many")[..2 * NUMBERS as usize].to_vec();
    people.resize(drawn.graph.elements("people"), 0.0);
    drawn.graph.set("people", people.clone());
    drawn.graph.set("cond_0_numbers", vec![0.5]);
    let drawn = drawn.run(2).latents;
    let given = |picture: Option<Vec<u8>>| {
        let mut made = hinted([Hint::Given, Hint::SoftEdges]);
        let mut trace = Trace::default();
        for index in 0..2 {
            made.graph.set("frame", self::picture(index, SIZE));
            made.graph.set("cond_0", picture.clone().unwrap_or_else(|| self::picture(index, SIZE)));
            let out = made.graph.run();
            for state in ["x_t_buffer", "stock_noise"] {
                made.graph.set(state, out[&format!("{state}_out")].clone());
            }
            trace.take(out);
        }
        trace.latents
    };
    let skeletons: Vec<u8> =
        super::pose::pictured(&people[..2 * NUMBERS as usize], 0.5).iter().map(|&byte| byte as u8).collect();
    let off = |latents: &[f32]| worst(latents, &drawn);
    let [same, frame] = [off(&given(Some(skeletons))), off(&given(None))];
    assert!(20.0 * same < frame, "off by {same} from the same picture, by {frame} from the frame");
    let text = StreamConfig { mode: Mode::Text, guidance: Guidance::None, ..controlled(1) };
    assert!(text.check().is_ok());
    let mut wrong = text;
    wrong.controls[0].hint = Hint::SoftEdges;
    assert!(matches!(wrong.check(), Err(ModelError::Config { .. })), "there is no frame");
}

#[test]
fn pictures_from_text_alone() {
    let golden = Golden::read("case-text");
    let text = StreamConfig { mode: Mode::Text, ..stream_config("sd15", 2, Guidance::None) };
    let mut made = stream("sd15", &text);
    made.prepare(&golden, "");
    let mut trace = Trace::default();
    for index in 0..4 {
        made.graph.set("latent", noise(&format!("text/{index}"), 256));
        let out = made.call(Vec::new());
        trace.take(out);
    }
    trace.check("text", &golden, "");
    let guided = StreamConfig { guidance: Guidance::Full, ..text };
    assert!(matches!(guided.check(), Err(ModelError::Config { .. })));
    // With one step no noise is added anywhere, so none is asked for.
    let single = stream("sd15", &StreamConfig { steps: 1, guidance: Guidance::None, ..guided });
    assert_eq!(single.graph.shape("init_noise"), None);
}

#[test]
fn the_full_autoencoder_streams() {
    let golden = Golden::read("case-kl");
    let kl = Vae::Kl(KlConfig::from_json(&config("kl")).expect("config"));
    let mut made = stream("sd15", &StreamConfig { vae: kl, ..stream_config("sd15", 1, Guidance::SelfNegative) });
    for zeroed in [false, true] {
        made.prepare(&golden, "");
        let mut trace = Trace::default();
        for index in 0..4 {
            let noise = &golden.get("vae_noise")[index * 256..][..256];
            made.graph.set("vae_noise", if zeroed { vec![0.0; 256] } else { noise.to_vec() });
            let out = made.call(picture(index, SIZE));
            trace.take(out);
        }
        match zeroed {
            false => trace.check("kl", &golden, ""),
            true => other("noise of the encoder", &trace.latents, golden.get("latents")),
        }
    }
}

/// With F frames a call, the F frames are F streams side by side: stream f sees frames f, f + F, f + 2 F …
#[test]
fn a_frame_buffer_is_streams_side_by_side() {
    for guidance in [Guidance::None, Guidance::SelfNegative, Guidance::Initialize, Guidance::Full] {
        side_by_side("plain", &StreamConfig { frame_buffer: 2, ..stream_config("sd15", 2, guidance) });
    }
    side_by_side("one step", &StreamConfig { frame_buffer: 2, ..stream_config("sd15", 1, Guidance::Initialize) });
    side_by_side("controls", &controlled(2));
}

fn side_by_side(what: &str, wide: &StreamConfig) {
    let golden = Golden::read(&format!("stream-{}-self", wide.steps));
    let mut both = stream("sd15", wide);
    let mut alone = stream("sd15", &StreamConfig { frame_buffer: 1, ..wide.clone() });
    let prepare = |made: &mut Stream| {
        made.prepare(&golden, "");
        for (j, scale) in [0.4, 0.8].into_iter().enumerate() {
            made.graph.set_where_there(&format!("cn_scale_{j}"), vec![scale]);
        }
    };
    prepare(&mut both);
    let half = SIZE * SIZE * 3;
    let pairs: Vec<Vec<f32>> = (0..4)
        .map(|i| both.call([picture(2 * i, SIZE), picture(2 * i + 1, SIZE)].concat())["frame_out"].floats())
        .collect();
    for f in 0..2 {
        prepare(&mut alone);
        for (i, pair) in pairs.iter().enumerate() {
            let own = alone.call(picture(2 * i + f, SIZE))["frame_out"].floats();
            let what = format!("{what}, {:?}, frame {f} of call {i}", wide.guidance);
            close(&what, &pair[f * half..][..half], &own, 1.0);
            if i >= wide.steps as usize {
                apart(&what, &pair[(1 - f) * half..][..half], &own, 3.0);
            }
        }
    }
}

#[test]
fn half_precision_stays_near() {
    let golden = Golden::read("stream-2-self");
    let half = StreamConfig { precision: DType::F16, ..stream_config("sd15", 2, Guidance::SelfNegative) };
    let mut made = stream("sd15", &half);
    made.prepare(&golden, "");
    let got = made.run(8).last["frame_out"].floats();
    let want = golden.get("1/frame");
    let error = got.iter().zip(want).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>() / got.len() as f64;
    let psnr = 10.0 * (255.0 * 255.0 / error).log10();
    assert!(psnr >= 40.0, "{psnr} dB");
}
