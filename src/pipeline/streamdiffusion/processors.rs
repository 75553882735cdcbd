//! What pictures go through: the preprocessors of ControlNets, and the lists in front of and behind the model.

use serde_json::{Map, Value, json};

use super::params::refused;
use crate::graph::Interpolation;
use crate::models::filter::Filter;
use crate::models::pose::SIDE;
use crate::models::pose::detector::File;
use crate::pipeline::ParamError;
use crate::pipeline::params::Kind;

/// A processor of pictures with its parameters.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Processor {
    /// The frame itself.
    Passthrough,
    /// Canny's edges, by the lower and the upper threshold of the gradient, 0 to 2040. On the host.
    Canny([f32; 2]),
    /// The frame mixed with the last picture that was shown, which has this share of it. On the host.
    Feedback(f32),
    /// In the graph, with the numbers that it is given with every frame.
    Graph(Made, Vec<f32>),
}

/// What the graph is to make of a picture.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Made {
    /// Nothing; a picture is given with every frame.
    Outside,
    SoftEdge,
    Depth,
    /// People, found by this file.
    Pose(File),
    Filter(Filter),
}

/// The processors that are built.
pub(super) const BUILT: &[&str] = &[
    "passthrough",
    "external",
    "canny",
    "soft_edge",
    "depth_tensorrt",
    "pose_tensorrt",
    "feedback",
    "blur",
    "sharpen",
    "upscale",
    "standard_lineart",
];

/// All that the live runner has.
const ALL: &[&str] = &[
    "blur",
    "canny",
    "depth",
    "depth_tensorrt",
    "external",
    "feedback",
    "hed",
    "lineart",
    "mediapipe_pose",
    "mediapipe_segmentation",
    "openpose",
    "passthrough",
    "pose_tensorrt",
    "realesrgan_trt",
    "sharpen",
    "soft_edge",
    "standard_lineart",
    "temporal_net_tensorrt",
    "upscale",
];

/// Longest list of processors.
const MOST: usize = 16;
/// Longest side of an output picture in pixels.
const LARGEST: u32 = 4096;
/// The largest share of the last latent that is mixed in; more is taken for this, as by the live runner.
const LATENT_SHARE: f32 = 0.4;

/// The parameters of a processor, while they are read. What is wrong is told with the key that it is about.
struct Given<'a> {
    name: &'a str,
    params: Option<&'a Map<String, Value>>,
}

/// The key that is wrong, with a dot in front, and the reason.
type Wrong = (String, String);

impl<'a> Given<'a> {
    fn new(name: &'a str, params: Option<&'a Value>) -> Result<Self, Wrong> {
        let params = match params {
            None | Some(Value::Null) => None,
            Some(Value::Object(params)) => Some(params),
            Some(_) => return Err((String::new(), "Input should be a valid dictionary".to_owned())),
        };
        Ok(Self { name, params })
    }

    /// Refuses other keys than `keys`.
    fn knows(&self, keys: &[&str]) -> Result<(), Wrong> {
        match self.params.and_then(|params| params.keys().find(|key| !keys.contains(&key.as_str()))) {
            None => Ok(()),
            Some(key) if keys.is_empty() => Err((format!(".{key}"), format!("{} takes no parameters here", self.name))),
            Some(key) => Err((format!(".{key}"), format!("{} takes {} here", self.name, keys.join(" and ")))),
        }
    }

    fn take(&self, key: &str, kind: Kind) -> Result<Value, Wrong> {
        match self.params.and_then(|params| params.get(key)) {
            None => Ok(kind.default_value()),
            Some(given) => kind.take(given).map_err(|reason| (format!(".{key}"), reason)),
        }
    }

    fn number(&self, key: &str, default: f64, min: f64, max: f64) -> Result<f32, Wrong> {
        Ok(self.take(key, Kind::Float { default, min, max })?.as_f64().unwrap_or(default) as f32)
    }

    fn whole(&self, key: &str, default: i64, min: i64, max: i64) -> Result<i64, Wrong> {
        Ok(self.take(key, Kind::Int { default, min, max, multiple_of: 1 })?.as_i64().unwrap_or(default))
    }
}

/// Stands for the name itself among what is wrong with a processor.
const NAME: &str = "name";

impl Processor {
    /// The part of it that is in the graph.
    pub fn made(&self) -> Made {
        if let Processor::Graph(made, _) = self { *made } else { Made::Outside }
    }

    /// The numbers that the graph is given for it.
    pub fn numbers(&self) -> &[f32] {
        if let Processor::Graph(_, numbers) = self { numbers } else { &[] }
    }

    /// Whether the host makes its picture.
    pub fn on_host(&self) -> bool {
        matches!(self, Processor::Canny(_) | Processor::Feedback(_))
    }

    /// The file that finds people for it.
    pub fn detector(&self) -> Option<File> {
        if let Processor::Graph(Made::Pose(file), _) = self { Some(*file) } else { None }
    }

    /// Whether the last picture is wanted.
    pub fn mixes(&self) -> bool {
        matches!(self, Processor::Feedback(_))
    }

    /// Reads `params` of the processor `name`. What is wrong is told under the key `at`, or `at_params` with the parameter.
    pub fn read(name: Option<&Value>, params: Option<&Value>, at: &str, at_params: &str) -> Result<Self, ParamError> {
        let name = match name {
            None => "passthrough",
            Some(Value::String(name)) if ALL.contains(&name.as_str()) => name,
            Some(_) => return Err(refused(at, "Input should be the name of a preprocessor")),
        };
        Given::new(name, params).and_then(|given| Self::of(&given)).map_err(|(key, reason)| match &*key {
            NAME => refused(at, reason),
            key => refused(&format!("{at_params}{key}"), reason),
        })
    }

    fn of(given: &Given<'_>) -> Result<Self, Wrong> {
        let filter = |filter, numbers: Vec<f32>| Ok(Processor::Graph(Made::Filter(filter), numbers));
        let name = given.name;
        match name {
            "passthrough" | "external" => given.knows(&[]).map(|()| Processor::Passthrough),
            "soft_edge" => given.knows(&[]).map(|()| Processor::Graph(Made::SoftEdge, Vec::new())),
            "depth_tensorrt" => given.knows(&[]).map(|()| Processor::Graph(Made::Depth, Vec::new())),
            "pose_tensorrt" => {
                given.knows(&["confidence_threshold", "detect_resolution"])?;
                let side = SIDE as i64;
                given.whole("detect_resolution", side, side, side)?;
                let threshold = given.number("confidence_threshold", 0.5, 0.1, 1.0)?;
                Ok(Processor::Graph(Made::Pose(File::of(threshold)), vec![threshold]))
            }
            "canny" => {
                given.knows(&["low_threshold", "high_threshold"])?;
                // No gradient is larger: 4 · 255 right, and as much down.
                let threshold = |key, default| given.number(key, default, 0.0, 2040.0);
                Ok(Processor::Canny([threshold("low_threshold", 100.0)?, threshold("high_threshold", 200.0)?]))
            }
            "feedback" => {
                given.knows(&["feedback_strength"])?;
                Ok(Processor::Feedback(given.number("feedback_strength", 0.5, 0.0, 1.0)?))
            }
            "blur" => {
                given.knows(&["blur_intensity", "kernel_size"])?;
                let sigma = given.number("blur_intensity", 2.0, 0.1, 10.0)?;
                // An even one becomes the next, as there.
                let kernel = given.whole("kernel_size", 15, 3, 51)? as u64 | 1;
                filter(Filter::Blur { kernel, sigma }, Vec::new())
            }
            "sharpen" => {
                given.knows(&[
                    "sharpen_intensity",
                    "unsharp_radius",
                    "edge_enhancement",
                    "detail_boost",
                    "noise_reduction",
                    "multi_scale",
                ])?;
                let radius = given.number("unsharp_radius", 1.0, 0.1, 5.0)?;
                let several = given.take("multi_scale", Kind::Bool { default: true })?.as_bool().unwrap_or(true);
                let numbers = vec![
                    given.number("sharpen_intensity", 1.5, 0.1, 5.0)?,
                    given.number("edge_enhancement", 0.5, 0.0, 2.0)?,
                    given.number("detail_boost", 0.3, 0.0, 1.0)?,
                    given.number("noise_reduction", 0.1, 0.0, 0.5)?,
                ];
                filter(Filter::Sharpen { radius, several }, numbers)
            }
            "upscale" => {
                given.knows(&["scale_factor", "algorithm"])?;
                let factor = given.take("scale_factor", Kind::Float { default: 2.0, min: 1.0, max: 4.0 })?;
                let of = &["bilinear", "lanczos", "bicubic", "nearest"];
                let how = given.take("algorithm", Kind::Choice { default: "bilinear", of })?;
                let how = match how.as_str() {
                    Some("nearest") => Interpolation::Nearest,
                    // The live runner's tensors know no Lanczos; it takes its cubic resize for it.
                    Some("bicubic" | "lanczos") => Interpolation::Cubic,
                    _ => Interpolation::Linear,
                };
                filter(Filter::Upscale { factor: factor.as_f64().unwrap_or(2.0), how }, Vec::new())
            }
            "standard_lineart" => {
                given.knows(&["gaussian_sigma", "intensity_threshold"])?;
                let sigma = given.number("gaussian_sigma", 6.0, 1.0, 20.0)?;
                let threshold = given.whole("intensity_threshold", 8, 1, 50)? as f32;
                filter(Filter::Lineart { sigma }, vec![threshold])
            }
            _ => {
                let instead = match nearest(name) {
                    Some(nearest) => format!("{nearest} comes nearest; "),
                    None => String::new(),
                };
                let why = match name {
                    "hed" | "lineart" | "openpose" => ": its weights are published as pickles, which are not read",
                    _ => "",
                };
                Err((NAME.to_owned(), format!("{name} is not built here{why}; {instead}{} are", BUILT.join(", "))))
            }
        }
    }
}

/// What is built and does most nearly what `name` does.
fn nearest(name: &str) -> Option<&'static str> {
    match name {
        "hed" => Some("soft_edge"),
        "lineart" => Some("standard_lineart"),
        "depth" => Some("depth_tensorrt"),
        "realesrgan_trt" => Some("upscale"),
        "openpose" | "mediapipe_pose" => Some("pose_tensorrt"),
        _ => None,
    }
}

/// The four lists of processors.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Lists {
    /// What the frame goes through before the model: first those of the host.
    pub before: Vec<Processor>,
    /// What the painted picture goes through.
    pub after: Vec<Processor>,
    /// Shares of the last latent in what comes to the first step.
    pub latent_before: Vec<f32>,
    /// Shares of the last latent in what the last step gives.
    pub latent_after: Vec<f32>,
}

/// The keys of the lists, with names for people.
pub(super) const LISTS: [(&str, &str, &str); 4] = [
    (
        "image_preprocessing",
        "Before the model",
        "What each frame goes through before it is painted over, in this order.",
    ),
    ("image_postprocessing", "Behind the model", "What each painted picture goes through, in this order."),
    ("latent_preprocessing", "Latents before the model", "Feedback of the last latent into the first step."),
    ("latent_postprocessing", "Latents behind the model", "Feedback of the last latent into the predicted one."),
];

/// An entry of a list, with its place.
type Entry<'a> = (String, &'a Map<String, Value>);

/// The entries of the list `key` that are switched on.
fn entries<'a>(key: &str, given: &'a Value) -> Result<Vec<Entry<'a>>, ParamError> {
    let object = match given {
        Value::Null => return Ok(Vec::new()),
        Value::Object(object) => object,
        _ => return Err(refused(key, "Input should be a valid dictionary")),
    };
    if let Some(extra) = object.keys().find(|name| !["enabled", "processors"].contains(&name.as_str())) {
        return Err(refused(&format!("{key}.{extra}"), "Extra inputs are not permitted"));
    }
    let on = |at: &str, object: &Map<String, Value>| match object.get("enabled") {
        None => Ok(true),
        Some(given) => match (Kind::Bool { default: true }).take(given) {
            Ok(value) => Ok(value.as_bool().unwrap_or(true)),
            Err(reason) => Err(refused(&format!("{at}.enabled"), reason)),
        },
    };
    let at = format!("{key}.processors");
    let list = match object.get("processors") {
        None => &[][..],
        Some(Value::Array(list)) if list.len() > MOST => {
            return Err(refused(&at, format!("List should have at most {MOST} items")));
        }
        Some(Value::Array(list)) => list,
        Some(_) => return Err(refused(&at, "Input should be a valid list")),
    };
    let whole = on(key, object)?;
    let mut entries = Vec::with_capacity(list.len());
    for (i, entry) in list.iter().enumerate() {
        let at = format!("{at}.{i}");
        let Value::Object(entry) = entry else { return Err(refused(&at, "Input should be a valid dictionary")) };
        if let Some(extra) = entry.keys().find(|name| !["type", "enabled", "params"].contains(&name.as_str())) {
            return Err(refused(&format!("{at}.{extra}"), "Extra inputs are not permitted"));
        }
        if !entry.contains_key("type") {
            return Err(refused(&format!("{at}.type"), "Field required"));
        }
        if whole && on(&at, entry)? {
            entries.push((at, entry));
        }
    }
    Ok(entries)
}

impl Lists {
    /// Reads the lists, the values of [`LISTS`] in their order. Entries that are switched off are left out unread, as is a
    /// whole list.
    pub fn read(values: [&Value; 4]) -> Result<Self, ParamError> {
        let [before, after, latent_before, latent_after] = values;
        let images = |key: &str, given: &Value| {
            let entries = entries(key, given)?;
            let mut list: Vec<Processor> = Vec::with_capacity(entries.len());
            for (at, entry) in entries {
                let (name, params) = (entry.get("type"), entry.get("params"));
                let at_type = format!("{at}.type");
                let processor = Processor::read(name, params, &at_type, &format!("{at}.params"))?;
                let behind = key == LISTS[1].0;
                let upscale = matches!(processor, Processor::Graph(Made::Filter(Filter::Upscale { .. }), _));
                if processor.on_host() && behind {
                    return Err(refused(&at_type, "this one is not built behind the model"));
                }
                if processor.on_host() && list.iter().any(|before| !before.on_host()) {
                    return Err(refused(&at_type, "canny and feedback are built only in front of all others"));
                }
                if processor.detector().is_some() && behind {
                    return Err(refused(&at_type, "people are not looked for behind the model"));
                }
                if processor.detector().is_some() && !list.is_empty() {
                    return Err(refused(
                        &at_type,
                        "people are looked for in the frame itself: pose_tensorrt has to be the first",
                    ));
                }
                if upscale && !behind {
                    let reason =
                        "the model takes pictures of width and height; upscale belongs into image_postprocessing";
                    return Err(refused(&at_type, reason));
                }
                if processor != Processor::Passthrough {
                    list.push(processor);
                }
            }
            Ok(list)
        };
        let latents = |key: &str, given: &Value| {
            let read = |(at, entry): Entry<'_>| {
                if entry.get("type").and_then(Value::as_str) != Some("latent_feedback") {
                    return Err(refused(&format!("{at}.type"), "Input should be 'latent_feedback'"));
                }
                let given = Given::new("latent_feedback", entry.get("params")).and_then(|given| {
                    given.knows(&["feedback_strength"])?;
                    given.number("feedback_strength", 0.15, 0.0, 1.0)
                });
                given
                    .map(|share| share.min(LATENT_SHARE))
                    .map_err(|(key, reason)| refused(&format!("{at}.params{key}"), reason))
            };
            entries(key, given)?.into_iter().map(read).collect::<Result<Vec<f32>, ParamError>>()
        };
        Ok(Self {
            before: images(LISTS[0].0, before)?,
            after: images(LISTS[1].0, after)?,
            latent_before: latents(LISTS[2].0, latent_before)?,
            latent_after: latents(LISTS[3].0, latent_after)?,
        })
    }

    /// The processors of pictures that are in the graph, before and behind the model.
    pub fn in_graph(&self) -> [Vec<&Processor>; 2] {
        [&self.before, &self.after].map(|list| list.iter().filter(|one| !one.on_host()).collect())
    }

    /// Factors by which output pictures are larger, one after the other.
    pub fn enlarge(&self) -> Vec<f64> {
        let factor = |processor: &Processor| match processor {
            Processor::Graph(Made::Filter(Filter::Upscale { factor, .. }), _) => Some(*factor),
            _ => None,
        };
        self.after.iter().filter_map(factor).collect()
    }

    /// Checks pictures of `output`, width and height, that are shown in place of those of the model's size. `mixes` where one
    /// of them is mixed into frames.
    pub fn check_output(&self, output: [u32; 2], mixes: bool) -> Result<(), ParamError> {
        let at = "image_postprocessing.processors";
        if self.enlarge().iter().all(|factor| *factor == 1.0) {
            return Ok(());
        }
        if output.iter().any(|side| side % 2 != 0 || *side > LARGEST) {
            let [width, height] = output;
            let reason = format!("the output is {width}×{height}; even sides of up to {LARGEST} pixels are possible");
            return Err(refused(at, reason));
        }
        match mixes || self.before.iter().any(Processor::mixes) {
            true => Err(refused(at, "upscale and a feedback of pictures, which would be of two sizes, are not built")),
            false => Ok(()),
        }
    }
}

/// What the parameters of processors are, for people.
const ABOUT: &str = "canny: low_threshold, high_threshold; feedback: feedback_strength; pose_tensorrt: confidence_threshold; blur: blur_intensity, kernel_size; \
                     sharpen: sharpen_intensity, unsharp_radius, edge_enhancement, detail_boost, noise_reduction, \
                     multi_scale; upscale: scale_factor, algorithm; standard_lineart: gaussian_sigma, intensity_threshold.";

/// The JSON Schema of a processor's name and of its parameters.
pub(super) fn schema_of_one(what: &str) -> [Value; 2] {
    let about = format!("{what} Built here: {}.", BUILT.join(", "));
    [
        json!({"type": "string", "enum": ALL, "default": "passthrough", "description": about}),
        json!({"type": "object", "default": {}, "description": ABOUT}),
    ]
}

/// The JSON Schema of the list `i` of [`LISTS`].
pub(super) fn schema(i: usize) -> Value {
    let (_, title, about) = LISTS[i];
    let [name, params] = match i {
        0 | 1 => schema_of_one("A processor."),
        _ => [
            json!({"type": "string", "enum": ["latent_feedback"]}),
            json!({"type": "object", "default": {}, "description": "feedback_strength 0.15; more than 0.4 is taken for 0.4."}),
        ],
    };
    json!({
        "title": title,
        "description": about,
        "type": ["object", "null"],
        "default": null,
        "additionalProperties": false,
        "properties": {
            "enabled": {"type": "boolean", "default": true},
            "processors": {
                "type": "array",
                "maxItems": MOST,
                "default": [],
                "items": {
                    "type": "object",
                    "required": ["type"],
                    "additionalProperties": false,
                    "properties": {"type": name, "enabled": {"type": "boolean", "default": true}, "params": params},
                },
            },
        },
    })
}
