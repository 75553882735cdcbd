//! Whole-process and whole-path tests.

mod model;
mod trickle;
