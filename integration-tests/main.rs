//! Tests of whole processes, real sockets and the whole path.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod addresses;
mod dashboards;
mod demo;
mod deploy;
mod doors;
mod faults;
mod gpu_check;
mod kubernetes;
mod layers;
mod live;
mod media;
mod metering;
mod model;
mod process;
mod pytrickle;
mod recordings;
mod regression;
mod several;
mod streamdiffusion;
mod supervisor;
mod support;
mod trickle;
mod webrtc;
mod workflow;
mod workflow_images;
mod workflow_sd;
mod workflow_sound;
