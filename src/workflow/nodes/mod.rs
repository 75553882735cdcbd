//! The node classes, one file a family. [`super`] says how to add one.

mod image;
mod io;
mod mask;
mod picture;

use super::class::Class;

/// Every family, in the order in which lists show them.
pub const FAMILIES: &[&[Class]] = &[io::CLASSES, image::CLASSES, mask::CLASSES];
