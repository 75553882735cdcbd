//! How much memory a graph takes, from its types and shapes alone.

use std::collections::HashMap;

use super::proto::{DimensionValue, GraphProto, TensorProto, ValueInfoProto};
use super::{DType, Model};

/// The memory that one run of a graph needs, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    /// All weights and constants.
    pub weights: u64,
    /// The most that values between inputs and outputs have together at any node, if the nodes run in their order and a
    /// value is freed behind its last reader. A runtime that fuses nodes needs less, one that works ahead needs more.
    pub activations: u64,
    /// All inputs and outputs.
    pub ports: u64,
}

impl Model {
    /// The memory that one run needs. Open dimensions count as 1.
    pub fn footprint(&self) -> Footprint {
        self.proto().graph.as_ref().map(of).unwrap_or_default()
    }
}

fn of(graph: &GraphProto) -> Footprint {
    let ports = graph.input.iter().chain(&graph.output).map(value).sum();
    let sizes: HashMap<&str, u64> = graph.value_info.iter().map(|info| (info.name.as_str(), value(info))).collect();
    // The node behind which a value is read no more.
    let mut last: HashMap<&str, usize> = HashMap::new();
    for (index, node) in graph.node.iter().enumerate() {
        for name in node.input.iter().chain(&node.output) {
            last.insert(name, index);
        }
    }
    let (mut now, mut most) = (0_u64, 0);
    for (index, node) in graph.node.iter().enumerate() {
        now += node.output.iter().filter_map(|name| sizes.get(name.as_str())).sum::<u64>();
        most = most.max(now);
        let mut freed: Vec<&str> = node.input.iter().chain(&node.output).map(String::as_str).collect();
        freed.sort_unstable();
        freed.dedup();
        let over = freed.iter().filter(|name| last.get(*name) == Some(&index));
        now -= over.filter_map(|name| sizes.get(name)).sum::<u64>();
    }
    Footprint { weights: graph.initializer.iter().map(weight).sum(), activations: most, ports }
}

/// Bytes of one element of ONNX type `code`.
fn element(code: i32) -> u64 {
    let known = [DType::F32, DType::F16, DType::U8, DType::I32, DType::I64, DType::Bool];
    known.iter().find(|dtype| dtype.code() == code).map_or(0, |dtype| dtype.size() as u64)
}

fn weight(tensor: &TensorProto) -> u64 {
    tensor.dims.iter().map(|&n| n as u64).product::<u64>() * element(tensor.data_type)
}

fn value(info: &ValueInfoProto) -> u64 {
    let Some(tensor) = info.r#type.as_ref().and_then(|kind| kind.tensor_type.as_ref()) else { return 0 };
    let dims = tensor.shape.iter().flat_map(|shape| &shape.dim).map(|dim| match &dim.value {
        Some(DimensionValue::DimValue(n)) => *n as u64,
        _ => 1,
    });
    dims.product::<u64>() * element(tensor.elem_type)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use crate::graph::{DType, GraphBuilder};

    use super::*;

    #[test]
    fn a_chain_needs_two_values_and_a_detour_three() {
        let mut g = GraphBuilder::new("chain");
        let x = g.input("x", DType::U8, [100]).unwrap();
        let w = g.initializer("w", DType::F32, [100], vec![0; 400]).unwrap();
        let a = g.cast(&x, DType::F32).unwrap();
        let b = g.add(&a, &w).unwrap();
        let c = g.add(&b, &w).unwrap();
        let d = g.add(&c, &w).unwrap();
        g.output("y", &d).unwrap();
        let chain = Footprint { weights: 400, activations: 800, ports: 100 + 400 };
        assert_eq!(g.finish().unwrap().footprint(), chain);

        let mut g = GraphBuilder::new("detour");
        let x = g.input("x", DType::U8, [100]).unwrap();
        let a = g.cast(&x, DType::F32).unwrap();
        let b = g.add(&a, &a).unwrap();
        let c = g.add(&b, &b).unwrap();
        // The first value is still to be read, as in a skip of a UNet.
        let d = g.add(&c, &a).unwrap();
        let e = g.cast(&d, DType::F16).unwrap();
        g.output("y", &e).unwrap();
        assert_eq!(g.finish().unwrap().footprint(), Footprint { weights: 0, activations: 1200, ports: 100 + 200 });
    }
}
