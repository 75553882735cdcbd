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

async fn texts(subscriber: &mut Subscriber, count: usize) -> Vec<(u64, String)> {
    let mut all = Vec::new();
    for _ in 0..count {
        all.extend(read(subscriber).await);
    }
    all
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
