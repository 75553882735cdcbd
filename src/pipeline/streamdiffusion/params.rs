//! The parameters: their schema, their check, and their typed form.
//!
//! Fields, defaults and reasons are those of the live runner. What the runner has and this pipeline has not is refused by
//! name where it would change the picture, and accepted where it is switched off.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::adapter::{self, Adapter};
use super::controls::{self, Control};
use super::processors::{self, LISTS, Lists, Made, Processor};
use crate::frame::Size;
use crate::models::blend::Blend;
use crate::models::pose::detector::File;
use crate::models::stream::Guidance;
use crate::models::weights::Family;
use crate::pipeline::params::{BASE, Field, Kind};
use crate::pipeline::{Checked, ParamError, Params};

/// The models that requests may name, with the family of each.
pub(super) const MODELS: &[(&str, Family)] = &[
    ("stabilityai/sd-turbo", Family::Sd2),
    ("stabilityai/sdxl-turbo", Family::Sdxl),
    (SDXL_BASE, Family::Sdxl),
    ("prompthero/openjourney-v4", Family::Sd1),
    ("Lykon/dreamshaper-8", Family::Sd1),
    (TINY, Family::Sd1),
];

/// SDXL that is no turbo model, so that it takes its LCM-LoRA. The live runner does not name it.
pub(super) const SDXL_BASE: &str = "stabilityai/stable-diffusion-xl-base-1.0";

/// The model that is made up on the spot.
pub(super) const TINY: &str = "weir/tiny";

/// Longest prompt, in characters.
const PROMPT: usize = 10_000;
/// Longest `t_index_list`.
pub(super) const MOST_STEPS: usize = 4;
/// Most prompts or seeds of a blend.
const MIXTURE: usize = 16;

/// What is blended, with weights, and how.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Mixture<T> {
    pub items: Vec<(T, f32)>,
    pub how: Blend,
    pub normalize: bool,
}

/// What decides the graph: a change of any of it is a reload.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Shape {
    pub model: String,
    /// The line of models that it belongs to.
    pub family: Family,
    pub size: Size,
    pub steps: usize,
    pub guidance: Guidance,
    /// The ControlNets' models, in their order, and what the graph makes of the frame for each.
    pub controls: Vec<(String, Made)>,
    /// What the graph makes of the frame before it is painted over.
    pub before: Vec<Made>,
    /// Whether the host makes something of it first.
    pub host: bool,
    /// What the graph makes of the painted picture.
    pub after: Vec<Made>,
    /// How often the last latent is mixed in, before the first step and behind the last.
    pub latents: [usize; 2],
    /// Whether the graph has an IP-Adapter.
    pub adapter: bool,
    /// Frames a call of the graph, F.
    pub frame_buffer: usize,
    /// LoRA files or repositories and their weights.
    pub loras: Vec<(String, f64)>,
    pub lcm_lora: bool,
    /// Half precision, where it is not left to the provider.
    pub half: Option<bool>,
    pub similar: bool,
    pub skip_diffusion: bool,
    /// Whether pictures begin with noise alone.
    pub from_text: bool,
    /// TAESD in place of the model's own autoencoder.
    pub tiny_vae: bool,
}

impl Shape {
    /// Whether a depth model is part of the graph.
    pub fn needs_depth(&self) -> bool {
        let controls = self.controls.iter().map(|(_, made)| made);
        controls.chain(&self.before).chain(&self.after).any(|made| *made == Made::Depth)
    }

    /// The file that finds people, where they are looked for: the one that tells enough of them for all.
    pub fn detector(&self) -> Option<File> {
        let controls = self.controls.iter().map(|(_, made)| made);
        let file = |made: &Made| if let Made::Pose(file) = made { Some(*file) } else { None };
        controls.chain(&self.before).filter_map(file).min()
    }
}

/// What is in force from one frame to the next.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Live {
    pub prompt: Mixture<String>,
    pub negative_prompt: String,
    pub guidance_scale: f32,
    pub delta: f32,
    pub inference_steps: u32,
    pub t_index: Vec<u32>,
    pub add_noise: bool,
    pub refill: bool,
    pub seed: Mixture<u64>,
    /// Whether seeds start the generator of the GPU.
    pub cuda_noise: bool,
    pub control_scales: Vec<f32>,
    pub preprocessors: Vec<Processor>,
    pub lists: Lists,
    /// From where on a picture is not shown; `None` where none is checked.
    pub safety: Option<f32>,
    /// The IP-Adapter, while it is switched on.
    pub adapter: Option<Adapter>,
    pub similar_threshold: f32,
    pub similar_max_skip: u32,
}

/// Checked parameters, typed.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Settings {
    pub shape: Shape,
    pub live: Live,
}

const fn number(name: &'static str, title: &'static str, about: &'static str, default: f64) -> Field {
    Field { name, title, about, kind: Kind::Float { default, min: -1e6, max: 1e6 } }
}

const fn share(name: &'static str, title: &'static str, about: &'static str, default: f64) -> Field {
    Field { name, title, about, kind: Kind::Float { default, min: 0.0, max: 1.0 } }
}

const fn flag(name: &'static str, title: &'static str, about: &'static str, default: bool) -> Field {
    Field { name, title, about, kind: Kind::Bool { default } }
}

const fn choice(
    name: &'static str,
    title: &'static str,
    about: &'static str,
    default: &'static str,
    of: &'static [&'static str],
) -> Field {
    Field { name, title, about, kind: Kind::Choice { default, of } }
}

const fn text(
    name: &'static str,
    title: &'static str,
    about: &'static str,
    default: &'static str,
    max: usize,
) -> Field {
    Field { name, title, about, kind: Kind::Text { default, max } }
}

/// The fields that hold one plain value.
const FIELDS: &[Field] = &[
    choice(
        "model_id",
        "Model",
        "The model to run; a change reloads.",
        "stabilityai/sd-turbo",
        &[
            "stabilityai/sd-turbo",
            "stabilityai/sdxl-turbo",
            SDXL_BASE,
            "prompthero/openjourney-v4",
            "Lykon/dreamshaper-8",
            TINY,
        ],
    ),
    choice(
        "mode",
        "Begin with",
        "img2img paints the frame anew; txt2img begins each picture with new noise, and the frame only sets the pace. That \
         takes cfg_type none. A change reloads.",
        "img2img",
        &["img2img", "txt2img"],
    ),
    flag(
        "use_tiny_vae",
        "Tiny autoencoder",
        "TAESD; else the model's own autoencoder, which costs many times as much. A change reloads.",
        true,
    ),
    choice(
        "prompt_interpolation_method",
        "Blend of prompts",
        "How several prompts become one; slerp blends two, more are blended linearly.",
        "slerp",
        &["linear", "slerp"],
    ),
    flag("normalize_prompt_weights", "Even out prompt weights", "Divide the prompts' weights by their sum.", true),
    text(
        "negative_prompt",
        "Negative prompt",
        "What the picture should not show. Seen by the guidance types initialize and full.",
        "blurry, low quality, flat, 2d",
        PROMPT,
    ),
    number("guidance_scale", "Guidance", "Strength of the guidance; it acts above 1.", 1.0),
    number("delta", "Delta", "Weight of the estimated noise in the guidance types self and initialize.", 0.7),
    choice(
        "cfg_type",
        "Guidance type",
        "How the unguided prediction comes about; a change reloads.",
        "self",
        &["none", "self", "initialize", "full"],
    ),
    Field {
        name: "num_inference_steps",
        title: "Steps of the schedule",
        about: "Into how many timesteps the schedule is divided.",
        kind: Kind::Int { default: 50, min: 1, max: 100, multiple_of: 1 },
    },
    flag("use_lcm_lora", "LCM-LoRA", "Merge the LCM-LoRA into models that are not turbo; a change reloads.", true),
    text("lcm_lora_id", "LCM-LoRA model", "Has no effect; the model's family decides.", LCM_LORA, 200),
    choice(
        "precision",
        "Precision",
        "Of the networks: auto is fp32 on the CPU and fp16 elsewhere; a change reloads.",
        "auto",
        &["auto", "fp32", "fp16"],
    ),
    choice(
        "acceleration",
        "Acceleration",
        "Accepted as it comes; where graphs run is the operator's choice.",
        "tensorrt",
        &["none", "xformers", "tensorrt"],
    ),
    flag(
        "use_safety_checker",
        "Safety checker",
        "Show the last good picture in place of one that the checker takes for unsafe. Has no effect where the checker's model \
         does not lie among the models; the status says so.",
        true,
    ),
    share(
        "safety_checker_threshold",
        "Safety threshold",
        "How unsafe a picture is, 0 to 1, from which on it is not shown.",
        0.5,
    ),
    flag("use_denoising_batch", "Stream batch", "Only true: all steps of the stream in one batch.", true),
    Field {
        name: "frame_buffer_size",
        title: "Frames a call",
        about: "So many frames are gathered and painted at once, for a GPU that one frame does not fill; each is shown \
                that many frames less one later. A change reloads.",
        kind: Kind::Int { default: 1, min: 1, max: 16, multiple_of: 1 },
    },
    flag(
        "refill",
        "Fill at once",
        "Take the first frame, and the first behind an update, through all steps at once, so that it is seen at once; \
         otherwise as many frames pass before it is as steps and frame buffer hold.",
        true,
    ),
    flag("do_add_noise", "Noise between steps", "Add each step's noise to what comes to it.", true),
    flag("skip_diffusion", "Skip the model", "Frames pass through; a change reloads.", false),
    choice(
        "seed_interpolation_method",
        "Blend of seeds",
        "How the noise of several seeds becomes one; slerp blends two, more are blended linearly.",
        "linear",
        &["linear", "slerp"],
    ),
    choice(
        "seed_generator",
        "Generator",
        "Which of PyTorch's generators a seed starts: that of the GPU, as the live runner, or that of the CPU.",
        "cuda",
        &["cuda", "cpu"],
    ),
    flag("normalize_seed_weights", "Even out seed weights", "Divide the seeds' weights by their sum.", true),
    flag(
        "enable_similar_image_filter",
        "Skip similar frames",
        "Repeat the last picture while the input hardly changes; a change reloads.",
        false,
    ),
    number("similar_image_filter_threshold", "Similarity", "Frames more alike than this may be skipped.", 0.98),
    Field {
        name: "similar_image_filter_max_skip_frame",
        title: "Most skips",
        about: "More frames in a row than this are not skipped.",
        kind: Kind::Int { default: 10, min: 0, max: 100_000, multiple_of: 1 },
    },
    text(
        adapter::PICTURE,
        "Style picture",
        "The picture whose style ip_adapter takes: an http(s) URL, a data URI, or base64 of a JPEG, PNG or WebP file.",
        "https://storage.googleapis.com/lp-ai-assets/ipadapter_style_imgs/textures/vortex.jpeg",
        adapter::LONGEST,
    ),
];

const LCM_LORA: &str = "latent-consistency/lcm-lora-sdv1-5";

/// The keys with values of their own form.
const NESTED: &[&str] = &[
    "prompt",
    "seed",
    "t_index_list",
    "lora_dict",
    "controlnets",
    adapter::KEY,
    "image_preprocessing",
    "image_postprocessing",
    "latent_preprocessing",
    "latent_postprocessing",
    "cached_attention",
];

/// Checks `params` and fills in the defaults.
pub(super) fn check(params: &Params) -> Result<Checked, ParamError> {
    let checked = check_in_any_order(params)?;
    let list = Settings::of(&checked)?.live.t_index;
    match list.windows(2).find(|pair| pair[1] < pair[0]) {
        None => Ok(checked),
        Some(pair) => {
            let reason =
                format!("Value error, t_index_list must be in non-decreasing order. {} < {}", pair[1], pair[0]);
            Err(refused("t_index_list", reason))
        }
    }
}

/// As [`check`], with `t_index_list` in any order, as the nodes of ComfyUI take it.
pub(super) fn check_in_any_order(params: &Params) -> Result<Checked, ParamError> {
    if let Some(extra) = params.keys().find(|key| {
        !NESTED.contains(&key.as_str()) && !BASE.iter().chain(FIELDS).any(|field| field.name == key.as_str())
    }) {
        return Err(refused(extra, "Extra inputs are not permitted"));
    }
    let mut values = Map::new();
    for field in BASE.iter().chain(FIELDS) {
        let value = match params.get(field.name) {
            None => field.kind.default_value(),
            Some(given) => field.kind.take(given).map_err(|reason| refused(field.name, reason))?,
        };
        values.insert(field.name.to_owned(), value);
    }
    let given = |key: &str| params.get(key).cloned();
    values.insert("prompt".to_owned(), given("prompt").unwrap_or_else(|| json!("flowers")));
    values.insert("seed".to_owned(), given("seed").unwrap_or_else(|| json!(789)));
    values.insert("t_index_list".to_owned(), given("t_index_list").unwrap_or_else(|| json!([12, 20, 32])));
    values.insert("lora_dict".to_owned(), given("lora_dict").unwrap_or(Value::Null));
    values.insert("controlnets".to_owned(), given("controlnets").unwrap_or_else(|| json!([])));
    values.insert(adapter::KEY.to_owned(), given(adapter::KEY).unwrap_or_else(adapter::off));
    if values.get("use_denoising_batch") == Some(&json!(false)) {
        return Err(refused("use_denoising_batch", "only true is built here"));
    }
    if values.get("mode") == Some(&json!("txt2img")) && values.get("cfg_type") != Some(&json!("none")) {
        return Err(refused("cfg_type", "mode txt2img takes no guidance: cfg_type has to be none with it"));
    }
    switched_off(params)?;
    for (key, _) in OFF {
        values.insert((*key).to_owned(), given(key).unwrap_or_else(|| json!({"enabled": false})));
    }
    for (key, _, _) in LISTS {
        values.insert(key.to_owned(), given(key).unwrap_or_default());
    }
    let side = |name| values.get(name).and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok()).unwrap_or(512);
    let checked = Checked {
        size: Size::new(side("width"), side("height")),
        show_reloading_frame: values.get("show_reloading_frame").and_then(Value::as_bool).unwrap_or(true),
        enlarge: Vec::new(),
        given: Arc::new(params.clone()),
        values: Arc::new(values),
    };
    let live = Settings::of(&checked)?.live;
    let checked = Checked { enlarge: live.lists.enlarge(), ..checked };
    let output = checked.output();
    live.lists.check_output([output.width, output.height], live.preprocessors.iter().any(Processor::mixes))?;
    Ok(checked)
}

/// What can only be switched off, with a name for people.
const OFF: &[(&str, &str)] = &[("cached_attention", "Cached attention")];

/// Refuses what is switched on and is not built.
fn switched_off(params: &Params) -> Result<(), ParamError> {
    for key in ["cached_attention"] {
        match params.get(key) {
            None => {}
            Some(Value::Object(object)) if object.get("enabled") == Some(&json!(false)) => {}
            Some(Value::Object(_)) => return Err(refused(key, "is not built here; set enabled to false")),
            Some(_) => return Err(refused(key, "Input should be a valid dictionary")),
        }
    }
    Ok(())
}

pub(super) fn refused(field: &str, reason: impl Into<String>) -> ParamError {
    ParamError { field: field.to_owned(), reason: reason.into() }
}

impl Settings {
    /// The typed form of checked parameters.
    pub fn of(checked: &Checked) -> Result<Self, ParamError> {
        let values = &checked.values;
        let text = |key: &str| values.get(key).and_then(Value::as_str).unwrap_or_default();
        let flag = |key: &str| values.get(key).and_then(Value::as_bool).unwrap_or_default();
        let number = |key: &str| values.get(key).and_then(Value::as_f64).unwrap_or_default();
        let count = |key: &str| values.get(key).and_then(Value::as_u64).unwrap_or_default();
        let value = |key: &str| values.get(key).unwrap_or(&Value::Null);
        let how = |key: &str| if text(key) == "slerp" { Blend::Slerp } else { Blend::Linear };
        let model = text("model_id");
        let family = MODELS.iter().find(|(name, _)| *name == model).map_or(Family::Sd1, |(_, family)| *family);
        let inference_steps = u32::try_from(count("num_inference_steps")).unwrap_or(50);
        let t_index = t_index(value("t_index_list"), inference_steps)?;
        let controls: Vec<Control> = controls::read(value("controlnets"), family, model)?;
        let lists = Lists::read(LISTS.map(|(key, _, _)| value(key)))?;
        let made = |list: &[Processor]| list.iter().filter(|one| !one.on_host()).map(Processor::made).collect();
        let adapter = adapter::read(value(adapter::KEY), text(adapter::PICTURE), family, model)?;
        let guidance = match text("cfg_type") {
            "none" => Guidance::None,
            "initialize" => Guidance::Initialize,
            "full" => Guidance::Full,
            _ => Guidance::SelfNegative,
        };
        Ok(Self {
            shape: Shape {
                model: model.to_owned(),
                family,
                size: checked.size,
                steps: t_index.len(),
                guidance,
                controls: controls.iter().map(|control| (control.model.clone(), control.preprocessor.made())).collect(),
                before: made(&lists.before),
                host: lists.before.iter().any(Processor::on_host),
                after: made(&lists.after),
                latents: [lists.latent_before.len(), lists.latent_after.len()],
                adapter: adapter.is_some(),
                frame_buffer: count("frame_buffer_size") as usize,
                loras: loras(value("lora_dict"), model)?,
                lcm_lora: flag("use_lcm_lora") && !model.contains("turbo") && model != TINY,
                half: match text("precision") {
                    "fp32" => Some(false),
                    "fp16" => Some(true),
                    _ => None,
                },
                // Pictures that begin with noise are not those of their frames.
                similar: flag("enable_similar_image_filter") && text("mode") != "txt2img",
                skip_diffusion: flag("skip_diffusion"),
                from_text: text("mode") == "txt2img",
                tiny_vae: flag("use_tiny_vae"),
            },
            live: Live {
                prompt: Mixture {
                    items: mixture("prompt", value("prompt"), |item| match item.as_str() {
                        Some(text) if text.chars().count() <= PROMPT => Ok(text.to_owned()),
                        Some(_) => Err(format!("String should have at most {PROMPT} characters")),
                        None => Err("Input should be a valid string".to_owned()),
                    })?,
                    how: how("prompt_interpolation_method"),
                    normalize: flag("normalize_prompt_weights"),
                },
                negative_prompt: text("negative_prompt").to_owned(),
                guidance_scale: number("guidance_scale") as f32,
                delta: number("delta") as f32,
                inference_steps,
                t_index,
                add_noise: flag("do_add_noise"),
                refill: flag("refill"),
                seed: Mixture {
                    items: mixture("seed", value("seed"), seed)?,
                    how: how("seed_interpolation_method"),
                    normalize: flag("normalize_seed_weights"),
                },
                cuda_noise: text("seed_generator") != "cpu",
                control_scales: controls.iter().map(|control| control.scale).collect(),
                preprocessors: controls.iter().map(|control| control.preprocessor.clone()).collect(),
                lists,
                safety: flag("use_safety_checker").then(|| number("safety_checker_threshold") as f32),
                adapter,
                similar_threshold: number("similar_image_filter_threshold") as f32,
                similar_max_skip: u32::try_from(count("similar_image_filter_max_skip_frame")).unwrap_or(10),
            },
        })
    }
}

fn seed(given: &Value) -> Result<u64, String> {
    let kind = Kind::Int { default: 0, min: 0, max: i64::MAX, multiple_of: 1 };
    kind.take(given)?.as_u64().ok_or_else(|| "Input should be a valid integer".to_owned())
}

/// One item, or a list of pairs of an item and its weight.
fn mixture<T>(
    field: &str,
    given: &Value,
    item: impl Fn(&Value) -> Result<T, String>,
) -> Result<Vec<(T, f32)>, ParamError> {
    let Value::Array(pairs) = given else {
        return Ok(vec![(item(given).map_err(|reason| refused(field, reason))?, 1.0)]);
    };
    if pairs.len() > MIXTURE {
        return Err(refused(field, format!("List should have at most {MIXTURE} items")));
    }
    let mut items = Vec::with_capacity(pairs.len());
    for (i, pair) in pairs.iter().enumerate() {
        let at = |part: usize, reason: String| refused(&format!("{field}.{i}.{part}"), reason);
        let Some([first, weight]) = pair.as_array().map(Vec::as_slice) else {
            return Err(refused(&format!("{field}.{i}"), "a pair of an item and its weight is needed"));
        };
        let weight = match (Kind::Float { default: 1.0, min: -1e6, max: 1e6 }).take(weight) {
            Ok(weight) => weight.as_f64().unwrap_or(1.0) as f32,
            Err(reason) => return Err(at(1, reason)),
        };
        items.push((item(first).map_err(|reason| at(0, reason))?, weight));
    }
    Ok(items)
}

fn t_index(given: &Value, inference_steps: u32) -> Result<Vec<u32>, ParamError> {
    let wrong = |reason: String| Err(refused("t_index_list", reason));
    let Value::Array(items) = given else { return wrong("Input should be a valid list".to_owned()) };
    if !(1..=MOST_STEPS).contains(&items.len()) {
        return wrong("Value error, t_index_list must have between 1 and 4 elements".to_owned());
    }
    let mut list: Vec<u32> = Vec::with_capacity(items.len());
    for (i, item) in items.iter().enumerate() {
        let kind = Kind::Int { default: 0, min: i64::MIN, max: i64::MAX, multiple_of: 1 };
        let n = match kind.take(item) {
            Ok(n) => n.as_i64().unwrap_or(-1),
            Err(reason) => return Err(refused(&format!("t_index_list.{i}"), reason)),
        };
        // The last index is one below the number of steps: the schedule has no timestep behind it.
        let Some(n) = u32::try_from(n).ok().filter(|&n| n < inference_steps) else {
            return wrong(format!(
                "Value error, Each t_index_list value must be between 0 and {}, one below num_inference_steps \
                 ({inference_steps}). Found {n} at index {i}.",
                inference_steps.saturating_sub(1)
            ));
        };
        list.push(n);
    }
    Ok(list)
}

fn loras(given: &Value, model: &str) -> Result<Vec<(String, f64)>, ParamError> {
    match given {
        Value::Null => Ok(Vec::new()),
        Value::Object(object) if model == TINY && !object.is_empty() => {
            Err(refused("lora_dict", format!("{TINY} has made-up weights, no LoRA is for it; take another model_id")))
        }
        Value::Object(object) if object.len() > 16 => {
            Err(refused("lora_dict", "Dictionary should have at most 16 items"))
        }
        Value::Object(object) => object
            .iter()
            .map(|(path, weight)| match (Kind::Float { default: 1.0, min: -1e3, max: 1e3 }).take(weight) {
                Ok(weight) => Ok((path.clone(), weight.as_f64().unwrap_or(1.0))),
                Err(reason) => Err(refused(&format!("lora_dict.{path}"), reason)),
            })
            .collect(),
        _ => Err(refused("lora_dict", "Input should be a valid dictionary")),
    }
}

/// The JSON Schema (2020-12) of the parameters.
pub(super) fn schema(title: &str) -> Value {
    let mut properties: Map<String, Value> =
        BASE.iter().chain(FIELDS).map(|field| (field.name.to_owned(), field.schema())).collect();
    let weight = json!({"type": "number"});
    let pairs = |item: Value| {
        json!({"type": "array", "maxItems": MIXTURE,
               "items": {"type": "array", "prefixItems": [item, weight], "minItems": 2, "maxItems": 2}})
    };
    let prompt = json!({"type": "string", "maxLength": PROMPT});
    properties.insert(
        "prompt".into(),
        json!({
        "title": "Prompt", "description": "What the picture shows, or a list of prompts with weights.",
        "anyOf": [prompt.clone(), pairs(prompt)], "default": "flowers"}),
    );
    let seed = json!({"type": "integer", "minimum": 0});
    properties.insert(
        "seed".into(),
        json!({
        "title": "Seed", "description": "Where the noise comes from, or a list of seeds with weights.",
        "anyOf": [seed.clone(), pairs(seed)], "default": 789}),
    );
    properties.insert(
        "t_index_list".into(),
        json!({
        "title": "Steps", "description": "The steps of the schedule that a frame goes through: 1 to 4, each below \
         num_inference_steps, none below the one before. Another number of steps reloads.",
        "type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99}, "minItems": 1, "maxItems": 4,
        "default": [12, 20, 32]}),
    );
    properties.insert("lora_dict".into(), json!({
        "title": "LoRAs", "description": "Files or repositories with their weights, merged while loading; a change reloads.",
        "type": ["object", "null"], "additionalProperties": weight, "maxProperties": 16, "default": null}));
    properties.insert("controlnets".into(), controls::schema());
    properties.insert(adapter::KEY.into(), adapter::schema());
    for (key, title) in OFF {
        properties.insert(
            (*key).to_owned(),
            json!({"title": title, "description": "Is not built here; it can only be switched off.",
                   "type": "object", "default": {"enabled": false}}),
        );
    }
    for (i, (key, _, _)) in LISTS.iter().enumerate() {
        properties.insert((*key).to_owned(), processors::schema(i));
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": title,
        "type": "object",
        "properties": properties,
        "additionalProperties": false,
    })
}
