//! Tests of whole processes, real sockets and the whole path.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod faults;
mod layers;
mod live;
mod media;
mod model;
mod process;
mod supervisor;
mod support;
mod trickle;
