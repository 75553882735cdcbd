//! Every operator of the builder, loaded and run: the runtime refuses an output whose shape is not the one that the
//! builder inferred, and the composed ones are compared with their definitions.

use std::panic::AssertUnwindSafe;

use half::f16;
use weir::graph::{Conv, DType, Dim, ExternalWriter, GraphBuilder, GraphError, Interpolation, Pool, Tensor};
use weir::inference::{Config, Session};

type Build<'a> = &'a dyn Fn(&mut GraphBuilder, &[Tensor]) -> Result<Tensor, GraphError>;

/// Runs what `build` makes of f32 inputs, which reach it as `dtype`; its result comes back as f32 with its shape.
fn run(dtype: DType, inputs: &[(&[u64], &[f32])], build: Build<'_>) -> (Vec<u64>, Vec<f32>) {
    let mut g = GraphBuilder::new("operator");
    let mut tensors = Vec::new();
    for (i, (shape, _)) in inputs.iter().enumerate() {
        let input = g.input(&format!("in{i}"), DType::F32, *shape).expect("an input");
        tensors.push(g.cast(&input, dtype).expect("a cast"));
    }
    let result = build(&mut g, &tensors).unwrap_or_else(|error| panic!("{error}"));
    let result = g.cast(&result, DType::F32).expect("a cast");
    g.output("out", &result).expect("an output");
    let shape = result.shape().fixed().expect("fixed");
    let model = g.finish().expect("valid").to_bytes().expect("small");
    let mut session =
        Session::from_bytes(super::runtime(), &Config::default(), &model).unwrap_or_else(|error| panic!("{error}"));
    let signed = |shape: &[u64]| shape.iter().map(|&n| n as i64).collect::<Vec<_>>();
    for (i, (shape, data)) in inputs.iter().enumerate() {
        let port = session.input::<f32>(&format!("in{i}"), &signed(shape)).expect("there");
        session.hold(&port, data).expect("held");
    }
    let out = session.output::<f32>("out", &signed(&shape)).unwrap_or_else(|error| panic!("{error}"));
    let mut data = vec![f32::NAN; shape.iter().product::<u64>() as usize];
    session.run(&[], &mut [out.fetch(&mut data)]).unwrap_or_else(|error| panic!("{error}"));
    (shape, data)
}

/// Numbers between −1 and 1 that do not repeat in step with any shape.
fn some(count: u64) -> Vec<f32> {
    (0..count).map(|i| ((i + 1) as f32 * 0.7311).sin()).collect()
}

fn close(a: &[f32], b: &[f32], tolerance: f32) {
    assert_eq!(a.len(), b.len());
    for (i, (a, b)) in a.iter().zip(b).enumerate() {
        assert!((a - b).abs() <= tolerance, "element {i}: {a} and {b}");
    }
}

#[test]
fn every_operator_loads_and_gives_the_shape_that_was_inferred() {
    let table: &[(&str, &[u64], Build<'_>)] = &[
        ("add", &[1, 4, 6, 6], &|g, t| g.add(&t[0], &t[0])),
        ("sub", &[4], &|g, t| g.sub_scalar(&t[0], 0.5)),
        ("div", &[4], &|g, t| g.div_scalar(&t[0], 0.5)),
        ("pow", &[4], &|g, t| g.pow_scalar(&t[0], 2.0)),
        ("min", &[4], &|g, t| g.min(&t[0], &t[0])),
        ("max", &[4], &|g, t| g.max(&t[0], &t[0])),
        ("equal", &[4], &|g, t| g.equal(&t[0], &t[0])),
        ("less", &[4], &|g, t| g.less(&t[0], &t[0])),
        ("greater", &[4], &|g, t| g.greater(&t[0], &t[0])),
        ("not", &[4], &|g, t| {
            let b = g.greater(&t[0], &t[0])?;
            g.not(&b)
        }),
        ("select", &[2, 3], &|g, t| {
            let b = g.less(&t[0], &t[0])?;
            let o = g.scalar(t[0].dtype(), 1.0)?;
            g.select(&b, &t[0], &o)
        }),
        ("sqrt", &[4], &|g, t| {
            let a = g.abs(&t[0])?;
            g.sqrt(&a)
        }),
        ("log", &[4], &|g, t| {
            let e = g.exp(&t[0])?;
            g.log(&e)
        }),
        ("sin", &[4], &|g, t| g.sin(&t[0])),
        ("cos", &[4], &|g, t| g.cos(&t[0])),
        ("tanh", &[4], &|g, t| g.tanh(&t[0])),
        ("sigmoid", &[4], &|g, t| g.sigmoid(&t[0])),
        ("relu", &[4], &|g, t| g.relu(&t[0])),
        ("reciprocal", &[4], &|g, t| g.reciprocal(&t[0])),
        ("neg", &[4], &|g, t| g.neg(&t[0])),
        ("round", &[4], &|g, t| g.round(&t[0])),
        ("floor", &[4], &|g, t| g.floor(&t[0])),
        ("ceil", &[4], &|g, t| g.ceil(&t[0])),
        ("clip", &[4], &|g, t| g.clip(&t[0], -0.5, 0.5)),
        ("to bytes", &[4], &|g, t| {
            let a = g.abs(&t[0])?;
            g.cast(&a, DType::U8)
        }),
        ("to i32", &[4], &|g, t| g.cast(&t[0], DType::I32)),
        ("reshape", &[2, 3, 4], &|g, t| g.reshape(&t[0], &[4, -1])),
        ("reshape to nothing", &[1, 1], &|g, t| g.reshape(&t[0], &[])),
        ("transpose", &[2, 3, 4], &|g, t| g.transpose(&t[0], &[2, 0, 1])),
        ("concat", &[2, 3], &|g, t| g.concat(&[&t[0], &t[0], &t[0]], -1)),
        ("slice", &[2, 7], &|g, t| g.slice(&t[0], 1, 2, -1)),
        ("slice by steps", &[2, 7], &|g, t| g.slice_step(&t[0], -1, 1, 7, 4)),
        ("split", &[2, 7], &|g, t| {
            let parts = g.split(&t[0], 1, &[1, 4, 2])?;
            g.concat(&[&parts[2], &parts[0]], 1)
        }),
        ("gather", &[5, 3], &|g, t| {
            let i = g.ints([2, 2], &[4, 0, 1, 1])?;
            g.gather(&t[0], &i, 0)
        }),
        ("gather one", &[5, 3], &|g, t| {
            let i = g.scalar(DType::I64, 2.0)?;
            g.gather(&t[0], &i, 1)
        }),
        ("unsqueeze", &[5, 3], &|g, t| g.unsqueeze(&t[0], &[0, -1])),
        ("squeeze", &[1, 3, 1], &|g, t| g.squeeze(&t[0], &[0, -1])),
        ("expand", &[3, 1], &|g, t| g.expand(&t[0], &[2, 1, 4])),
        ("pad", &[2, 3], &|g, t| g.pad(&t[0], &[0, 1], &[2, 0])),
        ("softmax", &[2, 3], &|g, t| g.softmax(&t[0], -1)),
        ("mean", &[2, 3, 4], &|g, t| g.reduce_mean(&t[0], &[0, -1], true)),
        ("sum", &[2, 3, 4], &|g, t| g.reduce_sum(&t[0], &[1], false)),
        ("largest", &[2, 3, 4], &|g, t| g.reduce_max(&t[0], &[0, 1, 2], false)),
        ("average pool", &[1, 2, 7, 8], &|g, t| g.average_pool(&t[0], Pool { window: [2, 3], stride: [2, 2] })),
        ("max pool", &[1, 2, 7, 8], &|g, t| g.max_pool(&t[0], Pool { window: [3, 3], stride: [1, 2] })),
        ("nearest", &[1, 2, 3, 5], &|g, t| g.resize(&t[0], 6, 4, Interpolation::Nearest)),
        ("linear", &[1, 2, 3, 5], &|g, t| g.resize(&t[0], 6, 4, Interpolation::Linear)),
        ("matmul", &[2, 1, 3, 4], &|g, t| {
            let b = g.reshape(&t[0], &[2, 4, 3])?;
            g.matmul(&t[0], &b)
        }),
        ("conv", &[1, 4, 9, 8], &|g, t| {
            let w = g.floats(t[0].dtype(), [6, 2, 3, 2], &some(72))?;
            let b = g.floats(t[0].dtype(), [6], &some(6))?;
            g.conv(&t[0], &w, Some(&b), Conv { stride: [2, 1], padding: [0, 1, 2, 1], dilation: [2, 3], groups: 2 })
        }),
        ("instance norm", &[2, 3, 4], &|g, t| {
            let (s, b) = (g.floats(t[0].dtype(), [3], &some(3))?, g.floats(t[0].dtype(), [3], &[0.5; 3])?);
            g.instance_norm(&t[0], &s, &b, 1e-5)
        }),
    ];
    for dtype in [DType::F32, DType::F16] {
        for (name, shape, build) in table {
            let data = some(shape.iter().product());
            let result = std::panic::catch_unwind(AssertUnwindSafe(|| run(dtype, &[(shape, &data)], build)));
            let (_, result) = result.unwrap_or_else(|_| panic!("{name} in {dtype}"));
            assert!(result.iter().all(|x| x.is_finite()), "{name} in {dtype}: {result:?}");
        }
    }
}

#[test]
fn group_norm_is_its_definition() {
    let (n, c, pixels, groups) = (2_usize, 6_usize, 12_usize, 3_usize);
    let (x, scale, bias) = (some(144), some(6), some(12)[6..].to_vec());
    let mut expected = x.clone();
    for group in expected.chunks_exact_mut(c / groups * pixels) {
        let mean = group.iter().sum::<f32>() / group.len() as f32;
        let variance = group.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / group.len() as f32;
        group.iter_mut().for_each(|x| *x = (*x - mean) / (variance + 1e-5).sqrt());
    }
    for (i, x) in expected.iter_mut().enumerate() {
        let channel = i / pixels % c;
        *x = *x * scale[channel] + bias[channel];
    }
    let inputs: &[(&[u64], &[f32])] = &[(&[n as u64, 6, 3, 4], &x), (&[6], &scale), (&[6], &bias)];
    let (shape, got) = run(DType::F32, inputs, &|g, t| g.group_norm(&t[0], 3, &t[1], &t[2], 1e-5));
    assert_eq!(shape, [2, 6, 3, 4]);
    close(&got, &expected, 1e-5);
    let wrong: Vec<f32> = expected.iter().map(|x| x + 1e-3).collect();
    assert!(got.iter().zip(&wrong).any(|(a, b)| (a - b).abs() > 1e-5), "the tolerance can fail");
}

#[test]
fn layer_norm_and_linear_are_their_definitions() {
    let (x, w, b) = (some(24), some(12), some(3));
    let mut expected = Vec::new();
    for row in x.chunks_exact(4) {
        for (j, column) in w.chunks_exact(4).enumerate() {
            expected.push(row.iter().zip(column).map(|(x, w)| x * w).sum::<f32>() + b[j]);
        }
    }
    for shape in [&[6_u64, 4][..], &[2, 3, 4]] {
        let inputs: &[(&[u64], &[f32])] = &[(shape, &x), (&[3, 4], &w), (&[3], &b)];
        let (_, got) = run(DType::F32, inputs, &|g, t| g.linear(&t[0], &t[1], Some(&t[2])));
        close(&got, &expected, 1e-5);
    }
    let (scale, bias) = (some(4), some(8)[4..].to_vec());
    let mut expected = x.clone();
    for row in expected.chunks_exact_mut(4) {
        let mean = row.iter().sum::<f32>() / 4.0;
        let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / 4.0;
        for (i, x) in row.iter_mut().enumerate() {
            *x = (*x - mean) / (variance + 1e-5).sqrt() * scale[i] + bias[i];
        }
    }
    let inputs: &[(&[u64], &[f32])] = &[(&[6, 4], &x), (&[4], &scale), (&[4], &bias)];
    let (_, got) = run(DType::F32, inputs, &|g, t| g.layer_norm(&t[0], &t[1], &t[2], 1e-5));
    close(&got, &expected, 1e-5);
}

#[test]
fn activations_are_their_definitions() {
    let x: Vec<f32> = (-20..=20).map(|i| i as f32 / 5.0).collect();
    let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
    let of = |build: Build<'_>| run(DType::F32, &[(&[41], &x)], build).1;
    let by = |f: &dyn Fn(f32) -> f32| x.iter().map(|&x| f(x)).collect::<Vec<_>>();
    close(&of(&|g, t| g.silu(&t[0])), &by(&|x| x * sigmoid(x)), 1e-5);
    close(&of(&|g, t| g.quick_gelu(&t[0])), &by(&|x| x * sigmoid(1.702 * x)), 1e-5);
    // Φ by Simpson's rule, which shares nothing with the runtime's error function.
    let density = |t: f64| (-t * t / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt();
    let normal = |x: f64| {
        let (n, low) = (2_000, -12.0);
        let h = (x - low) / f64::from(n);
        let term = |i| density(low + f64::from(i) * h) * if i == 0 || i == n { 1.0 } else { f64::from(2 + i % 2 * 2) };
        (0..=n).map(term).sum::<f64>() * h / 3.0
    };
    close(&of(&|g, t| g.gelu(&t[0])), &by(&|x| (f64::from(x) * normal(f64::from(x))) as f32), 1e-5);
    // Halves go to the even number.
    let (_, rounded) = run(DType::F32, &[(&[4], &[0.5, 1.5, 2.5, -0.5])], &|g, t| g.round(&t[0]));
    assert_eq!(rounded, [0.0, 2.0, 2.0, 0.0]);
}

#[test]
fn moving_operators_move_the_right_elements() {
    let x: Vec<f32> = (0..6).map(|i| i as f32).collect();
    let of = |build: Build<'_>| run(DType::F32, &[(&[2, 3], &x)], build).1;
    assert_eq!(of(&|g, t| g.transpose(&t[0], &[1, 0])), [0., 3., 1., 4., 2., 5.]);
    assert_eq!(of(&|g, t| g.slice_step(&t[0], 1, 0, 3, 2)), [0., 2., 3., 5.]);
    assert_eq!(of(&|g, t| g.pad(&t[0], &[0, 1], &[1, 0])), [0., 0., 1., 2., 0., 3., 4., 5., 0., 0., 0., 0.]);
    assert_eq!(of(&|g, t| g.concat(&[&t[0], &t[0]], 1)), [0., 1., 2., 0., 1., 2., 3., 4., 5., 3., 4., 5.]);
    assert_eq!(of(&|g, t| Ok(g.split(&t[0], 1, &[2, 1])?[1].clone())), [2., 5.]);
    let picture: &[(&[u64], &[f32])] = &[(&[1, 1, 2, 3], &x)];
    let (_, nearest) = run(DType::F32, picture, &|g, t| g.resize(&t[0], 4, 6, Interpolation::Nearest));
    assert_eq!(nearest[..12], [0., 0., 1., 1., 2., 2., 0., 0., 1., 1., 2., 2.]);
    let (_, linear) = run(DType::F32, picture, &|g, t| g.resize(&t[0], 2, 6, Interpolation::Linear));
    close(&linear[..6], &[0.0, 0.25, 0.75, 1.25, 1.75, 2.0], 1e-6);
}

#[test]
fn external_half_precision_weights_and_open_dimensions_work() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut writer = ExternalWriter::create(&folder.path().join("weights.bin")).expect("a file");
    let pad = writer.append(&[0; 10]).expect("written");
    let numbers = [1.5_f32, -2.0, 0.25];
    let halves: Vec<u8> = numbers.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect();
    let weight = writer.append(&halves).expect("written");
    writer.finish().expect("written");
    assert!(weight.offset > pad.offset);

    let mut g = GraphBuilder::new("external");
    let x = g.input("x", DType::F16, [Dim::symbol("rows"), Dim::Fixed(3)]).expect("an input");
    let w = g.external("w", DType::F16, [3], &weight).expect("a weight");
    let y = g.mul(&x, &w).expect("a product");
    g.output("y", &y).expect("an output");
    let path = folder.path().join("model.onnx");
    g.finish().expect("valid").write(&path).expect("written");

    let mut session = Session::from_file(super::runtime(), &Config::default(), &path).expect("loads");
    for rows in [1_usize, 4] {
        let shape = [rows as i64, 3];
        let x = session.input::<f16>("x", &shape).expect("there");
        let y = session.output::<f16>("y", &shape).expect("there");
        let given = vec![f16::from_f32(2.0); rows * 3];
        let mut got = vec![f16::ZERO; rows * 3];
        session.run(&[x.feed(&given)], &mut [y.fetch(&mut got)]).expect("runs");
        let expected: Vec<f16> = numbers.iter().cycle().take(rows * 3).map(|x| f16::from_f32(x * 2.0)).collect();
        assert_eq!(got, expected);
    }
    // An output of a shape that the graph does not give is refused, which is what the table above relies on.
    let x = session.input::<f16>("x", &[4, 3]).expect("there");
    let y = session.output::<f16>("y", &[2, 6]).map(drop).expect_err("the second dimension is known");
    assert!(y.to_string().contains("[-1, 3]"), "{y}");
    let y = session.output::<f16>("y", &[5, 3]).expect("there");
    let mut got = [f16::ZERO; 15];
    session.run(&[x.feed(&[f16::ONE; 12])], &mut [y.fetch(&mut got)]).expect_err("5 rows out of 4");
}
