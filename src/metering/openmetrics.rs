//! Counters, gauges and histograms as OpenMetrics text, version 1.0.0, with exemplars: the frame that stands for a bucket.
//!
//! The `prometheus` crate writes its own text only, and its families carry no exemplars; those are looked up here.

use std::fmt::Write;

use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};

/// The form of what a scrape gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Exposition {
    /// Prometheus text, version 0.0.4.
    #[default]
    Text,
    /// OpenMetrics text, version 1.0.0.
    OpenMetrics,
}

impl Exposition {
    /// The form that an `Accept` header asks for: OpenMetrics where it is named and nothing else is liked better.
    pub fn wanted(accept: &str) -> Self {
        let (mut open, mut text) = (0.0_f32, 0.0_f32);
        for range in accept.split(',') {
            let mut parts = range.split(';').map(|part| part.trim().to_ascii_lowercase());
            let kind = parts.next().unwrap_or_default();
            let (mut quality, mut version) = (1.0_f32, None);
            for part in parts {
                match part.split_once('=').map(|(name, value)| (name.trim(), value.trim().trim_matches('"'))) {
                    Some(("q", value)) => quality = value.parse().unwrap_or(0.0),
                    Some(("version", value)) => version = Some(value.to_owned()),
                    _ => {}
                }
            }
            match kind.as_str() {
                "application/openmetrics-text" if version.as_deref().is_none_or(|it| it == "1.0.0") => {
                    open = quality.max(open);
                }
                "text/plain" => text = quality.max(text),
                _ => {}
            }
        }
        if open > 0.0 && open >= text { Self::OpenMetrics } else { Self::Text }
    }

    /// The `Content-Type` header.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// What follows the last family.
pub const END: &str = "# EOF\n";

/// A frame that stands for a bucket of a histogram.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Exemplar {
    /// The supervisor's number for its session.
    pub session: u64,
    /// Its number within the session, as in traces.
    pub frame: u64,
    /// Its value, in the histogram's unit.
    pub value: f64,
    /// Unix milliseconds at which it was measured.
    pub at_ms: u64,
}

/// The families as text, without the [`END`], so that those of two registries can follow each other. `exemplar` gives the
/// one of a bucket, by the family's name, the labels of the series and the bucket's number.
pub fn write(families: &[MetricFamily], exemplar: impl Fn(&str, &[LabelPair], usize) -> Option<Exemplar>) -> String {
    let mut out = String::with_capacity(16 * 1024);
    for family in families {
        let (full, kind) = (family.name(), family.get_field_type());
        // A counter's family has the name without the ending that each of its samples has.
        let name = if kind == MetricType::COUNTER { full.strip_suffix("_total").unwrap_or(full) } else { full };
        let word = match kind {
            MetricType::COUNTER => "counter",
            MetricType::GAUGE => "gauge",
            MetricType::HISTOGRAM => "histogram",
            // No metric of ours is of another kind.
            MetricType::SUMMARY | MetricType::UNTYPED => continue,
        };
        let _ = writeln!(out, "# TYPE {name} {word}");
        if !family.help().is_empty() {
            let _ = writeln!(out, "# HELP {name} {}", escaped(family.help()));
        }
        for metric in family.get_metric() {
            match kind {
                MetricType::COUNTER => {
                    sample(&mut out, &format!("{name}_total"), metric, metric.get_counter().get_value())
                }
                MetricType::GAUGE => sample(&mut out, name, metric, metric.get_gauge().get_value()),
                _ => histogram(&mut out, name, metric, &exemplar),
            }
        }
    }
    out
}

fn sample(out: &mut String, name: &str, metric: &Metric, value: f64) {
    let _ = writeln!(out, "{name}{} {}", labels(metric.get_label(), None), number(value));
}

fn histogram(
    out: &mut String,
    name: &str,
    metric: &Metric,
    exemplar: &impl Fn(&str, &[LabelPair], usize) -> Option<Exemplar>,
) {
    let histogram = metric.get_histogram();
    let bounds = histogram.get_bucket().iter().map(|bucket| (bucket.upper_bound(), bucket.cumulative_count()));
    // The crate leaves the last bucket out.
    let last = (f64::INFINITY, histogram.get_sample_count());
    let bounds = bounds.filter(|(bound, _)| bound.is_finite()).chain([last]);
    for (index, (bound, count)) in bounds.enumerate() {
        let _ = write!(out, "{name}_bucket{} {count}", labels(metric.get_label(), Some(bound)));
        if let Some(Exemplar { session, frame, value, at_ms }) = exemplar(name, metric.get_label(), index) {
            let (seconds, ms) = (at_ms / 1000, at_ms % 1000);
            let value = number(value);
            let _ = write!(out, " # {{session=\"{session}\",frame=\"{frame}\"}} {value} {seconds}.{ms:03}");
        }
        out.push('\n');
    }
    let plain = labels(metric.get_label(), None);
    let _ = writeln!(out, "{name}_sum{plain} {}", number(histogram.get_sample_sum()));
    let _ = writeln!(out, "{name}_count{plain} {}", histogram.get_sample_count());
}

fn labels(labels: &[LabelPair], bound: Option<f64>) -> String {
    let mut all: Vec<String> =
        labels.iter().map(|label| format!("{}=\"{}\"", label.name(), escaped(label.value()))).collect();
    if let Some(bound) = bound {
        // Whole bounds are written with a point here: `1.0`.
        all.push(if bound.is_finite() { format!("le=\"{bound:?}\"") } else { "le=\"+Inf\"".into() });
    }
    if all.is_empty() { String::new() } else { format!("{{{}}}", all.join(",")) }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\n', "\\n").replace('"', "\\\"")
}

fn number(value: f64) -> String {
    match value {
        value if value.is_nan() => "NaN".into(),
        f64::INFINITY => "+Inf".into(),
        f64::NEG_INFINITY => "-Inf".into(),
        value => value.to_string(),
    }
}

#[cfg(test)]
mod tests;
