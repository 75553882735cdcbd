//! Prometheus text as numbers by name and labels.

use std::collections::BTreeMap;

/// The series of a scrape.
#[derive(Clone, Debug, Default)]
pub(super) struct Numbers {
    /// By `name{label="value",…}` as it stands in the text.
    series: BTreeMap<String, f64>,
}

impl Numbers {
    /// Reads what can be read and leaves out the rest.
    pub fn read(text: &str) -> Self {
        let pairs = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
            let (name, value) = line.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        });
        Self { series: pairs.collect() }
    }

    /// One series.
    pub fn get(&self, series: &str) -> Option<f64> {
        self.series.get(series).copied()
    }

    /// The value of `name` with one label.
    pub fn of(&self, name: &str, label: &str, value: &str) -> f64 {
        self.get(&format!("{name}{{{label}=\"{value}\"}}")).unwrap_or(0.0)
    }

    /// The largest value of `name` with one label, whatever the others.
    pub fn most(&self, name: &str, label: &str, value: &str) -> Option<f64> {
        let found = self.series.iter().filter_map(|(series, &number)| {
            let labels = series.strip_prefix(name)?.strip_prefix('{')?.strip_suffix('}')?;
            (Self::label(labels, label) == value).then_some(number)
        });
        found.max_by(f64::total_cmp)
    }

    /// The series of a name with their values, zeros left out, as label text and value.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a str, f64)> + 'a {
        self.series.iter().filter_map(move |(series, &value)| {
            let labels = series.strip_prefix(name)?.strip_prefix('{')?.strip_suffix('}')?;
            (value != 0.0).then_some((labels, value))
        })
    }

    /// The value of one label in a text of labels.
    pub fn label<'a>(labels: &'a str, name: &str) -> &'a str {
        let found = labels.split(',').find_map(|pair| pair.strip_prefix(name)?.strip_prefix("=\"")?.strip_suffix('"'));
        found.unwrap_or("")
    }

    /// A quantile in seconds of `weir_stage_seconds` of a stage, of what came on top of `before`: the upper bound of
    /// its bucket.
    pub fn quantile(&self, before: Option<&Numbers>, stage: &str, quantile: f64) -> Option<f64> {
        let grown = |series: &str| {
            let before = before.and_then(|before| before.get(series)).unwrap_or(0.0);
            (self.get(series).unwrap_or(0.0) - before).max(0.0)
        };
        let count = grown(&format!("weir_stage_seconds_count{{stage=\"{stage}\"}}"));
        if count < 1.0 {
            return None;
        }
        let head = format!("weir_stage_seconds_bucket{{stage=\"{stage}\",le=\"");
        let mut bounds: Vec<(f64, f64)> = self
            .series
            .keys()
            .filter_map(|series| {
                let bound = series.strip_prefix(&head)?.strip_suffix("\"}")?.parse().ok()?;
                Some((bound, grown(series)))
            })
            .collect();
        bounds.sort_by(|a, b| a.0.total_cmp(&b.0));
        bounds.into_iter().find(|(_, below)| *below >= quantile * count).map(|(bound, _)| bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# HELP x y\nx 3\nx{a=\"b\",c=\"d e\"} 1.5\nx{a=\"z\",c=\"\"} 0\nbroken\n\
        weir_stage_seconds_bucket{stage=\"model\",le=\"0.01\"} 50\n\
        weir_stage_seconds_bucket{stage=\"model\",le=\"0.1\"} 99\n\
        weir_stage_seconds_bucket{stage=\"model\",le=\"+Inf\"} 100\n\
        weir_stage_seconds_count{stage=\"model\"} 100\n";

    #[test]
    fn series_are_found_by_name_and_label() {
        let numbers = Numbers::read(TEXT);
        assert_eq!(numbers.get("x"), Some(3.0));
        let all: Vec<_> = numbers.all("x").collect();
        assert_eq!(all, [("a=\"b\",c=\"d e\"", 1.5)]);
        assert_eq!(Numbers::label(all[0].0, "c"), "d e");
        assert_eq!((numbers.most("x", "a", "z"), numbers.most("x", "a", "y")), (Some(0.0), None));
    }

    #[test]
    fn quantiles_are_those_since_the_last_look() {
        let numbers = Numbers::read(TEXT);
        assert_eq!(numbers.quantile(None, "model", 0.5), Some(0.01));
        assert_eq!(numbers.quantile(None, "model", 0.99), Some(0.1));
        assert_eq!(numbers.quantile(None, "model", 1.0), Some(f64::INFINITY));
        assert_eq!(numbers.quantile(Some(&numbers), "model", 0.5), None);
        assert_eq!(numbers.quantile(None, "decode", 0.5), None);
    }
}
