//! `weir ledger`: what streams came to, from the ledger of a runner.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Arg, ArgMatches, Command};

use crate::metering::ledger::{Body, Entry, Found, GpuUse, Stream, Summary, read, verify};
use crate::metering::{Interval, Price};

mod table;

use table::{Format, Table};

/// Exit code when the chain does not hold.
const BROKEN: u8 = 1;
/// Exit code when the ledger cannot be read (`EX_NOINPUT`).
const UNREADABLE: u8 = 66;

pub(super) fn command() -> Command {
    let path = || {
        [
            Arg::new("path").long("path").value_name("PATH").help(
                "Folder of the ledger, or one file of it. [default: ledger.path of the variables and the configuration file]",
            ),
            Arg::new("config").long("config").value_name("FILE").help("Configuration file that names the ledger."),
        ]
    };
    let filters = || {
        let arg = |name: &'static str, value: &'static str, help: &'static str| {
            Arg::new(name).long(name).value_name(value).help(help)
        };
        [
            arg("stream", "ID", "Only the stream of this stream id, request id or manifest id."),
            arg("manifest", "ID", "Only the stream of this manifest id, by which an orchestrator keeps its balance."),
            arg(
                "since",
                "TIME",
                "Only what ended after: 2026-11-21T04:00:00Z, Unix seconds, or a time ago such as 2h.",
            ),
            arg("until", "TIME", "Only what began before."),
            arg(
                "price",
                "PRICE",
                "Price to lay beside what was debited: 1200wei/pixel, 7/3wei/pixel, 0.36USD/hour, 0.36USD/720p.",
            ),
            arg("format", "FORMAT", "table, csv or json.").value_parser(["table", "csv", "json"]),
        ]
    };
    Command::new("ledger")
        .about("Read and check the ledger: what each stream delivered, and what it comes to.")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(Command::new("summary").about("One row a stream.").args(path()).args(filters()))
        .subcommand(Command::new("show").about("One row an interval.").args(path()).args(filters()))
        .subcommand(
            Command::new("export")
                .about("Every figure of every interval, as CSV or JSON.")
                .args(path())
                .args(filters()),
        )
        .subcommand(Command::new("verify").about("Check that no line was changed or lost.").args(path()))
}

pub(super) fn run(matches: &ArgMatches) -> ExitCode {
    let Some((name, matches)) = matches.subcommand() else { return ExitCode::from(super::USAGE) };
    let result = path(matches).and_then(|path| match name {
        "verify" => Ok(check(&path)),
        _ => {
            let filter = Filter::of(matches, SystemTime::now())?;
            Ok(match name {
                "summary" => summary(&path, &filter),
                "show" => show(&path, &filter),
                _ => export(&path, &filter),
            })
        }
    });
    result.unwrap_or_else(|problem| {
        super::complain(&problem);
        ExitCode::from(super::USAGE)
    })
}

fn path(matches: &ArgMatches) -> Result<PathBuf, String> {
    if let Some(path) = matches.get_one::<String>("path") {
        return Ok(path.into());
    }
    let flags = matches.get_one::<String>("config").map(|file| ("config".to_owned(), file.clone()));
    let variables = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let loaded = crate::config::load(&flags.into_iter().collect(), &variables, |path| std::fs::read_to_string(path));
    let path = loaded.map_err(|mistakes| mistakes.to_string())?.config.supervisor.ledger.path;
    path.ok_or_else(|| "name the ledger with --path, or set ledger.path (WEIR_LEDGER_PATH)".into())
}

/// Which intervals are wanted, and how they are shown.
struct Filter {
    stream: Option<String>,
    manifest: Option<String>,
    since_ms: u64,
    until_ms: u64,
    price: Option<Price>,
    format: Format,
}

impl Filter {
    fn of(matches: &ArgMatches, now: SystemTime) -> Result<Self, String> {
        let text = |name: &str| matches.get_one::<String>(name).cloned();
        let at = |name: &str, default: u64| text(name).map_or(Ok(default), |time| moment(&time, now));
        let price = text("price").map(|price| price.parse::<Price>().map_err(|error| error.to_string())).transpose()?;
        let format = match text("format").as_deref() {
            Some("csv") => Format::Csv,
            Some("json") => Format::Json,
            _ => Format::Table,
        };
        Ok(Self {
            stream: text("stream"),
            manifest: text("manifest"),
            since_ms: at("since", 0)?,
            until_ms: at("until", u64::MAX)?,
            price,
            format,
        })
    }

    fn wants(&self, stream: &Stream, interval: &Interval) -> bool {
        let any = |id: &String| [&stream.stream_id, &stream.manifest_id, &stream.request_id].contains(&id);
        self.stream.as_ref().is_none_or(any)
            && self.manifest.as_ref().is_none_or(|id| stream.manifest_id == *id)
            && interval.to_ms > self.since_ms
            && interval.from_ms < self.until_ms
    }

    /// What so many pixels cost; empty without a price.
    fn money(&self, pixels: u64) -> String {
        self.price.map_or_else(String::new, |price| {
            price.of(pixels).map_or_else(|| "too much to count".into(), |money| money.to_string())
        })
    }
}

/// Unix milliseconds of a time as people write it.
fn moment(text: &str, now: SystemTime) -> Result<u64, String> {
    let ms = |time: SystemTime| time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    if let Ok(seconds) = text.parse::<u64>() {
        return Ok(seconds.saturating_mul(1000));
    }
    if let Ok(time) = humantime::parse_rfc3339_weak(text) {
        return Ok(ms(time));
    }
    let ago = humantime::parse_duration(text.strip_suffix("ago").unwrap_or(text).trim());
    let ago = ago.map_err(|_| format!("`{text}` is no time: write 2026-11-21T04:00:00Z, Unix seconds, or 2h"))?;
    Ok(now.checked_sub(ago).map_or(0, ms))
}

/// A time as text, to the second.
fn shown(ms: u64) -> String {
    humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(ms.min(253_402_300_799_000))).to_string()
}

/// A line that is wrong, for people.
fn told(found: &Found) -> String {
    let Err(broken) = &found.entry else { return String::new() };
    format!("{}:{}: this line {broken}", found.file.display(), found.line)
}

/// Reads the intervals that are wanted. Lines that are wrong are complained of once.
fn each(
    path: &Path,
    filter: &Filter,
    mut visit: impl FnMut(&Entry, &Stream, &Interval, Option<&GpuUse>),
) -> Result<(), ExitCode> {
    let mut wrong = 0_u64;
    let result = read(path, |found| {
        match &found.entry {
            Err(_) => {
                if wrong == 0 {
                    super::complain(&format!("{}; `weir ledger verify` tells more", told(&found)));
                }
                wrong += 1;
            }
            Ok(entry) => {
                if let Body::Interval { stream, interval, gpu } = &entry.body
                    && filter.wants(stream, interval)
                {
                    visit(entry, stream, interval, gpu.as_ref());
                }
            }
        }
        true
    });
    result.map(drop).map_err(|error| {
        super::complain(&error.to_string());
        ExitCode::from(UNREADABLE)
    })
}

fn summary(path: &Path, filter: &Filter) -> ExitCode {
    let mut streams: Vec<Summary> = Vec::new();
    let result = each(path, filter, |_, stream, interval, gpu| {
        let known = |one: &&mut Summary| one.session == interval.session && one.stream == *stream;
        match streams.iter_mut().rev().find(known) {
            Some(one) => one.add(interval, gpu),
            None => {
                let mut one = Summary::new(stream, interval);
                one.add(interval, gpu);
                streams.push(one);
            }
        }
    });
    if let Err(code) = result {
        return code;
    }
    let mut columns = vec![
        "stream",
        "manifest",
        "from",
        "to",
        "seconds",
        "frames_in",
        "processed",
        "other_out",
        "dropped",
        "fps",
        "p99_ms",
        "pixels_in",
        "pixels_out",
        "billable_pixels",
        "debits",
        "gpu_joules",
        "restarts",
        "missing",
        "model",
    ];
    if filter.price.is_some() {
        columns.push("cost");
    }
    let mut table = Table::new(columns);
    let mut row = |one: &Summary| {
        let totals = &one.totals;
        let mut cells = vec![
            one.stream.stream_id.clone(),
            one.stream.manifest_id.clone(),
            shown(one.from_ms),
            shown(one.to_ms),
            format!("{:.3}", one.seconds()),
            totals.frames_in.to_string(),
            totals.processed().to_string(),
            (totals.out() - totals.processed()).to_string(),
            totals.lost().to_string(),
            format!("{:.2}", one.fps()),
            format!("{:.1}", one.worst_p99_ms),
            totals.pixels_in.to_string(),
            totals.pixels_out.to_string(),
            totals.billable_pixels.to_string(),
            totals.debits.to_string(),
            format!("{:.1}", one.joules),
            one.restarts.to_string(),
            one.missing.to_string(),
            one.model.clone(),
        ];
        if filter.price.is_some() {
            cells.push(filter.money(totals.billable_pixels));
        }
        table.row(cells);
    };
    streams.iter().for_each(&mut row);
    if filter.format == Format::Table && streams.len() > 1 {
        row(&all(&streams));
    }
    super::print(&table.text(filter.format));
    ExitCode::SUCCESS
}

/// The sum of all streams. Its seconds are those of the streams together.
fn all(streams: &[Summary]) -> Summary {
    let mut sum = Summary::new(&Stream { stream_id: "all".into(), ..Stream::default() }, &Interval::default());
    sum.from_ms = streams.iter().map(|one| one.from_ms).min().unwrap_or(0);
    let together: u64 = streams.iter().map(|one| one.to_ms - one.from_ms).sum();
    sum.to_ms = sum.from_ms + together;
    for one in streams {
        sum.totals += &one.totals;
        sum.intervals += one.intervals;
        sum.missing += one.missing;
        sum.restarts += one.restarts;
        sum.joules += one.joules;
        sum.worst_p99_ms = sum.worst_p99_ms.max(one.worst_p99_ms);
    }
    sum
}

fn show(path: &Path, filter: &Filter) -> ExitCode {
    let mut columns = vec![
        "stream",
        "manifest",
        "no",
        "from",
        "seconds",
        "in",
        "out",
        "dropped",
        "fps",
        "p99_ms",
        "billable_pixels",
        "graph",
        "params",
        "fault",
    ];
    if filter.price.is_some() {
        columns.insert(11, "cost");
    }
    let mut table = Table::new(columns);
    let result = each(path, filter, |_, stream, interval, _| {
        let totals = &interval.totals;
        let dropped: Vec<String> = totals.dropped.iter().map(|(place, count)| format!("{count} {place}")).collect();
        let mut cells = vec![
            stream.stream_id.clone(),
            stream.manifest_id.clone(),
            interval.number.to_string(),
            shown(interval.from_ms),
            format!("{:.3}", interval.seconds()),
            totals.frames_in.to_string(),
            totals.out().to_string(),
            if dropped.is_empty() { "0".into() } else { dropped.join(", ") },
            format!("{:.2}", interval.fps),
            format!("{:.1}", interval.latency_ms.get("total").map_or(0.0, |total| total.p99)),
            totals.billable_pixels.to_string(),
            interval.graph.chars().take(8).collect(),
            interval.params_hash.chars().take(8).collect(),
            interval.fault.as_ref().map_or_else(String::new, |fault| format!("{}: {}", fault.stage, fault.message)),
        ];
        if filter.price.is_some() {
            cells.insert(11, filter.money(totals.billable_pixels));
        }
        table.row(cells);
    });
    if let Err(code) = result {
        return code;
    }
    super::print(&table.text(filter.format));
    ExitCode::SUCCESS
}

fn export(path: &Path, filter: &Filter) -> ExitCode {
    if filter.format == Format::Json {
        super::print("[");
        let mut first = true;
        let result = each(path, filter, |entry, _, _, _| {
            let comma = if std::mem::take(&mut first) { "\n" } else { ",\n" };
            super::print(&format!("{comma}{}", serde_json::to_string(entry).unwrap_or_default()));
        });
        super::print("\n]\n");
        return result.err().unwrap_or(ExitCode::SUCCESS);
    }
    let mut table: Option<Table> = None;
    let result = each(path, filter, |entry, stream, interval, gpu| {
        let mut fields = table::fields(stream, interval, gpu);
        fields.insert(0, ("seq".into(), entry.seq.to_string()));
        if filter.price.is_some() {
            fields.push(("cost".into(), filter.money(interval.totals.billable_pixels)));
        }
        let table = table.get_or_insert_with(|| Table::new(fields.iter().map(|field| field.0.clone()).collect()));
        table.row(fields.into_iter().map(|field| field.1).collect());
    });
    if let Err(code) = result {
        return code;
    }
    super::print(&table.map_or_else(String::new, |table| table.text(Format::Csv)));
    ExitCode::SUCCESS
}

fn check(path: &Path) -> ExitCode {
    match verify(path) {
        Ok(Ok(good)) => {
            let older = if good.first > 1 {
                format!(", from line {} on: older files are gone", good.first)
            } else {
                String::new()
            };
            super::print(&format!(
                "The chain of {} lines holds{older}.\nIntervals missing: {}. Runners that did not stop in order: {}.\nHash of the last line: {}\n",
                good.lines, good.missing, good.kills, good.hash
            ));
            ExitCode::SUCCESS
        }
        Ok(Err(found)) => {
            super::complain(&told(&found));
            ExitCode::from(BROKEN)
        }
        Err(error) => {
            super::complain(&error.to_string());
            ExitCode::from(UNREADABLE)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        let now = UNIX_EPOCH + Duration::from_secs(1_795_225_491);
        for (text, ms) in [
            ("1795225491", 1_795_225_491_000),
            ("2026-11-21T02:24:51Z", 1_795_227_891_000),
            ("2026-11-21 02:24:51", 1_795_227_891_000),
            ("2h", 1_795_218_291_000),
            ("30 min ago", 1_795_223_691_000),
        ] {
            assert_eq!(moment(text, now), Ok(ms), "{text}");
        }
        assert!(moment("yesterday", now).is_err());
        assert_eq!(shown(1_795_227_891_037), "2026-11-21T02:24:51Z");
        assert_eq!(shown(u64::MAX), "9999-12-31T23:59:59Z");
    }

    #[test]
    fn a_filter_takes_any_name_of_a_stream_and_what_overlaps_the_time() {
        let matches = |words: &[&str]| {
            let words = ["ledger", "show"].iter().chain(words);
            let matches = command().try_get_matches_from(words).expect("well formed");
            Filter::of(matches.subcommand().expect("show").1, UNIX_EPOCH + Duration::from_secs(100)).expect("a filter")
        };
        let stream = Stream { stream_id: "s".into(), manifest_id: "m".into(), request_id: "r".into(), started_ms: 0 };
        let interval = Interval { from_ms: 50_000, to_ms: 55_000, ..Interval::default() };
        for (words, wanted) in [
            (&[][..], true),
            (&["--stream", "s"], true),
            (&["--stream", "m"], true),
            (&["--stream", "r"], true),
            (&["--stream", "x"], false),
            (&["--manifest", "s"], false),
            (&["--since", "54"], true),
            (&["--since", "55"], false),
            (&["--until", "50"], false),
            (&["--until", "51"], true),
            (&["--since", "1m"], true),
            (&["--since", "10s"], false),
        ] {
            assert_eq!(matches(words).wants(&stream, &interval), wanted, "{words:?}");
        }
        assert_eq!(matches(&["--price", "2wei/pixel"]).money(21), "42 WEI");
        assert_eq!(matches(&[]).money(21), "");
    }
}
