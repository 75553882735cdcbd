//! Rows as a table for people, as CSV or as JSON.

use serde_json::{Map, Value};

use crate::metering::ledger::{GpuUse, Stream};
use crate::metering::{Interval, Kind, Place, Stage};

/// How rows are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// Columns for people.
    Table,
    /// RFC 4180.
    Csv,
    /// A list of objects.
    Json,
}

/// Named columns and rows of texts.
pub(super) struct Table {
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new<S: Into<String>>(columns: Vec<S>) -> Self {
        Self { columns: columns.into_iter().map(Into::into).collect(), rows: Vec::new() }
    }

    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    pub fn text(&self, format: Format) -> String {
        match format {
            Format::Table => self.table(),
            Format::Csv => {
                let line =
                    |cells: &Vec<String>| cells.iter().map(|cell| csv(cell)).collect::<Vec<_>>().join(",") + "\r\n";
                std::iter::once(&self.columns).chain(&self.rows).map(line).collect()
            }
            Format::Json => {
                let object = |cells: &Vec<String>| -> Value {
                    let pairs = self.columns.iter().zip(cells).map(|(name, cell)| (name.clone(), value(cell)));
                    Value::Object(pairs.collect::<Map<_, _>>())
                };
                let rows: Vec<Value> = self.rows.iter().map(object).collect();
                serde_json::to_string_pretty(&rows).unwrap_or_default() + "\n"
            }
        }
    }

    fn table(&self) -> String {
        if self.rows.is_empty() {
            return "Nothing is there.\n".into();
        }
        let width = |index: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(index)).chain(self.columns.get(index));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        let number = |cell: &String| cell.starts_with(|c: char| c.is_ascii_digit()) && !cell.contains('T');
        let line = |cells: &Vec<String>| {
            let padded = cells.iter().zip(&widths).map(|(cell, width)| match number(cell) {
                true => format!("{cell:>width$}"),
                false => format!("{cell:<width$}"),
            });
            padded.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
        };
        std::iter::once(&self.columns).chain(&self.rows).map(line).collect()
    }
}

/// A cell as CSV. A text that a spreadsheet would take for a formula gets a quote in front.
fn csv(cell: &str) -> String {
    let formula =
        cell.starts_with(['=', '+', '@', '\t', '\r']) || (cell.starts_with('-') && cell.parse::<f64>().is_err());
    let cell = if formula { format!("'{cell}") } else { cell.to_owned() };
    if cell.contains([',', '"', '\n', '\r']) { format!("\"{}\"", cell.replace('"', "\"\"")) } else { cell }
}

/// A cell as JSON: numbers where it reads back as the same text.
fn value(cell: &str) -> Value {
    if let Ok(number) = cell.parse::<u64>()
        && number.to_string() == cell
    {
        return number.into();
    }
    match cell.parse::<f64>() {
        Ok(number) if cell.contains('.') && cell.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') => {
            number.into()
        }
        _ => cell.into(),
    }
}

/// Every figure of an interval by name. The names are the same for every interval.
pub(super) fn fields(stream: &Stream, interval: &Interval, gpu: Option<&GpuUse>) -> Vec<(String, String)> {
    let totals = &interval.totals;
    let mut fields: Vec<(String, String)> = Vec::new();
    let mut add = |name: &str, value: String| fields.push((name.to_owned(), value));
    add("stream_id", stream.stream_id.clone());
    add("manifest_id", stream.manifest_id.clone());
    add("request_id", stream.request_id.clone());
    add("started_ms", stream.started_ms.to_string());
    add("session", interval.session.to_string());
    add("number", interval.number.to_string());
    add("restarts", interval.restarts.to_string());
    add("from_ms", interval.from_ms.to_string());
    add("to_ms", interval.to_ms.to_string());
    add("last", interval.last.to_string());
    add("frames_in", totals.frames_in.to_string());
    for kind in Kind::ALL {
        let count = totals.frames_out.get(kind.label()).copied().unwrap_or(0);
        add(&format!("out_{}", kind.label()), count.to_string());
    }
    for place in Place::ALL {
        add(&format!("dropped_{}", place.label()), totals.lost_at(place).to_string());
    }
    add("in_flight", interval.in_flight.to_string());
    add("fps", interval.fps.to_string());
    add("pixels_in", totals.pixels_in.to_string());
    add("pixels_out", totals.pixels_out.to_string());
    add("bytes_in", totals.bytes_in.to_string());
    add("bytes_out", totals.bytes_out.to_string());
    add("segments_in", totals.segments_in.to_string());
    add("segments_out", totals.segments_out.to_string());
    add("model_busy_us", totals.model_busy_us.to_string());
    add("gpu_busy_us", totals.gpu_busy_us.to_string());
    for stage in Stage::ALL {
        let figures = interval.latency_ms.get(stage.label()).copied().unwrap_or_default();
        for (name, value) in [("p50", figures.p50), ("p95", figures.p95), ("p99", figures.p99), ("max", figures.max)] {
            add(&format!("{}_{name}_ms", stage.label()), value.to_string());
        }
    }
    add("model", interval.model.clone());
    add("graph", interval.graph.clone());
    add("params_hash", interval.params_hash.clone());
    add("updates_applied", totals.updates_applied.to_string());
    add("updates_refused", totals.updates_refused.to_string());
    add("faults", totals.faults.to_string());
    add(
        "fault",
        interval.fault.as_ref().map_or_else(String::new, |fault| format!("{}: {}", fault.stage, fault.message)),
    );
    add("decoder", interval.decoder.clone());
    add("encoder", interval.encoder.clone());
    add("gpu", gpu.map_or_else(String::new, |gpu| gpu.name.clone()));
    add("gpu_memory_bytes", gpu.map_or_else(String::new, |gpu| gpu.memory_bytes.to_string()));
    add("gpu_joules", gpu.and_then(|gpu| gpu.joules).map_or_else(String::new, |joules| joules.to_string()));
    let busy = gpu.and_then(|gpu| gpu.busy_seconds);
    add("gpu_busy_seconds", busy.map_or_else(String::new, |seconds| seconds.to_string()));
    add("billable_pixels", totals.billable_pixels.to_string());
    add("debits", totals.debits.to_string());
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_in_every_form() {
        let mut table = Table::new(vec!["name", "count"]);
        assert_eq!(table.text(Format::Table), "Nothing is there.\n");
        table.row(vec!["a,\"b\"".into(), "12".into()]);
        table.row(vec!["=1+1".into(), "1.50".into()]);
        table.row(vec!["-5".into(), "007".into()]);
        assert_eq!(table.text(Format::Table), "name   count\na,\"b\"     12\n=1+1    1.50\n-5       007\n");
        assert_eq!(table.text(Format::Csv), "name,count\r\n\"a,\"\"b\"\"\",12\r\n'=1+1,1.50\r\n-5,007\r\n");
        let json: Value = serde_json::from_str(&table.text(Format::Json)).expect("JSON");
        assert_eq!((&json[0]["count"], &json[1]["count"], &json[2]["count"]), (&12.into(), &1.5.into(), &"007".into()));
    }

    #[test]
    fn every_interval_has_the_same_fields() {
        let names = |interval: &Interval, gpu: Option<&GpuUse>| -> Vec<String> {
            fields(&Stream::default(), interval, gpu).into_iter().map(|field| field.0).collect()
        };
        let mut interval = Interval::default();
        let empty = names(&interval, None);
        interval.totals.dropped.insert("input".into(), 3);
        assert_eq!(names(&interval, Some(&GpuUse::default())), empty);
        assert_eq!(empty.iter().collect::<std::collections::BTreeSet<_>>().len(), empty.len());
    }
}
