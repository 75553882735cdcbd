//! Sound and text of workflows through real processes and sockets.

use std::collections::HashMap;
use std::path::PathBuf;

use serde_json::{Value, json};
use weir::trickle::{Client, Config, Start, Subscriber};

use super::metric;
use crate::support::clips::{Clip, pipe};
use crate::support::{LONG, Orchestrator, Runner, Stream, seconds, ts, until};

/// The tone of every clip, and the tones that it becomes, in hertz.
const PLAIN: f64 = 440.0;
const FOUR_UP: f64 = 554.365;
const OCTAVE_UP: f64 = 880.0;

const RATE: usize = 48_000;

fn shipped() -> Value {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("integration-tests/workflows/shipped");
    serde_json::from_slice(&std::fs::read(folder.join("audio-tensor-utils.json")).unwrap()).unwrap()
}

fn params(prompt: Value) -> Value {
    json!({"width": 384, "height": 384, "prompt": prompt})
}

fn clip(seconds: u32) -> Clip {
    Clip { size: "384x384", seconds, ..Clip::default() }
}

/// Which of the tones each tenth of a second is; `None` for none of them.
fn tones(bytes: &[u8]) -> Vec<Option<f64>> {
    let arguments =
        ["-v", "error", "-nostdin", "-i", "-", "-vn", "-f", "f32le", "-ac", "1", "-ar", "48000", "-y", "/dev/stdout"];
    let (out, errors) = pipe("ffmpeg", &arguments, bytes);
    assert_eq!(errors, "", "ffmpeg");
    let samples: Vec<f64> = out.chunks_exact(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap()))).collect();
    // The share of a window's power that lies at one frequency, 10 Hz wide.
    let share = |window: &[f64], hertz: f64| {
        let (mut re, mut im, mut power, mut weights) = (0.0, 0.0, 0.0, 0.0);
        for (i, x) in window.iter().enumerate() {
            let bell = 0.5 - 0.5 * (std::f64::consts::TAU * i as f64 / window.len() as f64).cos();
            let (sin, cos) = (std::f64::consts::TAU * hertz * i as f64 / RATE as f64).sin_cos();
            (re, im) = (re + x * bell * cos, im + x * bell * sin);
            power += x * x * bell;
            weights += bell;
        }
        if power < 1e-6 * weights { 0.0 } else { 2.0 * (re * re + im * im) / weights / power }
    };
    let of = |window: &[f64]| [PLAIN, FOUR_UP, OCTAVE_UP].into_iter().find(|&hertz| share(window, hertz) > 0.85);
    samples.windows(2 * RATE / 10).step_by(RATE / 10).map(of).collect()
}

/// Each picture, scaled to 48 × 48 greys, by its time.
fn pictures(bytes: &[u8], segments: &[ts::Segment]) -> HashMap<i64, Vec<u8>> {
    let arguments = [
        "-v",
        "error",
        "-nostdin",
        "-i",
        "-",
        "-an",
        "-fps_mode",
        "passthrough",
        "-vf",
        "scale=48:48:flags=area",
        "-f",
        "rawvideo",
        "-pix_fmt",
        "gray",
        "-y",
        "/dev/stdout",
    ];
    let (out, errors) = pipe("ffmpeg", &arguments, bytes);
    assert_eq!(errors, "", "ffmpeg");
    let times = segments.iter().flat_map(|segment| segment.video.iter().map(|unit| unit.pts));
    let pictures: Vec<Vec<u8>> = out.chunks_exact(48 * 48).map(<[u8]>::to_vec).collect();
    let times: Vec<i64> = times.collect();
    assert_eq!(times.len(), pictures.len(), "one picture for each time");
    times.into_iter().zip(pictures).collect()
}

fn apart(a: &[u8], b: &[u8]) -> f64 {
    a.iter().zip(b).map(|(a, b)| f64::from(a.abs_diff(*b))).sum::<f64>() / a.len() as f64
}

/// Steps between audio packets in a row, in ticks of 90 kHz.
fn steps(segments: &[ts::Segment]) -> Vec<i64> {
    let times: Vec<i64> = segments.iter().flat_map(|segment| segment.audio.clone()).collect();
    times.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

/// Waits until the newest whole segment is all of one tone.
async fn hears(stream: &Stream, hertz: f64) {
    let began = std::time::Instant::now();
    loop {
        let segments = stream.output.segments();
        let heard = segments.iter().rev().find(|(_, bytes)| !bytes.is_empty()).map(|(_, bytes)| tones(bytes));
        // Between two blocks there is a seam, as each is shifted by itself.
        let is = |tone: &Option<f64>| tone.is_none_or(|tone| tone == hertz);
        let most = |heard: &[Option<f64>]| heard.iter().flatten().count() * 10 >= heard.len() * 7;
        if heard.as_ref().is_some_and(|heard| heard.len() > 5 && heard.iter().all(is) && most(heard)) {
            return;
        }
        assert!(began.elapsed() < LONG, "{hertz} Hz is not heard: {heard:?}");
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    }
}

async fn lost(runner: &Runner, place: &str) -> u64 {
    metric(runner, &format!("weir_audio_dropped_total{{place=\"{place}\"}}")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shipped_sound_workflow_raises_a_tone_and_leaves_the_picture() {
    let runner = Runner::idle("comfyui", &[]).await;
    let orchestrator = Orchestrator::new().await;
    let segments = clip(10).segments();
    let mut stream = orchestrator.run(&runner, "comfyui", Some(params(shipped()))).await;
    stream.feed_all(&segments, seconds(2.0)).await;
    stream.close().await;
    runner.health("IDLE", LONG).await;

    let output = stream.output();
    let bytes = stream.output_bytes();
    let heard = tones(&bytes);
    // Every block of half a second is four semitones higher, and nothing of the plain tone came out. Between two blocks there is
    // a seam, as each is shifted by itself.
    let (high, plain) = (|t: &&Option<f64>| **t == Some(FOUR_UP), |t: &&Option<f64>| **t == Some(PLAIN));
    assert!(heard.len() > 70, "{} windows", heard.len());
    assert!(heard.iter().filter(high).count() * 100 >= heard.len() * 75, "{heard:?}");
    assert_eq!(heard.iter().filter(plain).count(), 0, "{heard:?}");
    assert!(output.iter().all(|segment| segment.audio.is_empty() || segment.opus), "it is Opus");

    // In step: the same time line, no gap, and no picture changed.
    let input: Vec<ts::Segment> = segments.iter().map(ts::read).collect();
    let (first_in, first_out) = (input[0].audio[0], output.iter().find_map(|segment| segment.audio.first()).unwrap());
    assert!((first_out - first_in).abs() < 3 * 90_000, "{first_in} {first_out}");
    let last =
        |segments: &[ts::Segment]| segments.iter().rev().find_map(|segment| segment.audio.last().copied()).unwrap();
    assert!((last(&output) - last(&input)).abs() < 9_000, "the sound ends where it ended");
    assert!(steps(&output).iter().all(|step| *step == 1800), "{:?}", steps(&output));
    let (given, got) = (pictures(&segments.concat(), &input), pictures(&bytes, &output));
    let mut times: Vec<i64> = got.keys().copied().collect();
    times.sort_unstable();
    let same = |time: &i64| apart(&given[time], &got[time]) < 4.0;
    // Before the model is open the overlay is shown.
    let shown: Vec<i64> = times.into_iter().skip_while(|time| !same(time)).collect();
    assert!(shown.len() > 200 && shown.iter().all(same), "{} pictures", shown.len());
    for place in ["queue", "damaged", "output", "held", "order"] {
        assert_eq!(lost(&runner, place).await, 0, "{place}");
    }
    assert!(metric(&runner, "weir_audio_blocks_total").await >= 15);
    runner.no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_way_of_the_sound_changes_in_mid_stream_and_nothing_is_lost() {
    let settings = [("engine-status", "500ms"), ("media-segment-seconds", "1")];
    let runner = Runner::idle("comfyui", &settings).await;
    let orchestrator = Orchestrator::new().await;
    let mut stream = orchestrator.run(&runner, "comfyui", Some(params(shipped()))).await;
    let feeding = stream.feed_behind(clip(60).segments(), seconds(2.0));
    hears(&stream, FOUR_UP).await;
    // A live widget: the next block has it.
    stream.control(json!({"2": {"pitch_shift": 12.0}}).to_string()).await;
    hears(&stream, OCTAVE_UP).await;
    assert!(!runner.log().contains("Loading beside the stream"), "no other graph is needed");
    // Away from the sound, to a workflow that takes pictures in another layout, and back.
    stream
        .control(
            params(json!({"1": {"class_type": "LoadTensor", "inputs": {}},
                                 "2": {"class_type": "SaveTensor", "inputs": {"images": ["1", 0]}}}))
            .to_string(),
        )
        .await;
    hears(&stream, PLAIN).await;
    stream.control(params(shipped()).to_string()).await;
    hears(&stream, FOUR_UP).await;
    for place in ["queue", "damaged", "output", "held", "order", "end"] {
        assert_eq!(lost(&runner, place).await, 0, "{place}");
    }
    for place in ["input", "output", "model", "decode", "order"] {
        assert_eq!(metric(&runner, &format!("weir_frames_dropped_total{{place=\"{place}\"}}")).await, 0, "{place}");
    }
    assert_eq!(metric(&runner, "weir_frames_published_total{kind=\"repeated\"}").await, 0);
    assert_eq!(metric(&runner, "weir_errors_total{stage=\"model\"}").await, 0);
    drop(feeding);
    stream.close().await;

    let output = stream.output();
    let times: Vec<i64> = output.iter().flat_map(|segment| segment.video.iter().map(|unit| unit.pts)).collect();
    assert!(
        times.windows(2).all(|pair| (1..=3_010).contains(&(pair[1] - pair[0]))),
        "gaps between pictures: {times:?}"
    );
    // Where the ways meet a packet may overlap its neighbour by less than itself; nothing is missing.
    let steps = steps(&output);
    assert!(steps.iter().all(|step| (1..=3_600).contains(step)), "{steps:?}");
    assert!(steps.iter().filter(|step| ![1800, 1919, 1920, 1921].contains(*step)).count() <= 12, "{steps:?}");
    runner.no_panic();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_text_leaves_once_and_again_when_it_changes() {
    texts_by("/stream/start").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_orchestrators_stream_has_a_data_channel_too() {
    texts_by("/live-video-to-video").await;
}

/// Texts of a stream that was started by the door `path`.
async fn texts_by(path: &str) {
    let runner = Runner::idle("comfyui", &[]).await;
    let orchestrator = Orchestrator::new().await;
    let mut stream = orchestrator.stream().await;
    let workflow = json!({
        "1": {"class_type": "LoadTensor", "inputs": {}},
        "2": {"class_type": "SaveTensor", "inputs": {"images": ["1", 0]}},
        "3": {"class_type": "SaveTextTensor", "inputs": {"data": "one\ntwo"}}
    });
    let name = format!("{}-data", stream.manifest);
    assert!(orchestrator.server.create(&name, "application/jsonl"));
    let url = format!("{}{name}", orchestrator.base);
    let mut request = stream.request("comfyui", Some(params(workflow)));
    request["data_url"] = url.clone().into();
    request
        .as_object_mut()
        .unwrap()
        .retain(|name, _| name.ends_with("_url") || name == "gateway_request_id" || name == "params");
    let client = Client::new(&Config { silent_get_ms: 60_000, ..Config::default() }).unwrap();
    let mut said = Subscriber::new(&client, &url, Start::Seq(0)).unwrap();
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    let reading = tokio::spawn(async move {
        while let Ok(Some(mut segment)) = said.next().await {
            let Ok(Some(bytes)) = segment.document(1 << 20).await else { continue };
            for line in String::from_utf8(bytes.to_vec()).unwrap().lines() {
                for item in serde_json::from_str::<Vec<Value>>(line).unwrap() {
                    let _ = tell.send(item);
                }
            }
        }
    });
    let answer = runner.post(path, &request).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let feeding = stream.feed_behind(clip(30).segments(), seconds(2.0));
    stream.online().await;
    let mut next = async || tokio::time::timeout(LONG, told.recv()).await.expect("in time").expect("an item");
    assert_eq!(next().await, json!("onetwo"));
    stream.control(json!({"3": {"remove_linebreaks": false}}).to_string()).await;
    assert_eq!(next().await, json!("one\ntwo"));
    // What is blank is not sent.
    stream.control(json!({"3": {"data": " \n"}}).to_string()).await;
    stream.control(json!({"3": {"data": "three"}}).to_string()).await;
    assert_eq!(next().await, json!("three"));
    drop(feeding);
    stream.close().await;
    until("the end of the data channel", LONG, || reading.is_finished().then_some(())).await;
    assert!(told.try_recv().is_err(), "nothing more was said");
    runner.no_panic();
}
