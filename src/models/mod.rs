//! Models as graph builders, and their weights.
//!
//! A model is a function that takes a [`Net`] and tensors and gives tensors: [`unet`], [`controlnet`], [`taesd`], [`kl`].
//! [`stream`] puts them together to one graph a frame. Weights come from a [`Source`], by the names of the diffusers layout.

pub mod blend;
pub mod check;
pub mod clip;
pub mod controlnet;
pub mod depth;
pub mod eva;
mod fields;
pub mod filter;
pub mod full;
pub mod hint;
pub mod ip_adapter;
pub mod kl;
mod net;
pub mod noise;
pub mod pose;
pub mod safety;
pub mod schedule;
mod source;
pub mod stream;
pub mod synthetic;
pub mod taesd;
pub mod tflite;
pub mod tiny;
pub mod tokenizer;
pub mod unet;
pub mod vision;
pub mod weights;

pub use net::{Net, Shared};
pub use source::{ModelError, Source, Stored};
