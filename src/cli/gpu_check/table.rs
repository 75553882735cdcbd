//! Rows for people, and what the card's arithmetic would allow.

use std::fmt::Write;

use super::{Case, Machine, Row};

/// Peak of dense arithmetic in half precision with sums in single precision, in 10¹² operations a second, by part of the
/// card's name. From NVIDIA's data sheets; a card that is not here gets no limit.
const PEAKS: [(&str, f64); 7] = [
    ("H100 PCIe", 756.0),
    ("H200", 989.4),
    ("H100", 989.4),
    ("A100", 312.0),
    ("L40S", 362.05),
    ("RTX 4090", 165.2),
    ("L4", 121.0),
];

/// The peak of the card called `name`.
pub(super) fn peak(name: &str) -> Option<f64> {
    let words: Vec<&str> = name.split([' ', '-']).collect();
    let has = |card: &str| card.split(' ').all(|part| words.contains(&part));
    PEAKS.iter().find(|(card, _)| has(card)).map(|(_, peak)| *peak)
}

/// Frames a second at `peak` · 10¹² operations a second: 10⁹ operations of one evaluation of each model, counted by operator
/// (two for each multiplication with its addition), for pictures of 512 × 512.
pub(super) fn limit(case: &Case, peak: f64) -> Option<f64> {
    let (unet, control) = match case.family? {
        "sd15" => (803.3, 283.3),
        "sd-turbo" => (804.3, 283.8),
        _ => (1588.8, 712.1),
    };
    let autoencoder = 122.3 + 141.4;
    let frame = case.steps as f64 * (unet + case.controls as f64 * control) + autoencoder;
    Some(peak * 1000.0 / frame)
}

/// The table as Markdown.
pub(super) fn markdown(machine: &Machine, rows: &[Row], quick: bool) -> String {
    let mut text = String::new();
    let card = match (&machine.gpu, &machine.capability, &machine.driver_cuda) {
        (Some(gpu), Some(capability), Some(cuda)) => {
            format!("{gpu}, compute capability {capability}, driver for CUDA {cuda}")
        }
        _ => "no GPU: what follows was run on the CPU and is no result for any GPU".to_owned(),
    };
    // Writing to a text cannot fail.
    let _ = writeln!(text, "{card}; ONNX Runtime {}.", machine.onnxruntime);
    if quick {
        let _ = writeln!(text, "Small models, to try the way; the times say nothing about real ones.");
    }
    let _ = writeln!(
        text,
        "\n| stream | provider | encode, ms | UNet, ms | decode, ms | frame, ms | 95 %, ms | fps | limit, fps | share | waits a frame | graph, s | load, s | estimated, GiB |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    );
    for row in rows {
        let limit = row.limit_fps.map_or("–".to_owned(), |fps| format!("{fps:.0}"));
        let share = row.share.map_or("–".to_owned(), |share| format!("{:.0} %", share * 100.0));
        let _ = writeln!(
            text,
            "| {} | {} {} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {:.1} | {limit} | {share} | {:.1} | {:.1} | {:.1} | {:.1} |",
            row.case,
            row.provider,
            row.precision,
            row.encode_ms,
            row.predict_ms,
            row.decode_ms,
            row.frame_ms,
            row.frame_p95_ms,
            1000.0 / row.frame_ms,
            row.waits,
            row.build_s,
            row.load_s,
            row.needed as f64 / f64::from(1 << 30),
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::FULL;
    use super::*;

    #[test]
    fn the_limits_are_those_of_the_cards() {
        for (name, known) in [
            ("NVIDIA H100 80GB HBM3", Some(989.4)),
            ("NVIDIA H100 PCIe", Some(756.0)),
            ("NVIDIA H200", Some(989.4)),
            ("NVIDIA GeForce RTX 4090", Some(165.2)),
            ("NVIDIA A100-SXM4-80GB", Some(312.0)),
            ("NVIDIA L40S", Some(362.05)),
            ("NVIDIA L4", Some(121.0)),
            ("NVIDIA L40", None),
            ("NVIDIA GeForce RTX 3060", None),
        ] {
            assert_eq!(peak(name), known, "{name}");
        }
        // Frames a second of an H100 and of a 4090, worked out once by hand from the operations of each model.
        let by_hand = [(926.0, 155.0), (529.0, 88.0), (370.0, 62.0), (285.0, 48.0), (280.0, 47.0), (534.0, 89.0)];
        for (case, (h100, rtx4090)) in FULL.iter().zip(by_hand) {
            for (peak, fps) in [(989.4, h100), (165.2, rtx4090)] {
                let limit = limit(case, peak).unwrap_or_default();
                assert!((limit - fps).abs() <= 1.0, "{}: {limit}, {fps}", case.name);
            }
        }
    }

    #[test]
    fn a_table_without_a_gpu_says_so() {
        let machine = Machine { gpu: None, capability: None, driver_cuda: None, onnxruntime: "1.26.0".into() };
        let text = markdown(&machine, &[], true);
        assert!(text.contains("no result for any GPU") && text.contains("say nothing about real ones"), "{text}");
    }
}
