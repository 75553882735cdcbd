//! Landmarks of faces, as MediaPipe's `FaceMesh` finds them.

use std::path::PathBuf;

use super::face_find::{BOX_NUMBERS, BOXES, DETECTOR_SIDE, LANDMARK_SIDE};
use super::face_lines::{POINTS, REGION_NAMES};
use super::face_mask::{FaceMask, MAX_BLUR, MAX_GROWTH};
use super::face_mesh::{FACE_NUMBERS, FACES, FaceMesh};
use super::sd_find::find;
use crate::graph::{DType, GraphBuilder};
use crate::models::tflite::{Network, TfliteError};
use crate::workflow::class::input::{choice, flag, float, image, int, link};
use crate::workflow::class::{Class, named};
use crate::workflow::lower::{Cx, Data, EncodeError, LowerError, Made, OwnGraph, Sym, Value};
use crate::workflow::need::Need;
use crate::workflow::value::{Setting, Type};

const FACEMESH_DATA: Type = Type::Other("FACEMESH_DATA");
const PACK: &str = "ComfyUI-Stream-Pack";

/// Face meshes.
pub const CLASSES: &[Class] = &[
    Class {
        pack: PACK,
        inputs: &[
            image("image"),
            flag("static_image_mode", false).live(),
            int("max_num_faces", 1, 1, 10).live(),
            flag("refine_landmarks", false),
            float("min_detection_confidence", 0.5, 0.1, 1.0, 0.05).live(),
            float("min_tracking_confidence", 0.5, 0.1, 1.0, 0.05).live(),
            flag("draw_mesh", true).live(),
            flag("draw_contours", true).ignored(),
            choice("mesh_color", "green", &["green", "red", "blue", "yellow", "white"]).ignored(),
            float("mesh_thickness", 2.0, 0.1, 5.0, 0.1).live(),
        ],
        outputs: &[named("facemesh_data", FACEMESH_DATA), named("annotations", Type::Image)],
        needs: |_| vec![DETECTOR.need(), LANDMARKS.need()],
        note: "Runs on the host, its models on the device. Draws the contours in their own colours, as the node does. With 468 \
               landmarks: refine_landmarks is refused.",
        ..Class::host("FaceMeshNode", face_mesh)
    },
    Class {
        pack: PACK,
        inputs: &[
            link("facemesh_data", FACEMESH_DATA),
            int("face_index", 0, 0, 9).live(),
            choice("region", "mouth", REGION_NAMES).live(),
            flag("fill_region", true).live(),
            float("mask_value", 1.0, 0.0, 1.0, 0.01).live(),
            int("dilation_pixels", 0, 0, MAX_GROWTH as i128).live(),
            int("blur_radius", 0, 0, MAX_BLUR as i128).live(),
        ],
        outputs: &[named("mask", Type::Mask)],
        note: "Runs on the host.",
        ..Class::host("FaceMeshMaskNode", face_mask)
    },
];

/// A model of MediaPipe.
struct Published {
    what: &'static str,
    /// The folder in the Python package.
    folder: &'static str,
    file: &'static str,
    /// Side of its picture in pixels.
    side: usize,
    /// How many numbers its two outputs have.
    gives: [usize; 2],
}

const DETECTOR: Published = Published {
    what: "face detector",
    folder: "mediapipe/modules/face_detection",
    file: "face_detection_short_range.tflite",
    side: DETECTOR_SIDE,
    gives: [BOXES * BOX_NUMBERS, BOXES],
};

const LANDMARKS: Published = Published {
    what: "face landmark model",
    folder: "mediapipe/modules/face_landmark",
    file: "face_landmark.tflite",
    side: LANDMARK_SIDE,
    gives: [FACE_NUMBERS, 1],
};

impl Published {
    fn need(&self) -> Need {
        let Self { what, folder, file, .. } = *self;
        Need {
            what,
            name: file.to_owned(),
            repository: String::new(),
            // As it is unpacked from the package, or by itself.
            files: vec![PathBuf::from("mediapipe").join(file), PathBuf::from(folder).join(file)],
            from: format!(
                "the Python package mediapipe 0.10.21 has it as {folder}/{file}; put it into the folder mediapipe of the \
                 models' folder"
            ),
        }
    }

    /// Its graph, and which of its outputs is the longer one.
    fn load(&self, cx: &Cx<'_>) -> Result<(OwnGraph, usize), LowerError> {
        let need = self.need();
        let path = find(cx, "", &need)?;
        (cx.env().progress)(&format!("reading {}", path.display()));
        let refused = |reason: String| {
            let reason = format!("{} cannot be used: {reason}", path.display());
            cx.refuse_model("", reason, need.from.clone())
        };
        let network = Network::open(&path).map_err(|error| refused(error.to_string()))?;
        let taken = [1, self.side as u64, self.side as u64, 3];
        let given: Vec<usize> = network.outputs().iter().map(|shape| shape.iter().product::<u64>() as usize).collect();
        let [first, second] = self.gives;
        if network.inputs() != [taken.as_slice()] || (given != [first, second] && given != [second, first]) {
            let is = format!("it takes {:?} and gives {:?}", network.inputs(), network.outputs());
            return Err(refused(format!("{is}; {taken:?} to {first} and {second} numbers is the {}", self.what)));
        }
        let graph = self.graph(&network, taken).map_err(|error| refused(error.to_string()))?;
        Ok((graph, usize::from(given[0] != first)))
    }

    fn graph(&self, network: &Network, taken: [u64; 4]) -> Result<OwnGraph, TfliteError> {
        let made = |name: &str, shape: &[u64]| Made { name: name.to_owned(), dtype: DType::F32, shape: shape.to_vec() };
        let mut g = GraphBuilder::new("face");
        let picture = g.input("picture", DType::F32, taken)?;
        let mut outputs = Vec::new();
        for (name, tensor) in ["first", "second"].into_iter().zip(network.build(&mut g, &picture)?) {
            g.output(name, &tensor)?;
            outputs.push(made(name, &tensor.shape().fixed().unwrap_or_default()));
        }
        Ok(OwnGraph { name: self.what, model: g.finish()?, inputs: vec![made("picture", &taken)], outputs })
    }
}

/// What is known of the faces of a picture.
#[derive(Clone)]
struct Faces {
    /// f32 (B, [`FACES`], 468, 3).
    landmarks: Sym,
    /// f32 (B).
    count: Sym,
    /// Pictures, height, width.
    size: [u64; 3],
}

/// The settings as so many numbers: texts by their place among [`REGION_NAMES`].
fn numbers(settings: &[Setting]) -> Result<Data, EncodeError> {
    let number = |setting: &Setting| match setting {
        Setting::Text(text) => REGION_NAMES.iter().position(|name| name == text).map(|place| place as f32),
        other => other.number().map(|n| n as f32),
    };
    let numbers = settings.iter().map(number).collect::<Option<Vec<_>>>();
    numbers.map(Data::F32).ok_or_else(|| EncodeError::Wrong("it is neither a number nor a region".to_owned()))
}

fn face_mesh(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    if cx.flag("refine_landmarks")? {
        return Err(cx.refuse("refine_landmarks", "the 10 landmarks of the irises are not found", "switch it off"));
    }
    let x = cx.sym("image")?;
    let (dtype, shape) = cx.shape(x)?;
    let [b, h, w, 3] = shape[..] else {
        return Err(cx.refuse("image", format!("faces are found in pictures of 3 channels, not {shape:?}"), ""));
    };
    if dtype != DType::F32 || h == 0 || w == 0 {
        return Err(cx.refuse("image", format!("{dtype} {shape:?}"), "give it a picture"));
    }
    let (detector, boxes_at) = DETECTOR.load(cx)?;
    let (landmarks, landmarks_at) = LANDMARKS.load(cx)?;
    let widgets = [
        "static_image_mode",
        "max_num_faces",
        "min_detection_confidence",
        "min_tracking_confidence",
        "draw_mesh",
        "mesh_thickness",
    ];
    let settings = cx.follow(&widgets, DType::F32, &[widgets.len() as u64], numbers)?;
    let stage = FaceMesh::new([h as usize, w as usize], detector, boxes_at, landmarks, landmarks_at);
    let outputs =
        [(DType::F32, vec![b, FACES as u64, POINTS as u64, 3]), (DType::F32, vec![b]), (DType::F32, vec![b, h, w, 3])];
    let made = cx.host(&[x], vec![settings], &outputs, Box::new(stage))?;
    let &[landmarks, count, drawing] = made.as_slice() else {
        return Err(cx.refuse("", "its stage lacks an output", ""));
    };
    Ok(vec![Value::held(Faces { landmarks, count, size: [b, h, w] }), Value::Tensor(drawing)])
}

fn face_mask(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let Faces { landmarks, count, size: [b, h, w] } = cx.held("facemesh_data")?;
    let widgets = ["face_index", "region", "fill_region", "mask_value", "dilation_pixels", "blur_radius"];
    let settings = cx.follow(&widgets, DType::F32, &[widgets.len() as u64], numbers)?;
    let stage = FaceMask::new([h as usize, w as usize]);
    let made = cx.host(&[landmarks, count], vec![settings], &[(DType::F32, vec![b, h, w])], Box::new(stage))?;
    Ok(made.into_iter().map(Value::Tensor).collect())
}
