//! The server on the wire, byte by byte.

use super::*;
use std::collections::HashMap;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// A raw HTTP/1.1 client on one connection.
struct Peer(BufReader<TcpStream>);

#[derive(Debug)]
struct Answer {
    status: u16,
    interims: usize,
    headers: HashMap<String, String>,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// Status, number and edge.
    fn facts(&self) -> (u16, Option<&str>, Option<&str>) {
        (self.status, self.header("lp-trickle-seq"), self.header("lp-trickle-latest"))
    }
}

impl Peer {
    async fn send(url: &str, method: &str, head: &str) -> Self {
        let (host, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
        let mut stream = TcpStream::connect(host).await.unwrap();
        let head = format!("{method} /{path} HTTP/1.1\r\nHost: {host}\r\n{head}\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        Self(BufReader::new(stream))
    }

    async fn get(url: &str) -> Self {
        Self::send(url, "GET", "").await
    }

    /// Opens a POST without sending any of its body.
    async fn post(url: &str) -> Self {
        Self::send(url, "POST", "Transfer-Encoding: chunked\r\n").await
    }

    async fn write(&mut self, text: &str) {
        let chunk = format!("{:x}\r\n{text}\r\n", text.len());
        self.0.get_mut().write_all(chunk.as_bytes()).await.unwrap();
    }

    async fn end(mut self) -> Answer {
        self.0.get_mut().write_all(b"0\r\n\r\n").await.unwrap();
        self.answer().await
    }

    /// Nothing arrives for a while.
    async fn is_silent(&mut self) {
        let read = tokio::time::timeout(Duration::from_millis(80), self.0.fill_buf()).await;
        assert!(read.is_err(), "{:?}", read.unwrap());
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        soon(self.0.read_line(&mut line)).await.unwrap();
        line.trim_end().to_owned()
    }

    async fn head(&mut self) -> Answer {
        let mut interims = 0;
        loop {
            let status_line = self.line().await;
            let status = status_line.split(' ').nth(1).expect("no status line").parse().unwrap();
            let mut headers = HashMap::new();
            loop {
                let line = self.line().await;
                let Some((name, value)) = line.split_once(':') else { break };
                headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
            }
            if status != 100 {
                return Answer { status, interims, headers, body: String::new() };
            }
            interims += 1;
        }
    }

    async fn chunk(&mut self) -> String {
        let length = usize::from_str_radix(&self.line().await, 16).unwrap();
        let mut chunk = vec![0; length + 2];
        soon(self.0.read_exact(&mut chunk)).await.unwrap();
        String::from_utf8(chunk[..length].to_vec()).unwrap()
    }

    async fn answer(&mut self) -> Answer {
        let mut answer = self.head().await;
        if answer.header("transfer-encoding") == Some("chunked") {
            loop {
                let chunk = self.chunk().await;
                if chunk.is_empty() {
                    break;
                }
                answer.body += &chunk;
            }
        } else {
            let length = answer.header("content-length").map_or(0, |length| length.parse().unwrap());
            let mut body = vec![0; length];
            soon(self.0.read_exact(&mut body)).await.unwrap();
            answer.body = String::from_utf8(body).unwrap();
        }
        answer
    }
}

async fn ask(method: &str, url: &str) -> Answer {
    Peer::send(url, method, "").await.answer().await
}

async fn put(url: &str, text: &str) -> Answer {
    let mut peer = Peer::post(url).await;
    peer.write(text).await;
    peer.end().await
}

/// Waits until the server has taken a request that has no answer yet.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(150)).await;
}

#[tokio::test]
async fn a_missing_channel_is_404_and_its_delete_400() {
    let host = Host::new(ServerConfig::default()).await;
    for (method, path) in [("POST", "no"), ("GET", "no/0"), ("GET", "no/next"), ("DELETE", "no/0")] {
        let answer = ask(method, &host.url(path)).await;
        assert_eq!((answer.status, answer.body.as_str()), (404, "Stream not found\n"), "{method} {path}");
        assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
    }
    let mut post = Peer::post(&host.url("no/0")).await;
    let answer = post.answer().await;
    assert_eq!((answer.status, answer.header("connection")), (404, Some("close")));
    let answer = ask("DELETE", &host.url("no")).await;
    assert_eq!((answer.status, answer.body.as_str()), (400, "Invalid stream\n"));
    assert!(host.server.channels().is_empty());
}

#[tokio::test]
async fn channels_are_created_on_demand_only_where_allowed() {
    let host = Host::new(ServerConfig { auto_create: true, max_channels: 2, ..ServerConfig::default() }).await;
    let answer = Peer::send(&host.url("made"), "POST", "Expect-Content: text/plain\r\n").await.answer().await;
    assert_eq!((answer.status, answer.body.as_str()), (200, ""));
    let head = "Content-Type: video/MP2T\r\nContent-Length: 1\r\n\r\nx";
    let mut post = Peer::send(&host.url("posted/0"), "POST", head).await;
    assert_eq!(post.answer().await.status, 200);
    assert_eq!(host.server.snapshot("made").unwrap().mime, "text/plain");
    assert_eq!(host.server.snapshot("posted").unwrap().mime, "video/MP2T");
    assert_eq!(ask("POST", &host.url("third")).await.status, 503);
    assert_eq!(ask("DELETE", &host.url("made")).await.status, 200);
    assert_eq!(host.server.channels(), ["posted"]);
}

#[tokio::test]
async fn other_methods_and_bad_numbers_are_refused() {
    let host = Host::with("refuses").await;
    assert_eq!(ask("PUT", &host.url("refuses/0")).await.status, 405);
    assert_eq!(ask("GET", &host.url("refuses")).await.status, 405);
    assert_eq!(ask("POST", &host.url("refuses")).await.status, 200);
    for (method, number) in [("GET", "x"), ("POST", "next"), ("DELETE", "1.5")] {
        let answer = ask(method, &host.url(&format!("refuses/{number}"))).await;
        assert_eq!((answer.status, answer.body.as_str()), (400, "Invalid idx\n"), "{method} {number}");
    }
    let answer = ask("DELETE", &host.url("refuses/7")).await;
    assert_eq!((answer.status, answer.body.as_str()), (400, "Nonexistent segment\n"));
}

#[tokio::test]
async fn negative_numbers_are_refused_instead_of_breaking_the_server() {
    let host = Host::with("negative").await;
    for (method, number) in [("GET", "-3"), ("POST", "-2"), ("DELETE", "-1"), ("GET", "9223372036854775807")] {
        assert_eq!(ask(method, &host.url(&format!("negative/{number}"))).await.status, 400, "{method} {number}");
    }
    assert_eq!(put(&host.url("negative/0"), "x").await.status, 200);
}

#[tokio::test]
async fn segments_are_read_from_any_start() {
    let host = Host::with("starts").await;
    let read = async |seq: u64| Peer::get(&host.url(&format!("starts/{seq}"))).await.answer().await;
    for seq in 0..4 {
        let answer = put(&host.url(&format!("starts/{seq}")), &format!("text {seq}")).await;
        assert_eq!((answer.facts(), answer.body.as_str()), ((200, Some(&*seq.to_string()), None), ""));
    }
    for start in 0..4 {
        for seq in start..4 {
            let answer = read(seq).await;
            assert_eq!(answer.facts(), (200, Some(&*seq.to_string()), Some("4")));
            assert_eq!(answer.body, format!("text {seq}"));
            assert_eq!(answer.header("content-type"), Some("video/MP2T"));
        }
    }
    for seq in (0..4).rev() {
        assert_eq!(read(seq).await.body, format!("text {seq}"));
    }
}

#[tokio::test]
async fn five_segments_are_retained() {
    let host = Host::with("window").await;
    let url = |seq: i64| host.url(&format!("window/{seq}"));
    for seq in 0..=6 {
        put(&url(seq), "x").await;
    }
    for seq in [0, 1, 8] {
        let answer = ask("GET", &url(seq)).await;
        assert_eq!(answer.facts(), (470, Some(&*seq.to_string()), Some("7")));
        assert_eq!(answer.body, "Entry not found");
    }
    for seq in 2..=6 {
        assert_eq!(ask("GET", &url(seq)).await.status, 200);
    }
    assert_eq!(ask("GET", &url(-2)).await.facts(), (200, Some("6"), Some("7")));
    let mut waiting = Peer::get(&url(7)).await;
    waiting.is_silent().await;
    let mut next = Peer::get(&url(-1)).await;
    next.is_silent().await;
    let answer = put(&url(-1), "seven").await;
    assert_eq!(answer.facts(), (200, Some("7"), None));
    for mut peer in [waiting, next] {
        let answer = peer.answer().await;
        assert_eq!((answer.facts(), answer.body.as_str()), ((200, Some("7"), None), "seven"));
    }
}

#[tokio::test]
async fn nothing_is_answered_before_the_first_byte_and_then_every_write() {
    let host = Host::with("relay").await;
    let mut reader = Peer::get(&host.url("relay/0")).await;
    let mut ahead = Peer::get(&host.url("relay/1")).await;
    let mut writer = Peer::post(&host.url("relay/0")).await;
    reader.is_silent().await;
    writer.write("first").await;
    let head = reader.head().await;
    assert_eq!(head.facts(), (200, Some("0"), None));
    assert_eq!(reader.chunk().await, "first");
    for text in ["second", "third"] {
        writer.write(text).await;
        assert_eq!(reader.chunk().await, text);
    }
    reader.is_silent().await;
    assert_eq!(writer.end().await.status, 200);
    assert_eq!(reader.chunk().await, "");
    ahead.is_silent().await;
}

#[tokio::test]
async fn the_next_number_never_waits() {
    let host = Host::with("next").await;
    let next = async || ask("GET", &host.url("next/next")).await;
    let answer = next().await;
    assert_eq!((answer.status, answer.body.as_str(), answer.header("lp-trickle-latest")), (200, "0", Some("0")));
    let mut writer = Peer::post(&host.url("next/0")).await;
    settle().await;
    assert_eq!(next().await.body, "0", "an open POST does not move the edge");
    writer.write("x").await;
    settle().await;
    assert_eq!(next().await.body, "1", "its first byte does");
}

#[tokio::test]
async fn an_idle_post_gets_interim_answers() {
    let config = ServerConfig { interim_interval: Duration::from_millis(30), ..ServerConfig::default() };
    let host = Host::new(config).await;
    host.server.create("interim", "");
    let mut writer = Peer::post(&host.url("interim/0")).await;
    for _ in 0..3 {
        assert_eq!(writer.line().await, "HTTP/1.1 100 Continue");
        assert_eq!(writer.line().await, "");
    }
    writer.write("data").await;
    let answer = writer.end().await;
    assert_eq!((answer.status, answer.interims <= 1), (200, true));
    let mut old = Peer::send(&host.url("interim/1"), "POST", "Content-Length: 1\r\n").await;
    assert_eq!(old.line().await, "HTTP/1.1 100 Continue");
    assert_eq!(ask("GET", &host.url("interim/0")).await.body, "data");
}

#[tokio::test]
async fn a_waiting_post_is_released_early() {
    let host = Host::with("early").await;
    let mut deleted = Peer::post(&host.url("early/0")).await;
    settle().await;
    assert_eq!(ask("DELETE", &host.url("early/0")).await.status, 200);
    let mut evicted = Peer::post(&host.url("early/1")).await;
    settle().await;
    let evictor = Peer::post(&host.url("early/6")).await;
    let mut reset = Peer::post(&host.url("early/2")).await;
    settle().await;
    let resetter = Peer::send(&host.url("early/3"), "POST", "Lp-Trickle-Reset: 1\r\nContent-Length: 9\r\n").await;
    let mut twin = Peer::post(&host.url("early/9")).await;
    settle().await;
    put(&host.url("early/9"), "other").await;
    for (peer, seq) in [(&mut deleted, "0"), (&mut evicted, "1"), (&mut reset, "2"), (&mut twin, "9")] {
        let answer = peer.answer().await;
        assert_eq!(answer.facts(), (200, Some(seq), None));
        assert_eq!((answer.header("connection"), answer.header("lp-trickle-closed")), (Some("close"), None));
    }
    assert_eq!(put(&host.url("early/9"), "late").await.facts(), (200, Some("9"), None));
    assert_eq!(ask("GET", &host.url("early/9")).await.body, "other", "a complete segment takes no more");
    assert_eq!(ask("DELETE", &host.url("early")).await.status, 200);
    for (mut peer, seq) in [(evictor, "6"), (resetter, "3")] {
        let answer = peer.answer().await;
        assert_eq!(answer.facts(), (200, Some(seq), None));
        assert_eq!(answer.header("lp-trickle-closed"), Some("terminated"));
    }
}

#[tokio::test]
async fn closing_a_channel_ends_its_readers() {
    let host = Host::with("close").await;
    let mut writer = Peer::post(&host.url("close/0")).await;
    writer.write("half").await;
    let mut reader = Peer::get(&host.url("close/0")).await;
    let mut waiting = Peer::get(&host.url("close/1")).await;
    settle().await;
    assert_eq!(ask("DELETE", &host.url("close")).await.status, 200);
    let answer = reader.answer().await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "half"), "cut short without a mark");
    let answer = waiting.answer().await;
    assert_eq!(answer.facts(), (200, Some("1"), Some("1")));
    assert_eq!((answer.header("lp-trickle-closed"), answer.header("content-length")), (Some("terminated"), Some("0")));
    writer.write("more").await;
    let answer = writer.end().await;
    assert_eq!((answer.status, answer.header("lp-trickle-closed")), (200, None), "its writer learns nothing");
    assert_eq!(ask("GET", &host.url("close/1")).await.status, 404);
}

#[tokio::test]
async fn a_lost_writer_leaves_its_segment_open() {
    let host = Host::with("lost").await;
    let mut writer = Peer::post(&host.url("lost/0")).await;
    writer.write("half").await;
    let mut reader = Peer::get(&host.url("lost/0")).await;
    assert_eq!((reader.head().await.status, reader.chunk().await.as_str()), (200, "half"));
    drop(writer);
    reader.is_silent().await;
    put(&host.url("lost/0"), "rest").await;
    assert_eq!(reader.chunk().await, "rest", "a second POST goes on with it");
    assert_eq!(reader.chunk().await, "");
    let mut writer = Peer::post(&host.url("lost/1")).await;
    writer.write("half").await;
    let mut reader = Peer::get(&host.url("lost/1")).await;
    assert_eq!((reader.head().await.status, reader.chunk().await.as_str()), (200, "half"));
    drop(writer);
    assert_eq!(ask("DELETE", &host.url("lost/1")).await.status, 200);
    assert_eq!(reader.chunk().await, "");
}

#[tokio::test]
async fn overlapping_writers_share_a_segment() {
    let host = Host::with("overlap").await;
    let mut first = Peer::post(&host.url("overlap/0")).await;
    first.write("Hello").await;
    let mut reader = Peer::get(&host.url("overlap/0")).await;
    assert_eq!((reader.head().await.status, reader.chunk().await.as_str()), (200, "Hello"));
    put(&host.url("overlap/0"), "Goodbye").await;
    assert_eq!(reader.chunk().await, "Goodbye");
    assert_eq!(reader.chunk().await, "");
    first.write("World").await;
    assert_eq!(first.end().await.status, 200);
    assert_eq!(ask("GET", &host.url("overlap/0")).await.body, "HelloGoodbyeWorld");
}

#[tokio::test]
async fn a_reset_releases_readers_of_lower_segments() {
    let host = Host::with("reset").await;
    let mut old = Peer::post(&host.url("reset/0")).await;
    old.write("old").await;
    let mut reader = Peer::get(&host.url("reset/0")).await;
    assert_eq!((reader.head().await.status, reader.chunk().await.as_str()), (200, "old"));
    let head = "Lp-Trickle-Reset: yes\r\nTransfer-Encoding: chunked\r\n";
    let mut new = Peer::send(&host.url("reset/-1"), "POST", head).await;
    assert_eq!(reader.chunk().await, "");
    new.write("new").await;
    assert_eq!(new.end().await.facts(), (200, Some("1"), None));
    old.write(" late").await;
    assert_eq!(old.end().await.status, 200);
    assert_eq!(ask("GET", &host.url("reset/0")).await.body, "old late");
    assert_eq!(ask("GET", &host.url("reset/1")).await.body, "new");
}

#[tokio::test]
async fn empty_segments_move_the_edge() {
    let host = Host::with("empty").await;
    let mut reader = Peer::get(&host.url("empty/0")).await;
    let answer = Peer::post(&host.url("empty/0")).await.end().await;
    assert_eq!((answer.facts(), answer.header("connection")), ((200, Some("0"), None), Some("close")));
    let answer = reader.answer().await;
    assert_eq!((answer.facts(), answer.body.as_str()), ((200, Some("0"), Some("1")), ""));
    assert_eq!(answer.header("lp-trickle-closed"), None);
    let mut post = Peer::send(&host.url("empty/1"), "POST", "Content-Length: 0\r\n").await;
    assert_eq!(post.answer().await.facts(), (200, Some("1"), None));
    assert_eq!(ask("GET", &host.url("empty/next")).await.body, "2");
}

#[tokio::test]
async fn the_edge_can_go_backwards() {
    let host = Host::with("back").await;
    for seq in 0..=6 {
        put(&host.url(&format!("back/{seq}")), "x").await;
    }
    put(&host.url("back/0"), "anew").await;
    assert_eq!(ask("GET", &host.url("back/next")).await.body, "1");
    assert_eq!(ask("GET", &host.url("back/6")).await.facts(), (200, Some("6"), Some("1")));
    assert_eq!(ask("GET", &host.url("back/-2")).await.body, "anew");
}

#[tokio::test]
async fn idle_channels_are_swept_except_internal_ones() {
    let config = ServerConfig {
        idle_timeout: Duration::from_millis(500),
        sweep_interval: Duration::from_millis(20),
        ..ServerConfig::default()
    };
    let host = Host::new(config).await;
    for name in ["idle", "busy", "_internal"] {
        assert!(host.server.create(name, ""));
    }
    let mut reader = Peer::get(&host.url("idle/0")).await;
    for seq in 0..8 {
        tokio::time::sleep(Duration::from_millis(90)).await;
        put(&host.url(&format!("busy/{seq}")), "x").await;
    }
    assert_eq!(host.server.channels(), ["_internal", "busy"]);
    assert_eq!(reader.answer().await.header("lp-trickle-closed"), Some("terminated"));
    assert_eq!(ask("GET", &host.url("idle/0")).await.status, 404);
}

#[tokio::test]
async fn a_segment_cannot_grow_without_end() {
    let host = Host::new(ServerConfig { max_segment: 4096, ..ServerConfig::default() }).await;
    host.server.create("big", "");
    let mut reader = Peer::get(&host.url("big/0")).await;
    let mut writer = Peer::post(&host.url("big/0")).await;
    for _ in 0..5 {
        writer.write(&"x".repeat(1000)).await;
    }
    assert_eq!(writer.answer().await.status, 413);
    let length = reader.answer().await.body.len();
    assert!((3000..4096).contains(&length), "{length}");
}

#[tokio::test]
async fn the_server_ends_with_open_requests() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/ai/trickle/end/0", listener.local_addr().unwrap());
    let server = Server::new(ServerConfig { base_path: "/ai/trickle/".into(), ..ServerConfig::default() });
    server.create("end", "");
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = server.clone();
    let task = tokio::spawn(async move { serving.serve(listener, async { drop(stopped.await) }).await });
    let mut reader = Peer::get(&url).await;
    let mut writer = Peer::post(&url).await;
    writer.write("half").await;
    assert_eq!(reader.head().await.status, 200);
    drop(stop);
    soon(task).await.unwrap();
    assert!(server.channels().is_empty());
    assert_eq!((reader.chunk().await.as_str(), reader.chunk().await.as_str()), ("half", ""));
}
