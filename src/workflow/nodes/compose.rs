//! Several pictures in one.

use super::area::{self, Area, colour, count};
use super::image::one_minus;
use super::scale::{MAX_SIDE, resized};
use crate::graph::{DType, Interpolation, Padding, Tensor};
use crate::workflow::class::input::{choice, flag, image, int, mask};
use crate::workflow::class::{Class, out};
use crate::workflow::lower::{Cx, Data, EncodeError, LowerError, Value};
use crate::workflow::value::{Setting, Type};

const PACK: &str = "ComfyUI-Background-Edit";

/// Pictures over, beside and around others.
pub const CLASSES: &[Class] = &[
    Class {
        pack: PACK,
        inputs: &[
            image("foregrounds"),
            image("backgrounds"),
            mask("foreground_masks"),
            choice("mode", "cuda", &["cuda", "cpu"]).ignored(),
        ],
        outputs: &[out(Type::Image)],
        ..Class::graph("Composite", composite)
    },
    Class {
        pack: PACK,
        inputs: &[image("images"), choice("color", "black", &["black", "red", "blue", "green"]).live()],
        outputs: &[out(Type::Image)],
        ..Class::graph("BackgroundColor", background)
    },
    Class {
        inputs: &[
            image("destination"),
            image("source"),
            int("x", 0, 0, MAX_SIDE),
            int("y", 0, 0, MAX_SIDE),
            flag("resize_source", false),
            mask("mask").optional(),
        ],
        outputs: &[out(Type::Image)],
        ..Class::graph("ImageCompositeMasked", composite_masked)
    },
    Class {
        inputs: &[
            image("image1"),
            choice("direction", "right", &["right", "down", "left", "up"]),
            flag("match_image_size", true),
            int("spacing_width", 0, 0, 1024),
            choice("spacing_color", "white", &["white", "black", "red", "green", "blue"]),
            image("image2").optional(),
        ],
        outputs: &[out(Type::Image)],
        ..Class::graph("ImageStitch", stitch)
    },
    Class {
        inputs: &[
            image("image"),
            int("left", 0, 0, MAX_SIDE),
            int("top", 0, 0, MAX_SIDE),
            int("right", 0, 0, MAX_SIDE),
            int("bottom", 0, 0, MAX_SIDE),
            int("feathering", 40, 0, MAX_SIDE),
        ],
        outputs: &[out(Type::Image), out(Type::Mask)],
        ..Class::graph("ImagePadForOutpaint", pad_for_outpaint)
    },
];

/// `fg·m + bg·(1 − m)`
fn composite(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let [front, back] = ["foregrounds", "backgrounds"].map(|input| cx.tensor(input));
    let (front, back, m) = (front?, back?, cx.tensor("foreground_masks")?);
    let [b, h, w, _] = area::picture(cx, "foregrounds", &front)?;
    let other = area::picture(cx, "backgrounds", &back)?;
    let masks = area::mask(cx, "foreground_masks", &m)?;
    for (input, [b2, h2, w2]) in [("backgrounds", [other[0], other[1], other[2]]), ("foreground_masks", masks)] {
        if [b2, h2, w2] != [b, h, w] {
            let reason = format!("it holds {b2} of {w2}×{h2}, the foregrounds are {b} of {w}×{h}");
            return Err(cx.refuse(input, reason, "bring them to one size and number"));
        }
    }
    let g = cx.g()?;
    let m = g.unsqueeze(&m, &[3])?;
    let rest = one_minus(g, &m)?;
    let front = g.mul(&front, &m)?;
    let back = g.mul(&back, &rest)?;
    let y = g.add(&front, &back)?;
    cx.one(&y)
}

/// One colour in the size of the pictures.
fn background(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let x = cx.tensor("images")?;
    let [b, h, w, _] = area::picture(cx, "images", &x)?;
    let pixel = cx.live(&["color"], DType::F32, &[1, 1, 1, 3], |settings| match settings {
        [Setting::Text(name)] => Ok(Data::F32(colour(name).to_vec())),
        _ => Err(EncodeError::Wrong("a colour has a name".to_owned())),
    })?;
    let y = cx.g()?.expand(&pixel, &[b, h, w, 3])?;
    cx.one(&y)
}

/// `source·m + destination·(1 − m)` where the source lies at (x, y); without a mask the source alone. Source and mask are
/// resized bilinearly where they must be.
fn composite_masked(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let (under, over) = (cx.tensor("destination")?, cx.tensor("source")?);
    let [b, h, w, c] = area::picture(cx, "destination", &under)?;
    let [b2, mut h2, mut w2, c2] = area::picture(cx, "source", &over)?;
    if c != c2 || (b2 != b && b2 != 1) {
        let reason = format!("it is {b2} of {c2} channels, the destination {b} of {c}");
        return Err(cx.refuse("source", reason, "give it as many as the destination"));
    }
    let (left, top) = (count(cx, "x")?, count(cx, "y")?);
    let over = if cx.flag("resize_source")? {
        (h2, w2) = (h, w);
        resized(cx, &over, [h, w], "bilinear", false)?
    } else {
        over
    };
    let (height, width) = (h2.min(h.saturating_sub(top)), w2.min(w.saturating_sub(left)));
    if height == 0 || width == 0 {
        return cx.one(&under);
    }
    let seen = Area { top: 0, left: 0, height, width };
    let at = Area { top, left, height, width };
    let over = area::cut(cx.g()?, &over, seen)?;
    let new = if cx.linked("mask") {
        let m = cx.tensor("mask")?;
        let [mb, mh, mw] = area::mask(cx, "mask", &m)?;
        if mb != b && mb != 1 {
            return Err(cx.refuse("mask", format!("it holds {mb} masks for {b} pictures"), "give it one"));
        }
        let g = cx.g()?;
        let m = if [mh, mw] == [h2, w2] {
            m
        } else {
            let m = g.unsqueeze(&m, &[1])?;
            let m = g.resize(&m, h2, w2, Interpolation::Linear)?;
            g.squeeze(&m, &[1])?
        };
        let m = area::cut(g, &m, seen)?;
        let m = g.unsqueeze(&m, &[3])?;
        let rest = one_minus(g, &m)?;
        let kept = area::cut(g, &under, at)?;
        let kept = g.mul(&kept, &rest)?;
        let over = g.mul(&over, &m)?;
        g.add(&over, &kept)?
    } else {
        cx.g()?.expand(&over, &[b, height, width, c])?
    };
    let y = area::paste(cx.g()?, &under, &new, at)?;
    cx.one(&y)
}

/// The second picture beside, above or below the first: scaled to its side by Lanczos, or centred on black, or on white
/// where that is the colour of the space between them.
fn stitch(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let a = cx.tensor("image1")?;
    if !cx.linked("image2") {
        return cx.one(&a);
    }
    let b = cx.tensor("image2")?;
    let [n, h, w, c] = area::picture(cx, "image1", &a)?;
    let [n2, h2, w2, c2] = area::picture(cx, "image2", &b)?;
    if (n, c) != (n2, c2) {
        let reason = format!("it is {n2} of {c2} channels, the first is {n} of {c}");
        return Err(cx.refuse("image2", reason, "give both as many"));
    }
    let direction = cx.text("direction")?;
    let sideways = matches!(direction.as_str(), "right" | "left");
    let name = cx.text("spacing_color")?;
    let (a, b) = if cx.flag("match_image_size")? {
        let aspect = w2 as f64 / h2 as f64;
        let size = if sideways { [h, (h as f64 * aspect) as u64] } else { [(w as f64 / aspect) as u64, w] };
        if size.contains(&0) {
            return Err(cx.refuse("image2", format!("{w2}×{h2} has no width left beside the first"), ""));
        }
        (a, resized(cx, &b, size, "lanczos", false)?)
    } else {
        let fill = if name == "white" { 1.0 } else { 0.0 };
        let (axis, one, two) = if sideways { (1, h, h2) } else { (2, w, w2) };
        let all = one.max(two);
        let mut padded = |x: &Tensor, length: u64| {
            let (mut before, mut after) = ([0; 4], [0; 4]);
            before[axis] = (all - length) / 2;
            after[axis] = all - length - before[axis];
            if all == length {
                Ok(x.clone())
            } else {
                cx.g()?.pad_with(x, &before, &after, Padding::Number(fill)).map_err(LowerError::from)
            }
        };
        (padded(&a, one)?, padded(&b, two)?)
    };
    let width = count(cx, "spacing_width")?.next_multiple_of(2);
    let shape = area::picture(cx, "image1", &a)?;
    let axis = if sideways { 2 } else { 1 };
    let g = cx.g()?;
    let mut parts = if matches!(direction.as_str(), "left" | "up") { vec![b, a] } else { vec![a, b] };
    if width > 0 {
        let mut space = shape;
        space[axis] = width;
        parts.insert(1, area::plain(g, colour(&name), space)?);
    }
    let y = g.concat(&parts.iter().collect::<Vec<_>>(), axis as i64)?;
    cx.one(&y)
}

/// Grey ½ around the picture; the mask is 1 there and fades into the picture as `((f − d) / f)²` of the distance `d` to the
/// new edge.
fn pad_for_outpaint(cx: &mut Cx<'_>) -> Result<Vec<Value>, LowerError> {
    let x = cx.tensor("image")?;
    let [b, h, w, _] = area::picture(cx, "image", &x)?;
    let [left, top, right, bottom] = ["left", "top", "right", "bottom"].map(|input| count(cx, input));
    let (left, top, right, bottom) = (left?, top?, right?, bottom?);
    let feathering = count(cx, "feathering")?;
    let y = cx.g()?.pad_with(&x, &[0, top, left, 0], &[0, bottom, right, 0], Padding::Number(0.5))?;
    let (all_h, all_w) = (h + top + bottom, w + left + right);
    let mut mask = vec![1.0_f32; (all_h * all_w) as usize];
    let fades = feathering > 0 && feathering * 2 < h && feathering * 2 < w;
    for i in 0..h {
        for j in 0..w {
            let far = |side: u64, distance: u64, whole: u64| if side == 0 { whole } else { distance };
            let rows = far(top, i, h).min(far(bottom, h - i, h));
            let columns = far(left, j, w).min(far(right, w - j, w));
            let d = rows.min(columns);
            let fade = if fades && d < feathering { (feathering - d) as f32 / feathering as f32 } else { 0.0 };
            mask[((i + top) * all_w + j + left) as usize] = fade * fade;
        }
    }
    let m = cx.fixed(&[1, all_h, all_w], Data::F32(mask))?;
    let m = cx.g()?.expand(&m, &[b, all_h, all_w])?;
    Ok(vec![cx.give(&y)?, cx.give(&m)?])
}
