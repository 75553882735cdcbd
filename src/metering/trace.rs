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
                let FrameRecord { session, seq, revision, bytes, .. } = frame;
                for stage in Stage::ALL {
                    let (Some(from), Some(to)) = stage.ends(&frame.stamps) else { continue };
                    let (name, track) = (stage.label(), stage as usize);
                    let args = format!(
                        "{{\"session\":{session},\"frame\":{seq},\"pts\":{},\"picture\":\"{}\",\"pixels_in\":{},\"pixels_out\":{},\"bytes_in\":{},\"bytes_out\":{bytes},\"params\":{revision}}}",
                        frame.pts.0,
                        frame.kind.label(),
                        frame.stamps.pixels_in,
                        frame.pixels,
                        frame.stamps.bytes_in,
                    );
                    if stage == Stage::Model {
                        // One frame at a time: slices of a thread.
                        let took = us(to) - us(from);
                        let _ = write!(
                            text,
                            ",\n{{\"ph\":\"X\",\"pid\":{pid},\"tid\":{track},\"ts\":{:.3},\"dur\":{took:.3},\"cat\":\"frame\",\"name\":\"{name}\",\"args\":{args}}}",
                            us(from)
                        );
                        continue;
                    }
                    // Several frames may be here at a time: pairs that are told apart by their id.
                    let id = format!("{session}.{seq}.{name}");
                    for (phase, at) in [("b", us(from)), ("e", us(to).max(us(from)))] {
                        let _ = write!(
                            text,
                            ",\n{{\"ph\":\"{phase}\",\"pid\":{pid},\"tid\":{track},\"ts\":{at:.3},\"id\":\"{id}\",\"cat\":\"{name}\",\"name\":\"{name}\",\"args\":{args}}}"
                        );
                    }
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
    use std::collections::BTreeMap;
    use std::time::Duration;

    use serde_json::Value;

    use super::super::record::Kind;
    use super::*;
    use crate::frame::{Stamps, Timestamp};

    fn record(start: Instant, seq: u64) -> FrameRecord {
        let at = |ms| Some(start + Duration::from_millis(33 * seq + ms));
        let stamps = Stamps {
            received: at(0),
            decoded: at(2),
            started: at(3),
            done: at(13),
            encoded: at(40),
            published: at(50),
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
            revision: 0,
        }
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
            assert!(event["ts"].is_f64() && event["pid"].is_u64(), "{event}");
            let track = tracks.entry(event["name"].as_str().unwrap_or_default().to_owned()).or_default();
            match event["ph"].as_str() {
                Some("b") => track.0 += 1,
                Some("e") => track.1 += 1,
                _ => track.2 += 1,
            }
        }
        for stage in Stage::ALL {
            let expected = if stage == Stage::Model { (0, 0, 4) } else { (4, 4, 0) };
            assert_eq!(tracks[stage.label()], expected, "{}", stage.label());
        }
        assert_eq!(tracks["input"], (0, 0, 1));
        let model = events.iter().find(|event| event["name"] == "model").expect("a model slice");
        assert_eq!((model["ts"].as_f64(), model["dur"].as_f64()), (Some(4000.0), Some(10_000.0)));
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
