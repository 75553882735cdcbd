//! What `weir top` shows.

use std::fmt::Write;
use std::time::Instant;

use serde_json::Value;

use super::numbers::Numbers;
use crate::metering::{Queue, Stage};

/// One look at a runner.
pub(super) struct Sample {
    /// When.
    pub at: Instant,
    /// `/health`.
    pub health: Value,
    /// `/version`.
    pub version: Value,
    /// `/metrics`.
    pub numbers: Numbers,
    /// `/api/status`.
    pub status: Value,
    /// `/metering/streams`.
    pub streams: Value,
}

/// Streams that are shown.
const STREAMS: usize = 8;

/// The page, lines ended. Rates are those since the look before.
pub(super) fn render(now: &Sample, before: Option<&Sample>) -> String {
    let mut page = String::new();
    let numbers = &now.numbers;
    let seconds = before.map_or(0.0, |before| now.at.duration_since(before.at).as_secs_f64());
    let rate = |series: &str| {
        let then = before.and_then(|before| before.numbers.get(series)).unwrap_or(0.0);
        let grown = (numbers.get(series).unwrap_or(0.0) - then).max(0.0);
        if seconds > 0.0 { grown / seconds } else { 0.0 }
    };
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or("").to_owned();
    let (state, detail) = (text(&now.health, "status"), text(&now.health, "detail"));
    let _ = writeln!(
        page,
        "weir {} · {} · {state}{}{detail} · {} of {} streams · engine failures {}",
        text(&now.version, "version"),
        text(&now.version, "model_id"),
        if detail.is_empty() { "" } else { ": " },
        numbers.get("weir_supervisor_sessions").unwrap_or(0.0),
        numbers.get("weir_supervisor_capacity").unwrap_or(0.0),
        numbers.all("weir_supervisor_engine_failures_total").map(|(_, count)| count as u64).sum::<u64>(),
    );
    let status = &now.status;
    let (input, output) = (&status["input_status"], &status["inference_status"]);
    let _ = writeln!(
        page,
        "stream {} · in {:.1} fps · out {:.1} fps · restarts {} · load {:.1} s · model busy {:.0} %{}",
        text(status, "state"),
        input["fps"].as_f64().unwrap_or(0.0),
        output["fps"].as_f64().unwrap_or(0.0),
        output["restart_count"].as_u64().unwrap_or(0),
        numbers.get("weir_model_load_seconds").unwrap_or(0.0),
        100.0 * rate("weir_model_busy_seconds_total"),
        numbers.all("weir_codec_info").next().map_or_else(String::new, |(labels, _)| {
            format!(" · {} → {}", Numbers::label(labels, "decoder"), Numbers::label(labels, "encoder"))
        }),
    );
    let _ = writeln!(
        page,
        "\n{:<9}{:>9}{:>10}{:>10}{:>8}{:>9}{:>9}",
        "stage", "fps", "p50", "p99", "queue", "age", "errors"
    );
    for stage in Stage::ALL {
        let label = stage.label();
        let queue = Queue::ALL.into_iter().find(|queue| queue.label() == label);
        let passed = match queue {
            Some(_) => rate(&format!("weir_stage_frames_total{{stage=\"{label}\"}}")),
            None => rate(&format!("weir_stage_seconds_count{{stage=\"{label}\"}}")),
        };
        let figure = |quantile| {
            let found = numbers.quantile(before.map(|before| &before.numbers), label, quantile);
            found.map_or_else(
                || "-".into(),
                |seconds| {
                    if seconds.is_finite() { format!("≤{} ms", seconds * 1000.0) } else { ">5 s".to_owned() }
                },
            )
        };
        let waits = queue
            .map_or_else(String::new, |_| numbers.most("weir_queue_depth", "stage", label).unwrap_or(0.0).to_string());
        let age = queue.and_then(|_| numbers.most("weir_queue_age_seconds", "stage", label));
        let age = age.map_or_else(String::new, |age| format!("{:.0} ms", age * 1000.0));
        let errors = queue.map_or_else(String::new, |_| numbers.of("weir_errors_total", "stage", label).to_string());
        let _ = writeln!(
            page,
            "{label:<9}{passed:>9.1}{:>10}{:>10}{waits:>8}{age:>9}{errors:>9}",
            figure(0.5),
            figure(0.99)
        );
    }
    let drops: Vec<String> = numbers
        .all("weir_frames_dropped_total")
        .map(|(labels, count)| format!("{} {count}", Numbers::label(labels, "place")))
        .collect();
    let _ = writeln!(page, "\ndropped  {}", if drops.is_empty() { "nothing".into() } else { drops.join(", ") });
    let _ = writeln!(
        page,
        "bytes    in {:.2} Mbit/s, out {:.2} Mbit/s",
        8e-6 * rate("weir_input_bytes_total"),
        8e-6 * rate("weir_output_bytes_total")
    );
    gpus(&mut page, numbers);
    ledger(&mut page, now);
    streams(&mut page, &now.streams);
    page
}

fn gpus(page: &mut String, numbers: &Numbers) {
    let mut indexes: Vec<&str> = numbers.all("weir_gpu").map(|(labels, _)| Numbers::label(labels, "gpu")).collect();
    indexes.dedup();
    for index in indexes {
        let get = |kind: &str| numbers.get(&format!("weir_gpu{{gpu=\"{index}\",kind=\"{kind}\"}}")).unwrap_or(0.0);
        let _ = writeln!(
            page,
            "gpu {index}    {:.0} % · {:.1} of {:.1} GiB · {:.0} W · {:.0} °C · NVDEC {:.0} % · NVENC {:.0} %",
            100.0 * get("utilization_ratio"),
            get("memory_used_bytes") / f64::from(1 << 30),
            get("memory_total_bytes") / f64::from(1 << 30),
            get("power_watts"),
            get("temperature_celsius"),
            100.0 * get("decoder_ratio"),
            100.0 * get("encoder_ratio"),
        );
    }
}

fn ledger(page: &mut String, now: &Sample) {
    let numbers = &now.numbers;
    let get = |name: &str| numbers.get(name).unwrap_or(0.0);
    let state = match (now.streams["ledger"].as_str(), get("weir_ledger_failing") > 0.0) {
        (None, _) => "off".to_owned(),
        (Some(path), true) => format!("CANNOT BE WRITTEN at {path}: {} lines wait", get("weir_ledger_waiting")),
        (Some(path), false) => format!("{} lines to {path}", get("weir_ledger_lines_total")),
    };
    let lost = get("weir_ledger_lost_total");
    let lost = if lost > 0.0 { format!(", {lost} LOST") } else { String::new() };
    let _ = writeln!(page, "ledger   {state}{lost}");
}

fn streams(page: &mut String, streams: &Value) {
    let Some(list) = streams["streams"].as_array().filter(|list| !list.is_empty()) else { return };
    let _ = writeln!(
        page,
        "\n{:<22}{:<12}{:>9}{:>9}{:>9}{:>9}{:>8}{:>16}",
        "stream", "manifest", "seconds", "in", "out", "dropped", "fps", "billable px"
    );
    for stream in list.iter().take(STREAMS) {
        let text = |key: &str, most: usize| -> String {
            // Ids come from callers: nothing in them may move the cursor.
            let clean = stream[key].as_str().unwrap_or("").chars().filter(|c| !c.is_control());
            clean.take(most).collect()
        };
        let sum =
            |key: &str| stream[key].as_object().map_or(0, |map| map.values().filter_map(Value::as_u64).sum::<u64>());
        let mark = if stream["ended"] == true { " " } else { "*" };
        let _ = writeln!(
            page,
            "{mark}{:<21}{:<12}{:>9.1}{:>9}{:>9}{:>9}{:>8.2}{:>16}",
            text("stream_id", 20),
            text("manifest_id", 11),
            stream["seconds"].as_f64().unwrap_or(0.0),
            stream["frames_in"].to_string(),
            sum("frames_out"),
            sum("dropped"),
            stream["fps"].as_f64().unwrap_or(0.0),
            stream["billable_pixels"].to_string(),
        );
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    fn sample(at: Instant, frames: u32) -> Sample {
        let text = format!(
            "weir_stage_frames_total{{stage=\"model\"}} {frames}\nweir_queue_depth{{slot=\"0\",stage=\"model\"}} 2\n\
             weir_queue_age_seconds{{stage=\"model\"}} 0.04\nweir_frames_dropped_total{{place=\"input\"}} 7\n\
             weir_codec_info{{decoder=\"h264\",encoder=\"libx264\",slot=\"0\"}} 1\nweir_ledger_failing 1\n\
             weir_gpu{{gpu=\"0\",kind=\"power_watts\"}} 71\nweir_ledger_waiting 9\n"
        );
        Sample {
            at,
            health: json!({"status": "OK"}),
            version: json!({"version": "1.2.3", "model_id": "noop"}),
            numbers: Numbers::read(&text),
            status: json!({"state": "ONLINE", "input_status": {"fps": 30.0}, "inference_status": {"fps": 29.9}}),
            streams: json!({"ledger": "/l", "streams": [{"stream_id": "my\u{1b}[2Jstream", "manifest_id": "abc",
                "seconds": 10.0, "frames_in": 300, "frames_out": {"processed": 290, "overlay": 3},
                "dropped": {"input": 7}, "fps": 29.0, "billable_pixels": 276480000_u64, "ended": false}]}),
        }
    }

    #[test]
    fn a_page_says_rates_queues_drops_and_streams() {
        let start = Instant::now();
        let before = sample(start, 100);
        let page = render(&sample(start + Duration::from_secs(2), 160), Some(&before));
        let flat = page.split_whitespace().collect::<Vec<_>>().join(" ");
        for part in [
            "weir 1.2.3 · noop · OK",
            "stream ONLINE · in 30.0 fps · out 29.9 fps",
            "h264 → libx264",
            "model 30.0 - - 2 40 ms 0",
            "dropped input 7",
            "gpu 0 0 % · 0.0 of 0.0 GiB · 71 W",
            "ledger CANNOT BE WRITTEN at /l: 9 lines wait",
            "*my[2Jstream abc 10.0 300 293 7 29.00 276480000",
        ] {
            assert!(flat.contains(part), "no `{part}` in\n{page}");
        }
        assert!(!page.contains('\u{1b}'));
        assert!(render(&before, None).contains("model"));
    }
}
