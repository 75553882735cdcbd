//! Whole-process and whole-path tests.

mod model;
mod streamdiffusion;
