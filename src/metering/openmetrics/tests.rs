use prometheus::{CounterVec, GaugeVec, HistogramOpts, HistogramVec, Opts, Registry};
use proptest::prelude::*;

use super::*;

const NONE: fn(&str, &[LabelPair], usize) -> Option<Exemplar> = |_, _, _| None;

#[test]
fn what_a_scrape_asks_for_is_what_it_gets() {
    use Exposition::{OpenMetrics, Text};
    for (accept, want) in [
        ("", Text),
        ("*/*", Text),
        ("text/html,application/xhtml+xml,*/*;q=0.8", Text),
        ("text/plain;version=0.0.4", Text),
        ("application/openmetrics-text", OpenMetrics),
        ("Application/OpenMetrics-Text; Version=1.0.0; Q=0.1", OpenMetrics),
        // As Prometheus 2 and 3 ask.
        (
            "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,\
             text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
            OpenMetrics,
        ),
        (
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;\
             version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
            OpenMetrics,
        ),
        ("text/plain;q=0.9,application/openmetrics-text;q=0.2", Text),
        ("application/openmetrics-text;q=0", Text),
        ("application/openmetrics-text;version=2.0.0", Text),
        ("application/openmetrics-text;q=x", Text),
    ] {
        assert_eq!(Exposition::wanted(accept), want, "{accept}");
    }
}

/// A registry with every kind, awkward texts and an exemplar.
fn sample_text() -> String {
    let registry = Registry::new();
    let counter =
        CounterVec::new(Opts::new("frames_total", "Frames \"out\",\nby \\kind."), &["kind"]).expect("a counter");
    let gauge = GaugeVec::new(Opts::new("depth", "What waits."), &["stage", "note"]).expect("a gauge");
    let buckets = vec![0.0005, 0.033, 1.0, 2.0];
    let times = HistogramVec::new(HistogramOpts::new("stage_seconds", "Time.").buckets(buckets), &["stage"]);
    let times = times.expect("a histogram");
    registry.register(Box::new(counter.clone())).expect("registered");
    registry.register(Box::new(gauge.clone())).expect("registered");
    registry.register(Box::new(times.clone())).expect("registered");
    counter.with_label_values(&["processed"]).inc_by(12345678901.0);
    counter.with_label_values(&["re\"peat\\ed\nü"]).inc_by(0.5);
    gauge.with_label_values(&["model", ""]).set(-3.0);
    gauge.with_label_values(&["encode", "x"]).set(f64::INFINITY);
    for value in [0.0001, 0.02, 0.02, 1.5, 9.0] {
        times.with_label_values(&["model"]).observe(value);
    }
    let exemplar = |name: &str, labels: &[LabelPair], index: usize| {
        assert_eq!((name, labels[0].value()), ("stage_seconds", "model"));
        let known = [(1, 0.02), (3, 1.5), (4, 9.0)].into_iter().find(|(bucket, _)| *bucket == index)?;
        Some(Exemplar { session: 3, frame: 1000 + index as u64, value: known.1, at_ms: 1_795_225_491_037 })
    };
    write(&registry.gather(), exemplar) + END
}

/// `sample.json` is what the reference parser reads in `sample.txt`; `make.py` beside them says how it was made.
#[test]
fn the_reference_parser_reads_what_was_written() {
    let golden = include_str!("../../../integration-tests/golden/openmetrics/sample.txt");
    assert_eq!(sample_text(), golden, "write the new text to sample.txt and run make.py beside it");
    let read: serde_json::Value =
        serde_json::from_str(include_str!("../../../integration-tests/golden/openmetrics/sample.json")).expect("JSON");
    let families: Vec<_> = read.as_array().expect("families").iter().map(|it| (&it["name"], &it["type"])).collect();
    assert_eq!(families.len(), 3);
    assert_eq!(families[0], (&"depth".into(), &"gauge".into()));
    assert_eq!(families[1], (&"frames".into(), &"counter".into()));
    assert_eq!(read[1]["help"], "Frames \"out\",\nby \\kind.");
    let sample = |family: usize, index: usize| &read[family]["samples"][index];
    assert_eq!(sample(1, 0), &serde_json::json!(["frames_total", {"kind": "processed"}, 12345678901.0, null]));
    assert_eq!(sample(1, 1), &serde_json::json!(["frames_total", {"kind": "re\"peat\\ed\nü"}, 0.5, null]));
    let exemplar = serde_json::json!([{"session": "3", "frame": "1001"}, 0.02, 1795225491.037]);
    assert_eq!(
        sample(2, 1),
        &serde_json::json!(["stage_seconds_bucket", {"stage": "model", "le": "0.033"}, 3.0, exemplar])
    );
    assert_eq!(sample(2, 4)[1]["le"], "+Inf");
    assert_eq!(sample(2, 6), &serde_json::json!(["stage_seconds_count", {"stage": "model"}, 5.0, null]));
}

/// The labels of a line, unescaped, by the grammar of the format.
fn labels_of(line: &str) -> Vec<(String, String)> {
    let mut rest = line.split_once('{').expect("labels").1.chars();
    let mut labels = Vec::new();
    loop {
        let name: String = rest.by_ref().take_while(|c| *c != '=').collect();
        assert_eq!(rest.next(), Some('"'));
        let mut value = String::new();
        loop {
            match rest.next().expect("the value's end") {
                '"' => break,
                '\\' => value.push(match rest.next() {
                    Some('n') => '\n',
                    Some(c @ ('"' | '\\')) => c,
                    other => panic!("no escape: {other:?}"),
                }),
                c => value.push(c),
            }
        }
        labels.push((name, value));
        match rest.next() {
            Some(',') => {}
            Some('}') => return labels,
            other => panic!("after a label: {other:?}"),
        }
    }
}

proptest! {
    #[test]
    fn any_label_and_any_number_come_through(value in any::<f64>(), label in any::<String>(), help in any::<String>()) {
        let registry = Registry::new();
        let gauge = GaugeVec::new(Opts::new("g", format!("h{help}")), &["l"]).expect("a gauge");
        registry.register(Box::new(gauge.clone())).expect("registered");
        gauge.with_label_values(&[&label]).set(value);
        let text = write(&registry.gather(), NONE);
        let lines: Vec<&str> = text.split('\n').collect();
        prop_assert_eq!((lines.len(), lines[0], lines[3]), (4, "# TYPE g gauge", ""), "{}", text);
        prop_assert_eq!(labels_of(lines[2]), [("l".to_owned(), label)]);
        let read: f64 = lines[2].rsplit_once(' ').expect("a number").1.parse().expect("a number");
        prop_assert!(read == value || read.is_nan() && value.is_nan());
    }
}
