//! Where pictures come in and go out.

use crate::graph::DType;
use crate::workflow::class::input::{file, float, image, text};
use crate::workflow::class::{Class, Medium, out};
use crate::workflow::lower::{Cx, Data, LowerError, Value, to_bytes};
use crate::workflow::value::Type;

/// Sources and sinks of pictures.
pub const CLASSES: &[Class] = &[
    Class {
        pack: "ComfyStream",
        inputs: &[float("timeout_seconds", 1.0, 0.1, 30.0, 0.1).ignored()],
        outputs: &[out(Type::Image), out(Type::Mask)],
        source: Some(Medium::Video),
        note: "The next picture of the stream. Its second output, for workflows whose LoadImage became this, is an empty mask.",
        ..Class::graph("LoadTensor", load_tensor)
    },
    Class {
        pack: "ComfyStream",
        inputs: &[file("image")],
        outputs: &[out(Type::Image), out(Type::Mask)],
        note: "The camera: becomes LoadTensor.",
        ..Class::graph("PrimaryInputLoadImage", load_image)
    },
    Class {
        inputs: &[file("image")],
        outputs: &[out(Type::Image), out(Type::Mask)],
        note: "The camera where it is the only one; else a file of the input folder.",
        ..Class::graph("LoadImage", load_image)
    },
    Class {
        pack: "ComfyStream",
        inputs: &[image("images")],
        sink: Some(Medium::Video),
        ..Class::graph("SaveTensor", save_tensor)
    },
    Class {
        inputs: &[image("images")],
        sink: Some(Medium::Video),
        note: "What the stream shows: becomes SaveTensor.",
        ..Class::graph("PreviewImage", save_tensor)
    },
    Class {
        inputs: &[image("images"), text("filename_prefix", "ComfyUI").ignored()],
        sink: Some(Medium::Video),
        note: "What the stream shows: becomes SaveTensor. No file is written.",
        ..Class::graph("SaveImage", save_tensor)
    },
];

/// `x / 255`, and the mask that ComfyUI gives for a picture without transparency: zeros of 64×64.
fn load_tensor(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let frame = cx.frame()?;
    let x = cx.g()?.cast(&frame, DType::F32)?;
    let x = cx.g()?.div_scalar(&x, 255.0)?;
    let mask = cx.g()?.floats(DType::F32, [1, 64, 64], &[0.0; 64 * 64])?;
    let camera = cx.give(&x)?;
    cx.is_camera(&camera);
    Ok(vec![camera, cx.give(&mask)?])
}

/// The first picture of the batch: `⌊clamp(255 · x, 0, 255)⌋`, in the stream's size.
fn save_tensor(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    if cx.show_bytes("images")? {
        return Ok(Vec::new());
    }
    let x = cx.tensor("images")?;
    let shape = x.shape().fixed().unwrap_or_default();
    let [batch, height, width, channels] = shape[..] else {
        return Err(cx.refuse("images", format!("a picture has 4 dimensions, not {}", x.shape()), ""));
    };
    let [wide, high] = cx.env().size.map(u64::from);
    let mut x = if batch > 1 { cx.g()?.slice(&x, 0, 0, 1)? } else { x };
    x = match channels {
        3 => x,
        4.. => cx.g()?.slice(&x, 3, 0, 3)?,
        _ => {
            let first = cx.g()?.slice(&x, 3, 0, 1)?;
            cx.g()?.expand(&first, &[1, height, width, 3])?
        }
    };
    if (height, width) != (high, wide) {
        cx.note(format!("the picture is {width}×{height}; it is scaled to the stream's {wide}×{high}"));
        x = super::image::resize(cx, &x, high, wide)?;
    }
    let bytes = to_bytes(cx.g()?, &x)?;
    cx.show(&bytes)?;
    Ok(Vec::new())
}

/// A file of the input folder: IMAGE f32 (1, H, W, 3) and MASK f32 (1, H, W), which is 1 − alpha.
fn load_image(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let name = cx.text("image")?;
    let picture = super::picture::read(cx, "image", &name)?;
    let [h, w] = [u64::from(picture.height), u64::from(picture.width)];
    let x = cx.fixed(&[1, h, w, 3], Data::F32(picture.rgb))?;
    let mask = match picture.alpha {
        Some(alpha) => cx.fixed(&[1, h, w], Data::F32(alpha.into_iter().map(|a| 1.0 - a).collect()))?,
        None => cx.g()?.floats(DType::F32, [1, 64, 64], &[0.0; 64 * 64])?,
    };
    Ok(vec![cx.give(&x)?, cx.give(&mask)?])
}
