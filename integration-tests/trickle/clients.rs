//! Publisher and subscriber with our server.

use super::*;
use weir::trickle::{Begin, EndReason, Publisher, Start, Subscriber};

async fn publish(publisher: &mut Publisher, text: &str) -> u64 {
    let mut writer = soon(publisher.begin()).await.unwrap();
    for piece in text.as_bytes().chunks(3) {
        soon(writer.write(Bytes::copy_from_slice(piece))).await.unwrap();
    }
    let done = writer.finish().await.unwrap();
    soon(done.accepted()).await.unwrap()
}

async fn read(subscriber: &mut Subscriber) -> Option<(u64, String)> {
    let segment = soon(subscriber.next()).await.unwrap()?;
    Some((segment.seq(), whole(segment).await.unwrap()))
}

#[tokio::test]
async fn segments_arrive_in_order_and_the_channel_ends() {
    let host = Host::with("out").await;
    let url = host.url("out");
    let mut publisher = Publisher::open(&client(), &url, "video/mp2t", Begin::Zero).await.unwrap();
    let mut subscriber = Subscriber::new(&client(), &url, Start::Seq(0)).unwrap();
    for n in 0..20 {
        assert_eq!(publish(&mut publisher, &format!("segment {n}")).await, n);
        assert_eq!(read(&mut subscriber).await, Some((n, format!("segment {n}"))));
    }
    tokio::time::sleep(Duration::from_millis(150)).await;
    soon(publisher.close(true)).await.unwrap();
    assert_eq!(read(&mut subscriber).await, None);
    assert_eq!(subscriber.end_reason(), Some(EndReason::Closed), "a GET was open when the channel closed");
    assert_eq!(read(&mut subscriber).await, None);
    let stats = subscriber.stats();
    assert_eq!((stats.segments, stats.gaps, stats.retries, stats.broken), (20, 0, 0, 0));
    assert!(host.server.channels().is_empty());
}

#[tokio::test]
async fn bytes_are_relayed_while_the_segment_is_written() {
    let host = Host::with("out").await;
    let mut publisher = Publisher::open(&client(), &host.url("out"), "video/mp2t", Begin::Zero).await.unwrap();
    let mut subscriber = Subscriber::new(&client(), &host.url("out"), Start::Current).unwrap();
    let mut writer = publisher.begin().await.unwrap();
    writer.write(bytes("piece 0")).await.unwrap();
    let mut segment = soon(subscriber.next()).await.unwrap().unwrap();
    assert_eq!(soon(segment.chunk()).await.unwrap().unwrap(), "piece 0");
    for n in 1..5 {
        writer.write(bytes(&format!("piece {n}"))).await.unwrap();
        assert_eq!(soon(segment.chunk()).await.unwrap().unwrap(), format!("piece {n}"));
    }
    writer.finish().await.unwrap();
    assert_eq!(soon(segment.chunk()).await.unwrap(), None);
}

#[tokio::test]
async fn each_start_gets_its_tail() {
    let starts = [(Start::Seq(0), 0), (Start::Seq(1), 1), (Start::Current, 2), (Start::Next, 3)];
    let host = Host::with("tails").await;
    let url = host.url("tails");
    let mut publisher = Publisher::open(&client(), &url, "video/mp2t", Begin::Zero).await.unwrap();
    for n in 0..3 {
        publish(&mut publisher, &format!("s{n}")).await;
    }
    let mut readers = Vec::new();
    for (start, from) in starts {
        let mut subscriber = Subscriber::new(&client(), &url, start).unwrap();
        readers.push(tokio::spawn(async move {
            let mut got = Vec::new();
            while let Some(next) = read(&mut subscriber).await {
                got.push(next);
            }
            (from, got)
        }));
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    for n in 3..5 {
        publish(&mut publisher, &format!("s{n}")).await;
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    soon(publisher.close(true)).await.unwrap();
    for reader in readers {
        let (from, got) = soon(reader).await.unwrap();
        let expected: Vec<_> = (from..5).map(|n| (n, format!("s{n}"))).collect();
        assert_eq!(got, expected);
    }
}

#[tokio::test]
async fn a_reader_that_falls_behind_jumps_and_counts_the_gap() {
    let host = Host::with("behind").await;
    let url = host.url("behind");
    let mut publisher = Publisher::open(&client(), &url, "video/mp2t", Begin::Zero).await.unwrap();
    let mut subscriber = Subscriber::new(&client(), &url, Start::Seq(0)).unwrap();
    publish(&mut publisher, "s0").await;
    assert_eq!(read(&mut subscriber).await, Some((0, "s0".into())));
    for n in 1..12 {
        publish(&mut publisher, &format!("s{n}")).await;
    }
    assert_eq!(read(&mut subscriber).await, Some((1, "s1".into())), "its GET was open all along");
    let mut late = tokio::spawn(async move {
        let segment = subscriber.next().await.unwrap().unwrap();
        (segment.seq(), segment.gap(), subscriber.stats())
    });
    assert!(tokio::time::timeout(Duration::from_millis(80), &mut late).await.is_err());
    publish(&mut publisher, "s12").await;
    let (seq, gap, stats) = soon(late).await.unwrap();
    assert_eq!((seq, gap), (12, 10));
    assert_eq!((stats.jumps470, stats.gaps, stats.restarts), (1, 10, 0));
}

#[tokio::test]
async fn a_dropped_writer_releases_its_readers() {
    let host = Host::with("drop").await;
    let url = host.url("drop");
    let mut publisher = Publisher::open(&client(), &url, "video/mp2t", Begin::Zero).await.unwrap();
    let mut subscriber = Subscriber::new(&client(), &url, Start::Seq(0)).unwrap();
    let mut writer = publisher.begin().await.unwrap();
    writer.write(bytes("half")).await.unwrap();
    let mut segment = soon(subscriber.next()).await.unwrap().unwrap();
    assert_eq!(soon(segment.chunk()).await.unwrap().unwrap(), "half");
    drop(writer);
    assert_eq!(soon(segment.chunk()).await.unwrap(), None, "the segment was deleted");
    drop(publisher.begin().await.unwrap());
    assert_eq!(publish(&mut publisher, "next").await, 2);
    assert_eq!(read(&mut subscriber).await, Some((2, "next".into())));
    assert_eq!(subscriber.stats().empty, 1);
    let stats = publisher.stats();
    assert_eq!((stats.abandoned, stats.deleted, stats.broken), (2, 2, 0));
}

#[tokio::test]
async fn a_crashed_publisher_is_resumed() {
    let host = Host::with("crash").await;
    let url = host.url("crash");
    let mut subscriber = Subscriber::new(&client(), &url, Start::Seq(0)).unwrap();
    let mut publisher = Publisher::open(&client(), &url, "video/mp2t", Begin::Zero).await.unwrap();
    publish(&mut publisher, "s0").await;
    let mut writer = publisher.begin().await.unwrap();
    writer.write(bytes("half")).await.unwrap();
    assert_eq!(read(&mut subscriber).await, Some((0, "s0".into())));
    let mut segment = soon(subscriber.next()).await.unwrap().unwrap();
    assert_eq!(soon(segment.chunk()).await.unwrap().unwrap(), "half");
    drop(publisher);
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(matches!(writer.write(bytes("more")).await, Err(TrickleError::Stopped)));
    let silent = tokio::time::timeout(Duration::from_millis(80), segment.chunk()).await;
    assert!(silent.is_err(), "nobody has released the segment");
    let mut publisher = Publisher::open(&client(), &url, "video/mp2t", Begin::Resume).await.unwrap();
    assert_eq!(soon(segment.chunk()).await.unwrap(), None);
    assert_eq!(publish(&mut publisher, "s2").await, 2);
    assert_eq!(read(&mut subscriber).await, Some((2, "s2".into())));
    publisher.close(false).await.unwrap();
    assert_eq!(client().next(&url).await.unwrap(), 3, "a channel that is left has no empty segment at its end");
    let mut publisher = Publisher::open(&client(), &url, "video/mp2t", Begin::Resume).await.unwrap();
    assert_eq!(publish(&mut publisher, "s3").await, 3);
    assert_eq!(read(&mut subscriber).await, Some((3, "s3".into())));
}

#[tokio::test]
async fn a_missing_channel_is_named_so() {
    let host = Host::with("there").await;
    let url = host.url("missing");
    let resumed = Publisher::open(&client(), &url, "video/mp2t", Begin::Resume).await;
    assert!(matches!(resumed, Err(TrickleError::NotFound { .. })));
    let mut publisher = Publisher::open(&client(), &url, "video/mp2t", Begin::Zero).await.unwrap();
    soon(async {
        while publisher.ended().is_none() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(matches!(soon(publisher.begin()).await, Err(TrickleError::Ended(EndReason::NotFound))));
    soon(publisher.close(true)).await.unwrap();
    let mut subscriber = Subscriber::new(&client(), &url, Start::Next).unwrap();
    assert!(soon(subscriber.next()).await.unwrap().is_none());
    assert_eq!(subscriber.end_reason(), Some(EndReason::NotFound));
    assert!(!client().create(&url, "video/mp2t").await.unwrap());
    assert!(client().create(&host.url("there"), "video/mp2t").await.unwrap());
    assert!(!client().delete(&url).await.unwrap());
    assert!(client().delete(&host.url("there")).await.unwrap());
}

#[tokio::test]
async fn a_closed_channel_is_noticed_while_idle_and_while_writing() {
    let host = Host::with("shut").await;
    let mut publisher = Publisher::open(&client(), &host.url("shut"), "video/mp2t", Begin::Zero).await.unwrap();
    let mut writer = publisher.begin().await.unwrap();
    writer.write(bytes("half")).await.unwrap();
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert!(client().delete(&host.url("shut")).await.unwrap());
    soon(async {
        while publisher.ended().is_none() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_eq!(publisher.ended(), Some(EndReason::Closed), "told by the POST ahead");
    writer.write(bytes("more")).await.unwrap();
    writer.finish().await.unwrap();
    assert!(matches!(soon(publisher.begin()).await, Err(TrickleError::Ended(EndReason::Closed))));
    soon(publisher.close(true)).await.unwrap();
}

#[tokio::test]
async fn documents_are_whole_or_refused() {
    let host = Host::with("events").await;
    let url = host.url("events");
    let mut publisher = Publisher::open(&client(), &url, "application/json", Begin::Zero).await.unwrap();
    let mut subscriber = Subscriber::new(&client(), &url, Start::Seq(0)).unwrap();
    let big = "x".repeat(100_000);
    for (seq, text) in ["{\"a\":1}", &big, "{\"b\":2}"].into_iter().enumerate() {
        assert_eq!(soon(publisher.send_document(bytes(text))).await.unwrap(), seq as u64);
        let mut segment = soon(subscriber.next()).await.unwrap().unwrap();
        let document = soon(segment.document(1000)).await;
        if seq == 1 {
            assert!(matches!(document, Err(TrickleError::TooLong { seq: 1, limit: 1000 })));
        } else {
            assert_eq!(document.unwrap().unwrap(), text);
        }
    }
    assert_eq!(publisher.stats().accepted, 3);
    assert_eq!(soon(publisher.send_document(Bytes::new())).await.unwrap(), 3);
    publisher.send_document(bytes("{}")).await.unwrap();
    assert_eq!(read(&mut subscriber).await, Some((4, "{}".into())));
    assert_eq!(subscriber.stats().empty, 1);
}

#[tokio::test]
async fn cancelled_reads_lose_nothing() {
    let host = Host::with("cancel").await;
    let url = host.url("cancel");
    let mut publisher = Publisher::open(&client(), &url, "video/mp2t", Begin::Zero).await.unwrap();
    let writing = tokio::spawn(async move {
        for n in 0..10 {
            let mut writer = publisher.begin().await.unwrap();
            for piece in 0..4 {
                tokio::time::sleep(Duration::from_millis(3)).await;
                writer.write(bytes(&format!("{n}.{piece} "))).await.unwrap();
            }
            writer.finish().await.unwrap();
        }
        publisher
    });
    let mut subscriber = Subscriber::new(&client(), &url, Start::Seq(0)).unwrap();
    let tick = Duration::from_millis(1);
    for n in 0..10 {
        let mut segment = soon(async {
            loop {
                if let Ok(segment) = tokio::time::timeout(tick, subscriber.next()).await {
                    break segment.unwrap().unwrap();
                }
            }
        })
        .await;
        let document = soon(async {
            loop {
                if let Ok(document) = tokio::time::timeout(tick, segment.document(1000)).await {
                    break document.unwrap().unwrap();
                }
            }
        })
        .await;
        assert_eq!(segment.seq(), n);
        assert_eq!(document, format!("{n}.0 {n}.1 {n}.2 {n}.3 "));
    }
    soon(writing).await.unwrap();
}

#[tokio::test]
async fn interim_answers_do_not_disturb_a_waiting_publisher() {
    let config = ServerConfig { interim_interval: Duration::from_millis(2), ..ServerConfig::default() };
    let host = Host::new(config).await;
    host.server.create("interims", "");
    let mut publisher = Publisher::open(&client(), &host.url("interims"), "video/mp2t", Begin::Zero).await.unwrap();
    for n in 0..3 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(publish(&mut publisher, "text").await, n);
    }
    let stats = publisher.stats();
    assert_eq!((stats.accepted, stats.retries, stats.skipped, stats.in_flight), (3, 0, 0, 1));
}

#[tokio::test]
async fn a_waiting_get_is_asked_again_and_nothing_is_lost() {
    let host = Host::with("silent").await;
    let url = host.url("silent");
    let mut subscriber = Subscriber::new(&client(), &url, Start::Seq(0)).unwrap();
    let waiting = tokio::spawn(async move { (read(&mut subscriber).await, subscriber.stats()) });
    tokio::time::sleep(Duration::from_millis(700)).await;
    let mut publisher = Publisher::open(&client(), &url, "video/mp2t", Begin::Zero).await.unwrap();
    publish(&mut publisher, "late").await;
    let (got, stats) = soon(waiting).await.unwrap();
    assert_eq!(got, Some((0, "late".into())));
    assert!((1..=4).contains(&stats.reissued) && stats.retries == 0, "{stats:?}");
}

#[tokio::test]
async fn waiting_for_the_next_segment_misses_none() {
    for late in [150, 190, 195, 200, 205, 210, 250] {
        let host = Host::with("begin").await;
        let url = host.url("begin");
        let mut publisher = Publisher::open(&client(), &url, "video/mp2t", Begin::Zero).await.unwrap();
        publish(&mut publisher, "old").await;
        let mut subscriber = Subscriber::new(&client(), &url, Start::Next).unwrap();
        let waiting = tokio::spawn(async move { read(&mut subscriber).await });
        // The silence after which the GET is given up ends in the midst of these.
        tokio::time::sleep(Duration::from_millis(late)).await;
        publish(&mut publisher, "new").await;
        assert_eq!(soon(waiting).await.unwrap(), Some((1, "new".into())));
    }
}
