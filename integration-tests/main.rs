//! Tests of whole processes, real sockets and the whole path.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod demo;
mod layers;
mod media;
mod metering;
mod model;
mod streamdiffusion;
mod supervisor;
mod trickle;
