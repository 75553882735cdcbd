//! Tests of whole processes, real sockets and the whole path.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod layers;
mod media;
mod model;
mod supervisor;
mod trickle;
