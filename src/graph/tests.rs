#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use prost::Message;

use super::proto::ModelProto;
use super::*;

fn graph() -> GraphBuilder {
    GraphBuilder::new("test")
}

fn shape(dims: &[u64]) -> Shape {
    Shape::from(dims)
}

fn message(result: Result<Tensor, GraphError>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn names_lead_back_to_their_scope_and_are_unique() {
    let mut g = graph();
    let x = g.input("x", DType::F32, [1, 4, 8, 8]).unwrap();
    let out = g
        .scope("unet", |g| {
            g.scope("down_blocks.0", |g| {
                let w = g.initializer("conv.weight", DType::F32, [4, 4, 3, 3], vec![0; 4 * 4 * 9 * 4])?;
                let y = g.conv(&x, &w, None, Conv::padded(1))?;
                let y = g.conv(&y, &w, None, Conv::padded(1))?;
                g.add(&y, &x)
            })
        })
        .unwrap();
    g.output("y", &out).unwrap();
    let model = g.finish().unwrap();
    let graph = model.proto().graph.as_ref().unwrap();
    let names: Vec<_> = graph.node.iter().map(|node| node.name.as_str()).collect();
    assert_eq!(names, ["unet.down_blocks.0/Conv", "unet.down_blocks.0/Conv_1", "unet.down_blocks.0/Add"]);
    assert_eq!(graph.initializer[0].name, "unet.down_blocks.0/conv.weight");
    assert_eq!(graph.node[2].output, ["y"], "a computed value takes the output's name itself");
    assert_eq!(graph.value_info.len(), 2);
}

#[test]
fn generated_names_dodge_chosen_ones() {
    let mut g = graph();
    let x = g.input("Neg", DType::F32, [2]).unwrap();
    let y = g.neg(&x).unwrap();
    g.initializer("Neg_2", DType::F32, [1], vec![0; 4]).unwrap();
    let z = g.neg(&y).unwrap();
    assert!(matches!(g.input("Neg", DType::F32, [2]), Err(GraphError::Name { .. })));
    assert!(matches!(g.output("Neg", &z), Err(GraphError::Name { .. })));
    g.output("z", &z).unwrap();
    let model = g.finish().unwrap();
    let names: Vec<_> = model.proto().graph.as_ref().unwrap().node.iter().map(|n| n.name.clone()).collect();
    assert_eq!(names, ["Neg_1", "Neg_3"]);
}

#[test]
fn errors_name_the_place() {
    let mut g = graph();
    let a = g.input("a", DType::F32, [2, 3]).unwrap();
    let b = g.input("b", DType::F32, [3, 2]).unwrap();
    let c = g.input("c", DType::U8, [2, 3]).unwrap();
    let failed = g.scope("mixer", |g| g.scope("0", |g| g.add(&a, &b)));
    assert_eq!(message(failed), "mixer.0/Add: [2, 3] and [3, 2] do not broadcast");
    assert_eq!(message(g.add(&a, &c)), "Add: f32 and u8 do not mix; cast one", "the scope is left after an error");
    assert_eq!(message(g.sqrt(&c)), "Sqrt: floats are needed, not u8");
    assert_eq!(message(g.reshape(&a, &[4, -1])), "Reshape: [2, 3] cannot become [4, -1]");
    assert_eq!(message(g.concat(&[&a, &b], 0)), "Concat: [3, 2] does not join [2, 3] along 0");
    let mut other = graph();
    assert!(matches!(other.neg(&a), Err(GraphError::Foreign { .. })));
}

#[test]
fn wrong_operands_are_refused() {
    let mut g = graph();
    let x = g.input("x", DType::F32, [1, 4, 8, 8]).unwrap();
    let v = g.input("v", DType::F32, [4]).unwrap();
    let n = g.input("n", DType::F32, [Dim::symbol("n"), Dim::Fixed(4)]).unwrap();
    let i = g.input("i", DType::I64, [2]).unwrap();
    let flag = g.input("flag", DType::Bool, [2]).unwrap();
    let w = |g: &mut GraphBuilder, dims: [u64; 4]| {
        let bytes = dims.iter().product::<u64>() as usize * 4;
        let name = format!("w{dims:?}");
        g.initializer(&name, DType::F32, dims, vec![0; bytes]).unwrap()
    };
    let (w_depth, w_large, w_group) = (w(&mut g, [4, 3, 3, 3]), w(&mut g, [4, 4, 9, 9]), w(&mut g, [3, 2, 1, 1]));
    let refused = [
        g.conv(&x, &w_depth, None, Conv::padded(1)),
        g.conv(&x, &w_large, None, Conv::padded(0)),
        g.conv(&x, &w_group, None, Conv { groups: 2, ..Conv::default() }),
        g.conv(&x, &w_large, Some(&x), Conv::padded(1)),
        g.conv(&v, &w_large, None, Conv::padded(1)),
        g.conv(&x, &w_large, None, Conv { stride: [0, 1], ..Conv::padded(1) }),
        g.max_pool(&x, Pool { window: [9, 1], stride: [1, 1] }),
        g.max_pool(&x, Pool { window: [2, 2], stride: [1, 0] }),
        g.matmul(&x, &v),
        g.matmul(&n, &n),
        g.gemm(&n, &x, None),
        g.linear(&x, &v, None),
        g.transpose(&x, &[0, 1, 2]),
        g.transpose(&x, &[0, 1, 2, 2]),
        g.transpose(&x, &[0, 1, 2, 4]),
        g.slice(&x, 1, 3, 2),
        g.slice(&x, 1, 0, 5),
        g.slice(&x, 4, 0, 1),
        g.slice(&x, -5, 0, 1),
        g.slice_step(&x, 1, 0, 4, 0),
        g.slice(&n, 0, 0, 1),
        g.gather(&x, &v, 0),
        g.unsqueeze(&v, &[0, 0]),
        g.unsqueeze(&v, &[3]),
        g.squeeze(&v, &[0]),
        g.expand(&v, &[3]),
        g.pad(&v, &[1, 1], &[1, 1]),
        g.pad(&n, &[1, 0], &[0, 0]),
        g.reshape(&n, &[-1]),
        g.reshape(&v, &[-1, -1]),
        g.reshape(&v, &[-2]),
        g.reshape(&v, &[0, -1]),
        g.softmax(&v, 1),
        g.softmax(&i, 0),
        g.reduce_mean(&x, &[], true),
        g.reduce_mean(&x, &[1, -3], true),
        g.layer_norm(&x, &v, &v, 1e-5),
        g.instance_norm(&v, &v, &v, 1e-5),
        g.instance_norm(&x, &i, &v, 1e-5),
        g.group_norm(&x, 3, &v, &v, 1e-5),
        g.group_norm(&x, 0, &v, &v, 1e-5),
        g.resize(&x, 0, 4, Interpolation::Nearest),
        g.resize(&v, 4, 4, Interpolation::Nearest),
        g.clip(&x, 1.0, 1.0),
        g.clip(&x, f64::NAN, 1.0),
        g.select(&x, &x, &x),
        g.not(&x),
        g.add(&flag, &flag),
        g.less(&flag, &flag),
        g.scalar(DType::Bool, 1.0),
        g.floats(DType::U8, [1], &[1.0]),
        g.floats(DType::F32, [2], &[1.0]),
        g.initializer("short", DType::F16, [3], vec![0; 5]),
        g.initializer("open", DType::F16, [Dim::symbol("n")], vec![0; 2]),
        g.concat(&[], 0),
    ];
    for (i, result) in refused.into_iter().enumerate() {
        assert!(result.is_err(), "number {i}");
    }
    assert!(g.split(&x, 1, &[1, 2]).is_err());
    assert!(g.split(&x, 1, &[]).is_err());
    assert!(g.split(&n, 0, &[1]).is_err());
}

#[test]
fn symbols_meet_themselves_and_one() {
    let mut g = graph();
    let n = Dim::symbol("n");
    let x = g.input("x", DType::F32, [n.clone(), Dim::Fixed(4)]).unwrap();
    let row = g.input("row", DType::F32, [1, 4]).unwrap();
    let two = g.input("two", DType::F32, [2, 4]).unwrap();
    let other = g.input("other", DType::F32, [Dim::symbol("m"), Dim::Fixed(4)]).unwrap();
    assert_eq!(g.add(&x, &row).unwrap().shape().dims(), [n.clone(), Dim::Fixed(4)]);
    assert_eq!(g.add(&x, &x).unwrap().shape().dims(), [n.clone(), Dim::Fixed(4)]);
    assert!(g.add(&x, &two).is_err());
    assert!(g.add(&x, &other).is_err());
    let wide = g.concat(&[&x, &x], 1).unwrap();
    assert_eq!(wide.shape().dims(), [n, Dim::Fixed(8)]);
    assert!(g.concat(&[&x, &x], 0).is_err());
}

#[test]
fn a_value_may_be_an_output_twice_and_an_input_may_be_one() {
    let mut g = graph();
    let x = g.input("x", DType::F32, [2]).unwrap();
    let y = g.neg(&x).unwrap();
    g.output("a", &y).unwrap();
    g.output("b", &y).unwrap();
    g.output("c", &x).unwrap();
    let model = g.finish().unwrap();
    let graph = model.proto().graph.as_ref().unwrap();
    let names: Vec<_> = graph.output.iter().map(|output| output.name.as_str()).collect();
    assert_eq!(names, ["a", "b", "c"]);
    assert_eq!(graph.node.iter().filter(|node| node.op_type == "Identity").count(), 2);
}

#[test]
fn equal_small_constants_are_stored_once() {
    let mut g = graph();
    let x = g.input("x", DType::F32, [2]).unwrap();
    let y = g.mul_scalar(&x, 0.5).unwrap();
    let y = g.scope("elsewhere", |g| g.mul_scalar(&y, 0.5)).unwrap();
    let y = g.add_scalar(&y, 0.25).unwrap();
    g.output("y", &y).unwrap();
    assert_eq!(g.finish().unwrap().proto().graph.as_ref().unwrap().initializer.len(), 2);
}

#[test]
fn external_weights_are_aligned_and_referred_to() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.bin");
    let mut writer = ExternalWriter::create(&path).unwrap();
    let a = writer.append(&[1; 6]).unwrap();
    let b = writer.append(&[2; 5000]).unwrap();
    let c = writer.append(&[3; 4]).unwrap();
    writer.finish().unwrap();
    assert_eq!([a.offset, b.offset, c.offset], [0, 4096, 12_288]);
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(bytes.len(), 12_292);
    assert!(bytes[4096..9096].iter().all(|&b| b == 2) && bytes[6..4096].iter().all(|&b| b == 0));

    let mut g = graph();
    let weight = g.external("w", DType::F16, [3], &a).unwrap();
    assert!(matches!(g.external("v", DType::F16, [4], &a), Err(GraphError::Data { .. })));
    let odd = External { location: "w".into(), offset: 3, length: 6 };
    assert!(matches!(g.external("v", DType::F16, [3], &odd), Err(GraphError::Data { .. })));
    g.output("y", &weight).unwrap();
    let model = g.finish().unwrap();
    let weight = &model.proto().graph.as_ref().unwrap().initializer[0];
    assert_eq!(weight.data_location, Some(1));
    assert!(weight.raw_data.is_none());
    let pairs: Vec<_> = weight.external_data.iter().map(|e| (e.key.as_str(), e.value.as_str())).collect();
    assert_eq!(pairs, [("location", "weights.bin"), ("offset", "0"), ("length", "6")]);
}

#[test]
fn files_hold_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let mut g = graph();
    let x = g.input("x", DType::F32, [2]).unwrap();
    let y = g.clip(&x, -1.0, 1.0).unwrap();
    g.output("y", &y).unwrap();
    let model = g.finish().unwrap();
    let path = folder.path().join("model.onnx");
    model.write(&path).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), model.to_bytes().unwrap());
    assert_eq!(&ModelProto::decode(model.to_bytes().unwrap().as_slice()).unwrap(), model.proto());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no partial file is left");
    assert!(matches!(model.write(&folder.path().join("no/such")), Err(GraphError::Io { .. })));
}

#[test]
fn the_check_finds_every_kind_of_breach() {
    assert!(graph().finish().is_err(), "no output");
    let mut g = graph();
    let x = g.input("x", DType::F32, [2]).unwrap();
    let y = g.neg(&x).unwrap();
    let z = g.add(&y, &x).unwrap();
    g.output("z", &z).unwrap();
    let good = g.finish().unwrap().proto().graph.clone().unwrap();
    check(&good).unwrap();
    type Break = fn(&mut proto::GraphProto);
    let breaches: [(&str, Break); 7] = [
        ("order", |g| g.node.reverse()),
        ("node name", |g| g.node[1].name = g.node[0].name.clone()),
        ("value", |g| g.node[1].output[0] = "Neg".to_owned()),
        ("unknown input", |g| g.node[0].input[0] = "nowhere".to_owned()),
        ("unknown output", |g| g.output[0].name = "nowhere".to_owned()),
        ("no output", |g| g.output.clear()),
        ("two inputs", |g| g.input.push(g.input[0].clone())),
    ];
    for (what, breach) in breaches {
        let mut bad = good.clone();
        breach(&mut bad);
        assert!(check(&bad).is_err(), "{what}");
    }
}

/// The rule of broadcasting by its definition: every index of the result leads to an index of both operands.
fn naive_broadcast(a: &[u64], b: &[u64]) -> Option<Vec<u64>> {
    let rank = a.len().max(b.len());
    let padded = |dims: &[u64]| [vec![1; rank - dims.len()], dims.to_vec()].concat();
    padded(a)
        .into_iter()
        .zip(padded(b))
        .map(|(a, b)| (a == b || a == 1 || b == 1).then_some(if a == 1 { b } else { a }))
        .collect()
}

fn dims() -> impl Strategy<Value = Vec<u64>> {
    proptest::collection::vec(prop_oneof![3 => Just(1_u64), 3 => Just(2), 3 => Just(3), 1 => Just(0)], 0..5)
}

proptest! {
    #[test]
    fn broadcasting_follows_its_definition(a in dims(), b in dims()) {
        let result = shape(&a).broadcast(&shape(&b));
        prop_assert_eq!(result.clone().and_then(|shape| shape.fixed()), naive_broadcast(&a, &b));
        prop_assert_eq!(shape(&b).broadcast(&shape(&a)), result.clone());
        if let Some(result) = result {
            prop_assert_eq!(result.broadcast(&shape(&a)), Some(result.clone()));
            prop_assert_eq!(result.broadcast(&result), Some(result.clone()));
        }
        prop_assert_eq!(shape(&a).broadcast(&shape(&[])), Some(shape(&a)));
    }

    #[test]
    fn reshape_keeps_the_elements(from in dims(), to in proptest::collection::vec(-1_i64..7, 0..4)) {
        let mut g = graph();
        let x = g.input("x", DType::U8, from).unwrap();
        if let Ok(y) = g.reshape(&x, &to) {
            prop_assert_eq!(y.shape().elements(), x.shape().elements());
            prop_assert_eq!(y.rank(), to.len());
        }
    }

    #[test]
    fn slices_count_like_steps(length in 0_u64..9, start in -10_i64..10, end in -10_i64..10, step in 1_u64..4) {
        let mut g = graph();
        let x = g.input("x", DType::U8, [length]).unwrap();
        let at = |n: i64| if n < 0 { n + length as i64 } else { n };
        let inside = |n: i64| (0..=length as i64).contains(&n);
        let result = g.slice_step(&x, 0, start, end, step);
        if inside(at(start)) && inside(at(end)) && at(start) <= at(end) {
            let count = (at(start)..at(end)).step_by(step as usize).count() as u64;
            prop_assert_eq!(result.unwrap().shape().fixed().unwrap(), vec![count]);
        } else {
            prop_assert!(result.is_err());
        }
    }

    #[test]
    fn transposing_back_gives_the_shape(dims in dims(), seed in any::<u64>()) {
        let mut g = graph();
        let x = g.input("x", DType::U8, dims.clone()).unwrap();
        let mut order: Vec<usize> = (0..dims.len()).collect();
        order.rotate_left(seed as usize % dims.len().max(1));
        let mut back = vec![0; order.len()];
        order.iter().enumerate().for_each(|(to, &from)| back[from] = to);
        let there = g.transpose(&x, &order).unwrap();
        let again = g.transpose(&there, &back).unwrap();
        prop_assert_eq!(again.shape(), x.shape());
    }
}
