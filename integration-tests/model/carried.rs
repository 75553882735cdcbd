//! State that is carried from run to run, and the way that frames take on a GPU, tried with memory of the host.

use weir::graph::{DType, GraphBuilder};
use weir::inference::{Config, Graph, InferenceError, Input, Load, Needs, Output, Precision, Provider, Session};

use super::runtime;

/// `sum_out = sum + x`, `seen = sum · gain`: state that moves on with every run.
fn adder() -> Vec<u8> {
    let mut g = GraphBuilder::new("adder");
    let x = g.input("x", DType::F32, [3]).expect("works");
    let sum = g.input("sum", DType::F32, [3]).expect("works");
    let gain = g.input("gain", DType::F32, [1]).expect("works");
    let next = g.add(&sum, &x).expect("works");
    let seen = g.mul(&sum, &gain).expect("works");
    g.output("sum_out", &next).expect("works");
    g.output("seen", &seen).expect("works");
    g.finish().expect("works").to_bytes().expect("works")
}

struct Adder {
    session: Session,
    x: Input<f32>,
    sum: Input<f32>,
    gain: Input<f32>,
    seen: Output<f32>,
}

impl Adder {
    fn new(as_on: Option<Provider>) -> Self {
        let config = Config { threads: 1, ..Config::default() };
        let load = Load { as_on, frames: true, ..Load::new(&config) };
        let mut session = Session::load(runtime(), &load, Graph::Bytes(&adder())).expect("loads");
        let [x, sum] = ["x", "sum"].map(|name| session.input(name, &[3]).expect("an input"));
        let out = session.output("sum_out", &[3]).expect("works");
        session.carry(&sum, &out).expect("works");
        let (gain, seen) = (session.input("gain", &[1]).expect("works"), session.output("seen", &[3]).expect("works"));
        session.hold(&gain, &[1.0]).expect("works");
        Self { session, x, sum, gain, seen }
    }

    fn run(&mut self, times: u32, x: f32) -> f32 {
        let mut seen = [f32::NAN; 3];
        self.session.run_times(times, &[self.x.feed(&[x; 3])], &mut [self.seen.fetch(&mut seen)]).expect("works");
        assert_eq!(seen, [seen[0]; 3]);
        seen[0]
    }
}

fn check(mut adder: Adder) {
    assert_eq!(adder.run(1, 1.0), 0.0, "the state begins with zeros");
    assert_eq!(adder.run(1, 10.0), 1.0);
    assert_eq!(adder.run(3, 100.0), 211.0, "what the third run of three sees");
    assert_eq!(adder.run(1, 0.0), 311.0);
    adder.session.hold(&adder.gain, &[2.0]).expect("works");
    assert_eq!(adder.run(1, 0.0), 622.0, "new numbers leave the state");
    adder.session.clear(&adder.sum).expect("works");
    assert_eq!(adder.run(1, 5.0), 0.0);
    assert_eq!(adder.run(1, 5.0), 10.0);
    adder.session.clear_all().expect("works");
    assert_eq!(adder.run(2, 5.0), 10.0);
    let error = adder.session.hold(&adder.sum, &[1.0; 3]).expect_err("refused");
    assert!(error.to_string().contains("carried"), "{error}");
    let error = adder.session.run(&[adder.x.feed(&[0.0; 3]), adder.sum.feed(&[0.0; 3])], &mut []).expect_err("refused");
    assert!(error.to_string().contains("sum: it is carried"), "{error}");
    assert_eq!(adder.run(1, 0.0), 20.0, "a refused call changes nothing");
}

#[test]
fn state_is_carried_where_slices_are_lent() {
    check(Adder::new(None));
}

#[test]
fn state_is_carried_as_on_a_gpu() {
    check(Adder::new(Some(Provider::Cuda)));
    check(Adder::new(Some(Provider::Tensorrt)));
}

#[test]
fn what_was_captured_keeps_its_addresses() {
    // One graph is captured there, so another address would be an error.
    let mut adder = Adder::new(Some(Provider::Tensorrt));
    for gain in [1.0, 2.0, 3.0] {
        adder.run(1, 1.0);
        adder.session.hold(&adder.gain, &[gain]).expect("held");
    }
    // Fed in place of held is another input.
    let mut seen = [0.0; 3];
    let feeds = [adder.x.feed(&[0.0; 3]), adder.gain.feed(&[1.0])];
    let error = adder.session.run(&feeds, &mut [adder.seen.fetch(&mut seen)]).expect_err("captured");
    assert!(error.to_string().contains("captured"), "{error}");
    assert_eq!(adder.run(1, 0.0), 9.0, "the session stays usable");
}

#[test]
fn what_does_not_fit_is_refused_before_it_is_loaded() {
    let config = Config { threads: 1, ..Config::default() };
    let needs = Needs { weights: 1 << 60, activations: 1 << 30, ports: 0 };
    let load = Load { name: "huge", needs: Some(needs), ..Load::new(&config) };
    // Not even a graph: it is not looked at.
    let error = Session::load(runtime(), &load, Graph::Bytes(b"no graph")).err().expect("refused");
    let text = error.to_string();
    assert!(matches!(error, InferenceError::Memory(_)) && text.contains("huge needs about 1073741825.0 GiB"), "{text}");
    let eight = Load { precision: Precision::Fp8, ..Load::new(&config) };
    let error = Session::load(runtime(), &eight, Graph::Bytes(&adder())).err().expect("refused");
    assert!(error.to_string().contains("fp8 is not built yet"), "{error}");
    let load = Load { needs: Some(Needs::default()), ..load };
    Session::load(runtime(), &load, Graph::Bytes(&adder())).expect("loads");
}
