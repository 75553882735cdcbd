//! The node classes, one file a family. [`super`] says how to add one.

mod area;
mod blur;
mod compose;
mod edges;
mod face;
mod face_canvas;
mod face_find;
mod face_lines;
mod face_mask;
mod face_mesh;
#[cfg(test)]
mod face_tests;
mod geometry;
mod image;
mod io;
mod known;
mod mask;
mod morphology;
mod picture;
mod quantize;
mod quantize_cut;
#[cfg(test)]
mod quantize_tests;
mod scale;
mod sd_control;
mod sd_depth;
mod sd_find;
mod sd_hooks;
mod sd_latent;
mod sd_model;
mod sd_predict;
mod sd_prompt;
mod sd_sampler;
mod sd_schedule;
mod sd_text;
mod sound;
mod stream;
mod text;
mod tone;

use super::class::Class;

/// Every family, in the order in which lists show them.
pub const FAMILIES: &[&[Class]] = &[
    io::CLASSES,
    image::CLASSES,
    mask::CLASSES,
    sd_model::CLASSES,
    sd_text::CLASSES,
    sd_hooks::CLASSES,
    sd_control::CLASSES,
    sd_latent::CLASSES,
    sd_depth::CLASSES,
    sd_sampler::CLASSES,
    stream::CLASSES,
    scale::CLASSES,
    blur::CLASSES,
    geometry::CLASSES,
    compose::CLASSES,
    tone::CLASSES,
    morphology::CLASSES,
    edges::CLASSES,
    quantize::CLASSES,
    sound::CLASSES,
    text::CLASSES,
    face::CLASSES,
    known::CLASSES,
];
