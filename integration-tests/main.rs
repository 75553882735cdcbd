//! Tests of whole processes, real sockets and the whole path.

mod model;
mod trickle;
//! Whole-process and whole-path tests.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod layers;
mod supervisor;
