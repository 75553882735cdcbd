//! Frames as a trace that Perfetto and Chrome open: JSON events with every stage on its own track.
//!
//! A [`Tracer`] costs one atomic read a frame while nobody listens. Listening keeps plain marks in a bounded list; turning
//! them into text is the listener's work.

use std::fmt::Write;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::meter::Clock;
use super::record::{FrameRecord, Place, Stage};
use crate::frame::{Fingerprint, Stamps};

/// Something that happened, as it is kept until it is written.
#[derive(Clone, Copy, Debug)]
pub enum Mark {
    /// A frame was handed to the output.
    Frame(FrameRecord),
    /// Frames ended at a place.
    Dropped {
        /// The session.
        session: u64,
        /// Where.
        place: Place,
        /// How many.
        count: u64,
        /// When.
        at: Instant,
    },
    /// An input segment began.
    Segment {
        /// The session.
        session: u64,
        /// When.
        at: Instant,
    },
}

/// What one listener keeps.
struct Marks {
    most: usize,
    kept: Mutex<Vec<Mark>>,
    lost: AtomicU64,
}

/// Where marks of an engine go.
#[derive(Default)]
pub struct Tracer {
    on: AtomicBool,
    listeners: Mutex<Vec<Arc<Marks>>>,
}

/// Listeners at a time.
const LISTENERS: usize = 4;

impl Tracer {
    /// Nobody listens.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives a mark to whoever listens. Costs one atomic read when nobody does.
    pub fn mark(&self, mark: impl FnOnce() -> Mark) {
        if !self.on.load(Ordering::Relaxed) {
            return;
        }
        let mark = mark();
        for marks in self.listeners.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let mut kept = marks.kept.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.len() < marks.most {
                kept.push(mark);
            } else {
                marks.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Listens from now on, keeping `most` marks between two [`Trace::take`]s. `None` when too many listen already.
    pub fn listen(self: &Arc<Self>, most: usize, clock: Clock) -> Option<Trace> {
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        if listeners.len() >= LISTENERS {
            return None;
        }
        let marks = Arc::new(Marks { most, kept: Mutex::new(Vec::with_capacity(most)), lost: AtomicU64::new(0) });
        listeners.push(marks.clone());
        self.on.store(true, Ordering::Relaxed);
        Some(Trace { tracer: self.clone(), marks, clock, spare: Vec::with_capacity(most), pid: std::process::id() })
    }
}

/// A listener. Dropping it ends the listening.
pub struct Trace {
    tracer: Arc<Tracer>,
    marks: Arc<Marks>,
    clock: Clock,
    spare: Vec<Mark>,
    pid: u32,
}

/// Tracks besides those of the stages.
const INPUT: usize = Stage::ALL.len();
const DROPS: usize = Stage::ALL.len() + 1;

impl Trace {
    /// The events that name process and tracks, each behind a comma and a line's end.
    pub fn head(&self) -> String {
        let mut text = String::with_capacity(1024);
        let pid = self.pid;
        let _ = write!(
            text,
            ",\n{{\"ph\":\"M\",\"pid\":{pid},\"name\":\"process_name\",\"args\":{{\"name\":\"weir engine\"}}}}"
        );
        let names = Stage::ALL.map(Stage::label).into_iter().chain(["input segments", "drops"]);
        for (track, name) in names.enumerate() {
            let _ = write!(
                text,
                ",\n{{\"ph\":\"M\",\"pid\":{pid},\"tid\":{track},\"name\":\"thread_name\",\"args\":{{\"name\":\"{name}\"}}}}"
            );
            let _ = write!(
                text,
                ",\n{{\"ph\":\"M\",\"pid\":{pid},\"tid\":{track},\"name\":\"thread_sort_index\",\"args\":{{\"sort_index\":{track}}}}}"
            );
        }
        text
    }

    /// The events since the last call, each behind a comma and a line's end. Gives the number of marks that found the
    /// list full, too.
    pub fn take(&mut self) -> (String, u64) {
        {
            let mut kept = self.marks.kept.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::swap(&mut *kept, &mut self.spare);
        }
        let mut text = String::with_capacity(self.spare.len() * 800);
        for mark in &self.spare {
            self.write(&mut text, mark);
        }
        self.spare.clear();
        (text, self.marks.lost.swap(0, Ordering::Relaxed))
    }

    fn write(&self, text: &mut String, mark: &Mark) {
        let pid = self.pid;
        let us = |at: Instant| self.clock.ns(at) as f64 / 1000.0;
        match mark {
            Mark::Frame(frame) => {
                let FrameRecord { session, seq, model, bytes, .. } = frame;
                let Stamps { params, graph, gpu, .. } = frame.stamps;
                let hash = |hash: Option<Fingerprint>| hash.map_or_else(String::new, |hash| hash.to_string());
                let gpu = gpu.map_or_else(String::new, |gpu| format!(",\"gpu_us\":{}", gpu.as_micros()));
                for stage in Stage::ALL {
                    let (Some(from), Some(to)) = stage.ends(&frame.stamps) else { continue };
                    let (name, track) = (stage.label(), stage as usize);
                    let args = format!(
                        "{{\"session\":{session},\"frame\":{seq},\"pts\":{},\"picture\":\"{}\",\"pixels_in\":{},\"pixels_out\":{},\"bytes_in\":{},\"bytes_out\":{bytes},\"model\":\"{model}\",\"graph\":\"{}\",\"params\":\"{}\"{gpu}}}",
                        frame.pts.0,
                        frame.kind.label(),
                        frame.stamps.pixels_in,
                        frame.pixels,
                        frame.stamps.bytes_in,
                        hash(graph),
                        hash(params),
                    );
                    // Several frames may be here at a time, of several sessions: pairs that are told apart by their id, which
                    // counts within the process, so that tracks stand below it.
                    let id = format!("{session}.{seq}.{name}");
                    let (begin, end) = (us(from), us(to).max(us(from)));
                    let _ = write!(
                        text,
                        ",\n{{\"ph\":\"b\",\"pid\":{pid},\"tid\":{track},\"ts\":{begin:.3},\"id2\":{{\"local\":\"{id}\"}},\"cat\":\"{name}\",\"name\":\"{name}\",\"args\":{args}}}"
                    );
                    let _ = write!(
                        text,
                        ",\n{{\"ph\":\"e\",\"pid\":{pid},\"tid\":{track},\"ts\":{end:.3},\"id2\":{{\"local\":\"{id}\"}},\"cat\":\"{name}\",\"name\":\"{name}\"}}"
                    );
                }
            }
            Mark::Dropped { session, place, count, at } => {
                let _ = write!(
                    text,
                    ",\n{{\"ph\":\"i\",\"s\":\"t\",\"pid\":{pid},\"tid\":{DROPS},\"ts\":{:.3},\"name\":\"{}\",\"args\":{{\"session\":{session},\"count\":{count}}}}}",
                    us(*at),
                    place.label()
                );
            }
            Mark::Segment { session, at } => {
                let _ = write!(
                    text,
                    ",\n{{\"ph\":\"i\",\"s\":\"t\",\"pid\":{pid},\"tid\":{INPUT},\"ts\":{:.3},\"name\":\"segment\",\"args\":{{\"session\":{session}}}}}",
                    us(*at)
                );
            }
        }
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let mut listeners = self.tracer.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.retain(|marks| !Arc::ptr_eq(marks, &self.marks));
        self.tracer.on.store(!listeners.is_empty(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::time::Duration;

    use serde_json::Value;

    use super::super::record::Kind;
    use super::*;
    use crate::frame::Timestamp;

    fn record(start: Instant, seq: u64) -> FrameRecord {
        let at = |ms| Some(start + Duration::from_millis(33 * seq + ms));
        let stamps = Stamps {
            received: at(0),
            decoded: at(2),
            started: at(3),
            done: at(13),
            encoded: at(40),
            published: at(50),
            params: Some(Fingerprint([0xab; 16])),
            graph: Some(Fingerprint([1; 16])),
            gpu: Some(Duration::from_micros(700)),
            ..Stamps::default()
        };
        FrameRecord {
            session: 1,
            seq,
            pts: Timestamp(9),
            stamps,
            kind: Kind::Processed,
            pixels: 1,
            bytes: 2,
            model: "noop",
        }
    }

    /// The rules of the Trace Event Format that a reader relies on: what every event carries, that tracks have names, and
    /// that every beginning has its own end, not before it.
    fn follows_the_format(events: &[Value]) {
        let text = |event: &Value, key: &str| event[key].as_str().map(str::to_owned);
        let mut named = BTreeSet::new();
        let mut open: BTreeMap<(Option<String>, String), f64> = BTreeMap::new();
        let mut used = BTreeSet::new();
        for event in events {
            let (pid, tid) = (event["pid"].as_u64().expect("a process"), event["tid"].as_u64());
            let name = text(event, "name").expect("a name");
            let phase = text(event, "ph").expect("a phase");
            if phase == "M" {
                match name.as_str() {
                    "process_name" => assert!(event["args"]["name"].is_string(), "{event}"),
                    "thread_name" => drop(named.insert((pid, tid, text(&event["args"], "name").expect("its name")))),
                    "thread_sort_index" => assert!(event["args"]["sort_index"].is_u64(), "{event}"),
                    _ => panic!("{event}"),
                }
                continue;
            }
            let at = event["ts"].as_f64().filter(|at| *at >= 0.0).unwrap_or_else(|| panic!("no time: {event}"));
            used.insert((pid, tid));
            match phase.as_str() {
                // Pairs are found by category and id.
                "b" => {
                    let key = (text(event, "cat"), text(&event["id2"], "local").expect("an id"));
                    assert!(key.0.is_some() && event["args"].is_object(), "{event}");
                    assert!(open.insert(key, at).is_none(), "two beginnings of one id: {event}");
                }
                "e" => {
                    let begin = open.remove(&(text(event, "cat"), text(&event["id2"], "local").expect("an id")));
                    assert!(begin.is_some_and(|begin| begin <= at), "an end without its beginning: {event}");
                }
                "i" => assert!(["g", "p", "t"].map(Some).contains(&event["s"].as_str()), "{event}"),
                // Complete events of one track must not overlap, which those of two sessions would.
                _ => panic!("{event}"),
            }
        }
        assert!(open.is_empty(), "{open:?}");
        let tracks: BTreeSet<_> = named.iter().map(|(pid, tid, _)| (*pid, *tid)).collect();
        assert!(used.is_subset(&tracks) && tracks.len() == named.len(), "{used:?} {named:?}");
    }

    #[test]
    fn two_sessions_at_a_time_do_not_spoil_each_others_tracks() {
        let tracer = Arc::new(Tracer::new());
        let start = Instant::now();
        let mut trace = tracer.listen(64, Clock { at: start, unix_ns: 0 }).expect("room");
        for seq in 0..8 {
            for session in [1, 2] {
                tracer.mark(|| Mark::Frame(FrameRecord { session, ..record(start, seq) }));
            }
        }
        let text = format!("[{}{}]", trace.head().trim_start_matches(','), trace.take().0);
        let events: Vec<Value> = serde_json::from_str(&text).expect("JSON");
        follows_the_format(&events);
        let begun = events.iter().filter(|event| event["ph"] == "b").count();
        assert_eq!(begun, 2 * 8 * Stage::ALL.len());
    }

    #[test]
    fn a_trace_is_json_with_every_stage_on_its_own_track() {
        let tracer = Arc::new(Tracer::new());
        let start = Instant::now();
        tracer.mark(|| panic!("nobody listens"));
        let mut trace = tracer.listen(5, Clock { at: start, unix_ns: 1_000_000 }).expect("room");
        for seq in 0..4 {
            tracer.mark(|| Mark::Frame(record(start, seq)));
        }
        tracer.mark(|| Mark::Dropped { session: 1, place: Place::Input, count: 2, at: start });
        tracer.mark(|| Mark::Segment { session: 1, at: start });
        let (events, lost) = trace.take();
        assert_eq!(lost, 1);
        assert_eq!(trace.take(), (String::new(), 0));
        let text = format!("[{}{events}\n]", trace.head().trim_start_matches(','));
        let Value::Array(events) = serde_json::from_str(&text).expect("JSON") else { panic!("an array is expected") };
        let mut tracks: BTreeMap<String, (usize, usize, usize)> = BTreeMap::new();
        for event in events.iter().filter(|event| event["ph"] != "M") {
            let track = tracks.entry(event["name"].as_str().unwrap_or_default().to_owned()).or_default();
            match event["ph"].as_str() {
                Some("b") => track.0 += 1,
                Some("e") => track.1 += 1,
                _ => track.2 += 1,
            }
        }
        for stage in Stage::ALL {
            assert_eq!(tracks[stage.label()], (4, 4, 0), "{}", stage.label());
        }
        assert_eq!(tracks["input"], (0, 0, 1));
        follows_the_format(&events);
        let of_model = |phase: &str| {
            let found = events.iter().find(|event| event["name"] == "model" && event["ph"] == phase);
            found.cloned().expect("a pair of the model")
        };
        let (model, end) = (of_model("b"), of_model("e"));
        assert_eq!((model["ts"].as_f64(), end["ts"].as_f64()), (Some(4000.0), Some(14_000.0)));
        let args = &model["args"];
        assert_eq!((args["model"].as_str(), args["gpu_us"].as_u64()), (Some("noop"), Some(700)));
        assert_eq!(args["graph"].as_str(), Some("01".repeat(16).as_str()));
        assert_eq!(args["params"].as_str(), Some("ab".repeat(16).as_str()));
        drop(trace);
        tracer.mark(|| panic!("nobody listens any more"));
    }

    #[test]
    fn listeners_are_bounded() {
        let tracer = Arc::new(Tracer::new());
        let clock = Clock { at: Instant::now(), unix_ns: 0 };
        let kept: Vec<Option<Trace>> = (0..6).map(|_| tracer.listen(1, clock)).collect();
        assert_eq!(kept.iter().flatten().count(), LISTENERS);
    }
}
