//! The files of YOLO-NAS-Pose, which find the people of a picture: ONNX with the suppression of doubles inside, so that each
//! stands for one least score.

use std::path::{Path, PathBuf};

use super::{JOINTS, SIDE};
use crate::graph::{DType, Foreign, ForeignPort};
use crate::models::ModelError;
use crate::models::weights::Repository;

/// Where the files are from.
pub const REPOSITORY: &str = "yuvraj108c/yolo-nas-pose-onnx";

/// A file, by the least score that it tells people with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum File {
    /// 0.1
    Tenth,
    /// 0.2
    Fifth,
    /// 0.35
    Third,
    /// 0.5
    Half,
}

impl File {
    /// All of them, the least score first.
    pub const ALL: [File; 4] = [File::Tenth, File::Fifth, File::Third, File::Half];

    /// The one that tells everybody with a score of `threshold` or more, and as few others as there are files for.
    pub fn of(threshold: f32) -> Self {
        Self::ALL.into_iter().rev().find(|file| file.score() <= threshold).unwrap_or(File::Tenth)
    }

    /// The least score that it tells people with.
    pub fn score(self) -> f32 {
        match self {
            File::Tenth => 0.1,
            File::Fifth => 0.2,
            File::Third => 0.35,
            File::Half => 0.5,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            File::Tenth => "yolo_nas_pose_l_0.1.onnx",
            File::Fifth => "yolo_nas_pose_l_0.2.onnx",
            File::Third => "yolo_nas_pose_l_0.35.onnx",
            File::Half => "yolo_nas_pose_l_0.5.onnx",
        }
    }

    /// Where it lies below `models`, in HuggingFace's cache or in a plain folder.
    ///
    /// # Errors
    /// [`ModelError`] with what would fetch it.
    pub fn find(self, models: &Path) -> Result<PathBuf, ModelError> {
        let missing = |reason: String| ModelError::config("pose_tensorrt", reason);
        let found = Repository::find(models, REPOSITORY)
            .map_err(|error| missing(format!("{error}; `weir models pull {REPOSITORY}` fetches it")))?;
        let path = found.root().join(self.name());
        match (path.is_file(), self) {
            (true, _) => Ok(path),
            (false, File::Half) => {
                Err(missing(format!("{}: no such file; `weir models pull {REPOSITORY}` fetches it", path.display())))
            }
            (false, _) => {
                let reason = "no such file, which scores below 0.5 take; it is among those of";
                Err(missing(format!("{}: {reason} {REPOSITORY}", path.display())))
            }
        }
    }
}

/// The detector's files in the folder `root`.
pub fn files(root: &Path) -> Vec<File> {
    File::ALL.into_iter().filter(|file| root.join(file.name()).is_file()).collect()
}

/// What a detector takes and gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ports {
    /// Takes u8 (1, 3, [`SIDE`], [`SIDE`]): red, green and blue.
    pub picture: String,
    /// Gives how many people there are, (1, 1).
    pub count: String,
    /// Whether that number has 64 bits; else it has 32.
    pub wide: bool,
    /// Gives their scores, f32 (1, N).
    pub scores: String,
    /// Gives x and y in pixels and the confidence of each joint, f32 (1, N, [`JOINTS`], 3).
    pub joints: String,
    /// People at most, N.
    pub most: u64,
}

impl Ports {
    /// Those of the ONNX file at `path`: one input; number, boxes, scores and joints in this order.
    ///
    /// # Errors
    /// [`ModelError`] when it cannot be read or has others.
    pub fn read(path: &Path) -> Result<Self, ModelError> {
        let foreign = Foreign::read(path)?;
        let wrong = |reason: String| {
            let wanted = format!(
                "u8 (1, 3, {SIDE}, {SIDE}) to the number of people (1, 1), boxes (1, N, 4), scores (1, N) and joints (1, N, \
                 {JOINTS}, 3) is needed"
            );
            ModelError::config("pose_tensorrt", format!("{}: {reason}; {wanted}", path.display()))
        };
        if foreign.beside {
            return Err(wrong("its weights lie in other files".to_owned()));
        }
        let ([picture], [count, boxes, scores, joints]) = (&foreign.inputs[..], &foreign.outputs[..]) else {
            let (inputs, outputs) = (foreign.inputs.len(), foreign.outputs.len());
            return Err(wrong(format!("it has {inputs} inputs and {outputs} outputs")));
        };
        let most = match scores.shape.as_deref() {
            Some([_, Some(most)]) => *most,
            _ => return Err(wrong(format!("{} leaves open how many people there are at most", scores.name))),
        };
        let number = match count.dtype {
            Some(DType::I32) => DType::I32,
            _ => DType::I64,
        };
        for (port, dtype, shape) in [
            (picture, DType::U8, &[1, 3, SIDE, SIDE][..]),
            (count, number, &[1, 1]),
            (boxes, DType::F32, &[1, most, 4]),
            (scores, DType::F32, &[1, most]),
            (joints, DType::F32, &[1, most, JOINTS, 3]),
        ] {
            if !fits(port, dtype, shape) {
                return Err(wrong(format!("{} is {}", port.name, told(port))));
            }
        }
        Ok(Self {
            picture: picture.name.clone(),
            count: count.name.clone(),
            wide: number == DType::I64,
            scores: scores.name.clone(),
            joints: joints.name.clone(),
            most,
        })
    }
}

/// Whether `port` can hold `shape` of `dtype`, with its open dimensions filled in.
fn fits(port: &ForeignPort, dtype: DType, shape: &[u64]) -> bool {
    let same = |have: &[Option<u64>]| {
        have.len() == shape.len() && have.iter().zip(shape).all(|(have, want)| have.is_none_or(|have| have == *want))
    };
    port.dtype == Some(dtype) && port.shape.as_deref().is_none_or(same)
}

fn told(port: &ForeignPort) -> String {
    let dtype = port.dtype.map_or_else(|| "of another type".to_owned(), |dtype| dtype.to_string());
    let shape = port.shape.as_deref().unwrap_or_default();
    let dims: Vec<String> = shape.iter().map(|dim| dim.map_or_else(|| "?".to_owned(), |n| n.to_string())).collect();
    format!("{dtype} ({})", dims.join(", "))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::graph::GraphBuilder;

    #[test]
    fn a_threshold_has_the_file_that_tells_enough() {
        for (threshold, file) in
            [(0.1, File::Tenth), (0.3, File::Fifth), (0.35, File::Third), (0.5, File::Half), (0.9, File::Half)]
        {
            assert_eq!(File::of(threshold), file);
            assert!(file.name().contains(&format!("_{}.onnx", file.score())));
        }
    }

    #[test]
    fn what_is_no_detector_is_refused_with_what_is_wrong() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join(File::Half.name());
        let write = |side: u64, joints: u64, outputs: usize| {
            let mut g = GraphBuilder::new("any");
            let x = g.input("picture", DType::U8, [1, 3, side, side]).unwrap();
            let x = g.cast(&x, DType::F32).unwrap();
            let one = g.reduce_max(&x, &[1, 2, 3], true).unwrap();
            let count = g.cast(&one, DType::I64).unwrap();
            let count = g.reshape(&count, &[1, 1]).unwrap();
            for (name, shape) in
                [("", vec![]), ("boxes", vec![1, 3, 4]), ("scores", vec![1, 3]), ("joints", vec![1, 3, joints, 3])]
                    .iter()
                    .take(outputs)
            {
                if name.is_empty() {
                    g.output("number", &count).unwrap();
                    continue;
                }
                let flat = g.reshape(&one, &vec![1; shape.len()]).unwrap();
                let all = g.expand(&flat, shape).unwrap();
                g.output(name, &all).unwrap();
            }
            std::fs::write(&path, g.finish().unwrap().to_bytes().unwrap()).unwrap();
        };
        let refused = |what: &str| {
            let error = Ports::read(&path).unwrap_err().to_string();
            assert!(error.contains(what) && error.contains(File::Half.name()), "{error}");
        };
        refused("No such file");
        write(SIDE, JOINTS, 4);
        let ports = Ports::read(&path).unwrap();
        assert_eq!(
            (ports.most, ports.wide, ports.picture.as_str(), ports.joints.as_str()),
            (3, true, "picture", "joints")
        );
        write(SIDE, JOINTS, 3);
        refused("it has 1 inputs and 3 outputs");
        write(320, JOINTS, 4);
        refused("picture is u8 (1, 3, 320, 320)");
        write(SIDE, 18, 4);
        refused("joints is f32 (1, 3, 18, 3)");
        std::fs::write(&path, "<html>").unwrap();
        refused("cannot be read as ONNX");
    }
}
