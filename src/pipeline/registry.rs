//! Every pipeline by name.

use super::Pipeline;
use super::delay::Delay;
use super::invert::Invert;
use super::noop::Noop;

/// All pipelines, in the order in which lists show them.
pub fn all() -> &'static [&'static dyn Pipeline] {
    &[&Noop, &Invert, &Delay]
}

/// The pipeline called `name`.
pub fn find(name: &str) -> Option<&'static dyn Pipeline> {
    all().iter().copied().find(|pipeline| pipeline.name() == name)
}
