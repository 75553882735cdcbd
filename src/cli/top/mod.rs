//! `weir top`: streams and stages of a running runner, in the terminal.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::Value;

mod numbers;
mod view;

use numbers::Numbers;
use view::Sample;

/// Exit code when the runner does not answer (`EX_UNAVAILABLE`).
const SILENT: u8 = 69;
/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(3);

pub(super) fn command() -> Command {
    let arg = |name: &'static str, value: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_name(value).help(help)
    };
    Command::new("top").about("Show the streams and stages of a running runner.").args([
        arg("url", "URL", "Where the runner is.").default_value("http://127.0.0.1:8000"),
        arg("token", "TOKEN", "Bearer token. [variable: AUTH_TOKEN]"),
        arg("every", "SECONDS", "Time between two looks.").default_value("1"),
        arg("count", "N", "Looks after which it ends; for ever without it."),
        Arg::new("plain").long("plain").action(ArgAction::SetTrue).help("One block a look, without moving the cursor."),
    ])
}

pub(super) fn run(matches: &ArgMatches) -> ExitCode {
    let text = |name: &str| matches.get_one::<String>(name).cloned();
    let every =
        text("every").and_then(|every| every.parse::<f64>().ok()).filter(|every| (0.1..=3600.0).contains(every));
    let count = text("count").map(|count| count.parse::<u64>());
    let (Some(every), Ok(count)) = (every, count.transpose()) else {
        super::complain("--every wants seconds from 0.1 to 3600, --count a whole number");
        return ExitCode::from(super::USAGE);
    };
    let url = text("url").unwrap_or_default();
    let token = text("token").or_else(|| std::env::var("AUTH_TOKEN").ok()).unwrap_or_default();
    let moving = std::io::stdout().is_terminal() && !matches.get_flag("plain");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let watched = match runtime {
        Ok(runtime) => runtime.block_on(watch(&url, &token, Duration::from_secs_f64(every), count, moving)),
        Err(error) => Err(error.to_string()),
    };
    match watched {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            super::complain(&format!("{url}: {problem}"));
            ExitCode::from(SILENT)
        }
    }
}

async fn watch(url: &str, token: &str, every: Duration, count: Option<u64>, moving: bool) -> Result<(), String> {
    // Plain HTTP needs none, but the client does not begin without; a second one changes nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().timeout(PATIENCE).build().map_err(|error| error.to_string())?;
    let mut before: Option<Sample> = None;
    let mut looks = 0;
    loop {
        let sample = look(&client, url.trim_end_matches('/'), token).await;
        let text = match &sample {
            Ok(sample) => view::render(sample, before.as_ref()),
            // The first answer must come; later ones may fail while a runner is replaced.
            Err(problem) if before.is_none() => return Err(problem.clone()),
            Err(problem) => format!("The runner does not answer: {problem}\n"),
        };
        // Home, each line cleared to its end, and the rest of the screen.
        let text = if moving { format!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n")) } else { text + "\n" };
        super::print(&text);
        if let Ok(sample) = sample {
            before = Some(sample);
        }
        looks += 1;
        if count.is_some_and(|count| looks >= count) {
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            _ = tokio::signal::ctrl_c() => return Ok(()),
        }
    }
}

async fn look(client: &reqwest::Client, url: &str, token: &str) -> Result<Sample, String> {
    let get = async |path: &str| -> Result<String, String> {
        let mut request = client.get(format!("{url}{path}"));
        if !token.is_empty() {
            request = request.bearer_auth(token);
        }
        let answer = request.send().await.map_err(|error| plain(&error))?;
        let status = answer.status();
        let text = answer.text().await.map_err(|error| plain(&error))?;
        if status.is_success() { Ok(text) } else { Err(format!("{path} answers {status}; --token may be missing")) }
    };
    let json = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_default();
    Ok(Sample {
        at: Instant::now(),
        health: json(&get("/health").await?),
        version: json(&get("/version").await?),
        numbers: Numbers::read(&get("/metrics").await?),
        status: json(&get("/api/status").await?),
        streams: json(&get("/metering/streams").await?),
    })
}

/// The innermost reason, which is the one that tells something.
fn plain(error: &dyn std::error::Error) -> String {
    let mut reason = error;
    while let Some(deeper) = reason.source() {
        reason = deeper;
    }
    reason.to_string()
}
