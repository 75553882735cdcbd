//! Tests of whole processes, real sockets and the whole path.

mod live;
mod media;
mod model;
mod support;
mod trickle;
