use proptest::prelude::*;
use serde_json::json;

use super::*;

const READY: FromEngine = FromEngine::Phase(Phase::Ready { load_ms: 1, instances: 2, provider: None });

const LIMITS: Limits = Limits { load: 0.9, free_memory: 0 };

fn book(capacity: usize, now: Instant) -> Book {
    Book::new("noop", capacity, LIMITS, now)
}

/// A book with a warm engine and one session, and the time.
fn running() -> (Book, u64, Instant) {
    let now = Instant::now();
    let mut book = book(1, now);
    book.engine_said(READY, now);
    let session = book.reserve(now).expect("a slot");
    let (waiter, _answer) = oneshot::channel();
    let id = book.expect(start(session, waiter)).expect("a number");
    book.engine_said(FromEngine::Reply { id, outcome: Outcome::Accepted }, now);
    (book, session, now)
}

fn start(session: u64, waiter: oneshot::Sender<Outcome>) -> Pending {
    Pending::Start { session, request: Box::default(), arrived_ms: 5, waiter }
}

fn report(session: u64, state: &str, control_seq: u64) -> FromEngine {
    FromEngine::Session(SessionReport {
        session,
        state: state.into(),
        status: json!({"state": state}),
        params: Map::new(),
        control_seq: Some(control_seq),
        model_share: None,
        max_fps: None,
        show_loading: None,
    })
}

/// Starts a session in a book with a warm engine.
fn begin(book: &mut Book, now: Instant) -> Result<u64, Refusal> {
    let session = book.reserve(now)?;
    let id = book.expect(start(session, oneshot::channel().0)).expect("a number");
    book.engine_said(FromEngine::Reply { id, outcome: Outcome::Accepted }, now);
    Ok(session)
}

fn works(book: &mut Book, session: u64, share: f64, now: Instant) {
    let FromEngine::Session(mut report) = report(session, "ONLINE", 1) else { return };
    report.model_share = Some(share);
    book.engine_said(FromEngine::Session(report), now);
}

#[test]
fn another_session_is_taken_while_the_model_has_time_for_it() {
    let now = Instant::now();
    let mut book = book(3, now);
    book.engine_said(FromEngine::Phase(Phase::Ready { load_ms: 1, instances: 3, provider: None }), now);
    let first = begin(&mut book, now).expect("room");
    works(&mut book, first, 0.5, now);
    assert!(matches!(begin(&mut book, now), Err(Refusal::Load(why)) if why.contains("50 %")));
    works(&mut book, first, 0.3, now);
    let second = begin(&mut book, now).expect("room");
    // Nothing is known of the second yet; it is taken to be like the first.
    let third = begin(&mut book, now).expect("room");
    assert_eq!(begin(&mut book, now), Err(Refusal::Full));
    assert_eq!(book.find(None), None, "several run and none is named");
    assert_eq!((book.find(Some(third)), book.running(), book.part(second)), (Some(third), 3, 0.0));
    works(&mut book, second, 0.1, now);
    assert!((book.part(second) - 0.25).abs() < 1e-9);
}

#[test]
fn an_engine_with_less_room_than_set_is_sold_for_what_it_has() {
    let now = Instant::now();
    let mut book = book(3, now);
    book.engine_said(FromEngine::Phase(Phase::Ready { load_ms: 1, instances: 1, provider: None }), now);
    assert_eq!(book.capacity(), 1);
    begin(&mut book, now).expect("room");
    assert_eq!(begin(&mut book, now), Err(Refusal::Full));
    book.engine_gone(1, now);
    book.engine_starts(now);
    assert_eq!(book.capacity(), 3, "the next engine may have more");
    assert_eq!(book.engine_there("", &[], 0).len(), 1);
}

#[test]
fn a_crash_shows_loading_for_a_while_and_never_idle_or_error() {
    let (mut book, _, now) = running();
    assert_eq!(book.health(now).word, Word::Ok);
    book.engine_gone(1, now);
    assert_eq!(book.health(now).word, Word::Loading);
    assert_eq!(book.health(now + health::LOADING_SHOWN).word, Word::Ok);
    assert_eq!(book.status(None)["state"], "LOADING");
    book.engine_said(READY, now);
    assert_eq!(book.health(now).word, Word::Ok);
}

#[test]
fn what_the_next_engine_is_told_never_goes_back() {
    let (mut book, session, now) = running();
    for (video, control) in [(100, 3), (50, 2), (200, 4), (150, 1)] {
        book.engine_said(FromEngine::Published { session, video_pts: Some(video), audio_pts: None }, now);
        book.engine_said(report(session, "ONLINE", control), now);
    }
    book.engine_gone(4, now);
    let messages = book.engine_there("why", &["line".into()], 77);
    let [ToEngine::Start { session: 1, arrived_ms: 5, resume: Some(resume), .. }] = &messages[..] else {
        panic!("{messages:?}")
    };
    let expected = Resume {
        params: Map::new(),
        restart_count: 4,
        reason: "why".into(),
        logs: vec!["line".into()],
        restart_time_ms: 77,
        start_time_ms: 5,
        last_video_pts: Some(200),
        last_audio_pts: None,
        control_seq: Some(4),
        account: None,
    };
    assert_eq!(**resume, expected);
}

#[test]
fn the_next_engine_is_told_of_the_cap_and_the_overlay_that_held_last() {
    let (mut book, session, now) = running();
    let told = |book: &mut Book, max_fps, show_loading| {
        let FromEngine::Session(report) = report(session, "ONLINE", 1) else { unreachable!() };
        book.engine_said(FromEngine::Session(SessionReport { max_fps, show_loading, ..report }), now);
    };
    let next = |book: &mut Book| match &book.engine_there("", &[], 0)[..] {
        [ToEngine::Start { request, .. }] => (request.max_fps, request.show_loading),
        other => panic!("{other:?}"),
    };
    told(&mut book, Some(24.0), Some(true));
    book.engine_gone(1, now);
    assert_eq!(next(&mut book), (Some(24.0), true));
    // The new engine was asked for no cap itself, and the overlay is gone.
    told(&mut book, None, Some(false));
    book.set(Some(session), Some(12.0), None);
    book.engine_gone(2, now);
    assert_eq!(next(&mut book), (Some(12.0), false));
    assert_eq!(book.views()[0].max_fps, Some(12.0));
}

#[test]
fn the_next_engine_is_told_of_the_ceilings_that_viewers_set() {
    let (mut book, session, now) = running();
    book.ceiling(session, Coding::H264, 900);
    book.ceiling(session, Coding::H264, 700);
    book.ceiling(session, Coding::Vp8, 500);
    book.ceiling(session, Coding::Vp8, 0);
    book.ceiling(session + 1, Coding::H264, 1);
    book.engine_gone(1, now);
    let messages = book.engine_there("", &[], 0);
    let [
        ToEngine::Start { .. },
        ToEngine::Encode { session: 1, coding: Coding::H264, key: false, max_kbps: Some(700) },
    ] = &messages[..]
    else {
        panic!("{messages:?}")
    };
}

#[test]
fn a_session_that_was_told_to_stop_does_not_go_on_in_the_next_engine() {
    let (mut book, session, now) = running();
    book.close(session, now + STOP_SLACK);
    book.engine_gone(1, now);
    assert!(book.engine_there("", &[], 0).is_empty());
    book.engine_said(READY, now);
    assert_eq!(book.health(now).word, Word::Idle);
}

#[test]
fn a_late_yes_to_a_start_that_was_given_up_starts_nothing() {
    let now = Instant::now();
    let mut book = book(1, now);
    book.engine_said(READY, now);
    let session = book.reserve(now).expect("a slot");
    let (waiter, answer) = oneshot::channel();
    let id = book.expect(start(session, waiter)).expect("a number");
    drop(answer);
    book.forget(id);
    book.close(session, now + STOP_SLACK);
    book.engine_said(FromEngine::Reply { id, outcome: Outcome::Accepted }, now);
    assert_eq!((book.find(None), book.health(now).word), (None, Word::Ok));
    book.engine_said(FromEngine::Ended { session, reason: String::new(), fault: false }, now);
    assert_eq!(book.health(now).word, Word::Idle);
}

#[test]
fn too_many_questions_are_refused() {
    let mut book = book(1, Instant::now());
    let ask = |book: &mut Book| book.expect(Pending::Text(oneshot::channel().0));
    assert!((0..MOST_PENDING).all(|_| ask(&mut book).is_some()));
    assert_eq!(ask(&mut book), None);
    book.forget(1);
    assert!(ask(&mut book).is_some());
}

proptest! {
    /// Whatever the engine and the callers do, a slot in use is never called free, and nothing but giving up is an
    /// error.
    #[test]
    fn the_word_never_lies(steps in proptest::collection::vec((0u8..10, 1u64..6), 0..120)) {
        let mut now = Instant::now();
        let mut book = book(2, now);
        let mut asked = Vec::new();
        for (step, number) in steps {
            now += Duration::from_secs(1);
            match step {
                0 => drop(book.engine_said(READY, now)),
                1 => {
                    if let Ok(session) = book.reserve(now) {
                        let id = book.expect(start(session, oneshot::channel().0));
                        asked.push(id.expect("room"));
                    }
                }
                2 | 3 => {
                    if let Some(id) = asked.pop() {
                        let outcome = if step == 2 { Outcome::Accepted } else { Outcome::Busy };
                        book.engine_said(FromEngine::Reply { id, outcome }, now);
                    }
                }
                4 => drop(book.engine_said(report(number, "LOADING", number), now)),
                5 => drop(book.engine_said(report(number, "ERROR", number), now)),
                6 => drop(book.engine_said(FromEngine::Ended { session: number, reason: String::new(), fault: true }, now)),
                7 => book.close(number, now + STOP_SLACK),
                8 => drop(book.engine_gone(1, now)),
                _ => book.release_reserved(number, now),
            }
            let word = book.health(now).word;
            prop_assert!(book.in_use() <= 2);
            prop_assert!(word != Word::Error);
            prop_assert!(book.in_use() == 0 || word != Word::Idle);
            prop_assert!(book.in_use() > 0 || word != Word::Ok);
            prop_assert_eq!(word == Word::Idle, book.in_use() == 0 && book.warm());
            prop_assert!(book.sessions.keys().all(|&session| book.admission.holds(session)));
        }
    }
}
