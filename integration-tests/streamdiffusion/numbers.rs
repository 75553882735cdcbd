//! Noise, blends and the scheduler's constants against PyTorch and diffusers.

use proptest::prelude::*;
use weir::models::blend::{Blend, noises, prompts};
use weir::models::noise::{Gpu, Mt19937, Philox, to_half};
use weir::models::schedule::{Schedule, rescale, timesteps};

use super::{Golden, apart, close, noise, scale};

const SEEDS: [u64; 3] = [2, 789, (1 << 40) + 5];

#[test]
fn the_cpu_generator_gives_what_torch_gives() {
    let golden = Golden::read("numbers");
    for seed in SEEDS {
        let mut generator = Mt19937::new(seed);
        for (draw, count) in [("first", 512), ("second", 100), ("third", 16)] {
            let mut out = vec![0.0; count];
            generator.normal(&mut out);
            close(&format!("{seed} {draw}"), &out, golden.get(&format!("cpu/{seed}/{draw}")), 2e-6);
        }
    }
    let mut first = [0.0; 5];
    Mt19937::new(2).normal(&mut first);
    close("contract", &first, &[-1.040_801_2, 0.916_604_2, -1.304_190_4, -1.109_678_4, -1.218_778_1], 1e-6);
    let mut other = vec![0.0; 512];
    Mt19937::new(3).normal(&mut other);
    apart("another seed", &other, golden.get("cpu/2/first"), 0.5);
}

#[test]
fn the_cuda_generator_gives_what_torch_gives() {
    let golden = Golden::read("numbers");
    for seed in [0, 789, (1 << 40) + 5] {
        let mut generator = Philox::new(seed, Gpu::UNBOUNDED);
        for (draw, count) in [("first", 1024), ("second", 300)] {
            let mut out = vec![0.0; count];
            generator.normal(&mut out);
            close(&format!("{seed} {draw}"), &out, golden.get(&format!("cuda/{seed}/{draw}")), 5e-6);
        }
    }
    // Two blocks of 256 threads at once.
    let mut out = vec![0.0; 5000];
    Philox::new(7, Gpu { processors: 1, threads_each: 512 }).normal(&mut out);
    close("small GPU", &out, golden.get("cuda/small"), 5e-6);
    let mut large = vec![0.0; 5000];
    Philox::new(7, Gpu::UNBOUNDED).normal(&mut large);
    apart("large GPU", &large, golden.get("cuda/small"), 0.5);
    // As published for `torch.manual_seed(0); torch.randn(…, device="cuda")`.
    let mut first = [0.0; 12];
    Philox::new(0, Gpu::UNBOUNDED).normal(&mut first);
    let published = [
        -0.924_662_6,
        -0.425_344_15,
        -2.643_845_7,
        0.145_183_88,
        -0.120_866_47,
        -0.579_725_6,
        -0.622_851_2,
        -0.328_387_1,
        -1.074_542_3,
        -0.363_144_07,
        -1.671_050_7,
        2.265_505,
    ];
    close("published", &first, &published, 2e-6);
    to_half(&mut first);
    assert_eq!(first[0], -0.924_804_7, "the nearest number of half precision");
}

#[test]
fn a_gpu_with_threads_enough_makes_no_difference() {
    let h200 = Gpu { processors: 132, threads_each: 2048 };
    let rtx4090 = Gpu { processors: 128, threads_each: 1536 };
    for count in [16_384, 65_536] {
        let draw = |gpu| {
            let mut out = vec![0.0; count];
            Philox::new(789, gpu).normal(&mut out);
            out
        };
        assert_eq!(draw(h200), draw(Gpu::UNBOUNDED));
        assert_eq!(draw(rtx4090), draw(Gpu::UNBOUNDED));
    }
}

#[test]
fn blends_are_their_formulas() {
    let golden = Golden::read("numbers");
    let items: Vec<Vec<f32>> =
        (0..3).map(|i| noise(&format!("blend/{i}"), 600).iter().map(|x| x * (1 + i) as f32).collect()).collect();
    let three: Vec<(&[f32], f32)> = items.iter().zip([0.5, 0.3, 1.0]).map(|(x, w)| (x.as_slice(), w)).collect();
    let two = [(items[0].as_slice(), 3.0), (items[1].as_slice(), 1.0)];
    let check = |name: &str, got: Option<Vec<f32>>| {
        let want = golden.get(&format!("blend/{name}"));
        close(name, &got.expect("a blend"), want, 1e-6 * scale(want));
    };
    check("linear", prompts(&three, Blend::Linear, false));
    check("linear-normal", prompts(&three, Blend::Linear, true));
    check("linear-normal", prompts(&three, Blend::Slerp, true));
    check("linear-noise", noises(&three, Blend::Linear, true));
    check("slerp", prompts(&two, Blend::Slerp, true));
    check("slerp", noises(&two, Blend::Slerp, true));
    let reversed = [(two[0].0, 1.0), (two[1].0, 3.0)];
    let wrong = prompts(&reversed, Blend::Slerp, true).expect("a blend");
    apart("the other way round", &wrong, golden.get("blend/slerp"), 0.1);
    let plain = prompts(&three, Blend::Linear, true).expect("a blend");
    apart("too weak a noise", &plain, golden.get("blend/linear-noise"), 0.1);
}

#[test]
fn blends_stay_at_their_ends() {
    let (a, b) = (noise("a", 64), noise("b", 64));
    let mix = |of_a, of_b, normal| prompts(&[(&a, of_a), (&b, of_b)], Blend::Slerp, normal).expect("a blend");
    assert_eq!(mix(1.0, 0.0, true), a);
    assert_eq!(mix(0.0, 2.0, true), b);
    assert_eq!(mix(0.3, -1.0, false), a);
    assert_eq!(mix(0.3, 7.0, false), b);
    // Parallel ones have no arc.
    let twice: Vec<f32> = a.iter().map(|x| 2.0 * x).collect();
    let half = prompts(&[(&a, 1.0), (&twice, 1.0)], Blend::Slerp, true).expect("a blend");
    close("parallel", &half, &a.iter().map(|x| 1.5 * x).collect::<Vec<_>>(), 1e-5);
    assert_eq!(prompts(&[], Blend::Linear, true), None);
    assert_eq!(prompts(&[(&a, 1.0), (&b[1..], 1.0)], Blend::Linear, true), None);
    let zero = prompts(&[(&a, 0.0), (&b, 0.0)], Blend::Linear, true).expect("a blend");
    assert!(zero.iter().all(|x| *x == 0.0));
}

#[test]
fn the_schedule_is_that_of_diffusers() {
    let golden = Golden::read("numbers");
    let schedule = Schedule::default();
    let levels: Vec<f32> = (0..1000).filter_map(|t| schedule.alpha_cumprod(t)).collect();
    close("alphas", &levels, golden.get("schedule/alphas_cumprod"), 2e-7);
    assert_eq!(schedule.alpha_cumprod(1000), None);
    for (grid, counts) in [(50, vec![1, 4, 7, 50]), (100, vec![1, 4, 7, 50, 100])] {
        for count in counts {
            let want = golden.get(&format!("schedule/{grid}/{count}"));
            let all: Vec<u32> = (0..count).collect();
            let steps = schedule.steps(count, grid, &all).expect("steps");
            for (i, row) in want.chunks_exact(5).enumerate() {
                assert_eq!(steps.timesteps[i], row[0], "{grid} {count} {i}");
                let got = [steps.alpha_sqrt[i], steps.beta_sqrt[i], steps.c_out[i]];
                close("levels", &got, &[row[1], row[2], row[4]], 2e-7);
                assert!((steps.c_skip[i] / row[3] - 1.0).abs() < 1e-6, "{} {}", steps.c_skip[i], row[3]);
            }
        }
    }
    assert_eq!(timesteps(4, 50).expect("timesteps"), [999, 759, 499, 259]);
    assert_eq!(timesteps(4, 100).expect("timesteps"), [999, 749, 499, 249]);
    assert_ne!(timesteps(4, 100).expect("timesteps"), timesteps(4, 50).expect("timesteps"));
}

#[test]
fn steps_that_do_not_exist_are_refused() {
    let schedule = Schedule::default();
    assert_eq!(
        schedule.steps(50, 100, &[50]).unwrap_err().to_string(),
        "t_index_list: 50 is not below the number of steps, 50"
    );
    assert!(timesteps(0, 50).is_err());
    assert!(timesteps(51, 50).is_err());
    let read = |json| Schedule::from_json(&json).map_err(|error| error.to_string());
    assert!(read(serde_json::json!({"prediction_type": "v_prediction"})).unwrap_err().starts_with("prediction_type"));
    assert!(read(serde_json::json!({"beta_start": 0.5, "beta_end": 0.1})).is_err());
    assert_eq!(read(serde_json::json!({"prediction_type": "epsilon", "timestep_spacing": "trailing"})), Ok(schedule));
}

#[test]
fn indices_keep_their_share_of_the_way() {
    assert_eq!(rescale(&[12, 20, 32], 50, 25), (vec![6, 10, 16], 25));
    assert_eq!(rescale(&[49], 50, 4), (vec![3], 4));
    assert_eq!(rescale(&[0, 9], 1, 3), (vec![0, 0], 3));
}

proptest! {
    #[test]
    fn timesteps_fall(count in 1_u32..=1000, grid in 1_u32..=1000) {
        match timesteps(count, grid) {
            Err(_) => prop_assert!(count > grid),
            Ok(all) => {
                prop_assert_eq!(all.len(), count as usize);
                prop_assert!(all.windows(2).all(|pair| pair[0] > pair[1]));
                prop_assert!(all[0] < 1000);
            }
        }
    }

    #[test]
    fn noise_is_finite(seed: u64, count in 1_usize..3000) {
        let mut out = vec![f32::NAN; count];
        Mt19937::new(seed).normal(&mut out);
        prop_assert!(out.iter().all(|x| x.abs() < 7.0));
        let mut out = vec![f32::NAN; count];
        Philox::new(seed, Gpu { processors: 1, threads_each: 256 }).normal(&mut out);
        prop_assert!(out.iter().all(|x| x.abs() < 7.0));
    }
}
