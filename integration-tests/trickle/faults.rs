//! The clients against servers that misbehave.

use super::faulty::{Exchange, Faulty};
use super::*;
use std::time::Instant;
use weir::trickle::{Begin, EndReason, Publisher, Start, Subscriber};

fn subscriber(faulty: &Faulty, start: Start) -> Subscriber {
    Subscriber::new(&client(), &faulty.url, start).unwrap()
}

async fn publisher(faulty: &Faulty) -> Publisher {
    Publisher::open(&client(), &faulty.url, "video/mp2t", Begin::Zero).await.unwrap()
}

/// Everything that a subscriber yields: number and text, or the number of a segment that broke.
async fn drain(subscriber: &mut Subscriber) -> Vec<Result<(u64, String), u64>> {
    let mut got = Vec::new();
    while let Some(segment) = soon(subscriber.next()).await.unwrap() {
        let seq = segment.seq();
        got.push(whole(segment).await.map(|text| (seq, text)).map_err(|_| seq));
    }
    got
}

async fn until(done: impl Fn() -> bool) {
    soon(async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn errors_are_tried_again_with_waits_until_there_are_too_many() {
    let faulty = Faulty::new(|e| e.answer(500, &[], "Server error")).await;
    let mut subscriber = subscriber(&faulty, Start::Current);
    let started = Instant::now();
    assert_eq!(drain(&mut subscriber).await, []);
    assert_eq!(subscriber.end_reason(), Some(EndReason::Failures));
    assert_eq!(subscriber.last_failure(), Some("answer 500 Internal Server Error"));
    assert_eq!(faulty.log(), ["GET -2"; 7]);
    assert!(started.elapsed() >= Duration::from_millis(6 * 20));
    assert_eq!(subscriber.stats().retries, 6);
}

#[tokio::test]
async fn an_unreachable_server_ends_a_channel() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/ch", listener.local_addr().unwrap());
    drop(listener);
    let mut subscriber = Subscriber::new(&client(), &url, Start::Next).unwrap();
    assert_eq!(drain(&mut subscriber).await, []);
    assert_eq!(subscriber.end_reason(), Some(EndReason::Failures));
    let mut publisher = Publisher::open(&client(), &url, "video/mp2t", Begin::Zero).await.unwrap();
    let sent = soon(publisher.send_document(bytes("{}"))).await;
    assert!(matches!(sent, Err(TrickleError::Ended(EndReason::Failures))), "{sent:?}");
    assert!(soon(publisher.close(true)).await.is_err());
    assert!(matches!(client().next(&url).await, Err(TrickleError::Unreachable { .. })));
}

#[tokio::test]
async fn a_cut_body_is_an_error_and_reading_goes_on() {
    let faulty = Faulty::new(async |mut e: Exchange| match e.seq() {
        1 => e.raw("HTTP/1.1 200 x\r\nLp-Trickle-Seq: 1\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n").await,
        4 => e.answer(404, &[], "").await,
        seq => e.segment(seq, "whole").await,
    })
    .await;
    let mut subscriber = subscriber(&faulty, Start::Seq(0));
    let whole = |seq| Ok((seq, "whole".to_owned()));
    assert_eq!(drain(&mut subscriber).await, [whole(0), Err(1), whole(2), whole(3)]);
    assert_eq!(subscriber.end_reason(), Some(EndReason::Gone));
    assert_eq!((subscriber.stats().broken, subscriber.stats().segments), (1, 4));
}

#[tokio::test]
async fn a_body_that_breaks_is_read_on_from_where_it_broke() {
    let faulty = Faulty::new(async |mut e: Exchange| match (e.seq(), e.nth) {
        (1, 0) => e.raw("HTTP/1.1 200 x\r\nLp-Trickle-Seq: 1\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n").await,
        (1, 1) => e.raw("HTTP/1.1 200 x\r\nLp-Trickle-Seq: 1\r\nContent-Length: 20\r\n\r\nhalf and").await,
        (1, _) => e.segment(1, "half and the rest").await,
        (3, _) => e.answer(404, &[], "").await,
        (seq, _) => e.segment(seq, "whole").await,
    })
    .await;
    let mut subscriber = subscriber(&faulty, Start::Seq(0));
    let whole = |seq, text: &str| Ok((seq, text.to_owned()));
    assert_eq!(drain(&mut subscriber).await, [whole(0, "whole"), whole(1, "half and the rest"), whole(2, "whole")]);
    let stats = subscriber.stats();
    assert_eq!((stats.reread, stats.broken, stats.bytes), (2, 0, 27));
}

#[tokio::test]
async fn a_segment_that_is_gone_when_asked_for_again_stays_broken() {
    let faulty = Faulty::new(async |mut e: Exchange| match (e.seq(), e.nth) {
        (0, 0) => e.raw("HTTP/1.1 200 x\r\nLp-Trickle-Seq: 0\r\nContent-Length: 9\r\n\r\nhalf").await,
        (0, _) => e.answer(470, &[("Lp-Trickle-Seq", "0"), ("Lp-Trickle-Latest", "1")], "").await,
        (1, _) => e.segment(1, "whole").await,
        _ => e.answer(404, &[], "").await,
    })
    .await;
    let mut subscriber = subscriber(&faulty, Start::Seq(0));
    assert_eq!(drain(&mut subscriber).await, [Err(0), Ok((1, "whole".to_owned()))]);
    assert_eq!((subscriber.stats().reread, subscriber.stats().broken), (1, 1));
}

#[tokio::test]
async fn a_broken_segment_stays_broken() {
    let faulty = Faulty::new(async |mut e: Exchange| {
        e.raw("HTTP/1.1 200 x\r\nLp-Trickle-Seq: 1\r\nContent-Length: 9\r\n\r\nhalf").await;
    })
    .await;
    let mut subscriber = subscriber(&faulty, Start::Seq(1));
    let mut segment = soon(subscriber.next()).await.unwrap().unwrap();
    assert_eq!(soon(segment.chunk()).await.unwrap().unwrap(), "half");
    for _ in 0..3 {
        assert!(matches!(soon(segment.chunk()).await, Err(TrickleError::Broken { seq: 1, .. })));
    }
}

#[tokio::test]
async fn bodies_that_always_break_end_the_channel() {
    let faulty = Faulty::new(async |mut e: Exchange| {
        let seq = e.seq();
        e.raw(&format!("HTTP/1.1 200 x\r\nLp-Trickle-Seq: {seq}\r\nContent-Length: 9\r\n\r\nhalf")).await;
    })
    .await;
    let mut subscriber = subscriber(&faulty, Start::Seq(0));
    let got = drain(&mut subscriber).await;
    assert_eq!(got, (0..7).map(Err).collect::<Vec<_>>());
    assert_eq!(subscriber.end_reason(), Some(EndReason::Failures));
}

#[tokio::test]
async fn a_silent_server_is_asked_again() {
    let faulty = Faulty::new(async |e: Exchange| match (e.nth, e.seq()) {
        (0 | 1, 0) => e.hang().await,
        (_, 0) => e.segment(0, "there").await,
        _ => e.answer(404, &[], "").await,
    })
    .await;
    let mut subscriber = subscriber(&faulty, Start::Seq(0));
    assert_eq!(drain(&mut subscriber).await, [Ok((0, "there".into()))]);
    assert_eq!((subscriber.stats().reissued, subscriber.stats().retries), (2, 0));
}

#[tokio::test]
async fn a_stalled_body_can_be_left_and_taken_up_again() {
    let faulty = Faulty::new(async |mut e: Exchange| {
        e.raw("HTTP/1.1 200 x\r\nLp-Trickle-Seq: 0\r\nContent-Length: 8\r\n\r\nha").await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        e.raw("lf half!").await;
        e.hang().await;
    })
    .await;
    let mut subscriber = subscriber(&faulty, Start::Seq(0));
    let mut segment = soon(subscriber.next()).await.unwrap().unwrap();
    let mut cancelled = 0;
    let document = loop {
        match tokio::time::timeout(Duration::from_millis(5), segment.document(100)).await {
            Ok(document) => break document.unwrap().unwrap(),
            Err(_) => cancelled += 1,
        }
    };
    assert_eq!(document, "half hal");
    assert!(cancelled > 3);
}

#[tokio::test]
async fn jumps_go_forwards_and_backwards() {
    let faulty = Faulty::new(async |e: Exchange| match e.part.as_str() {
        "0" => e.segment(0, "a").await,
        "1" => e.answer(470, &[("Lp-Trickle-Latest", "50"), ("Lp-Trickle-Seq", "1")], "Entry not found").await,
        "50" => e.segment(50, "b").await,
        "51" => e.answer(470, &[("Lp-Trickle-Latest", "3")], "").await,
        "3" => e.segment(3, "c").await,
        "4" => e.segment(2, "d").await,
        other => {
            assert_eq!(other, "3", "the number after the one that was served");
        }
    })
    .await;
    let mut subscriber = subscriber(&faulty, Start::Seq(0));
    let mut got = Vec::new();
    for _ in 0..4 {
        let segment = soon(subscriber.next()).await.unwrap().unwrap();
        got.push((segment.seq(), segment.gap(), segment.restarted()));
        whole(segment).await.unwrap();
    }
    assert_eq!(got, [(0, 0, false), (50, 49, false), (3, 0, true), (2, 0, true)]);
    let stats = subscriber.stats();
    assert_eq!((stats.jumps470, stats.gaps, stats.restarts), (2, 49, 2));
}

#[tokio::test]
async fn endless_470_ends() {
    let faulty = Faulty::new(|e| e.answer(470, &[], "Entry not found")).await;
    let mut subscriber = subscriber(&faulty, Start::Seq(5));
    assert_eq!(drain(&mut subscriber).await, []);
    assert_eq!(subscriber.end_reason(), Some(EndReason::Failures));
    let asked = faulty.asked("GET");
    assert_eq!((asked[0].as_str(), asked[1].as_str(), asked.len()), ("5", "-1", 8));
}

#[tokio::test]
async fn nonsense_is_a_failure() {
    let faulty = Faulty::new(async |mut e: Exchange| match e.nth {
        0 if e.part == "-1" => e.raw("SSH-2.0-OpenSSH_9\r\n\r\n").await,
        1 => e.raw("HTTP/1.1 200 x\r\nContent-Length: 1\r\n\r\nx").await,
        2 => e.raw("").await,
        3 => e.answer(302, &[("Location", "/ch/elsewhere")], "").await,
        _ if e.part == "-1" => e.segment(8, "at last").await,
        _ => e.answer(200, &[("Lp-Trickle-Closed", "")], "Entry not found").await,
    })
    .await;
    let mut subscriber = subscriber(&faulty, Start::Next);
    assert_eq!(drain(&mut subscriber).await, [Ok((8, "at last".into()))]);
    assert_eq!(subscriber.end_reason(), Some(EndReason::Closed));
    assert_eq!(faulty.asked("GET"), ["-1", "-1", "-1", "-1", "-1", "9"]);
}

#[tokio::test]
async fn a_failed_post_of_which_nothing_went_out_is_repeated() {
    let faulty = Faulty::new(async |mut e: Exchange| match (e.part.as_str(), e.nth) {
        ("0", 0) => e.answer(500, &[], "Server error").await,
        ("0", 1) => drop(e),
        ("0", _) => {
            assert_eq!(e.body().await, "first second");
            e.answer(200, &[("Lp-Trickle-Seq", "0")], "").await;
        }
        _ => e.hang().await,
    })
    .await;
    let mut publisher = publisher(&faulty).await;
    let mut writer = soon(publisher.begin()).await.unwrap();
    until(|| publisher.stats().retries == 2).await;
    writer.write(bytes("first ")).await.unwrap();
    writer.write(bytes("second")).await.unwrap();
    assert_eq!(soon(writer.finish().await.unwrap().accepted()).await.unwrap(), 0);
    let stats = publisher.stats();
    assert_eq!((stats.accepted, stats.retries, stats.broken, stats.bytes), (1, 2, 0, 12));
}

#[tokio::test]
async fn a_segment_lost_midway_is_deleted_and_the_next_one_follows() {
    let faulty = Faulty::new(async |mut e: Exchange| match (e.method.as_str(), e.part.as_str()) {
        ("POST", "0") => drop(e.chunk().await),
        ("POST", "1") => {
            let body = e.body().await;
            e.answer(if body == "whole" { 200 } else { 500 }, &[], "").await;
        }
        ("POST", _) => e.hang().await,
        _ => e.answer(200, &[], "").await,
    })
    .await;
    let mut publisher = publisher(&faulty).await;
    let mut writer = soon(publisher.begin()).await.unwrap();
    assert_eq!(writer.seq(), 0);
    let error = soon(async {
        loop {
            if let Err(error) = writer.write(bytes("piece")).await {
                return error;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    assert!(matches!(error, TrickleError::Broken { seq: 0, .. }), "{error:?}");
    drop(writer);
    let mut writer = soon(publisher.begin()).await.unwrap();
    writer.write(bytes("whole")).await.unwrap();
    assert_eq!(soon(writer.finish().await.unwrap().accepted()).await.unwrap(), 1);
    until(|| publisher.stats().deleted == 1).await;
    assert_eq!(faulty.asked("DELETE"), ["0"]);
    assert_eq!((publisher.stats().broken, publisher.stats().abandoned), (1, 0));
}

#[tokio::test]
async fn early_answers_are_seen_before_anything_is_sent() {
    let faulty = Faulty::new(async |mut e: Exchange| match e.part.as_str() {
        "0" => e.answer(200, &[("Lp-Trickle-Seq", "0")], "").await,
        "1" => {
            e.body().await;
            e.answer(200, &[], "").await;
        }
        _ => e.answer(200, &[("Lp-Trickle-Closed", "terminated")], "").await,
    })
    .await;
    let mut publisher = publisher(&faulty).await;
    until(|| publisher.stats().skipped == 1).await;
    assert_eq!(soon(publisher.send_document(bytes("{}"))).await.unwrap(), 1);
    until(|| publisher.ended().is_some()).await;
    assert!(matches!(publisher.begin().await, Err(TrickleError::Ended(EndReason::Closed))));
}

#[tokio::test]
async fn a_channel_that_takes_no_segment_ends() {
    let faulty = Faulty::new(|e| e.answer(200, &[], "")).await;
    let mut publisher = publisher(&faulty).await;
    let error = soon(async {
        loop {
            match publisher.begin().await {
                Ok(mut writer) => {
                    while writer.write(bytes("late")).await.is_ok() {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                }
                Err(error) => return error,
            }
        }
    })
    .await;
    assert!(matches!(error, TrickleError::Ended(EndReason::Failures)), "{error:?}");
    // On a busy machine a segment may end before its early answer is seen, and is none that failed.
    assert!(faulty.asked("POST").len() < 100);
}

#[tokio::test]
async fn a_stuck_connection_breaks_the_segment() {
    let faulty = Faulty::new(async |e: Exchange| match (e.method.as_str(), e.part.as_str()) {
        ("POST", "0") => e.freeze().await,
        ("POST", _) => e.hang().await,
        _ => e.answer(200, &[], "").await,
    })
    .await;
    let mut publisher = publisher(&faulty).await;
    let mut writer = soon(publisher.begin()).await.unwrap();
    let block = Bytes::from(vec![0; 256 * 1024]);
    let mut written = 0;
    let error = soon(async {
        loop {
            match writer.write(block.clone()).await {
                Ok(()) => written += 1,
                Err(error) => return error,
            }
        }
    })
    .await;
    assert!(matches!(error, TrickleError::Broken { seq: 0, .. }), "{error:?}");
    assert!(written < 200, "{written} blocks went into a connection that takes none");
    until(|| publisher.stats().deleted == 1).await;
    assert_eq!((faulty.asked("DELETE"), publisher.stats().stalled), (vec!["0".into()], 1));
    assert_eq!(soon(publisher.begin()).await.unwrap().seq(), 1);
}

#[tokio::test]
async fn a_segment_without_an_answer_breaks_in_the_background() {
    let faulty = Faulty::new(async |e: Exchange| match (e.method.as_str(), e.part.as_str()) {
        ("POST", _) => e.hang().await,
        _ => e.answer(200, &[], "").await,
    })
    .await;
    let mut publisher = publisher(&faulty).await;
    for seq in 0..3 {
        let mut writer = soon(publisher.begin()).await.unwrap();
        writer.write(bytes("text")).await.unwrap();
        assert_eq!(writer.finish().await.unwrap().seq(), seq);
    }
    assert_eq!(publisher.stats().broken, 0, "finishing does not wait for answers");
    until(|| publisher.stats().deleted == 3).await;
    assert_eq!((publisher.stats().stalled, publisher.stats().broken), (3, 3));
    let started = Instant::now();
    soon(publisher.close(true)).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(1));
    assert_eq!(faulty.log().last().map(String::as_str), Some("DELETE"));
}

#[tokio::test]
async fn no_more_posts_are_open_than_a_server_has_slots() {
    let faulty = Faulty::new(async |e: Exchange| match (e.method.as_str(), e.part.as_str()) {
        ("POST", _) => e.hang().await,
        _ => e.answer(200, &[], "").await,
    })
    .await;
    let mut publisher = publisher(&faulty).await;
    for _ in 0..8 {
        let mut writer = soon(publisher.begin()).await.unwrap();
        writer.write(bytes("text")).await.unwrap();
        writer.finish().await.unwrap();
        assert!(publisher.stats().in_flight <= 5);
    }
}

#[tokio::test]
async fn any_number_of_interim_answers_is_taken() {
    let faulty = Faulty::new(async |mut e: Exchange| {
        for _ in 0..500 {
            e.raw("HTTP/1.1 100 Continue\r\n\r\n").await;
        }
        let body = e.body().await;
        for _ in 0..500 {
            e.raw("HTTP/1.1 102 Processing\r\n\r\n").await;
        }
        e.answer(if body == "one two" { 200 } else { 500 }, &[], "").await;
    })
    .await;
    let mut publisher = publisher(&faulty).await;
    for seq in 0..3 {
        let mut writer = soon(publisher.begin()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(30)).await;
        writer.write(bytes("one ")).await.unwrap();
        tokio::time::sleep(Duration::from_millis(30)).await;
        writer.write(bytes("two")).await.unwrap();
        assert_eq!(soon(writer.finish().await.unwrap().accepted()).await.unwrap(), seq);
    }
}

#[tokio::test]
async fn a_document_that_breaks_is_sent_again_whole() {
    let faulty = Faulty::new(async |mut e: Exchange| match (e.method.as_str(), e.part.as_str()) {
        ("POST", "0") => {
            e.body().await;
            e.answer(500, &[], "Server error").await;
        }
        ("POST", "1") => {
            assert_eq!(e.body().await, "{\"whole\":true}");
            e.answer(200, &[], "").await;
        }
        ("POST", _) => e.hang().await,
        _ => e.answer(200, &[], "").await,
    })
    .await;
    let mut publisher = publisher(&faulty).await;
    assert_eq!(soon(publisher.send_document(bytes("{\"whole\":true}"))).await.unwrap(), 1);
    until(|| publisher.stats().deleted == 1).await;
    assert_eq!(faulty.asked("DELETE"), ["0"]);
}

#[tokio::test]
async fn posts_are_chunked_and_typed() {
    let (heads, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let faulty = Faulty::new(move |e: Exchange| {
        let heads = heads.clone();
        async move {
            let _ = heads.send(e.head.to_ascii_lowercase());
            e.hang().await;
        }
    })
    .await;
    let _publisher = publisher(&faulty).await;
    let head = soon(seen.recv()).await.unwrap();
    assert!(head.contains("transfer-encoding: chunked\r\n") && head.contains("content-type: video/mp2t\r\n"), "{head}");
    assert!(!head.contains("lp-trickle-reset") && !head.contains("expect:"), "{head}");
}

#[tokio::test]
async fn resuming_copes_with_servers_that_know_no_next() {
    let faulty = Faulty::new(async |e: Exchange| match (e.method.as_str(), e.part.as_str()) {
        ("GET", "next") => e.answer(400, &[], "Invalid idx").await,
        ("GET", _) => e.answer(470, &[("Lp-Trickle-Latest", "9")], "Entry not found").await,
        ("POST", _) => e.hang().await,
        _ => e.answer(200, &[], "").await,
    })
    .await;
    let mut publisher = Publisher::open(&client(), &faulty.url, "video/mp2t", Begin::Resume).await.unwrap();
    assert_eq!(publisher.begin().await.unwrap().seq(), 9);
    assert_eq!(faulty.asked("DELETE"), ["8"]);
}

#[tokio::test]
async fn dropping_the_clients_closes_their_connections() {
    let (closed, mut seen) = tokio::sync::mpsc::unbounded_channel();
    let faulty = Faulty::new(move |e: Exchange| {
        let closed = closed.clone();
        async move {
            let method = e.method.clone();
            e.hang().await;
            let _ = closed.send(method);
        }
    })
    .await;
    let config = Config { silent_get_ms: 60_000, ..quick() };
    let client = Client::new(&config).unwrap();
    let publisher = Publisher::open(&client, &faulty.url, "video/mp2t", Begin::Zero).await.unwrap();
    let mut subscriber = Subscriber::new(&client, &faulty.url, Start::Next).unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(60), subscriber.next()).await.is_err());
    until(|| faulty.log().len() == 2).await;
    drop(subscriber);
    assert_eq!(soon(seen.recv()).await.unwrap(), "GET");
    drop(publisher);
    assert_eq!(soon(seen.recv()).await.unwrap(), "POST");
}

#[tokio::test]
async fn errors_name_the_host_and_nothing_else() {
    let faulty = Faulty::new(|e| e.answer(503, &[], "secret")).await;
    let url = format!("{}-secret", faulty.url);
    let error = client().create(&url, "video/mp2t").await.unwrap_err();
    let shown = format!("{error} {error:?}");
    assert!(shown.contains("127.0.0.1") && !shown.contains("secret") && !shown.contains("/ch"), "{shown}");
}
