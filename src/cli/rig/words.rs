//! Figures for people.

use serde_json::{Map, Value};

use super::ledger::Figures;

/// Rows of a label and a text, the texts below each other.
pub fn table(rows: &[(&str, String)]) -> String {
    let wide = rows.iter().map(|(label, _)| label.chars().count()).max().unwrap_or(0);
    rows.iter().fold(String::new(), |mut text, (label, value)| {
        text.push_str(&format!("  {label:<wide$}  {value}\n"));
        text
    })
}

/// Latencies in one line.
pub fn latency(figures: &Figures) -> String {
    if figures.count == 0 {
        return "none".into();
    }
    let Figures { p50, p95, p99, max, count } = figures;
    format!("{p50:6.1} median {p95:6.1} p95 {p99:6.1} p99 {max:6.1} worst (ms, {count} frames)")
}

/// Counts by place in one line.
pub fn places(places: &Map<String, Value>) -> String {
    let all: Vec<String> = places
        .iter()
        .filter(|(_, count)| count.as_u64().unwrap_or(0) > 0)
        .map(|(place, count)| format!("{place} {count}"))
        .collect();
    if all.is_empty() { "none".into() } else { all.join(", ") }
}

/// Latencies in a frame's order, out of a runner's object of them by stage.
pub fn stages(latency_ms: &Value) -> Vec<(String, Figures)> {
    // In a frame's order, which a map forgets.
    let order = ["decode", "queue", "model", "encode", "publish", "total"];
    let figures = |stage: &&str| {
        let one = latency_ms.get(*stage)?;
        let at = |key| one.get(key).and_then(Value::as_f64).unwrap_or(0.0);
        let count = one.get("count").and_then(Value::as_u64).unwrap_or(0);
        Some(((*stage).to_owned(), Figures { count, p50: at("p50"), p95: at("p95"), p99: at("p99"), max: at("max") }))
    };
    order.iter().filter_map(figures).collect()
}

/// Drops by place out of a runner's status object.
pub fn drops(status: &Value) -> Map<String, Value> {
    status.pointer("/weir/dropped").and_then(Value::as_object).cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rows_are_aligned() {
        assert_eq!(table(&[("a", "1".into()), ("long", "2".into())]), "  a     1\n  long  2\n");
    }

    #[test]
    fn stages_come_in_order_with_their_own_counts_and_drops_in_one_line() {
        let status = json!({"weir": {"dropped": {"input": 2, "output": 0}}});
        let stages = stages(&json!({"total": {"count": 9, "p50": 5.0, "p95": 6.0, "p99": 7.0, "max": 8.0},
            "decode": {"p50": 1.0}}));
        assert_eq!(stages.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["decode", "total"]);
        assert_eq!(stages[1].1, Figures { count: 9, p50: 5.0, p95: 6.0, p99: 7.0, max: 8.0 });
        assert_eq!(places(&drops(&status)), "input 2");
        assert_eq!(places(&drops(&json!({}))), "none");
    }
}
