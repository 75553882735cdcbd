//! Entry points of the fuzzer.
#![doc(hidden)]

use super::Network;
use crate::graph::{DType, GraphBuilder};

/// Files of TensorFlow Lite: read, and where they can be, made into a graph.
pub fn fuzz_tflite(data: &[u8]) {
    let Ok(network) = Network::parse(data.to_vec()) else { return };
    let mut g = GraphBuilder::new("fuzz");
    let Some(shape) = network.inputs().first().map(|shape| shape.to_vec()) else { return };
    let Ok(input) = g.input("x", DType::F32, shape) else { return };
    let outputs = network.outputs().len();
    if let Ok(made) = network.build(&mut g, &input) {
        assert_eq!(made.len(), outputs);
    }
}
