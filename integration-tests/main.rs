//! Tests of whole processes, real sockets and the whole path.

mod model;
mod trickle;
