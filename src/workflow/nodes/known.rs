//! Classes that are known and do not run, so that a workflow that needs one is refused with a reason and a way out.

use crate::workflow::class::Class;

const TRT: &str = "TensorRT-Nodes";
const STREAM: &str = "ComfyUI-Stream-Pack";
const PORTRAIT: &str = "LivePortrait";
const FLORENCE: &str = "Florence2";
const SAM: &str = "segment-anything-2-real-time";

const ENGINES: &str = "engines are built from the weights by the runner itself; take the node out, and load the model with \
                       CheckpointLoaderSimple or UNETLoader";
const SPEECH: &str = "speech is not recognised; take the branch to the text out";
const FACE: &str = "its drawing is another one; take FaceMeshNode in its place";
const LIVE_PORTRAIT: &str = "portraits are not animated; there is no node in its place";
const WORDS: &str = "pictures are not described or searched by words; use a depth mask in its place";
const TRACK: &str = "objects are not tracked; use a depth mask in its place";
const STREAM_CONTROL: &str = "muxionlabs StreamDiffusion";
const CONTROLLED: &str = "a StreamDiffusion with a ControlNet and a preprocessor in one node is not built; take \
                          StreamDiffusionConfig and StreamDiffusionSampler, or KSampler with ControlNetApplyAdvanced";
const LARGER: &str = "super-resolution networks are not run; ImageScaleBy with lanczos makes pictures larger";

/// Known and refused.
pub const CLASSES: &[Class] = &[
    Class::refused("ComfyStreamUIPreview", "ComfyStream", "it is a page inside ComfyUI's editor; take it out"),
    Class::refused("AudioTranscriptionNode", STREAM, SPEECH),
    Class::refused("SRTGeneratorNode", STREAM, SPEECH),
    Class::refused("MediaPipe-FaceMeshPreprocessor", "controlnet_aux", FACE),
    Class::refused("SuperResolutionModelLoader", STREAM, LARGER),
    Class::refused("SuperResolutionUpscale", STREAM, LARGER),
    Class::refused("DownloadAndLoadLivePortraitModels", PORTRAIT, LIVE_PORTRAIT),
    Class::refused("LivePortraitLoadMediaPipeCropper", PORTRAIT, LIVE_PORTRAIT),
    Class::refused("LivePortraitCropper", PORTRAIT, LIVE_PORTRAIT),
    Class::refused("LivePortraitProcess", PORTRAIT, LIVE_PORTRAIT),
    Class::refused("FasterLivePortraitFastLip", "FasterLivePortrait", LIVE_PORTRAIT),
    Class::refused("DownloadAndLoadFlorence2Model", FLORENCE, WORDS),
    Class::refused("Florence2Run", FLORENCE, WORDS),
    Class::refused("BoundingBoxToCenter", FLORENCE, WORDS),
    Class::refused("DownloadAndLoadSAM2RealtimeModel", SAM, TRACK),
    Class::refused("Sam2RealtimeSegmentation", SAM, TRACK),
    Class::refused("ControlNetTRTConfig", STREAM_CONTROL, CONTROLLED),
    Class::refused("ControlNetTRTModelLoader", STREAM_CONTROL, CONTROLLED),
    Class::refused("ControlNetTRTEngineCreator", STREAM_CONTROL, CONTROLLED),
    Class::refused("ControlNetTRTStreamingSampler", STREAM_CONTROL, CONTROLLED),
    Class::refused("STATIC_TRT_MODEL_CONVERSION", TRT, ENGINES),
    Class::refused("DYNAMIC_TRT_MODEL_CONVERSION", TRT, ENGINES),
    Class::refused("ONNX_FP8_EXPORT", TRT, ENGINES),
    Class::refused("ONNXModelSelector", TRT, ENGINES),
];
