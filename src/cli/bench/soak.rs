//! A soak: a long stream with faults thrown in, each of which must be told and overcome.

use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::Value;

use super::{Bench, LOOK, TELL, progress, start, sum_up};
use crate::cli::demo::Options;
use crate::cli::rig::events::Event;
use crate::cli::rig::procs::Meter;
use crate::cli::rig::stop::Stop;
use crate::cli::rig::{Rig, RigError, Route, words};

/// Time between two looks at the events.
const TICK: Duration = Duration::from_millis(100);
/// How long the source says nothing in a stall.
const STALL: Duration = Duration::from_secs(3);
/// Before the first fault, and after the last.
const QUIET: f64 = 12.0;
/// A status event whose last input is older than this tells of a gap, in milliseconds.
const SILENT_MS: u64 = 1_000;
/// A fault must be told within this.
const TOLD: Duration = Duration::from_secs(10);
/// Growth of resident memory that is still flat: this share, and this many megabytes.
const GROWTH: (f64, f64) = (0.10, 8.0);

/// Something that goes wrong on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The source says nothing for three seconds.
    Stall,
    /// Two segments are empty.
    Lost,
    /// A segment is given up in the middle, the next one is empty.
    Broken,
    /// Every connection between the runner and the server is cut.
    Cut,
    /// The engine is killed.
    Kill,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Stall => "the source stalls for 3 s",
            Kind::Lost => "two input segments are empty",
            Kind::Broken => "an input segment is given up in the middle",
            Kind::Cut => "every connection of the runner is cut",
            Kind::Kill => "the engine is killed",
        }
    }

    fn happen(self, rig: &Rig) {
        match self {
            Kind::Stall => rig.source().faults().stall(STALL),
            Kind::Lost => rig.source().faults().skip(2),
            Kind::Broken => {
                rig.source().faults().skip(1);
                rig.source().faults().cut();
            }
            Kind::Cut => {
                if let Some(proxy) = rig.proxy() {
                    proxy.cut();
                }
            }
            Kind::Kill => {
                // Without an engine the fault will not be told, which is found.
                rig.runner().kill_engine();
            }
        }
    }

    /// Whether an event tells of it.
    fn told_by(self, event: &Event) -> bool {
        match self {
            // For a minute after a restart the state says that instead; the time of the last input tells all the same.
            Kind::Stall | Kind::Lost | Kind::Broken => {
                let time = |path| event.body.pointer(path).and_then(Value::as_u64);
                let (now, last) = (time("/timestamp"), time("/input_status/last_input_time"));
                let state = event.body.get("state").and_then(Value::as_str);
                state == Some("DEGRADED_INPUT") || now.zip(last).is_some_and(|(now, last)| now > last + SILENT_MS)
            }
            Kind::Cut => event.kind == "error",
            Kind::Kill => event.kind == "restart",
        }
    }
}

/// When each fault happens in a soak of this many seconds: evenly spread, the engine killed at one and at two thirds.
fn schedule(seconds: f64) -> Vec<(Duration, Kind)> {
    let span = (seconds - 2.0 * QUIET).max(0.0);
    let count = ((span / 15.0) as usize).clamp(2, 60);
    let others = [Kind::Stall, Kind::Cut, Kind::Lost, Kind::Broken];
    let step = span / (count - 1) as f64;
    let kills = [(count - 1) / 3, (2 * count - 1) / 3];
    let mut next = others.iter().cycle().copied();
    let kind = |index| if kills.contains(&index) { Some(Kind::Kill) } else { next.next() };
    let kinds: Vec<Kind> = (0..count).filter_map(kind).collect();
    let at = |index: usize| Duration::from_secs_f64(QUIET + step * index as f64);
    kinds.into_iter().enumerate().map(|(index, kind)| (at(index), kind)).collect()
}

/// One fault and what came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Fault {
    /// What went wrong.
    pub kind: Kind,
    /// When, in seconds.
    pub at_s: f64,
    /// Milliseconds until an event told of it; `None` when none did in time.
    pub told_ms: Option<u64>,
    /// Longest time between two output frames until the next fault, in milliseconds.
    pub gap_ms: f64,
    /// Output came again.
    pub overcome: bool,
    #[serde(skip)]
    happened: Instant,
    #[serde(skip)]
    after: u64,
    #[serde(skip)]
    received: u64,
}

/// What a soak came to.
#[derive(Clone, Debug, Serialize)]
pub struct Soak {
    /// Whether everything is as it should be.
    pub good: bool,
    /// Every fault was told and overcome.
    pub faults_good: bool,
    /// Output time stamps rose strictly.
    pub monotonic: bool,
    /// Memory did not grow.
    pub memory_flat: bool,
    /// Median resident megabytes of the second and of the last eighth of the run.
    pub memory_mb: (f64, f64),
    /// Restarts that the runner counted.
    pub restarts: u64,
    /// The faults.
    pub faults: Vec<Fault>,
    /// Everything else.
    pub bench: Bench,
}

/// Runs a soak. A signal ends it early.
///
/// # Errors
/// Whatever does not start, or a stream that breaks off.
pub async fn soak(options: &Options) -> Result<Soak, RigError> {
    let seconds = options.seconds.unwrap_or(900.0);
    let length = Duration::from_secs_f64(seconds);
    let mut due = schedule(seconds).into_iter().peekable();
    let mut stop = Stop::new()?;
    let (rig, input) = stop.or(start(options, Route::All)).await?;
    let mut meter = Meter::new(rig.runner().pid());
    meter.look()?;
    let (cpu, began) = (meter.cpu(), Instant::now());
    let (mut looked, mut told) = (began, began);
    let mut status = Value::Null;
    let mut faults: Vec<Fault> = Vec::new();
    let mut resident: Vec<f64> = Vec::with_capacity(seconds as usize + 1);
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while began.elapsed() < length {
        tokio::select! {
            _ = tick.tick() => {}
            () = stop.signal() => break,
        }
        rig.check()?;
        let now = Instant::now();
        watch(&rig, faults.last_mut(), now);
        if let Some((_, kind)) = due.next_if(|(at, _)| began.elapsed() >= *at) {
            close(&rig, faults.last_mut(), now);
            let after = rig.events().since(0).last().map_or(0, |event| event.number);
            let received = rig.ledger().counts().received;
            kind.happen(&rig);
            let at_s = began.elapsed().as_secs_f64();
            crate::cli::complain(&format!("{at_s:5.0} s  fault: {}", kind.name()));
            let fault =
                Fault { kind, at_s, told_ms: None, gap_ms: 0.0, overcome: false, happened: now, after, received };
            faults.push(fault);
        }
        if now.duration_since(looked) >= LOOK {
            looked = now;
            let look = meter.look()?;
            // A look in the moment of a restart finds one process less.
            if look.processes > 1 {
                resident.push(look.rss as f64 / 1e6);
            }
            if let Ok(now) = rig.runner().status().await {
                status = now;
            }
        }
        if now.duration_since(told) >= 6 * TELL {
            told = now;
            progress(&rig, began, length);
        }
    }
    close(&rig, faults.last_mut(), Instant::now());
    meter.look()?;
    let cpu_cores = (meter.cpu() - cpu).as_secs_f64() / began.elapsed().as_secs_f64();
    let report = stop.or(rig.finish()).await?;
    let restarts = status.pointer("/inference_status/restart_count").and_then(Value::as_u64).unwrap_or(0);
    let bench = sum_up(options, input, &report, cpu_cores, meter.memory());
    let kills = faults.iter().filter(|fault| fault.kind == Kind::Kill).count() as u64;
    let memory_mb = growth(&resident);
    let faults_good = faults.iter().all(|fault| fault.told_ms.is_some() && fault.overcome) && restarts == kills;
    let monotonic = bench.frames.backwards == 0;
    let memory_flat = memory_mb.1 <= memory_mb.0 * (1.0 + GROWTH.0) || memory_mb.1 <= memory_mb.0 + GROWTH.1;
    let good = faults_good && monotonic && memory_flat && bench.clean;
    Ok(Soak { good, faults_good, monotonic, memory_flat, memory_mb, restarts, faults, bench })
}

/// Looks whether the newest fault was told meanwhile.
fn watch(rig: &Rig, fault: Option<&mut Fault>, now: Instant) {
    let Some(fault) = fault.filter(|fault| fault.told_ms.is_none()) else { return };
    if now.duration_since(fault.happened) > TOLD + STALL {
        return;
    }
    let event = rig.events().since(fault.after).into_iter().find(|event| fault.kind.told_by(event));
    fault.told_ms = event.map(|event| event.at.saturating_duration_since(fault.happened).as_millis() as u64);
}

/// The time of a fault is over: what became of it?
fn close(rig: &Rig, fault: Option<&mut Fault>, now: Instant) {
    let gap = rig.ledger().take_gap(now);
    let Some(fault) = fault else { return };
    fault.gap_ms = gap.as_secs_f64() * 1000.0;
    let recent = rig.ledger().recent(now, Duration::from_secs(2));
    fault.overcome = rig.ledger().counts().received > fault.received && recent.fps_out > 0.8 * recent.fps_in;
}

/// Median of the second and of the last eighth of a series.
fn growth(series: &[f64]) -> (f64, f64) {
    let eighth = series.len() / 8;
    let median = |part: &[f64]| {
        let mut part = part.to_vec();
        part.sort_by(f64::total_cmp);
        part.get(part.len() / 2).copied().unwrap_or(0.0)
    };
    (median(&series[eighth..2 * eighth]), median(&series[series.len() - eighth..]))
}

impl Soak {
    /// For people.
    pub fn table(&self) -> String {
        let mut text = self.bench.table();
        text.push_str("\nFaults\n");
        for fault in &self.faults {
            let told =
                fault.told_ms.map_or("not told".to_owned(), |ms| format!("told after {:.1} s", ms as f64 / 1000.0));
            text.push_str(&format!(
                "  {}  {:5.0} s  {:<44} {told:<18} longest gap {:5.0} ms\n",
                if fault.told_ms.is_some() && fault.overcome { "ok " } else { "BAD" },
                fault.at_s,
                fault.kind.name(),
                fault.gap_ms,
            ));
        }
        let word = |good| if good { "yes" } else { "NO" }.to_owned();
        let (early, late) = self.memory_mb;
        text.push('\n');
        text.push_str(&words::table(&[
            ("every fault told and overcome", word(self.faults_good)),
            ("time stamps rise", word(self.monotonic)),
            ("memory flat", format!("{} ({early:.0} MB early, {late:.0} MB at the end)", word(self.memory_flat))),
            ("restarts", self.restarts.to_string()),
            ("clean end", word(self.bench.clean)),
        ]));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_spread_and_the_engine_is_killed_twice() {
        for seconds in [60.0, 90.0, 300.0, 900.0, 86_400.0] {
            let plan = schedule(seconds);
            let kills: Vec<_> = plan.iter().filter(|(_, kind)| *kind == Kind::Kill).map(|(at, _)| *at).collect();
            assert_eq!(kills.len(), 2, "{seconds}: {plan:?}");
            assert!(
                plan.windows(2).all(|pair| pair[1].0 - pair[0].0 >= Duration::from_secs(11)),
                "{seconds}: {plan:?}"
            );
            assert!(plan.iter().all(|(at, _)| at.as_secs_f64() <= seconds - QUIET + 0.001));
            assert!(plan.len() <= 60);
        }
        let all = schedule(900.0);
        for kind in [Kind::Stall, Kind::Lost, Kind::Broken, Kind::Cut] {
            assert!(all.iter().any(|(_, planned)| *planned == kind), "{kind:?}");
        }
    }

    #[test]
    fn growth_is_seen() {
        let flat: Vec<f64> = (0..800).map(|n| 80.0 + f64::from(n % 3)).collect();
        let (early, late) = growth(&flat);
        assert!((late - early).abs() < 1.0);
        let leak: Vec<f64> = (0..800).map(|n| 80.0 + f64::from(n) * 0.1).collect();
        let (early, late) = growth(&leak);
        assert!(late > early + 50.0);
    }
}
